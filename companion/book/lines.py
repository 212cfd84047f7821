"""Lines over one axis, drawn in the page itself: what trainings logged, or anything else that goes step by step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from .axes import grid, span, ticks
from .interactive import Widget
from .theme import SERIES, THEME

WIDTH, HEIGHT = 330, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 42
DASHES = ("none", "7 4", "2 3", "9 3 2 3", "12 4", "4 4", "1 2")


@dataclass(frozen=True)
class Line:
    """`y` over `x`, with the ends of a band where they are known."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def line_panels(panels: Mapping[str, Mapping[str, Line]], *, x_label: str, alt: str, note: str = "") -> Widget:
    """Heading -> name of a line -> the line. A name has one colour and one kind of dashes in all panels; at most seven names.

    Raises:
        ValueError: no lines, a line without points or of unequal lengths, or more names than colours.
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    if not 1 <= len(names) <= len(SERIES):
        raise ValueError(f"panels has {len(names)} names of lines, but must have 1 to {len(SERIES)}.")
    for heading, lines in panels.items():
        for name, line in lines.items():
            if not len(line.x) or {len(line.y), *(len(ends) for ends in (line.low, line.high) if len(ends))} != {len(line.x)}:
                raise ValueError(f"panels[{heading!r}][{name!r}] has {len(line.x)} x and {len(line.y)} y, but must have as many, and some.")
    legend = "".join(f"<li>{_sample(i)}{escape(name)}</li>" for i, name in enumerate(names))
    figures = "".join(
        f"<figure><p><strong>{escape(heading)}</strong></p>{_plot(lines, names, x_label, heading)}</figure>"
        for heading, lines in panels.items()
    )
    note = f'<p class="smooth-soft">{escape(note)}</p>' if note else ""
    start = f'<div class="smooth-scatter smooth-theme" role="group" aria-label="{escape(alt)}"><style>{THEME}{STYLE}</style>'
    said = [
        f"  {heading}, {name}: {line.y[0]:.3g} at {line.x[0]:g}, {line.y[-1]:.3g} at {line.x[-1]:g}"
        for heading, lines in panels.items()
        for name, line in lines.items()
    ]
    return Widget(f'{start}<ul>{legend}</ul><div class="smooth-panels">{figures}</div>{note}</div>', "\n".join([alt, *said]))


STYLE = """
.smooth-scatter ul{display:flex;flex-wrap:wrap;gap:.2em 1.2em}
.smooth-scatter li{list-style:none;font-size:13px;display:flex;align-items:center;gap:.4em}
.smooth-scatter .smooth-panels{display:flex;flex-wrap:wrap;gap:.6em}
.smooth-scatter figure{flex:0 0 318px;max-width:100%}
"""


def _plot(lines: Mapping[str, Line], names: Sequence[str], x_label: str, alt: str) -> str:
    x_low, x_high = span([value for line in lines.values() for value in line.x])
    y_low, y_high = span([value for line in lines.values() for values in (line.y, line.low, line.high) for value in values])
    bottom = HEIGHT - BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT), bottom - (y - y_low) / (y_high - y_low) * (bottom - TOP)

    parts = [grid("y", [(value, at(x_low, value)[1]) for value in ticks(y_low, y_high)], (LEFT, WIDTH - RIGHT))]
    parts.append(grid("x", [(value, at(value, y_low)[0]) for value in ticks(x_low, x_high, 4)], (TOP, bottom)))
    for name, line in lines.items():
        paint, dashes = _look(names.index(name))
        if len(line.low):
            ends = [*zip(line.x, line.high, strict=True), *reversed([*zip(line.x, line.low, strict=True)])]
            parts.append(f'<path d="{_path(ends, at)}z" fill="{paint}" fill-opacity=".18"/>')
        points = _path([*zip(line.x, line.y, strict=True)], at)
        parts.append(f'<path d="{points}" fill="none" stroke="{paint}" stroke-width="2" stroke-dasharray="{dashes}"/>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    return f'<svg width="{WIDTH - 12}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(alt)}">{"".join(parts)}</svg>'


def _path(points: Sequence[tuple[float, float]], at) -> str:
    return "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in (at(x, y) for x, y in points))


def _look(place: int) -> tuple[str, str]:
    return f"var(--s{place})", DASHES[place]


def _sample(place: int) -> str:
    paint, dashes = _look(place)
    line = f'<path d="M1 8H35" stroke="{paint}" stroke-width="2" stroke-dasharray="{dashes}"/>'
    return f'<svg width="36" height="16" aria-hidden="true">{line}</svg>'
