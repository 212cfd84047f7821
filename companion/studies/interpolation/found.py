"""The study of image pairs with adapters that are found by what they are (`companion.studies.trained`), on whichever model."""

from types import SimpleNamespace

from ..trained import with_adapters
from . import study


class PairStudy(study.PairStudy):
    """`study.PairStudy`, whose default adapter is the model's own."""

    def __init__(self, cfg: SimpleNamespace) -> None:
        super().__init__(with_adapters(cfg))
