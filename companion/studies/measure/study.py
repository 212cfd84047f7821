"""Walks of a user's own pipeline, with and without adapters, and their record."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from smoothlib.metrics.morphing import perceptual_distance_variance, perceptual_path_length

from ...base import config
from ...base.config import ConfigurationError
from ...data import load as datasets
from ...data.listings import read_text
from ...evidence import records as results
from ...runs import runs
from ...weights import pipelines as models
from ..base import BaseStudy
from ..rows import Row, adapter_titles
from ..setup import DEVICE, errors_in_one_sentence
from ..smoothness import measure as smoothness
from ..smoothness import walks

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

PARAMETERS = {
    "model": config.Text(),
    "adapter": config.ListOf(config.Text()),
    "prompts": config.Text(optional=True),
    "num_prompts": config.Integer(2, 1000, optional=True),
    "num_inference_steps": config.Integer(2, 1000),
    "guidance_scale": config.Number(1, 30, optional=True),
    "frames": config.Integer(3, 101),
    "batch_size": config.Integer(1, 1024),
    "seed": config.Integer(0, 999),
    "device": DEVICE,
}
NUM_PROMPTS = 8  # shipped captions, where nothing else is asked for
COLUMNS = {"istd": {"label": "ISTD", "direction": "down"}} | smoothness.COLUMNS
COLUMNS |= {"lpips_ppl": {"label": "LPIPS path length", "direction": "none"}, "lpips_pdv": {"label": "LPIPS variance", "direction": "none"}}
LPIPS = "LPIPS (AlexNet, v0.1) of adjacent images; measured before rounding to bytes"
CONVENTIONS = walks.CONVENTIONS | {
    "lpips_ppl": f"perceptual path length of MorphBench: sum of a walk's steps, the mean over walks; {LPIPS}",
    "lpips_pdv": f"MorphBench's perceptual distance variance: variance (ddof 0) of a walk's steps, the mean over walks; {LPIPS}",
}
Measured = Mapping[str, Sequence[runs.Result]]  # row -> walk of each prompt


def configuration(options: Mapping[str, Any]) -> Any:
    """The command's options, checked: ConfigurationError with one sentence."""
    options = dict(options)
    if options["prompts"] is not None:
        options["prompts"] = str(options["prompts"])
        if options["num_prompts"] is not None:
            raise ConfigurationError("Parameter num_prompts must not be given with prompts: all of the file's prompts are taken.")
    return config.configuration(options, **PARAMETERS)


class MeasureStudy(BaseStudy):
    """The prompts, and one row for the model as it is and one for each adapter.

    Raises:
        ConfigurationError: the model, an adapter or the file of prompts is not there or does not fit, before anything is computed.
    """

    code = ("companion.studies.smoothness.walks",)
    method = "walk"

    def __init__(self, cfg: SimpleNamespace) -> None:
        super().__init__(cfg)
        with errors_in_one_sentence():
            models.default_guidance_scale(cfg.model)  # is it there?
            titles = adapter_titles(cfg.adapter)
            self.prompts = _prompts(cfg)
        self.rows = [Row(title, (adapter,)) for adapter, title in titles.items()]
        self.check(self.rows)

    def run(self, pipe: "StableDiffusionPipeline", weights: str, rows: Sequence[Row], adapter: str | None) -> dict[str, list[runs.Result]]:
        """By label every prompt's walk; see `walks.run_walks`."""
        arguments = dict(weights=weights, frames=self.cfg.frames, sampling=self.sampling_of(self.cfg.model))
        return {row.label: walks.run_walks(pipe, self.prompts, title=row.label, **arguments) for row in rows}

    def record(self, measured: Measured) -> results.Record:
        """The record of a run; each adapter is tested against the model as it is."""
        base, *others = measured
        return self.make_record(
            "measure",
            self.rows,
            {label: walk_values(found) for label, found in measured.items()},
            items=self.prompts,
            size=measured[base][0]["frames"].shape[-2:],
            origins=runs.origins(result for found in measured.values() for result in found),
            seconds=sum(result["seconds"] for found in measured.values() for result in found),
            conventions=CONVENTIONS,
            pairs=[(label, base) for label in others],
            columns=COLUMNS,
            facts={"prompts": {prompt.id: prompt.caption for prompt in self.prompts}},
        )


def _prompts(cfg: SimpleNamespace) -> list[walks.WalkPrompt]:
    """The prompts of the file `cfg.prompts`, one a line, or `cfg.num_prompts` shipped ones. ConfigurationError where they are too few."""
    if cfg.prompts is None:
        return walks.walk_prompts_from(datasets.load_scenes("test"), cfg.num_prompts or NUM_PROMPTS, cfg.seed)
    if not Path(cfg.prompts).is_file():
        raise ConfigurationError(f"Parameter prompts is {cfg.prompts!r}, but must be a text file with one prompt a line.")
    captions = [line.strip() for line in read_text(Path(cfg.prompts)).split("\n") if line.strip()]
    if len(captions) < 2:
        raise ConfigurationError(
            f"Parameter prompts is {cfg.prompts!r} with {len(captions)} prompts, but must have at least 2, one a line."
        )
    return walks.walk_prompts_of(captions, cfg.seed)


def walk_values(found: Sequence[runs.Result]) -> dict[str, np.ndarray]:
    """Metric -> value of each walk: those of `walks.walk_values`, and MorphBench's two."""
    lpips = np.stack([result["lpips_distances"] for result in found])
    morph = {"lpips_ppl": perceptual_path_length(lpips), "lpips_pdv": perceptual_distance_variance(lpips)}
    return walks.walk_values(found) | {name: values.numpy() for name, values in morph.items()}
