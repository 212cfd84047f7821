"""The study of drags with adapters that are found by what they are (`companion.studies.trained`), on photographs too."""

from types import SimpleNamespace
from typing import Any

from ..trained import with_adapters
from . import study
from .selection import Choice


class DragStudy(study.DragStudy):
    """`study.DragStudy`, whose default adapter is the model's own, and whose record says so where there was nothing to choose by."""

    def __init__(self, cfg: SimpleNamespace) -> None:
        super().__init__(with_adapters(cfg))

    def choice_facts(self, choice: Choice) -> dict[str, Any]:
        """See `study.DragStudy.choice_facts`; without true pictures the first candidate is taken, and nothing was reached."""
        if choice.distance:
            return super().choice_facts(choice)
        tried = [study.describe(one) for one in self.candidates]
        return {"chosen": tried[choice.index], "tried": tried, "drags": len(self.chosen_on)}
