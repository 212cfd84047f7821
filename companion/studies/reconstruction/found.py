"""The study of reconstructions with adapters that are found by what they are (`companion.studies.trained`), on whichever model."""

from types import SimpleNamespace

from ..trained import paper_rows, with_adapters
from . import study


class ReconstructionStudy(study.ReconstructionStudy):
    """`study.ReconstructionStudy`, whose default adapter is the model's own, and whose rows answer to the paper's by what they are."""

    def __init__(self, cfg: SimpleNamespace) -> None:
        super().__init__(with_adapters(cfg) if hasattr(cfg, "adapters") else cfg)
        self.rows = paper_rows(self.rows, cfg.model)
