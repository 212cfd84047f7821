"""What the notebooks of Figures 3 and 7 share: their parameters, the pairs, the rows, the record, the pictures.

study = PairStudy(config.configuration(globals(), **PARAMETERS))
measured = study.measure(pair_walks.walk_methods(study.adapters))
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import numpy as np
import torch
from matplotlib.figure import Figure

from . import config, datasets, figures, models, pair_walks, results, runs
from .pair_walks import PairMethod
from .pairs import ImagePair, pairs_from
from .study_setup import DEVICE, check_adapters, chosen_adapters, chosen_device, errors_in_one_sentence

PARAMETERS = {
    "model": config.Text(),
    "adapters": config.ListOf(config.Text(), optional=True),
    "dataset": config.Text(),
    "splits": config.ListOf(config.Text(), minimum=1),
    "num_pairs": config.Integer(2, 1000),
    "skip": config.Integer(0, 1000),
    "prompt": config.Text(optional=True),
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
    "anid_steps": config.ListOf(config.Integer(1, 1000)),
    "coarse_to_fine_frames": config.Integer(3, 129, optional=True),
}
Measured = Mapping[str, Sequence[runs.Result]]  # row -> result of each pair


class PairStudy:
    """The pairs that all rows share, `num_pairs` of each split, and the adapters: those asked for, or `smooth` where it has been trained.

    Args:
        cfg: a configuration with `PARAMETERS`.

    Raises:
        ConfigurationError: something that the configuration asks for is not there or does not fit, before anything is computed.
    """

    def __init__(self, cfg: SimpleNamespace) -> None:
        self.cfg = cfg
        self.device, self.adapters = chosen_device(cfg.device), chosen_adapters(cfg.adapters)
        self.fingerprints: dict[str, str] = {}
        check_adapters(self.adapters, cfg.model)
        options = dict(seed=cfg.seed, skip=cfg.skip, prompt=cfg.prompt)
        with errors_in_one_sentence():
            self.guidance_scale = cfg.guidance_scale or models.default_guidance_scale(cfg.model)
            self.pairs: list[ImagePair] = [
                pair for split in cfg.splits for pair in pairs_from(datasets.load_split(cfg.dataset, split), cfg.num_pairs, **options)
            ]

    def measure(self, methods: Sequence[PairMethod]) -> dict[str, list[runs.Result]]:
        """Every method's result of each pair; a model is loaded once for all methods that use it."""
        found: dict[str, list[runs.Result]] = {}
        for adapter in dict.fromkeys(method.adapter for method in methods):
            pipe = models.load_pipeline(self.cfg.model, adapter=adapter, device=self.device)
            weights = self.fingerprints[adapter or "base"] = models.fingerprint(pipe)
            arguments = dict(weights=weights, guidance_scale=self.guidance_scale, num_inner_steps=self.cfg.num_inner_steps)
            for method in (method for method in methods if method.adapter == adapter):
                found[method.label] = pair_walks.run_pairs(pipe, self.pairs, method, batch_size=self.cfg.batch_size, **arguments)
        return {method.label: found[method.label] for method in methods}

    def record(self, name: str, measured: Measured, methods: Sequence[PairMethod]) -> results.Record:
        """The record of a run: `pair_walks.COLUMNS` of every row and pair; each adapter's walk is tested against the base model's."""
        height, width = self.pairs[0].first.image.shape[-2:]
        return results.make_record(
            name,
            table=None,
            model=f"{self.cfg.model}, {width} x {height}",
            items=[pair.id for pair in self.pairs],
            rows={label: pair_walks.pair_values(found) for label, found in measured.items()},
            conventions=pair_walks.CONVENTIONS,
            pairs=pair_walks.compared_walks(methods),
            columns=pair_walks.COLUMNS,
            seed=self.cfg.seed,
            provenance=results.provenance(
                config=self.cfg,
                models=self.fingerprints,
                data_hash=results.data_hash(self.pairs),
                seed=self.cfg.seed,
                dtype=torch.float32,
                duration=sum(result["seconds"] for found in measured.values() for result in found),
                device=self.device,
            ),
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


def glue_means(prefix: str, measured: Measured) -> None:
    """Every row's mean of every column, quotable in the book as PREFIX-row-column."""
    for label, found in measured.items():
        key = "".join(c if c.isalnum() else "_" for c in label.lower())
        for name, values in pair_walks.pair_values(found).items():
            results.glue(f"{prefix}-{key}-{name}", float(np.mean(values)))
