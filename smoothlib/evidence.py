"""What a record says about one statement: "row A is lower than row B", "lower along these rows", "within 1 dB of", "no worse than".

Two sources of chance are kept apart. Over items (prompts, images) rows are compared in pairs: an interval of the mean difference and Holm's
p-value, those of `results.paired_tests` wherever the record holds the pair. Over training seeds an interval comes from the spread between
trainings of the same row; where a record has such a spread, a statement must hold against both. Numbers of a whole set, such as a Frechet
distance, have only the second. One training against one training shows nothing.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import stats

from .statistics import holm, paired_comparison
from .tables import Record

REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE, NOT_MEASURED = "reproduced", "not reproduced", "inconclusive", "not measured yet"
KINDS = ("paired", "total", "ordering", "gap", "within", "no_worse")
DIRECTIONS = {"lower": -1, "higher": 1}
LEVEL = 0.05
FRECHET = ("frechet_distance", "fid")


@dataclass(frozen=True)
class Statement:
    """A statement about rows of a record that a program can decide.

    kind: "paired": the first row is lower (higher) than the second, item by item. "total": the same for a number of the whole set.
        "ordering": each row is lower (higher) than the next. "gap": of four rows, the first is better than the second by more than the
        third is than the fourth. "within": the first row is at most `margin` away from the second. "no_worse": the first row is worse than
        the second by at most `margin` of the second's value; of a Frechet distance by at most `margin` of its excess over that of real
        images, where the record has this floor: what cannot be undercut is not what a model adds.
    metric: its name in the record; of several, the first that the record has (FID on Stable Diffusion is another metric here).
    direction: which values are better, or what the statement says of the first row: "lower" or "higher".
    """

    record: str
    kind: str
    metric: str | Sequence[str]
    rows: Sequence[str]
    direction: str = "lower"
    margin: float | None = None

    def __post_init__(self) -> None:
        count = {"gap": (4, 4), "ordering": (3, 99)}.get(self.kind, (2, 2))
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}, but must be one of {', '.join(KINDS)}.")
        if self.direction not in DIRECTIONS:
            raise ValueError(f"direction is {self.direction!r}, but must be 'lower' or 'higher'.")
        if not count[0] <= len(self.rows) <= count[1]:
            raise ValueError(
                f"rows has {len(self.rows)} entries, but kind {self.kind!r} needs {count[0]}{' or more' if count[1] > 4 else ''}."
            )
        if (self.kind in ("within", "no_worse")) != (self.margin is not None and self.margin > 0):
            raise ValueError(f"margin is {self.margin}, but must be a positive number for 'within' and 'no_worse', and absent elsewhere.")


@dataclass(frozen=True)
class Evidence:
    """The outcome of a test and the figures that decided it: first row minus second, with 95 % intervals over items and over trainings."""

    outcome: str
    metric: str = ""
    rows: tuple[str, str] = ("", "")
    means: tuple[float, float] = (math.nan, math.nan)
    items: tuple[float, float] | None = None
    n: int = 0
    p: float | None = None
    trainings: tuple[float, float] | None = None
    num_trainings: tuple[int, int] = (0, 0)
    floor: float = 0.0
    note: str = ""

    @property
    def difference(self) -> float:
        return self.means[0] - self.means[1]


def weigh(statement: Statement, record: Record | None) -> list[Evidence]:
    """The evidence for each pair of rows that the test is about; a single "not measured yet" where record, row or metric is missing."""
    rows = [find_row(record, row) for row in statement.rows] if record else [None]
    if None in rows:
        return [Evidence(NOT_MEASURED)]
    names = [statement.metric] if isinstance(statement.metric, str) else statement.metric
    metric = next((name for name in names if all(name in record["rows"][row]["metrics"] for row in rows)), None)
    if metric is None:
        return [Evidence(NOT_MEASURED)]
    if statement.kind == "gap":
        return [_gap(statement, record, metric, rows)]
    return [_pair(statement, record, metric, a, b) for a, b in pairwise(rows)]


def find_row(record: Record, label: str) -> str | None:
    """The record's row of this label; of "A | B" the first that is there; "..., guidance w" is the row with guidance, at any scale."""
    if " | " in label:
        return next((row for one in label.split(" | ") if (row := find_row(record, one))), None)
    if not label.endswith("guidance w"):
        return label if label in record["rows"] else None
    pattern = re.escape(label.removesuffix("w")) + r"(?!1$)[\d.]+"  # 1 is no guidance
    found = [row for row in record["rows"] if re.fullmatch(pattern, row)]
    return found[0] if len(found) == 1 else None


def _pair(statement: Statement, record: Record, metric: str, a: str, b: str) -> Evidence:
    first, second = record["rows"][a]["metrics"][metric], record["rows"][b]["metrics"][metric]
    seeds = training_means(record, metric)
    items = p = None
    if "values" in first and "values" in second:
        compared = _comparison(record, metric, a, b)
        items = compared["low"], compared["high"]
        p = compared["p"] if statement.margin is None else None  # of no difference: not what a margin asks
    found = Evidence(
        "",
        metric,
        (a, b),
        (first["mean"], second["mean"]),
        items,
        min(first["n"], second["n"]),
        p,
        trainings_interval(seeds, a, b),
        (len(seeds.get(a, ())), len(seeds.get(b, ()))),
        _floor(record, metric),
    )
    return _decided(found, statement)


def _floor(record: Record, metric: str) -> float:
    judges: Mapping[str, float] = record.get("facts", {}).get("judges", {})
    return judges.get("frechet_floor", 0.0) if metric in FRECHET else 0.0


def _gap(statement: Statement, record: Record, metric: str, rows: Sequence[str]) -> Evidence:
    values = [np.asarray(record["rows"][row]["metrics"][metric]["values"]) for row in rows]
    sign = DIRECTIONS[statement.direction]
    large, small = sign * (values[0] - values[1]), sign * (values[2] - values[3])  # improvements
    compared = paired_comparison(large, small)
    interval = compared.difference
    found = Evidence(
        "",
        metric,
        (f"{rows[0]} over {rows[1]}", f"{rows[2]} over {rows[3]}"),
        (float(large.mean()), float(small.mean())),
        (interval.low, interval.high),
        interval.n,
        _adjusted(record, compared.p_value),
    )
    return _decided(found, Statement(statement.record, "paired", metric, ("", ""), "higher"))


def _decided(found: Evidence, statement: Statement) -> Evidence:
    """The outcome: every interval that there is must lie where the statement says; all on the other side refutes it."""
    intervals = [interval for interval in (found.items, found.trainings) if interval is not None]
    sign = DIRECTIONS[statement.direction]
    if statement.kind == "within":
        yes = [-statement.margin <= low and high <= statement.margin for low, high in intervals]
        no = [high < -statement.margin or low > statement.margin for low, high in intervals]
    elif statement.kind == "no_worse":
        limit = statement.margin * abs(found.means[1] - found.floor)
        yes = [min(sign * low, sign * high) >= -limit for low, high in intervals]
        no = [max(sign * low, sign * high) < -limit for low, high in intervals]
    else:
        yes = [min(sign * low, sign * high) > 0 for low, high in intervals]
        no = [max(sign * low, sign * high) < 0 for low, high in intervals]
        if found.p is not None and found.p >= LEVEL:
            yes = no = [False]
    outcome = REPRODUCED if yes and all(yes) else NOT_REPRODUCED if no and all(no) else INCONCLUSIVE
    note = {"within": "allowed: {:g} either way", "no_worse": "allowed: {:.0%} worse"}.get(statement.kind, "").format(statement.margin)
    note += f", less the real images' {found.floor:.1f}" if statement.kind == "no_worse" and found.floor else ""
    note = note if intervals else "trained once: how much is the training's chance is unknown"
    return replace(found, outcome=outcome, note=note)


def _comparison(record: Record, metric: str, a: str, b: str) -> dict[str, float]:
    """a - b as the record compared it; a pair that it has not is compared now, its p-value adjusted as one more of the record's family."""
    for test in record["comparisons"]:
        if test["metric"] == metric and {test["a"], test["b"]} == {a, b}:
            low, high = test["difference"]["low"], test["difference"]["high"]
            low, high = (low, high) if test["a"] == a else (-high, -low)
            return {"low": low, "high": high, "p": test["p_adjusted"]}
    values = [record["rows"][row]["metrics"][metric]["values"] for row in (a, b)]
    compared = paired_comparison(*values)
    return {"low": compared.difference.low, "high": compared.difference.high, "p": _adjusted(record, compared.p_value)}


def _adjusted(record: Record, p_value: float) -> float:
    return float(holm([p_value, *(test["p_value"] for test in record["comparisons"])])[0])


def training_means(record: Record, metric: str) -> dict[str, list[float]]:
    """Row -> the mean of each of its trainings, where the record has them: as facts, or as rows of their own ("Smooth-seed1 + NTI")."""
    key = "frechet" if metric in FRECHET else metric
    facts: Mapping[str, Any] = record.get("facts", {}).get("training_seeds", {})
    found = {row: list(seeds[key]) for row, seeds in facts.items() if key in seeds}
    for label, row in record["rows"].items():
        name = re.match(r"(.+)-seed\d+( \+ .*)", label)
        if name and metric in row["metrics"] and (first := name[1] + name[2]) in record["rows"]:
            found.setdefault(first, [record["rows"][first]["metrics"][metric]["mean"]]).append(row["metrics"][metric]["mean"])
    return found


def trainings_interval(seeds: Mapping[str, Sequence[float]], a: str, b: str) -> tuple[float, float] | None:
    """95 % interval of a - b if both were trained anew (Student's t); the base model is what it is and has no such chance.

    The spread is pooled over all rows that were trained at least twice, taken to be alike; None where there are none.
    """
    if a not in seeds or b not in seeds:
        return None
    repeated = [values for values in seeds.values() if len(values) > 1]
    freedom = sum(len(values) - 1 for values in repeated)
    if not freedom:
        return None
    variance = sum((len(values) - 1) * float(np.var(values, ddof=1)) for values in repeated) / freedom
    share = sum(1 / len(seeds[row]) for row in (a, b) if not re.match(r"Base\b", row))
    half = float(stats.t.ppf(1 - LEVEL / 2, freedom)) * math.sqrt(variance * share)
    difference = float(np.mean(seeds[a]) - np.mean(seeds[b]))
    return difference - half, difference + half
