"""What the notebooks of Figures 3 and 7 share: their parameters, the pairs, the rows, the record, the pictures.

study = PairStudy(config.configuration(globals(), **PARAMETERS))
measured = study.measure(pair_walks.walk_methods(study.adapters))
"""

import string
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from ... import book as figures
from ...base import config
from ...data import load as datasets
from ...evidence import records as results
from ...runs import runs
from ..base import BaseStudy
from ..rows import Row
from ..setup import DEVICE, chosen_adapters, errors_in_one_sentence
from . import morphbench
from . import walks as pair_walks
from .pairs import ImagePair, pairs_from

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


class Prompt(config.Text):
    """A prompt in which braces name fields of the records, and nothing else of them: no attribute, entry, conversion or width."""

    def accepts(self, value: Any) -> bool:
        try:
            return super().accepts(value) and all(
                name is None or (name.isidentifier() and not spec and not conversion)
                for _, name, spec, conversion in string.Formatter().parse(value)
            )
        except ValueError:  # a brace that is not closed
            return False

    def allowed(self) -> str:
        return "a text that is not empty, in which {cls} and the like name a field of the records"


PARAMETERS = {
    "model": config.Text(),
    "adapters": config.ListOf(config.Text(), optional=True),
    "dataset": config.Text(),
    "splits": config.ListOf(config.Text(), minimum=1),
    "num_pairs": config.Integer(2, 1000),
    "skip": config.Integer(0, 1000),
    "prompt": Prompt(optional=True),
    "num_inference_steps": config.Integer(2, 100),
    "guidance_scale": config.Number(1.1, 30, optional=True),
    "num_inner_steps": config.Integer(1, 100),
    "frames": config.Integer(3, 101),
    "batch_size": config.Integer(1, 1024),
    "num_shown": config.Integer(1, 20),
    "seed": config.Integer(0, 999),
    "device": DEVICE,
}
ANID_PARAMETERS = {
    "anid_steps": config.ListOf(config.Integer(2, 999)),
    "coarse_to_fine_frames": config.Integer(3, 129, optional=True),
}
COLUMNS = pair_walks.COLUMNS | morphbench.MORPH_COLUMNS
CONVENTIONS = pair_walks.CONVENTIONS | morphbench.MORPH_CONVENTIONS
Measured = Mapping[str, Sequence[runs.Result]]  # row -> result of each pair


class PairStudy(BaseStudy):
    """The pairs that all rows share, `num_pairs` of each split, and the adapters: those asked for, or `smooth` where it has been trained.

    Args:
        cfg: a configuration with `PARAMETERS`.

    Raises:
        ConfigurationError: something that the configuration asks for is not there or does not fit, before anything is computed.
    """

    code = ("companion.studies.interpolation.walks", "smoothlib.metrics.morphing")

    def __init__(self, cfg: SimpleNamespace) -> None:
        super().__init__(cfg)
        self.adapters = chosen_adapters(cfg.adapters)
        self.check_adapters(self.adapters, cfg.model)
        options = dict(seed=cfg.seed, skip=cfg.skip, prompt=cfg.prompt)
        with errors_in_one_sentence():
            self.guidance_scale = self.guidance_of(cfg.model)
            splits = [datasets.load_split(cfg.dataset, split, size=cfg.model) for split in cfg.splits]
            self.pairs: list[ImagePair] = [pair for split in splits for pair in pairs_from(split, cfg.num_pairs, **options)]
            datasets.check_ids(self.pairs)

    def run(self, pipe: "StableDiffusionPipeline", weights: str, rows: Sequence[Row], adapter: str | None) -> dict[str, list[runs.Result]]:
        """By label every pair's result; see `walks.run_pairs`."""
        arguments = dict(weights=weights, sampling=self.sampling_of(self.cfg.model), num_inner_steps=self.cfg.num_inner_steps)
        return {row.label: pair_walks.run_pairs(pipe, self.pairs, row.settings, title=row.label, **arguments) for row in rows}

    def measure(self, rows: Sequence[Row]) -> dict[str, list[runs.Result]]:
        """Every row's result of each pair; a model is loaded once for all rows that use it."""
        return {label: found for label, (found,) in self.measure_all(rows).items()}

    def record(self, name: str, measured: Measured, rows: Sequence[Row]) -> results.Record:
        """The record of a run: `COLUMNS` of every row and pair; each adapter's walk is tested against the base model's."""
        return self.make_record(
            name,
            rows,
            values(measured),
            items=self.pairs,
            size=self.pairs[0].first.image.shape[-2:],
            origins=runs.origins(result for found in measured.values() for result in found),
            seconds=sum(result["seconds"] for found in measured.values() for result in found),
            conventions=CONVENTIONS,
            pairs=pair_walks.compared_walks(rows),
            columns=COLUMNS,
        )

    def figure(self, measured: Measured, indices: Sequence[int], frames: int | None = None) -> Figure:
        """The two images of each pair in `indices`, and below them the rows whose walks have so many `frames` (None: the usual number)."""
        frames = frames or self.cfg.frames
        grid, labels = [], []
        for i in indices:
            pair, prefix = self.pairs[i], f"{i + 1} " if len(indices) > 1 else ""
            grid.append([pair.first.image, *[None] * (frames - 2), pair.second.image])
            labels.append(f"{prefix}Real images A, B")
            for label, found in measured.items():
                if len(found[i]["frames"]) == frames:
                    grid.append(list(found[i]["frames"]))
                    labels.append(prefix + label)
        return figures.image_grid(grid, row_labels=labels, cell_size=0.64)

    def captions(self, index: int) -> str:
        """The prompts of pair `index`, in one line."""
        first, second = self.pairs[index].first.caption, self.pairs[index].second.caption
        return f"{index + 1}. {first}" if first == second else f"{index + 1}. A: {first}; B: {second}"


def values(measured: Measured) -> dict[str, dict[str, np.ndarray]]:
    """Row -> column -> value of each pair: what `records.make_record` takes."""
    return {label: pair_walks.pair_values(found) | morphbench.morph_values(found) for label, found in measured.items()}
