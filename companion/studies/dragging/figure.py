"""Figure 10's drags: a few drags by seed after those of another figure, with the settings that the benchmark's record says were chosen.

study = figure_study(cfg)
study.pictures()
"""

from types import SimpleNamespace
from typing import Any

from matplotlib.figure import Figure

from ...base import config
from ...data import load as datasets
from ...evidence.records import recorded
from ..trained import default_adapters
from .figures import drag_figure
from .selection import Choice
from .study import DragStudy

PARAMETERS = {
    "drags": config.Text(optional=True),
    "num_drags": config.Integer(1, 20),
    "skip_drags": config.Integer(0, 100),
    "num_drag_steps": config.Integer(2, 100, optional=True),
    "num_updates": config.Integer(1, 1000, optional=True),
    "num_lora_steps": config.Integer(0, 2000, optional=True),
}
PUBLISHED = {
    "num_inference_steps": 50,
    "strength": 0.7,
    "lr": 0.01,
    "iterations": 80,
    "stops": [80],
    "lora_steps": 80,
    "lora_rank": 16,
    "reach": 2.0,
    "mask_weight": 0.1,
}


class DragFigureStudy(DragStudy):
    """A `DragStudy` whose settings are known: `num_updates` is the one of its stops that is shown."""

    def __init__(self, cfg: SimpleNamespace) -> None:
        super().__init__(cfg)
        there = len(self.reported)
        if cfg.skip >= there:
            raise config.ConfigurationError(f"Parameter skip_drags is {cfg.skip}, but must be less than the number of drags, {there}.")
        before = set(datasets.seeded_choice(there, cfg.skip, cfg.seed))
        chosen = datasets.seeded_choice(there, min(cfg.skip + cfg.num_shown, there), cfg.seed)
        self.reported = [self.reported[i] for i in chosen if i not in before]

    def pictures(self) -> Figure:
        """The drags' pictures, computed where they are not stored: see `figures.drag_figure`."""
        rows = self.rows(self.choose())
        return drag_figure(self.reported, self.measure(rows, self.reported), rows, range(len(self.reported)))

    def choose(self) -> Choice:
        """The candidate that is shown; nothing is measured."""
        return Choice(self.stops.index(self.cfg.num_updates), (), (), 0.0)


def figure_study(cfg: SimpleNamespace) -> DragFigureStudy | None:
    """The drags of a figure whose configuration has `PARAMETERS`, model, adapter, batch_size, seed and device; None where it has none.

    Scenes are of the reported half. Settings are those of the benchmark's record for the embedded model, else the published ones;
    `num_drag_steps`, `num_updates` and `num_lora_steps` take their place.

    Raises:
        ConfigurationError: as `DragStudy`; no drag is left after `skip_drags`.
    """
    if cfg.drags is None:
        return None
    settings = _settings(cfg.model)
    for name, value in (("num_inference_steps", cfg.num_drag_steps), ("lora_steps", cfg.num_lora_steps)):
        settings[name] = settings[name] if value is None else value
    if cfg.num_updates is not None:
        settings |= {"iterations": cfg.num_updates, "stops": [cfg.num_updates]}
    return DragFigureStudy(
        SimpleNamespace(
            model=cfg.model,
            adapters=default_adapters(cfg.model, None if cfg.adapter is None else [cfg.adapter]),
            dataset=cfg.drags,
            num_drags=None,
            num_choosing=None,
            num_inference_steps=settings["num_inference_steps"],
            strengths=[settings["strength"]],
            lrs=[settings["lr"]],
            iterations=settings["stops"],
            num_updates=settings["iterations"],
            lora_steps=[settings["lora_steps"]],
            lora_rank=settings["lora_rank"],
            reach=settings["reach"],
            mask_weight=settings["mask_weight"],
            without=False,
            batch_size=cfg.batch_size,
            seed=cfg.seed,
            device=cfg.device,
            skip=cfg.skip_drags,
            num_shown=cfg.num_drags,
        )
    )


def _settings(model: str) -> dict[str, Any]:
    """`PUBLISHED`, or for the embedded model what its benchmark chose."""
    made = recorded("beyond_drag_benchmark") if model == "mini" else None
    if made is None:
        return dict(PUBLISHED)
    chosen = next(fields for fields in made["row_fields"].values() if fields["method"] == "drag" and fields["kind"] == "base")
    return {name: chosen.get(name) for name in PUBLISHED} | {"stops": sorted(made["provenance"]["config"]["iterations"])}
