"""Values of many items, a strip a row: a dot an item, and the mean with its interval, drawn in the page itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from .axes import grid, span, ticks
from .interactive import Widget
from .theme import THEME

ROW, TOP, BOTTOM, RIGHT = 44, 6, 40, 14
DOTS = 2.6  # radius


@dataclass(frozen=True)
class Strip:
    """A row: the value of each item, their mean with the ends of its interval, and which of `theme.SERIES` paints it."""

    values: Sequence[float]
    mean: float
    ends: tuple[float, float]
    series: int = 0


def value_strips(rows: Mapping[str, Strip], *, x_label: str, alt: str, item: str, note: str = "") -> Widget:
    """Row name -> its strip; all on one axis. `item`: what a dot is.

    Raises:
        ValueError: no rows, or a row without values.
    """
    if not rows or not all(len(row.values) for row in rows.values()):
        raise ValueError(f"rows has {len(rows)} rows, but must have at least one, and each a value.")
    ends = span([value for row in rows.values() for value in row.values])
    wide, narrow = (_plot(rows, ends, x_label, alt, width, left) for width, left in ((680, 190), (330, 10)))
    said = [f"  {name}: {row.mean:.3g} [{row.ends[0]:.3g}, {row.ends[1]:.3g}], {len(row.values)} {item}" for name, row in rows.items()]
    plots = f'<div class="smooth-wide">{wide}</div><div class="smooth-narrow">{narrow}</div>'
    note = f'<p class="smooth-soft">{escape(note)}</p>' if note else ""
    start = f'<div class="smooth-strips smooth-theme" role="group" aria-label="{escape(alt)}"><style>{THEME}</style>'
    return Widget(f"{start}{plots}{note}</div>", "\n".join([alt, *said]))


def _plot(rows: Mapping[str, Strip], ends: tuple[float, float], x_label: str, alt: str, width: int, left: int) -> str:
    """One SVG in pixels of the page. Where there is no room to the left, a row's name stands above its dots."""
    low, high = ends
    above = left < 100
    row_height = ROW + 14 * above
    bottom = TOP + row_height * len(rows)

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - RIGHT)

    parts = [grid("x", [(value, x(value)) for value in ticks(low, high, 4 if above else 7)], (TOP, bottom))]
    for i, (name, row) in enumerate(rows.items()):
        top = TOP + i * row_height + 14 * above
        middle = top + ROW / 2
        place = f'x="{left}" y="{top}"' if above else f'x="{left - 10}" y="{middle + 4:.1f}" text-anchor="end"'
        parts.append(f"<text {place}>{escape(name)}</text>")
        paint = f"var(--s{row.series})"
        shifts = spread([x(value) for value in row.values], ROW / 2 - DOTS - 2)
        for value, shift in zip(row.values, shifts, strict=True):
            parts.append(f'<circle cx="{x(value):.1f}" cy="{middle + shift:.1f}" r="{DOTS}" fill="{paint}" fill-opacity=".55"/>')
        first, last = map(x, row.ends)
        parts.append(f'<path d="M{first:.1f} {middle}H{last:.1f}" stroke="var(--ink)" stroke-width="2"/>')
        parts.append(f'<path d="M{x(row.mean):.1f} {middle - 12}V{middle + 12}" stroke="var(--ink)" stroke-width="2.5"/>')
    parts.append(f'<text x="{(left + width - RIGHT) / 2:.0f}" y="{bottom + 34}" text-anchor="middle">{escape(x_label)}</text>')
    return f'<svg width="{width}" height="{bottom + BOTTOM}" role="img" aria-label="{escape(alt)}">{"".join(parts)}</svg>'


def spread(places: Sequence[float], most: float) -> list[float]:
    """How far off the middle of its row each dot lies, so that dots at one place stand beside each other; at most `most`.

    Dots take, from left to right, the free place that is nearest to the middle; where none is free, they overlap.
    """
    size = 2 * DOTS
    levels = [sign * k * size for k in range(int(most / size) + 1) for sign in ((1, -1) if k else (1,))]
    taken = dict.fromkeys(levels, -np.inf)  # where the last dot of a level lies
    found = [0.0] * len(places)
    for i in np.argsort(places, kind="stable"):
        free = [level for level in levels if places[i] - taken[level] >= size]
        found[i] = free[0] if free else min(levels, key=lambda level: (taken[level], abs(level)))
        taken[found[i]] = places[i]
    return found


def painted(kind: str) -> int:
    """Which of `theme.SERIES` paints rows of this kind of weights: base, plain or smooth; all others share one."""
    return {"base": 5, "plain": 0, "smooth": 1}.get(kind, 2)
