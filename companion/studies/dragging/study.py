"""What Figure 6 and the benchmark of drags share: their parameters, drags, rows, the choice of settings, the record, the pictures.

study = DragStudy(config.configuration(globals(), **PARAMETERS))
choice = study.choose()
measured = study.measure(study.rows(choice), study.reported)
record = study.record("beyond_drag_benchmark", measured, study.rows(choice), choice)
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import product
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from smoothlib.editing.drag import Drag, ImageLoraSettings

from ...base import config
from ...base.config import plain
from ...data import load as datasets
from ...data.drags import DragItem, facts, half, load_drags
from ...evidence import records as results
from ...runs import runs
from ...weights.pipelines import image_size
from ..base import BaseStudy, load_row, training_fields
from ..rows import Row, adapter_titles
from ..setup import DEVICE, chosen_adapters, errors_in_one_sentence
from .run import DragMethod, points_of, run_drags
from .scores import CONVENTIONS, METRICS, OF_TRUTH, SUCCESS, DragScores, motion_groups
from .selection import Choice, choose

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

PARAMETERS = {
    "model": config.Text(),
    "adapters": config.ListOf(config.Text(), optional=True),
    "dataset": config.Text(),
    "num_drags": config.Integer(2, 10000, optional=True),
    "num_choosing": config.Integer(1, 5000, optional=True),
    "num_inference_steps": config.Integer(2, 100),
    "strengths": config.ListOf(config.Number(0.05, 1), minimum=1),
    "lrs": config.ListOf(config.Number(1e-4, 1), minimum=1),
    "iterations": config.ListOf(config.Integer(1, 1000), minimum=1),
    "lora_steps": config.ListOf(config.Integer(0, 2000), minimum=1),
    "lora_rank": config.Integer(1, 256),
    "reach": config.Number(0.1, 100),
    "mask_weight": config.Number(0, 100),
    "without": config.Boolean(),
    "batch_size": config.Integer(1, 1024),
    "seed": config.Integer(0, 999),
    "device": DEVICE,
}
Measured = Mapping[str, Sequence[runs.Result]]  # row -> result of each drag
SOURCE, TRUTH = "Untouched source", "Truth, encoded and decoded"
WITHOUT = "Base, without its own LoRA"


class DragStudy(BaseStudy):
    """The drags, the candidates for their settings, the choice on even ids, and the drags of odd ids that are reported.

    Args:
        cfg: a configuration with `PARAMETERS`; without `adapters` the base model and the default adapter.

    Raises:
        ConfigurationError: something that the configuration asks for is not there or does not fit, before anything is computed.
    """

    code = ("companion.studies.dragging.study",)

    def __init__(self, cfg: SimpleNamespace) -> None:
        super().__init__(cfg)
        self.adapters = chosen_adapters(cfg.adapters)
        self.check_adapters(self.adapters, cfg.model)
        with errors_in_one_sentence():
            self.titles = adapter_titles(self.adapters)
            self.stops = tuple(sorted(cfg.iterations))
            self.candidates = [
                self._method(*one) for one in product(sorted(cfg.lora_steps), sorted(cfg.strengths), sorted(cfg.lrs), self.stops)
            ]
            drags = load_drags(cfg.dataset, size=None if cfg.dataset == "drags" else image_size(cfg.model))
            reported = None if cfg.num_drags is None else max(1, cfg.num_drags // 2)
            self.chosen_on, self.reported = self._some(half(drags, 0), cfg.num_choosing or reported), self._some(half(drags, 1), reported)
            for drag in (*self.chosen_on, *self.reported):
                points_of([drag])
        self.has_truth = all(drag.truth is not None for drag in drags)
        self.drags: Sequence[DragItem] = self.reported

    def guidance_of(self, model: str) -> float:
        """None: a drag has no guidance."""
        return 1.0

    def _some(self, drags: Sequence[DragItem], count: int | None) -> list[DragItem]:
        """`count` of them, chosen by seed; all for None."""
        return list(drags) if count is None else [drags[i] for i in datasets.seeded_choice(len(drags), count, self.cfg.seed)]

    def _method(self, lora_steps: int, strength: float, lr: float, iterations: int) -> DragMethod:
        cfg = self.cfg
        settings = Drag(cfg.num_inference_steps, strength, iterations, lr, cfg.reach, mask_weight=cfg.mask_weight)
        return DragMethod("drag", settings, ImageLoraSettings(rank=cfg.lora_rank, steps=lora_steps), self.stops)

    def measure(self, rows: Sequence[Row], drags: Sequence[DragItem]) -> dict[str, list[runs.Result]]:
        """Every row's result of each drag; a model is loaded once for all rows that use it."""
        self.drags = drags
        return {label: found for label, (found,) in self.measure_all(rows).items()}

    @cached_property
    def judge(self) -> tuple[DragScores, str]:
        """The measures, by the study's base model, and its fingerprint."""
        with errors_in_one_sentence():
            pipe, weights = load_row(self.cfg.model, None, self.device)
        return DragScores(pipe), weights

    def run(self, pipe: "StableDiffusionPipeline", weights: str, rows: Sequence[Row], adapter: str | None) -> dict[str, list[runs.Result]]:
        """By label every drag's result; see `run.run_drags`."""
        scores, judge = self.judge
        arguments = dict(weights=weights, judge=judge, scores=scores, batch_size=self.cfg.batch_size, seed=self.cfg.seed)
        return run_drags(pipe, self.drags, rows, **arguments)

    # The choice, on even ids ----------------------------------------------------------------------------------------------------------

    def choose(self) -> Choice:
        """The settings of all drags, by the rule of `selection`; a single candidate, and without truth the first, is taken as it is."""
        if len(self.candidates) == 1 or not self.has_truth:
            return Choice(0, (), (), 0.0)
        rows = [Row(describe(one), settings=one) for one in self.candidates]
        found = values(self.measure([*self.ends(), *rows], self.chosen_on), [*self.ends(), *rows])
        means = {label: {name: float(np.mean(numbers)) for name, numbers in metrics.items()} for label, metrics in found.items()}
        reached = [[means[row.label][name] for row in rows] for name in ("distance", "lpips")]
        return choose(*reached, untouched=means[SOURCE]["distance"], truth=means[TRUTH]["distance"])

    # The report, on odd ids -----------------------------------------------------------------------------------------------------------

    def ends(self) -> list[Row]:
        """What nobody dragged: the untouched source, and the true picture as the autoencoder gives it back."""
        return [Row(SOURCE, settings=DragMethod("source"))] + [Row(TRUTH, settings=DragMethod("autoencoder"))] * self.has_truth

    def rows(self, choice: Choice) -> list[Row]:
        """The ends of the scale, the base model and each adapter with the chosen settings, the base model without each image's LoRA."""
        method = self.candidates[choice.index]
        rows = self.ends() + [Row(title, (adapter,), method) for adapter, title in self.titles.items()]
        if self.cfg.without and method.lora.steps:
            rows.append(Row(WITHOUT, settings=replace(method, lora=replace(method.lora, steps=0))))
        return rows

    def row_fields(self, row: Row) -> dict[str, Any]:
        """See `BaseStudy.row_fields`; of the settings those that a reader asks for."""
        method: DragMethod = row.settings
        fields = super().row_fields(replace(row, settings=None)) | {"method": method.kind}
        if method.kind != "drag":
            return fields
        return (
            fields
            | plain(method.settings)
            | {"lora_steps": method.lora.steps, "lora_rank": method.lora.rank, "own_lora": method.lora.steps > 0}
        )

    def record(self, name: str, measured: Measured, rows: Sequence[Row], choice: Choice) -> results.Record:
        """The record of a run: `scores.METRICS` of every row and drag; see `compared` for the tests."""
        numbers = values(measured, rows)
        own = facts(self.reported)
        return self.make_record(
            name,
            rows,
            numbers,
            items=self.reported,
            size=self.reported[0].size,
            origins=runs.origins(result for found in measured.values() for result in found),
            seconds=sum(result["seconds"] for found in measured.values() for result in found),
            conventions={metric: text for metric, text in CONVENTIONS.items() if self.has_truth or metric not in OF_TRUTH},
            columns={metric: column for metric, column in METRICS.items() if self.has_truth or metric not in OF_TRUTH},
            pairs=compared(rows),
            facts={
                "success_at": 100 * SUCCESS,
                "choice": self.choice_facts(choice),
                "drags": own,
                "curves": {row.label: self.curve(measured[row.label]) for row in rows if row.settings.kind == "drag"},
                "by_motion": by_motion(numbers, motion_groups(own)),
            },
        )

    def choice_facts(self, choice: Choice) -> dict[str, Any]:
        """Each candidate and what it reached on the even ids; which was chosen."""
        tried = [describe(one) for one in self.candidates]
        reached = {"distance": choice.distance, "lpips": choice.lpips, "enough": choice.enough, "good_enough": choice.good_enough}
        return {"chosen": tried[choice.index], "tried": tried, "drags": len(self.chosen_on)} | (reached if choice.distance else {})

    def curve(self, found: Sequence[runs.Result]) -> dict[str, list[float]]:
        """Means over drags: the distance left after each update by the drag's own tracking, and every metric at each stop."""
        left = np.mean([result["left"] for result in found], axis=0)
        metrics = {name: np.mean([result[name] for result in found], axis=0).round(6).tolist() for name in METRICS if name in found[0]}
        return {"left": left.round(4).tolist(), "stops": list(self.stops), **metrics}


def compared(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Each drag against the base model's, and against doing nothing; of trainings that differ in their seed alone the first."""
    found, known = [], set()
    for row in rows:
        fields = training_fields([adapter for adapter in row.adapters if adapter])
        training = fields["training"] or row.label
        if row.settings.kind == "drag" and training not in known:
            known.add(training)
            found.append(row)
    base = next((row.label for row in found if row.adapter is None), None)
    pairs = [(row.label, base) for row in found if base not in (None, row.label)]
    return pairs + [(row.label, SOURCE) for row in found if any(other.label == SOURCE for other in rows)]


def describe(method: DragMethod) -> str:
    """The settings that candidates differ in, in words."""
    settings = method.settings
    return (
        f"strength {settings.strength:g}, learning rate {settings.lr:g}, {settings.iterations} updates, LoRA of {method.lora.steps} steps"
    )


def values(measured: Measured, rows: Sequence[Row]) -> dict[str, dict[str, np.ndarray]]:
    """Row -> metric -> value of each drag at the row's own number of updates: what `records.make_record` takes."""
    found = {}
    for row in rows:
        own = measured[row.label]
        place = row.settings.place
        found[row.label] = {name: np.array([result[name][place] for result in own]) for name in METRICS if all(name in r for r in own)}
    return found


def by_motion(numbers: Mapping[str, Mapping[str, np.ndarray]], groups: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Group of drags -> their number, and row -> metric -> mean over the group."""
    return {
        name: {"n": int(which.sum())}
        | {label: {metric: round(float(own[which].mean()), 6) for metric, own in metrics.items()} for label, metrics in numbers.items()}
        for name, which in groups.items()
    }
