"""Figure 8: one adapter on several models of one architecture; walks of the same prompts with and without it.

study = ReuseStudy(config.configuration(globals(), **PARAMETERS))
measured = study.measure(study.rows)
record = study.record("fig08_reuse", measured)
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from ...base import config
from ...data import load as datasets
from ...data import subset as selection
from ...evidence import records as results
from ...runs import runs
from ...weights import pipelines as models
from ..base import BaseStudy
from ..rows import Row
from ..setup import DEVICE, errors_in_one_sentence
from . import measure as smoothness
from . import walks

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

PARAMETERS = {
    "checkpoints": config.ListOf(config.Text(), minimum=1, optional=True),
    "adapter": config.Text(),
    "captions": config.ListOf(config.Text(), minimum=2, optional=True),
    "classes": config.ListOf(config.Text(), minimum=1, optional=True),
    "num_prompts": config.Integer(2, 1000),
    "num_inference_steps": config.Integer(2, 100),
    "guidance_scale": config.Number(1, 30, optional=True),
    "frames": config.Integer(3, 101),
    "batch_size": config.Integer(1, 1024),
    "num_shown": config.Integer(1, 20),
    "seed": config.Integer(0, 999),
    "device": DEVICE,
}
COLUMNS = {"istd": {"label": "ISTD", "direction": "down"}} | smoothness.COLUMNS
Measured = Mapping[str, Sequence[runs.Result]]  # row -> walk of each prompt


class ReuseStudy(BaseStudy):
    """The prompts, and two `rows` for each of `checkpoints` (None: mini and its fine-tunes): without and with the adapter.

    Args:
        cfg: a configuration with `PARAMETERS`.

    Raises:
        ConfigurationError: something that the configuration asks for is not there or does not fit, before anything is computed.
    """

    code = ("companion.studies.smoothness.walks",)
    method = "walk"

    def __init__(self, cfg: SimpleNamespace) -> None:
        super().__init__(cfg)
        checkpoints = cfg.checkpoints if cfg.checkpoints is not None else ("mini", *models.list_fine_tunes())
        with errors_in_one_sentence():
            for checkpoint in checkpoints:
                models.default_guidance_scale(checkpoint)  # is it there?
        self.rows = [
            Row(f"{title} + {Path(adapter).name}" if adapter else title, (adapter,), model=checkpoint)
            for checkpoint, title in checkpoint_titles(checkpoints).items()
            for adapter in (None, cfg.adapter)
        ]
        self.check(self.rows)
        with errors_in_one_sentence():
            if cfg.captions:
                self.prompts = walks.walk_prompts_of(cfg.captions, cfg.seed)
            else:
                chosen = selection.Selection(datasets.load_scenes("test"), {"cls": cfg.classes} if cfg.classes is not None else {})
                self.prompts = walks.walk_prompts_from(chosen, cfg.num_prompts, cfg.seed)

    def run(self, pipe: "StableDiffusionPipeline", weights: str, rows: Sequence[Row], adapter: str | None) -> dict[str, list[runs.Result]]:
        """By label every prompt's walk; see `walks.run_walks`."""
        arguments = dict(weights=weights, frames=self.cfg.frames)
        return {
            row.label: walks.run_walks(pipe, self.prompts, title=row.label, sampling=self.sampling_of(row.model), **arguments)
            for row in rows
        }

    def measure(self, rows: Sequence[Row]) -> dict[str, list[runs.Result]]:
        """Every row's walk of each prompt."""
        return {label: found for label, (found,) in self.measure_all(rows).items()}

    def record(self, name: str, measured: Measured) -> results.Record:
        """The record of a run; each model with the adapter is tested against itself without."""
        labels = list(measured)
        return self.make_record(
            name,
            self.rows,
            values(measured),
            items=self.prompts,
            size=measured[labels[0]][0]["frames"].shape[-2:],
            origins=runs.origins(result for found in measured.values() for result in found),
            seconds=sum(result["seconds"] for found in measured.values() for result in found),
            conventions=walks.CONVENTIONS,
            pairs=list(zip(labels[1::2], labels[::2], strict=True)),
            columns=COLUMNS,
        )


def checkpoint_titles(checkpoints: Sequence[str]) -> dict[str, str]:
    """Checkpoint -> how its rows are called: without its commit, where no other checkpoint is called the same then."""
    short = [checkpoint.partition("@")[0] for checkpoint in checkpoints]
    return {whole: whole if short.count(name) > 1 else name for whole, name in zip(checkpoints, short, strict=True)}


def values(measured: Measured) -> dict[str, dict[str, Sequence[float]]]:
    """Row -> metric -> value of each prompt: what `records.make_record` takes."""
    return {label: walks.walk_values(found) for label, found in measured.items()}
