"""The record of a run of edits, its tables, and the curves: what the pages show and the claims read."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from ...evidence import records as results
from ...evidence.fields import by_training, part_of
from ...evidence.statistics import mean_interval
from ...runs import runs
from ..rows import Row
from .curve import Curve, Gain, gain
from .methods import Entry
from .scores import METRICS
from .selection import Choice
from .study import SOURCE, EditingStudy, Measured, column

LOCAL_METRICS = ("lpips_inside", "lpips_outside", "mse_outside", "psnr_outside")
DIGITS = 5  # decimals of a record's values: finer than any interval, and half the size
SHOWN = ("lpips", "lpips_outside", "followed", "attribute", "alignment")
Curves = Mapping[Entry, Mapping[str | None, Curve]]


def parts_of(study: EditingStudy, measured: Measured) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The parts of a record of the reported pairs, and which metric is defined for which of them."""
    pairs = study.reported
    parts = {"local": [pair.id for pair in pairs if pair.has_outside], "global": [pair.id for pair in pairs if not pair.has_outside]}
    for kind in dict.fromkeys(pair.kind for pair in pairs):
        parts[kind] = [pair.id for pair in pairs if pair.kind == kind]
    of = {}
    for name, metrics in (("local", LOCAL_METRICS[:1]), ("outside", LOCAL_METRICS[1:]), ("judged", ("attribute",))):
        for metric in metrics:
            defined = ~np.isnan(column(measured[SOURCE], metric))
            if defined.any() and not defined.all():
                parts[name] = [pair.id for pair, one in zip(pairs, defined, strict=True) if one]
                of[metric] = name
    return {name: ids for name, ids in parts.items() if ids}, of


def values(study: EditingStudy, measured: Measured, rows: Sequence[Row]) -> dict[str, dict[str, list[float]]]:
    """Row -> metric -> value of each pair that the metric is defined for."""
    parts, of = parts_of(study, measured)
    table: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        table[row.label] = {}
        for metric in METRICS:
            ids = set(parts.get(of[metric], ())) if metric in of else {pair.id for pair in study.reported}
            taken = [
                result[metric]
                for pair, result in zip(study.reported, measured[row.label], strict=True)
                if pair.id in ids and metric in result
            ]
            if taken:
                table[row.label][metric] = [round(value, DIGITS) for value in taken]
    return table


def curves(study: EditingStudy, measured: Measured) -> dict[Entry, dict[str | None, Curve]]:
    """By method and model the curve over the strength, of the local edits: preservation and success of each (`curve`)."""
    local = has_outside(study, measured)
    found: dict[Entry, dict[str | None, Curve]] = {}
    for entry, models in study.curve_rows().items():
        found[entry] = {}
        for adapter, rows in models.items():
            sides = [np.stack([column(measured[row.label], metric)[local] for row in rows]) for metric in ("lpips_outside", "followed")]
            found[entry][adapter] = Curve(*sides)
    return found


def has_outside(study: EditingStudy, measured: Measured) -> np.ndarray:
    """Which of the reported pairs have something outside the edit, (n,) bool: where the mask leaves nothing there is nothing to keep."""
    return ~np.isnan(column(measured[SOURCE], "lpips_outside"))


def gains(study: EditingStudy, measured: Measured, found: Curves) -> dict[Entry, dict[str, Gain]]:
    """By method and kind of training (smooth, plain) the success gained over the base model at equal preservation."""
    kinds = [pair.kind for pair, local in zip(study.reported, has_outside(study, measured), strict=True) if local]
    groups = study.groups
    return {
        entry: {
            title: gain(models[None], [models[adapter] for adapter in group if adapter in models], kinds, seed=study.cfg.seed)
            for title, group in groups.items()
            if any(adapter in models for adapter in group)
        }
        for entry, models in found.items()
    }


def record(
    study: EditingStudy,
    name: str,
    measured: Measured,
    rows: Sequence[Row],
    *,
    choices: Mapping[Entry, Choice],
    curves: Curves,
    gains: Mapping[Entry, Mapping[str, Gain]],
) -> results.Record:
    """The record of a run: every metric of every row and reported pair, the choices, the curves' points and the gains."""
    parts, of = parts_of(study, measured)
    made = values(study, measured, rows)
    present = {metric for metrics in made.values() for metric in metrics}
    everything = [result for found in measured.values() for result in found]
    facts = {
        "choices": {entry.title: asdict(choice) | {"good_enough": choice.good_enough} for entry, choice in choices.items()},
        "curves": {
            entry.title: {_title(study, adapter): _points(study, entry, one) for adapter, one in of_models.items()}
            for entry, of_models in curves.items()
        },
        "gains": {entry.title: {title: asdict(one) for title, one in of_groups.items()} for entry, of_groups in gains.items()},
        "evaluations": {row.label: float(np.mean(column(measured[row.label], "evaluations"))) for row in rows},
        "seconds": {row.label: float(np.mean(column(measured[row.label], "seconds"))) for row in rows},
        "attribute_judge": {} if study.judges is None or study.judges.attributes is None else study.judges.attributes.held_out,
    }
    return study.make_record(
        name,
        rows,
        made,
        items=study.reported,
        size=tuple(study.reported[0].source.shape[-2:]),
        origins=runs.origins(everything),
        seconds=sum(result["seconds"] for result in everything),
        conventions={metric: text for metric, text in study.judges.conventions.items() if metric in present},
        columns={metric: shown for metric, shown in METRICS.items() if metric in present},
        parts=parts,
        metric_parts={metric: part for metric, part in of.items() if metric in present},
        facts=facts,
    )


def _title(study: EditingStudy, adapter: str | None) -> str:
    return study.titles[adapter]


def _points(study: EditingStudy, entry: Entry, curve: Curve) -> dict[str, list[float]]:
    preservation, success = curve.points()
    return {"strength": list(study.recipe.strengths_of(entry)), "lpips_outside": preservation.tolist(), "followed": success.tolist()}


def table(made: results.Record, part: str | None = None, metrics: Sequence[str] = SHOWN) -> pd.DataFrame:
    """Row -> mean of each metric with its 95 % interval; rows of several trainings are one, whose values are means over them.

    The column "evaluations" is what an edit costs: evaluations of the network, the inversion included.
    """
    whole = by_training(part_of(made, part))
    rows = {}
    for label, row in whole["rows"].items():
        cells = {}
        for metric in metrics:
            if metric in row["metrics"]:
                one, decimals = mean_interval(row["metrics"][metric]["values"], method="t"), METRICS[metric]["decimals"]
                cells[METRICS[metric]["label"]] = f"{one.mean:.{decimals}f} [{one.low:.{decimals}f}, {one.high:.{decimals}f}]"
        rows[label] = cells | {"Evaluations": f"{made['facts']['evaluations'][label]:.0f}"}
    return pd.DataFrame.from_dict(rows, orient="index").fillna("–")


def kinds_table(made: results.Record, metric: str = "lpips") -> pd.DataFrame:
    """Row -> mean of a metric for each kind of edit."""
    kinds = [part for part in made["parts"] if part not in ("local", "global", "outside", "judged")]
    means: dict[str, Any] = {}
    for kind in kinds:
        of_kind = by_training(part_of(made, kind))
        means[kind] = {label: row["metrics"][metric]["mean"] for label, row in of_kind["rows"].items() if metric in row["metrics"]}
    return pd.DataFrame(means).round(METRICS[metric]["decimals"])


def choices_table(choices: Mapping[Entry, Choice]) -> pd.DataFrame:
    """Method -> the strength that the even ids chose, and what each candidate reached there."""
    rows = {}
    for entry, choice in choices.items():
        tried = (
            f"{s:g}: {lpips:.3f}, {followed:.2f}"
            for s, lpips, followed in zip(choice.strengths, choice.lpips, choice.followed, strict=True)
        )
        said = f"{choice.strength:g}" + ("" if choice.good_enough else " (none reached enough success)")
        rows[entry.title] = {"chosen": said, "strength: LPIPS to the truth, success": "; ".join(tried) or "one setting"}
    return pd.DataFrame.from_dict(rows, orient="index")


def gains_table(found: Mapping[Entry, Mapping[str, Gain]]) -> pd.DataFrame:
    """Method -> success gained over the base model at equal preservation, with its interval over the pairs, by kind of training."""
    rows = {}
    for entry, groups in found.items():
        for title, one in groups.items():
            trained = ", ".join(f"{value:+.3f}" for value in one.trainings)
            cell = "no common range" if one.mean is None else f"{one.mean:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"
            rows[f"{entry.title}: {title}"] = {"gain in success": cell, "by training": trained or "–"}
    return pd.DataFrame.from_dict(rows, orient="index")
