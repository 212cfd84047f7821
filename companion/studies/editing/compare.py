"""Rows of a record of edits against each other, as the claims do it: over the pairs, and over pairs and trainings together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ...evidence import chance
from ...evidence.claims_table import with_interval
from ...evidence.fields import by_training, part_of
from ...evidence.records import Record
from ...evidence.statistics import holm


@dataclass(frozen=True)
class Compared:
    """The first row minus the second in a metric: means, interval over the pairs, over pairs and trainings (None: none known), p, n."""

    rows: tuple[str, str]
    metric: str
    part: str | None
    means: tuple[float, float]
    interval: tuple[float, float]
    together: tuple[float, float] | None
    p: float
    n: int
    p_adjusted: float = 1.0

    @property
    def difference(self) -> float:
        return self.means[0] - self.means[1]

    @property
    def shown(self) -> int:
        """-1 or 1 where the first row is lower or higher by every interval and Holm's p-value, else 0."""
        ends = [self.interval] + [self.together] * (self.together is not None)
        if self.p_adjusted >= chance.LEVEL or any(low <= 0 <= high for low, high in ends):
            return 0
        return int(np.sign(self.difference))


def compare(record: Record, tests: Sequence[tuple[str, str, str, str | None]]) -> list[Compared]:
    """Each of `tests` (row, other row, metric, part), all of them one family of Holm's; rows by their labels, of the first training.

    A test whose rows or metric are not in the record is left out.
    """
    found = [one for test in tests if (one := _compared(record, *test)) is not None]
    adjusted = holm([one.p for one in found]) if found else []
    return [Compared(**(vars(one) | {"p_adjusted": float(p)})) for one, p in zip(found, adjusted, strict=True)]


def _compared(record: Record, a: str, b: str, metric: str, part: str | None) -> Compared | None:
    of_part = part_of(record, part)
    if of_part is None:
        return None
    of_part = by_training(of_part)
    if any(row not in of_part["rows"] or metric not in of_part["rows"][row]["metrics"] for row in (a, b)):
        return None
    measured = [of_part["rows"][row]["metrics"][metric] for row in (a, b)]
    means = measured[0]["mean"], measured[1]["mean"]
    sampled = chance.of_items(*(one["values"] for one in measured))
    trained = chance.trainings(of_part, chance.training_means(of_part, metric), a, b)
    parts = [sampled.part] + [trained.part] * (trained.part is not None)
    together = chance.interval(means[0] - means[1], parts) if trained.part is not None else None
    p = sampled.p if together is None else max(sampled.p, chance.p_value(means[0] - means[1], parts))
    return Compared((a, b), metric, part, means, sampled.interval, together, p, sampled.n)


def comparison_frame(compared: Sequence[Compared], columns: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """The tests as a table: difference with its interval over the pairs and over pairs and trainings, Holm's p, and who is better."""
    rows = []
    for one in compared:
        better = columns[one.metric]["direction"] == ("down" if one.difference < 0 else "up")
        verdict = ("first better" if better else "second better") if one.shown else "no difference shown"
        both = "–" if one.together is None else with_interval(one.difference, one.together).partition(" ")[2]
        p = "< 0.0001" if one.p_adjusted < 1e-4 else f"{one.p_adjusted:.4f}"
        rows.append(
            [*one.rows, one.part or "all", columns[one.metric]["label"], with_interval(one.difference, one.interval), both, p, verdict]
        )
    return pd.DataFrame(rows, columns=["First", "Second", "Edits", "Metric", "First - second", "with trainings", "p (Holm)", "At 5 %"])
