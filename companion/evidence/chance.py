"""How much of the difference between two rows of a record may be chance: that of the items or images, and that of the trainings.

Items and images are the same for every row, so that rows are compared in pairs. A number of a whole set, such as a Fréchet distance, has
`image_values`, what each image contributes (`metrics.frechet_image_values`), and is compared by them. The trainings' chance is the spread
of a row's trainings. Where both are known, they add up (prompts crossed with trainings); the part that hangs on both at once is in each of
them, so that the sum errs on the side of caution (Owen 2007).
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from .fields import SETS, by_training
from .statistics import paired_comparison
from .tables import Record

LEVEL, POWER = 0.05, 0.8
UNTRAINED = re.compile(r"(Base|VAE|ANID)\b")  # rows that no Smooth-LoRA changes, where a record does not name its adapters
WILCOXON = 3 / math.pi  # efficiency of the signed rank test relative to the t test for normal differences (Pitman)


@dataclass(frozen=True)
class Part:
    """One source of chance in a difference: the variance that it gives to the difference, and the degrees of freedom of that estimate."""

    variance: float
    freedom: float


@dataclass(frozen=True)
class Sampling:
    """The chance of the items or images: interval of the mean difference, two-sided p-value, the part, and how many there are."""

    interval: tuple[float, float]
    p: float
    part: Part
    n: int
    test: str


@dataclass(frozen=True)
class Trainings:
    """The chance of the trainings: how often each of the two rows was trained (0: not at all), and the part, if a spread is known.

    `once`: the rows trained a single time. `spread_of`: the rows from whose trainings the spread comes; the compared ones themselves, or,
    where one of these was trained once, those of the record that were trained repeatedly, taken to scatter alike.
    """

    counts: tuple[int, int]
    once: tuple[str, ...] = ()
    spread_of: tuple[str, ...] = ()
    part: Part | None = None


def interval(difference: float, parts: Sequence[Part], level: float = 1 - LEVEL) -> tuple[float, float]:
    """Interval of a difference with several sources of chance: the squared half-widths of their Student intervals add up.

    It is never narrower than that of one source alone, and with few trainings wider than Satterthwaite's, which covers the truth too seldom
    then (90 to 94 % for three trainings in the simulations of tests/test_chance.py, where this one covers 95 to 97 %).
    """
    half = _half((1 - level) / 2, parts)
    return difference - half, difference + half


def p_value(difference: float, parts: Sequence[Part]) -> float:
    """Two-sided p-value of no difference: one minus the level at which `interval` ends at zero."""
    if not any(part.variance for part in parts):
        return float(difference == 0)
    low, high = -300.0, 0.0  # of the logarithm of p, halved until nothing changes
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _half(10**middle / 2, parts) > abs(difference) else (low, middle)
    return 10**high


def _half(tail: float, parts: Sequence[Part]) -> float:
    return math.sqrt(sum(stats.t.isf(tail, part.freedom) ** 2 * part.variance for part in parts))


def sampling(record: Record, metric: str, a: str, b: str) -> Sampling | None:
    """The chance of items or images in a - b; None where the record does not hold it (numbers of a whole set in older records)."""
    first, second = (record["rows"][row]["metrics"][metric] for row in (a, b))
    if "values" in first and "values" in second:
        return of_items(first["values"], second["values"], recorded=_recorded(record, metric, a, b))
    if "image_values" not in first or "image_values" not in second:
        return None
    difference = np.asarray(first["image_values"]) - np.asarray(second["image_values"])
    part = Part(float(np.var(difference, ddof=1)) / len(difference), len(difference) - 1)
    mean = first["mean"] - second["mean"]
    return Sampling(interval(mean, [part]), p_value(mean, [part]), part, min(first["n"], second["n"]), "t")


def of_items(first: Sequence[float], second: Sequence[float], recorded: Mapping[str, Any] | None = None) -> Sampling:
    """The chance of the items in the mean of first - second; interval and Wilcoxon's p-value as the record holds them, where it does."""
    difference = np.asarray(first) - np.asarray(second)
    part = Part(float(np.var(difference, ddof=1)) / len(difference), len(difference) - 1)
    if recorded is None:
        compared = paired_comparison(first, second)
        recorded = {"low": compared.difference.low, "high": compared.difference.high, "p": compared.p_value}
    return Sampling((recorded["low"], recorded["high"]), recorded["p"], part, len(difference), "wilcoxon")


def _recorded(record: Record, metric: str, a: str, b: str) -> dict[str, float] | None:
    """Interval and raw p-value of a - b as the record compared it, in either order."""
    for test in record["comparisons"]:
        if test["metric"] == metric and {test["a"], test["b"]} == {a, b}:
            low, high = test["difference"]["low"], test["difference"]["high"]
            low, high = (low, high) if test["a"] == a else (-high, -low)
            return {"low": low, "high": high, "p": test["p_value"]}
    return None


def training_means(record: Record, metric: str) -> dict[str, list[float]]:
    """Row -> the mean of each of its trainings, where the record has them: as facts, or as rows of their own.

    Rows are trainings of one row by their fields (`fields.by_training`), in records without fields by label ("Smooth-seed1 + NTI").
    """
    record, key = by_training(record), SETS.get(metric, metric)
    facts: Mapping[str, Any] = record.get("facts", {}).get("training_seeds", {})
    found = {row: list(seeds[key]) for row, seeds in facts.items() if key in seeds}
    for label, row in record["rows"].items() if "row_fields" not in record else ():
        name = re.match(r"(.+)-seed\d+( .*)", label)
        if name and metric in row["metrics"] and (first := name[1] + name[2]) in record["rows"]:
            found.setdefault(first, [record["rows"][first]["metrics"][metric]["mean"]]).append(row["metrics"][metric]["mean"])
    return found


def is_trained(record: Record, row: str) -> bool:
    """Does an adapter stand behind this row? Its fields say it, or the record's facts.

    In older records that have neither its label does: no adapter is behind "x" where there is a row "x + smooth".
    """
    if "row_fields" in record:
        return bool(record["row_fields"][row]["adapters"])
    named = record.get("facts", {}).get("adapters", {})
    if row in named:
        return any(named[row])
    return not UNTRAINED.match(row) and not any(other.startswith(f"{row} + ") for other in record["rows"])


def trainings(record: Record, means: Mapping[str, Sequence[float]], a: str, b: str) -> Trainings:
    """The trainings' chance in a - b, from the mean of each training of each row (`training_means`).

    The spread (a variance, pooled) is the two rows' own if each trained one was trained repeatedly.

    If one was trained once, it is that of the record's repeatedly trained rows, which `spread_of` then names; without any it is unknown.
    """
    seeds = {row: values for row, values in means.items() if is_trained(record, row)}
    counts = {row: len(seeds.get(row, ())) or 1 for row in (a, b) if is_trained(record, row)}
    once = tuple(row for row, count in counts.items() if count == 1)
    sources = seeds if once else {row: seeds[row] for row in counts}
    repeated = {row: values for row, values in sources.items() if len(values) > 1}
    freedom = sum(len(values) - 1 for values in repeated.values())
    numbers = (counts.get(a, 0), counts.get(b, 0))
    if not counts or not freedom:
        return Trainings(numbers, once)
    variance = sum((len(values) - 1) * float(np.var(values, ddof=1)) for values in repeated.values()) / freedom
    return Trainings(numbers, once, tuple(repeated), Part(variance * sum(1 / count for count in counts.values()), freedom))


def needed_items(effect: float, deviation: float, *, level: float = LEVEL, trained: Part | None = None, test: str = "t") -> float:
    """How many items a two-sided test at `level` needs to find a mean difference of `effect` with 80 % power; math.inf if none suffice.

    Normal approximation: n = (z_{1 - level/2} + z_{0.8})^2 deviation^2 / effect^2, where `deviation` is the standard deviation of the
    items' differences; Wilcoxon's test ("wilcoxon") needs pi / 3 times as many. The chance of the trainings, `trained`, stays whatever the
    number of items is: `interval` must end `z_{0.8}` standard deviations of the difference before zero.
    """
    known = trained or Part(0.0, 1.0)
    z, power = float(stats.norm.isf(level / 2)), float(stats.norm.ppf(POWER))
    fixed = stats.t.isf(level / 2, known.freedom) ** 2 * known.variance

    def reach(of_items: float) -> float:
        return math.sqrt(fixed + z**2 * of_items) + power * math.sqrt(known.variance + of_items)

    low, high = (
        0.0,
        (effect / (z + power)) ** 2,
    )  # of the items' variance, halved until nothing changes; `high` is the answer without trainings
    if not effect or reach(low) >= abs(effect):
        return math.inf
    for _ in range(100 if known.variance else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if reach(middle) < abs(effect) else (low, middle)
    return math.ceil(deviation**2 / high / (WILCOXON if test == "wilcoxon" else 1))
