"""The step distances of walks as an inline SVG: a line a row, told apart by colour, dashes and the shape of its points."""

from collections.abc import Mapping
from html import escape

import numpy as np

from .page import COLOURS

WIDTH, HEIGHT = 420, 170
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 24, 34
DASHES = ("none", "7 4", "2 3", "9 3 2 3", "12 4", "4 4")
MARKERS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-3.6-3.6h7.2v7.2h-7.2z",
    "M0-5L5 4H-5z",
    "M0-5.4L5.4 0 0 5.4-5.4 0z",
    "M0 5L5-4H-5z",
    "M-5-2h10v4h-10z",
)
MAX_ROWS = len(DASHES)


def step_curve(distances: Mapping[str, np.ndarray], *, highest: float, title: str, description: str) -> str:
    """Row -> (F - 1,) step distances over the frame that each step leads to, on an axis from 0 to `highest`.

    Each point has `data-frame`, the index (from 1) of the frame that its step leads to; the line with the class `smooth-cursor` stands at
    frame 0 and `data-step` is by how much it moves a frame.
    """
    count = len(next(iter(distances.values())))  # F - 1
    step = (WIDTH - LEFT - RIGHT) / count
    bottom = HEIGHT - BOTTOM

    def y(value: float) -> float:
        return bottom - value / highest * (bottom - TOP)

    parts = [f'<text x="4" y="13">{escape(title)}</text>']
    for share in (0, 0.5, 1):
        parts.append(f'<path d="M{LEFT} {y(share * highest):.1f}H{WIDTH - RIGHT}" stroke="#ccc"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(share * highest) + 4:.1f}" text-anchor="end">{share * highest:.3g}</text>')
    every = -(-(count + 1) // 12)  # of long walks not each frame has a number
    for k in range(0, count + 1, every):
        parts.append(f'<text x="{LEFT + k * step:.1f}" y="{bottom + 15}" text-anchor="middle">{k + 1}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 4}" text-anchor="middle">frame that the step leads to</text>')
    parts.append(f'<path class="smooth-cursor" data-step="{step:.3f}" d="M{LEFT} {TOP}V{bottom}" stroke="#595959"/>')
    for row, values in enumerate(distances.values()):
        points = [(LEFT + (k + 1) * step, y(value)) for k, value in enumerate(values)]
        line = "L".join(f"{px:.1f} {py:.1f}" for px, py in points)
        parts.append(f'<path d="M{line}" fill="none" stroke="{COLOURS[row]}" stroke-width="2" stroke-dasharray="{DASHES[row]}"/>')
        parts += [
            f'<path d="{MARKERS[row]}" data-frame="{k + 1}" fill="{COLOURS[row]}" transform="translate({px:.1f} {py:.1f})"/>'
            for k, (px, py) in enumerate(points)
        ]
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}">{"".join(parts)}</svg>'


def sample(row: int) -> str:
    """The line and marker of a row, to stand beside its name."""
    line = f'<path d="M1 8H35" stroke="{COLOURS[row]}" stroke-width="2" stroke-dasharray="{DASHES[row]}"/>'
    marker = f'<path d="{MARKERS[row]}" fill="{COLOURS[row]}" transform="translate(18 8)"/>'
    return f'<svg class="smooth-sample" viewBox="0 0 36 16" aria-hidden="true">{line}{marker}</svg>'
