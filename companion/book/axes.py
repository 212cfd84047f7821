"""Axes of plots that are drawn in the page itself: what a range of values needs, and where it is marked."""

from collections.abc import Sequence

import numpy as np


def span(values: Sequence[float]) -> tuple[float, float]:
    """The range of an axis that shows `values`, with a little room at both ends."""
    low, high = min(values), max(values)
    room = 0.06 * (high - low or abs(high) or 1.0)
    return low - room, high + room


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round values between `low` and `high`."""
    raw = (high - low) / count
    size = 10 ** np.floor(np.log10(raw))
    step = next(float(size * k) for k in (1, 2, 2.5, 5, 10) if size * k >= raw)
    return [k * step for k in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)]


def grid(axis: str, places: Sequence[tuple[float, float]], across: tuple[float, float]) -> str:
    """Lines with labels at `places` (value, pixel). Lines of the axis "y" reach from pixel `across[0]` to `across[1]`, those of "x" from
    height to height.
    """
    first, last = across
    drawn = []
    for value, pixel in places:
        # -0.0 and 0.30000000000000004 come from steps of a float
        label = f"{round(value, 10) + 0:g}"
        if axis == "y":
            drawn.append(f'<path d="M{first} {pixel:.1f}H{last}" stroke="var(--grid)"/>')
            drawn.append(f'<text x="{first - 6}" y="{pixel + 4:.1f}" text-anchor="end">{label}</text>')
        else:
            drawn.append(f'<path d="M{pixel:.1f} {first}V{last}" stroke="var(--grid)"/>')
            drawn.append(f'<text x="{pixel:.1f}" y="{last + 16}" text-anchor="middle">{label}</text>')
    return "".join(drawn)
