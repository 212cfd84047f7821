"""Points in the plane, drawn in the page itself: with whiskers both ways, or one value of a pair over the other."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from .axes import grid, span, ticks
from .interactive import Widget
from .theme import SERIES, THEME

Point = Mapping[str, float | str | Sequence[float] | None]
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 16, 46
SHAPES = {
    "circle": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
    "diamond": "M0-6.5L6.5 0 0 6.5-6.5 0z",
    "triangle": "M0-6L6 5H-6z",
    "square": "M-4.6-4.6h9.2v9.2h-9.2z",
    "cross": "M-5-5L5 5M-5 5L5-5",
    "plus": "M0-6V6M-6 0H6",
    "down": "M0 6L6-5H-6z",
}
STYLE = """
.smooth-scatter ul{display:flex;flex-wrap:wrap;gap:.2em 1.2em}
.smooth-scatter li{list-style:none;font-size:13px;display:flex;align-items:center;gap:.4em}
.smooth-scatter .smooth-panels{display:flex;flex-wrap:wrap;gap:1em}
.smooth-scatter figure{flex:0 0 300px;max-width:100%}
"""


def frontier(series: Mapping[str, Sequence[Point]], *, x_label: str, y_label: str, alt: str, note: str = "") -> Widget:
    """Series name -> points with `x`, `y`, `x_ends` and `y_ends` (low, high; None where not known) and `label`; at most seven series.

    Raises:
        ValueError: no points, or more series than colours and markers.
    """
    points = [point for group in series.values() for point in group]
    if not points or len(series) > len(SERIES):
        raise ValueError(f"series has {len(series)} series and {len(points)} points, but must have 1 to {len(SERIES)} and at least one.")
    spans = [span([value for point in points for value in (point[axis], *(point[f"{axis}_ends"] or ()))]) for axis in "xy"]
    plots = "".join(
        f'<div class="{name}">{_plot(series, spans, (width, height), (x_label, y_label), alt)}</div>'
        for name, width, height in (("smooth-wide", 640, 400), ("smooth-narrow", 318, 340))
    )
    legend = "".join(f"<li>{_sample(i)}{escape(name)}</li>" for i, name in enumerate(series))
    said = [f"  {name}, {p['label']}: {x_label} {p['x']:.3g}, {y_label} {p['y']:.3g}" for name, group in series.items() for p in group]
    return Widget(_whole(f"<ul>{legend}</ul>{plots}", alt, note), "\n".join([alt, *said]))


def paired_dots(panels: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, names: tuple[str, str], alt: str, item: str) -> Widget:
    """Panel heading -> the values of the first and of the second row, item by item: a dot an item, the first's value to the right.

    Below the line the second row has the smaller value; how many dots lie there is counted in the heading. `item`: what a dot is.

    Raises:
        ValueError: rows of different length, or empty.
    """
    drawn, said = [], []
    for heading, (first, second) in panels.items():
        if not len(first) or len(first) != len(second):
            raise ValueError(f"panels[{heading!r}] has {len(first)} and {len(second)} values, but must have as many of each, and some.")
        lower = int((np.asarray(second) < np.asarray(first)).sum())
        words = f"{heading}: {names[1]} is lower for {lower} of {len(first)} {item}"
        points = [dict(x=x, y=y, x_ends=None, y_ends=None, label="") for x, y in zip(first, second, strict=True)]
        ends = (0.0, 1.05 * max(*first, *second))
        plot = _plot({heading: points}, [ends, ends], (300, 290), names, words, diagonal=True)
        drawn.append(f"<figure><p><strong>{escape(words)}</strong></p>{plot}</figure>")
        said.append(f"  {words}")
    return Widget(_whole(f'<div class="smooth-panels">{"".join(drawn)}</div>', alt, ""), "\n".join([alt, *said]))


def _whole(body: str, alt: str, note: str) -> str:
    note = f'<p class="smooth-soft">{escape(note)}</p>' if note else ""
    start = f'<div class="smooth-scatter smooth-theme" role="group" aria-label="{escape(alt)}"><style>{THEME}{STYLE}</style>'
    return f"{start}{body}{note}</div>"


def _plot(
    series: Mapping[str, Sequence[Point]],
    spans: Sequence[tuple[float, float]],
    size: tuple[int, int],
    labels: tuple[str, str],
    alt: str,
    *,
    diagonal: bool = False,
) -> str:
    """One SVG in pixels of the page, so that its text keeps its size at every width."""
    width, height = size
    (x_low, x_high), (y_low, y_high) = spans
    bottom = height - BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        return LEFT + (x - x_low) / (x_high - x_low) * (width - LEFT - RIGHT), bottom - (y - y_low) / (y_high - y_low) * (bottom - TOP)

    across = ticks(x_low, x_high, 6 if width > 400 else 4)
    parts = [grid("y", [(value, at(x_low, value)[1]) for value in ticks(y_low, y_high)], (LEFT, width - RIGHT))]
    parts.append(grid("x", [(value, at(value, y_low)[0]) for value in across], (TOP, bottom)))
    if diagonal:
        (x1, y1), (x2, y2) = at(x_low, y_low), at(x_high, y_high)
        parts.append(f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="var(--line)" stroke-width="1.5"/>')
    for i, group in enumerate(series.values()):
        parts += [_point(point, i, at, small=diagonal) for point in group]
    parts.append(f'<text x="{(LEFT + width - RIGHT) / 2:.0f}" y="{height - 8}" text-anchor="middle">{escape(labels[0])}</text>')
    parts.append(f'<text transform="translate(13 {(TOP + bottom) / 2:.0f}) rotate(-90)" text-anchor="middle">{escape(labels[1])}</text>')
    return f'<svg width="{width}" height="{height}" role="img" aria-label="{escape(alt)}">{"".join(parts)}</svg>'


def _point(point: Point, series: int, at, *, small: bool) -> str:
    x, y = at(point["x"], point["y"])
    paint, shape = f"var(--s{series})", SHAPES[SERIES[series][2]]
    whiskers = ""
    if point["x_ends"]:
        (low, _), (high, _) = (at(end, point["y"]) for end in point["x_ends"])
        whiskers += f'<path d="M{low:.1f} {y:.1f}H{high:.1f}" stroke="{paint}" stroke-opacity=".55"/>'
    if point["y_ends"]:
        (_, low), (_, high) = (at(point["x"], end) for end in point["y_ends"])
        whiskers += f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" stroke="{paint}" stroke-opacity=".55"/>'
    title = f"<title>{escape(point['label'])}</title>" if point["label"] else ""
    look = f'fill="{paint}" fill-opacity=".6"' if small else f'fill="{paint}" stroke="{paint}" stroke-width="2"'
    scale = " scale(.6)" if small else ""
    return f'<g>{title}{whiskers}<path d="{shape}" transform="translate({x:.1f} {y:.1f}){scale}" {look}/></g>'


def _sample(series: int) -> str:
    paint, shape = f"var(--s{series})", SHAPES[SERIES[series][2]]
    mark = f'<path d="{shape}" transform="translate(8 8)" fill="{paint}" stroke="{paint}" stroke-width="2"/>'
    return f'<svg width="16" height="16" aria-hidden="true">{mark}</svg>'
