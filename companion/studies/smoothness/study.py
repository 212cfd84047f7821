"""What the notebooks of Tables 1, 3 and 4 share: their parameters, the prompts and judges behind all rows, the record, the figure.

study = Study(config.configuration(globals(), **PARAMETERS))
measured = study.measure(rows)
record = study.record("table1_istd", "table1", measured, pairs=study.all_pairs(rows))
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pandas as pd
import torch
from matplotlib.figure import Figure

from smoothlib.metrics.frechet import frechet_floor
from smoothlib.pixels import to_uint8

from ... import book as figures
from ...base import config
from ...data import load as datasets
from ...evidence import records as results
from ...judges import judge as judges
from ...judges.features import features_of
from ..base import BaseStudy
from ..rows import Row
from ..setup import DEVICE, errors_in_one_sentence
from . import generation, walks
from . import measure as smoothness
from .measure import Measurement

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

PARAMETERS = {
    "model": config.Text(),
    "dataset": config.Text(),
    "split": config.Text(),
    "num_prompts": config.Integer(2, 50000),
    "num_images": config.Integer(2, 50000),
    "training_seeds": config.Integer(1, 100),
    "num_inference_steps": config.Integer(2, 100),
    "guidance_scale": config.Number(1, 30, optional=True),
    "frames": config.Integer(3, 101),
    "judge": config.Choice("packaged", "official"),
    "batch_size": config.Integer(1, 1024),
    "seed": config.Integer(0, 999),
    "device": DEVICE,
}
Measured = Mapping[str, Sequence[Measurement]]  # row -> one measurement per training seed


class Study(BaseStudy):
    """The prompts, noises, real images and judges that all rows of a table share.

    Args:
        cfg: a configuration with `PARAMETERS`.

    Raises:
        ConfigurationError: something that the configuration asks for is not there or does not fit, before anything is computed.
    """

    code = ("companion.studies.smoothness.study",)
    method = "walk"

    def __init__(self, cfg: SimpleNamespace) -> None:
        super().__init__(cfg)
        with errors_in_one_sentence():
            self.guidance_scale = self.guidance_of(cfg.model)
            judge = judges.packaged_judge() if cfg.judge == "packaged" else judges.official_judge()
            self.judge = judge.to(self.device)
            self.split = datasets.load_split(cfg.dataset, cfg.split, size=cfg.model)
            self.walk_prompts = walks.walk_prompts_from(self.split, cfg.num_prompts, seed=cfg.seed)
            self.prompts = generation.prompts_from(self.split, cfg.num_images, seed=cfg.seed)
            datasets.check_ids(self.walk_prompts)

    def real_features(self, indices: Sequence[int] | None = None, batch_size: int = 100) -> torch.Tensor:
        """Features (N, D) of real images, by default those that belong to the prompts of the Frechet distance."""
        chosen = datasets.seeded_choice(len(self.split), self.cfg.num_images, self.cfg.seed) if indices is None else indices
        batches = [chosen[start : start + batch_size] for start in range(0, len(chosen), batch_size)]
        images = (to_uint8(torch.stack([self.split.item(i).image for i in batch])) for batch in batches)
        return torch.cat([features_of(batch, self.judge.features) for batch in images])

    @cached_property
    def reference(self) -> torch.Tensor:
        """The real images' features that the Frechet distance compares with."""
        return self.real_features()

    def judge_facts(self) -> dict[str, float]:
        """How far the judges can be trusted: `frechet_floor`, the mean distance between two halves of the real images and as many others of
        the split (absent where it has no more; see `metrics.frechet.frechet_floor`), and what is known of the alignment's encoder."""
        count, size = self.cfg.num_images, len(self.split)
        if size < 2 * count:
            return dict(self.judge.trust)
        others = datasets.seeded_choice(size, size, self.cfg.seed)[-count:]
        floor = frechet_floor(torch.cat([self.reference, self.real_features(others)]), count)
        return {"frechet_floor": floor.mean, **self.judge.trust}

    def run(self, pipe: "StableDiffusionPipeline", weights: str, rows: Sequence[Row], adapter: str | None) -> dict[str, Measurement]:
        """The measurement of these weights, which is that of all `rows`; see `measure.measure`."""
        measurement = smoothness.measure(
            pipe,
            self.judge,
            weights=weights,
            title=adapter or "the base model",
            walk_prompts=self.walk_prompts,
            prompts=self.prompts,
            real_features=self.reference,
            sampling=self.sampling_of(self.cfg.model),
            frames=self.cfg.frames,
        )
        return {row.label: measurement for row in rows}

    def measure(self, rows: Sequence[Row]) -> dict[str, list[Measurement]]:
        """Every row's measurements, one per training seed; a model is loaded once for all rows that use it."""
        return self.measure_all(rows)

    def trained(self, name: str) -> tuple[str, ...]:
        """The adapter `name` and those of its other training seeds, as far as they are there, at most `training_seeds`."""
        return smoothness.seeds_of(name)[: self.cfg.training_seeds]

    @staticmethod
    def all_pairs(rows: Sequence[Row]) -> list[tuple[str, str]]:
        """Every later row against every earlier one."""
        return [(row.label, other.label) for i, other in enumerate(rows) for row in rows[i + 1 :]]

    def record(
        self, name: str, table: str | None, measured: Measured, *, rows: Sequence[Row], pairs: Sequence[tuple[str, str]]
    ) -> results.Record:
        """The record of a run; `table`: the paper's table that it answers to, `pairs`: rows that are tested against each other."""
        measurements = [one for seeds in measured.values() for one in seeds]
        facts = {
            "training_seeds": smoothness.seed_means(measured),
            "adapters": {row.label: list(row.adapters) for row in rows},
            "num_images": self.cfg.num_images,
            "num_inference_steps": self.cfg.num_inference_steps,
            "judges": self.judge_facts(),
        }
        shown = datasets.seeded_choice(len(self.split), self.cfg.num_prompts, self.cfg.seed)
        return self.make_record(
            name,
            rows,
            smoothness.row_values(measured),
            table=table,
            items=self.walk_prompts,
            data=[self.split.item(i) for i in shown],
            size=measurements[0].frames.shape[-2:],
            origins=dict.fromkeys(origin for one in measurements for origin in one.origins),
            seconds=sum(one.seconds for one in measurements),
            conventions=walks.CONVENTIONS | dict(self.judge.conventions),
            pairs=pairs,
            columns=smoothness.COLUMNS | self.judge.columns,
            totals=smoothness.set_values(measured, self.judge),
            facts=facts,
        )

    def walks_figure(self, measured: Measured, limit: int = 8) -> Figure:
        """The first walks of the seeded choice, not selected: one row of images a model, of its first training seed."""
        grid, labels = [], []
        for i in range(min(limit, len(self.walk_prompts))):
            for label, seeds in measured.items():
                grid.append([torch.from_numpy(frame) for frame in seeds[0].frames[i]])
                labels.append(f"{i + 1} {label}")
        return figures.image_grid(grid, row_labels=labels)

    def walk_slider(self, measured: Measured, limit: int = 8) -> figures.Widget:
        """The same walks under a slider, with the curve of their steps."""
        shown = range(min(limit, len(self.walk_prompts)))
        return figures.walk_scrubber(
            [{label: seeds[0].frames[i] for label, seeds in measured.items()} for i in shown],
            [{label: seeds[0].step_distances[i] for label, seeds in measured.items()} for i in shown],
            captions=[self.walk_prompts[i].caption for i in shown],
            alt=f"Latent walks between two noises by {', '.join(measured)}, for the first prompts of the seeded choice",
            distance_label="Step between neighbouring images (L2, pixels in [0, 1])",
        )


def seed_table(measured: Measured) -> pd.DataFrame:
    """Row and training seed -> mean of each metric: how much of a difference could be the training's chance."""
    frames = {label: pd.DataFrame(seeds) for label, seeds in smoothness.seed_means(measured).items()}
    return pd.concat(frames, names=["Row", "Training seed"]).round(4)


def judge_sentence(record: results.Record) -> str:
    """The record's `judge_facts` in words, to stand beside its table."""
    facts, count = record["facts"]["judges"], record["facts"]["num_images"]
    said = []
    if "frechet_floor" in facts:
        said.append(f"Real images against as many other real ones ({count} of each): Frechet distance {facts['frechet_floor']:.1f}.")
    if "alignment_accuracy" in facts:
        said.append(
            f"Alignment of real test images with their captions: {facts['alignment_matched_mean']:.1f}, with others' "
            f"{facts['alignment_mismatched_mean']:.1f}; the encoder finds the right one of {facts['alignment_num_captions']:.0f} captions "
            f"for {facts['alignment_accuracy']:.0%} of them."
        )
    return " ".join(said)
