"""The studies of walks with rows that are found by what adapters are (`companion.studies.trained`), on whichever model.

study = Study(config.configuration(globals(), **PARAMETERS))
rows = study.there([Row("Base", (None,)), Row("Smooth", study.trained("smooth"))])
"""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from ...base import config
from ...judges.judge import official_judge
from ..rows import Row
from ..setup import errors_in_one_sentence
from ..trained import recipe_names, recipes_for, trained
from . import rivals, study

ADAPTERS = {"adapters": config.ListOf(config.Text(), optional=True)}
PARAMETERS = study.PARAMETERS | ADAPTERS
RIVAL_PARAMETERS = rivals.PARAMETERS | ADAPTERS | {"judge": study.PARAMETERS["judge"]}


class Found:
    """What a study of walks asks of adapters: `cfg.adapters` are those that may be behind its rows.

    None: those of data/models/adapters that were trained on the model.
    """

    cfg: SimpleNamespace

    def trained(self, name: str) -> tuple[str, ...]:
        """The adapters of the recipe `name`, one for each training seed, at most `training_seeds`."""
        return trained(name, self.cfg.model, self.cfg.adapters)[: self.cfg.training_seeds]

    def steps(self, name: str) -> str:
        """How many steps the recipe `name` trains on this model, with a comma in thousands; "" where the model has no such recipe."""
        steps = recipes_for(self.cfg.model).steps.get(name)
        return "" if steps is None else f"{steps:,}"

    def there(self, rows: Sequence[Row]) -> list[Row]:
        """The rows that have adapters no row before them has, then one for each adapter asked for that is of no recipe.

        On a model whose list gives a training two names, such a training is shown once.
        """
        found: list[Row] = []
        for row in rows:
            if row.adapters and all(row.adapters[0] not in earlier.adapters for earlier in found):
                found.append(row)
        others = [one for one in self.cfg.adapters or () if not recipe_names(one, self.cfg.model)]
        return found + [Row(Path(one).name, (one,)) for one in others]


class Study(Found, study.Study):
    """`study.Study` with `Found` rows."""


class RivalStudy(Found, rivals.RivalStudy):
    """`rivals.RivalStudy` with `Found` rows, the judge that is asked for, and no short training where none is shorter than Smooth's.

    Args:
        cfg: a configuration with `RIVAL_PARAMETERS`.
    """

    def __init__(self, cfg: SimpleNamespace) -> None:
        super().__init__(cfg)
        if cfg.judge == "official":
            with errors_in_one_sentence():
                self.judge = official_judge().to(self.device)

    def candidates(self) -> dict[str, list[Row]]:
        """See `rivals.RivalStudy.candidates`."""
        steps = recipes_for(self.cfg.model).steps
        shorter = any(steps.get(name, steps["smooth"]) < steps["smooth"] for name in rivals.SHORT.values())
        return {name: rows for name, rows in super().candidates().items() if shorter or name != "Stopped early"}
