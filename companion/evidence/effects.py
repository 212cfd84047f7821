"""What the verdicts rest on, as one scale: standardised effects with intervals, for the forest plot of all claims."""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from ..base import paths
from ..base.reading import read_yaml
from .statements import DIRECTIONS
from .weighing import NOT_MEASURED, Evidence

if TYPE_CHECKING:
    from .claims import Verdict

FILE = paths.PAPER / "claim_names.yaml"


@cache
def short_names() -> Mapping[str, str]:
    """Id of a claim -> a name of a few words for plots."""
    return read_yaml(FILE)


def forest_rows(verdicts: Sequence["Verdict"], page: str = "claims.html") -> list[dict[str, Any]]:
    """One mapping a claim, as `companion.book.forest.forest_plot` takes them; `page` holds the claims' full entries."""
    return [
        {
            "name": short_names().get(one.claim.id, one.claim.claim.rstrip(".")),
            "claim": f"{one.claim.claim} ({one.claim.where})",
            "href": f"{page}#{one.claim.id}",
            "outcome": one.outcome,
            "parts": [part(evidence) for evidence in one.evidence if evidence.outcome != NOT_MEASURED],
        }
        for one in verdicts
    ]


def part(found: Evidence) -> dict[str, Any]:
    """Effect and interval of one statement in standard deviations of the items' differences, positive where the statement holds.

    With d the difference, s its standard deviation over items and m the margin: +-d / s by the direction claimed; (m - |d|) / s for
    "within"; (m +- d) / s for "no worse". All None where the record holds no chance of the items, so that s is unknown.
    """
    label = f"{found.metric}: {found.rows[0]} against {found.rows[1]}"
    if found.sampled is None or not found.sampled.part.variance:
        return {"effect": None, "low": None, "high": None, "outcome": found.outcome, "label": label}
    deviation = math.sqrt(found.sampled.part.variance * (found.sampled.part.freedom + 1))
    ends = found.together or found.sampled.interval
    points = [_holds(found, value) / deviation for value in (found.difference, *ends)]
    if found.asks.kind == "within" and ends[0] < 0 < ends[1]:
        points.append(found.limit / deviation)  # the interval holds a difference of none
    effect, low, high = points[0], min(points), max(points)
    label += f", effect {effect:+.2f} [{low:+.2f}, {high:+.2f}], n = {found.sampled.n}, {found.outcome}"
    return {"effect": effect, "low": low, "high": high, "outcome": found.outcome, "label": label}


def _holds(found: Evidence, difference: float) -> float:
    """By how much a difference lies on the side that the statement claims."""
    if found.asks.kind == "within":
        return found.limit - abs(difference)
    side = DIRECTIONS[found.asks.direction] * difference
    return side + found.limit if found.asks.kind == "no_worse" else side
