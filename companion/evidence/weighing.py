"""What a record says about one statement: "row A is lower than row B", "lower along these rows", "within 1 dB of", "no worse than".

Two sources of chance count, `companion.evidence.chance`: the items (prompts, images), over which rows are compared in pairs, and the
trainings. A statement must hold over the items alone and over items and trainings together. The p-value is the larger of the two as well;
Holm's correction is over the statements that are decided together, those of one claim.

A row that was trained once cannot decide alone what hangs on the training. If the record has no repeated training, numbers of a whole set
stay inconclusive, and a verdict over items says that it is about one training. If it has some, their spread is taken for that row, by name,
as long as it gives the difference less variance than the items do; otherwise the statement stays inconclusive.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from . import chance
from .chance import LEVEL, Sampling, Trainings
from .fields import SETS, by_training, part_of
from .floors import frechet_floor
from .statements import DIRECTIONS, Statement, find_row
from .statistics import holm
from .tables import FRECHET, Record

REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE, NOT_MEASURED = "reproduced", "not reproduced", "inconclusive", "not measured yet"


@dataclass(frozen=True)
class Evidence:
    """The outcome of a statement and the figures that decided it: first row minus second, with 95 % intervals.

    sampled: the chance of the items or images; None if the record does not hold it. trainings: that of the trainings. together: the
    interval over both, or over the trainings alone where `sampled` is None; None if no training's spread is known. p: of no difference,
    `p_adjusted` Holm's, over `family` times as strict a level; None for margins, which the intervals decide. needed: how many items would
    decide an open statement, were its difference as large as the one seen.
    """

    outcome: str
    asks: Statement | None = None
    metric: str = ""
    rows: tuple[str, str] = ("", "")
    means: tuple[float, float] = (math.nan, math.nan)
    sampled: Sampling | None = None
    trainings: Trainings = field(default_factory=lambda: Trainings((0, 0)))
    together: tuple[float, float] | None = None
    p: float | None = None
    p_adjusted: float | None = None
    family: float = 1.0
    floor: float = 0.0
    note: str = ""
    needed: float | None = None

    @property
    def difference(self) -> float:
        return self.means[0] - self.means[1]

    @property
    def limit(self) -> float:
        """How far the first row may be off, for kinds with a margin."""
        return self.asks.margin * (1 if self.asks.kind == "within" else abs(self.means[1] - self.floor))

    @property
    def one_training(self) -> bool:
        """Is the outcome about a single training, whose chance is unknown?"""
        return bool(self.trainings.once) and self.trainings.part is None


def weigh(statement: Statement, record: Record | None) -> list[Evidence]:
    """The evidence for one statement by itself: `decide` of what `measure` finds."""
    return decide(measure(statement, record))


def measure(statement: Statement, record: Record | None) -> list[Evidence]:
    """The figures for each pair of rows of the statement, undecided; "not measured yet" where record, part, row or metric is missing."""
    record = part_of(record, statement.part) if record else None
    record = by_training(record) if record else None
    rows = [find_row(record, row) for row in statement.rows] if record else [None]
    if None in rows:
        return [Evidence(NOT_MEASURED)]
    names = [statement.metric] if isinstance(statement.metric, str) else statement.metric
    has = [all(name in record["rows"][row]["metrics"] for row in rows) for name in names]
    if not (all(has) if statement.kind == "mainly" else any(has)):
        return [] if statement.where_recorded else [Evidence(NOT_MEASURED)]
    metric = names[has.index(True)]
    if statement.kind == "gap":
        return [_gap(statement, record, metric, rows)]
    if statement.kind == "mainly":
        return [_mainly(statement, record, names, rows)]
    return [_pair(statement, record, metric, a, b) for a, b in pairwise(rows)]


def _pair(statement: Statement, record: Record, metric: str, a: str, b: str) -> Evidence:
    means = tuple(record["rows"][row]["metrics"][metric]["mean"] for row in (a, b))
    trained = chance.trainings(record, chance.training_means(record, metric), a, b)
    floor = frechet_floor(record) if metric in FRECHET else 0.0
    return replace(_with_chance(statement, metric, (a, b), means, chance.sampling(record, metric, a, b), trained), floor=floor)


def _gap(statement: Statement, record: Record, metric: str, rows: Sequence[str]) -> Evidence:
    values = [np.asarray(record["rows"][row]["metrics"][metric]["values"]) for row in rows]
    sign = DIRECTIONS[statement.direction]
    improvements = sign * (values[0] - values[1]), sign * (values[2] - values[3])
    names = f"{rows[0]} over {rows[1]}", f"{rows[2]} over {rows[3]}"
    means = chance.training_means(record, metric)
    seeds = {
        a: np.subtract(means[a], means[b]).tolist() for a, b in (rows[::2], rows[1::2]) if len(means.get(a, ())) == len(means.get(b, "-"))
    }
    return _compared(statement, metric, names, improvements, chance.trainings(record, seeds, rows[0], rows[1]))


def _mainly(statement: Statement, record: Record, metrics: Sequence[str], rows: Sequence[str]) -> Evidence:
    first, second = ([np.log(record["rows"][row]["metrics"][name]["values"]) for row in rows] for name in metrics)
    sign = DIRECTIONS[statement.direction]
    changes = sign * (first[0] - first[1]), sign * (second[0] - second[1])
    means = [chance.training_means(record, name) for name in metrics]
    seeds = {row: np.log(np.divide(values, means[1][row])).tolist() for row, values in means[0].items() if row in means[1]}
    names = tuple(f"the change in {record.get('columns', {}).get(name, {}).get('label', name)}" for name in metrics)
    return _compared(statement, metrics[0], names, changes, chance.trainings(record, seeds, *rows))


def _compared(
    statement: Statement, metric: str, names: tuple[str, str], values: tuple[np.ndarray, np.ndarray], trained: Trainings
) -> Evidence:
    """The first of two series of changes is larger than the second."""
    asks = Statement(statement.record, "paired", metric, ("", ""), "higher", part=statement.part)
    means = float(values[0].mean()), float(values[1].mean())
    return _with_chance(asks, metric, names, means, chance.of_items(*values), trained)


def _with_chance(
    asks: Statement, metric: str, rows: tuple[str, str], means: tuple[float, float], sampled: Sampling | None, trained: Trainings
) -> Evidence:
    """The interval over items and trainings, and the larger of the p-values over items and over both."""
    difference = means[0] - means[1]
    parts = [one.part for one in (sampled, trained) if one is not None and one.part is not None]
    together = chance.interval(difference, parts) if trained.part is not None else None
    p = sampled.p if sampled and asks.margin is None else None  # of no difference: not what a margin asks
    if p is not None and together:
        p = max(p, chance.p_value(difference, parts))
    return Evidence("", asks, metric, rows, means, sampled, trained, together, p)


def decide(found: Sequence[Evidence]) -> list[Evidence]:
    """The outcomes of statements that belong together: their p-values are one family of Holm's."""
    tested = [one for one in found if one.p is not None]
    adjusted = dict(zip(map(id, tested), holm([one.p for one in tested]), strict=True))
    ranks = {id(one): rank for rank, one in enumerate(sorted(tested, key=lambda one: one.p))}
    decided = []
    for one in found:
        if one.outcome == "" and one.p is not None:
            one = replace(one, p_adjusted=float(adjusted[id(one)]), family=float(len(tested) - ranks[id(one)]))
        decided.append(_decided(one) if one.outcome == "" else one)
    return decided


def _decided(found: Evidence) -> Evidence:
    """The outcome: every interval that there is must lie where the statement says; all on the other side refutes it."""
    intervals = [ends for ends in (found.sampled and found.sampled.interval, found.together) if ends is not None]
    sign, kind = DIRECTIONS[found.asks.direction], found.asks.kind
    if kind == "within":
        yes = [-found.limit <= low and high <= found.limit for low, high in intervals]
        no = [high < -found.limit or low > found.limit for low, high in intervals]
    elif kind == "no_worse":
        yes = [min(sign * low, sign * high) >= -found.limit for low, high in intervals]
        no = [max(sign * low, sign * high) < -found.limit for low, high in intervals]
    else:
        yes = [min(sign * low, sign * high) > 0 for low, high in intervals]
        no = [max(sign * low, sign * high) < 0 for low, high in intervals]
        if found.p_adjusted is not None and found.p_adjusted >= LEVEL:
            yes = no = [False]
    outcome = REPRODUCED if yes and all(yes) else NOT_REPRODUCED if no and all(no) else INCONCLUSIVE
    unknown = _unknown(found)
    outcome = INCONCLUSIVE if unknown else outcome
    note = "; ".join(part for part in (_allowed(found), unknown) if part)
    decided = replace(found, outcome=outcome, note=note)
    return replace(decided, needed=_needed(decided)) if outcome == INCONCLUSIVE and found.sampled else decided


def _unknown(found: Evidence) -> str:
    """Why no outcome but "inconclusive" is possible; empty where nothing stands against one."""
    trained, once = found.trainings, " and ".join(found.trainings.once)
    if found.metric in SETS and found.sampled is None:
        return "the chance of the images was not measured: the record is older than that"
    if found.metric in SETS and found.one_training:
        return f"{once} trained once, and how much is the training's chance is unknown"
    if once and trained.part and found.sampled and trained.part.variance >= found.sampled.part.variance:
        return f"{once} trained once, and the trainings' chance, taken from {' and '.join(trained.spread_of)}, outweighs that of the items"
    return ""


def _allowed(found: Evidence) -> str:
    if found.asks.kind == "within":
        return f"allowed: {found.asks.margin:g} either way"
    if found.asks.kind != "no_worse":
        return ""
    return f"allowed: {found.asks.margin:.0%} worse" + (f", less the real images' {found.floor:.1f}" if found.floor else "")


def _needed(found: Evidence) -> float:
    """`chance.needed_items` for the difference seen, or for its distance from the nearest limit where there is a margin."""
    effect = found.difference
    if found.asks.kind == "within":
        effect = found.limit - abs(effect)
    elif found.asks.kind == "no_worse":
        effect = found.limit + DIRECTIONS[found.asks.direction] * effect
    part = found.sampled.part
    deviation = math.sqrt(part.variance * (part.freedom + 1))
    test = found.sampled.test if found.asks.margin is None else "t"
    return chance.needed_items(effect, deviation, level=LEVEL / found.family, trained=found.trainings.part, test=test)
