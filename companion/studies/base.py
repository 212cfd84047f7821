"""What all studies share: rows are checked, each pipeline is loaded once, every row is run, and a record says what is behind it."""

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from smoothlib.sampling import Sampling

from ..base.config import config_hash, plain
from ..evidence import records as results
from ..weights import pipelines as models
from ..weights.cards import read_card
from .rows import Row, check_rows, glue_key
from .setup import check_adapters, chosen_device, errors_in_one_sentence

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

    from ..runs.stored import Origin


def load_row(model: str, adapter: str | None = None, device: torch.device | str = "cpu") -> "tuple[StableDiffusionPipeline, str]":
    """The pipeline of a row, and the fingerprint of the weights that compute: a LoRA is added to them, W0 + BA (Eq. 6).

    One addition instead of one in every pass, a quarter less time for a LoRA on all layers. It is done on the CPU, so that the sum is the
    same wherever it is used, and whichever table asks. Errors are those of `pipelines.load_pipeline`.
    """
    pipe = models.load_pipeline(model, adapter=adapter)
    pipe.unet.fuse_lora()
    pipe.unet.unload_lora()
    return pipe.to(device), models.fingerprint(pipe)


class BaseStudy:
    """A configuration, where it computes, and the weights that it has met.

    A subclass says what is run (`run`), by which modules results become values (`code`), and which procedure rows without settings of
    their own have (`method`).

    Args:
        cfg: a configuration with at least `model` (or rows that name theirs), `guidance_scale`, `num_inference_steps`,
            `seed` and `device`.
    """

    code: tuple[str, ...] = ()
    method = ""

    def __init__(self, cfg: SimpleNamespace) -> None:
        self.cfg, self.device = cfg, chosen_device(cfg.device)
        self.weights: dict[tuple[str, str | None], str] = {}  # (model, adapter) -> fingerprint

    def run(self, pipe: "StableDiffusionPipeline", weights: str, rows: Sequence[Row], adapter: str | None) -> Mapping[str, Any]:
        """By label what each of `rows` gives with this pipeline, which carries `adapter`."""
        raise NotImplementedError

    def check(self, rows: Sequence[Row]) -> None:
        """Raises ConfigurationError where labels are equal or an adapter is not there (`setup.check_adapters`)."""
        with errors_in_one_sentence():
            check_rows(rows)
        for model in dict.fromkeys(map(self.model_of, rows)):
            self.check_adapters([adapter for row in rows if self.model_of(row) == model for adapter in row.adapters], model)

    def check_adapters(self, adapters: Sequence[str | None], model: str) -> None:
        """Raises ConfigurationError where an adapter for this model is not there."""
        check_adapters(adapters, model)

    def measure_all(self, rows: Sequence[Row]) -> dict[str, list[Any]]:
        """By label what `run` gives, one for each of the row's adapters; a pipeline is loaded once for all rows that use it."""
        self.check(rows)
        found: dict[str, dict[str | None, Any]] = {row.label: {} for row in rows}
        for model, adapter in dict.fromkeys((self.model_of(row), adapter) for row in rows for adapter in row.adapters):
            with errors_in_one_sentence():
                pipe, weights = load_row(model, adapter, self.device)
            self.weights[model, adapter] = weights
            chosen = [row for row in rows if self.model_of(row) == model and adapter in row.adapters]
            for label, one in self.run(pipe, weights, chosen, adapter).items():
                found[label][adapter] = one
        return {row.label: [found[row.label][adapter] for adapter in row.adapters] for row in rows}

    def model_of(self, row: Row) -> str:
        """The row's own model, or the study's."""
        return row.model or self.cfg.model

    def guidance_of(self, model: str) -> float:
        """The guidance scale asked for, or the one that the model works best at."""
        return self.cfg.guidance_scale or models.default_guidance_scale(model)

    def sampling_of(self, model: str) -> Sampling:
        """How `model`'s images are sampled under the configuration."""
        return Sampling(self.guidance_of(model), self.cfg.num_inference_steps, batch_size=self.cfg.batch_size)

    def row_fields(self, row: Row) -> dict[str, Any]:
        """What a record keeps of a row beside its label, for programs to go by: model, adapters, weights, trainings, settings.

        kind, training and training_seeds come from the adapters' cards: see `training_fields`.
        """
        adapters = [adapter for adapter in row.adapters if adapter]
        settings = {} if row.settings is None else plain(row.settings)
        shared = {"guidance_scale": self.guidance_of(self.model_of(row)), "num_inference_steps": self.cfg.num_inference_steps}
        settings = {"method": settings.pop("kind", self.method)} | shared | settings
        return {
            "model": self.model_of(row),
            "adapters": adapters,
            "weights": [self.weights[self.model_of(row), adapter] for adapter in row.adapters],
            **training_fields(adapters),
            **settings,
        }

    def make_record(
        self,
        name: str,
        rows: Sequence[Row],
        values: Mapping[str, Mapping[str, Sequence[float] | np.ndarray]],
        *,
        items: Sequence[Any],
        data: Sequence[Any] | None = None,
        size: tuple[int, int],
        origins: "Iterable[Origin]",
        seconds: float,
        table: str | None = None,
        **more: Any,
    ) -> results.Record:
        """The record of a run, with what is behind every row; `more` as for `records.make_record`.

        items: what the values belong to, with ids. data: the images behind them (the items). size: height and width of the images.
        origins, seconds: of all results that the values were made of.
        """
        names = {pair: " + ".join(filter(None, pair)) if pair[0] != getattr(self.cfg, "model", None) else pair[1] for pair in self.weights}
        return results.make_record(
            name,
            table=table,
            model=f"{', '.join(dict.fromkeys(map(self.model_of, rows)))}, {size[1]} x {size[0]}",
            items=[item.id for item in items],
            rows=values,
            row_fields={row.label: self.row_fields(row) for row in rows},
            paper_rows={row.label: row.paper_row for row in rows if row.paper_row},
            seed=self.cfg.seed,
            provenance=results.provenance(
                config=self.cfg,
                models={names[pair] or "base": weights for pair, weights in self.weights.items()},
                data_hash=results.data_hash(items if data is None else data),
                seed=self.cfg.seed,
                dtype=torch.float32,
                duration=seconds,
                origins=origins,
                code=self.code,
                device=self.device,
            ),
            **more,
        )


def training_fields(adapters: Sequence[str]) -> dict[str, Any]:
    """What a row's adapters are, from their cards.

    kind: "base" without adapters; "plain": trained without L_reg; "smooth": a LoRA trained with it; "full": all weights trained with it;
    "unknown" where a card does not say. training: hash of the settings less name and seed, equal for trainings that differ in the seed
    alone; None where cards do not say or differ. training_seeds: one per adapter.
    """
    settings = [_training_settings(adapter) for adapter in adapters]
    if not settings or not all(settings):
        return {"kind": "unknown" if settings else "base", "training": None, "training_seeds": []}
    kinds, seeds = {_kind(one["objective_options"]) for one in settings}, [one["seed"] for one in settings]
    recipes = {config_hash({key: value for key, value in one.items() if key not in ("name", "export_to", "seed")}) for one in settings}
    return {
        "kind": kinds.pop() if len(kinds) == 1 else "unknown",
        "training": recipes.pop() if len(recipes) == 1 else None,
        "training_seeds": seeds,
    }


def _training_settings(adapter: str) -> Mapping[str, Any] | None:
    trainings = read_card(models.adapter_file(adapter).parent).get("training", {})
    return next(iter(trainings.values()))["settings"] if len(trainings) == 1 else None


def _kind(options: Mapping[str, Any]) -> str:
    if not options.get("regularization"):
        return "plain"
    return "full" if options.get("trainable") == "unet" else "smooth"


def glue_means(prefix: str, values: Mapping[str, Mapping[str, Sequence[float] | np.ndarray]]) -> None:
    """Every row's mean of every metric, quotable in the book as PREFIX-row-metric."""
    for label, metrics in values.items():
        for metric, numbers in metrics.items():
            results.glue(f"{prefix}-{glue_key(label)}-{metric}", float(np.mean(numbers)))
