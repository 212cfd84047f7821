"""Images in rows and columns, as a matplotlib Figure."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .page import PageFigure, to_pixels

PAGE_WIDTH = 688  # CSS pixels of the book's text: a wider sheet is shown at this width
LABEL = 11.5  # CSS pixels of a label there, at least
LETTER = 0.6  # a letter's width in units of the label's height, about
LINE = 1.25
MAX_LETTERS = 14  # of a line of a row's label
PICKS = {"worst": 0.0, "median": 0.5, "best": 1.0}


def image_grid(
    rows: Sequence[Sequence[Any | None]],
    *,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    cell_labels: Sequence[Sequence[str | None]] | None = None,
    title: str | None = None,
    cell_size: float = 1.28,
    dpi: int = 100,
) -> Figure:
    """Images in rows and columns. `None` leaves a cell empty; `cell_labels` stand under their images; `cell_size` is in inches.

    At the defaults a cell is 128 pixels wide: each pixel of a 64x64 image becomes 2x2. Labels are so large that they are at least 11 pixels
    high where the book shows the sheet at its text's width; long ones are broken into lines. How images were scaled stands below them.
    Raises ValueError for rows of different length, labels that do not match them, and images that are not (3, H, W), uint8 or in [-1, 1].
    """
    _check_grid(rows, row_labels, column_labels, cell_labels)
    num_rows, num_columns = len(rows), len(rows[0])
    sides = [_broken(label, MAX_LETTERS) for label in row_labels or ()]
    letters = max((len(line) for label in sides for line in label.split("\n")), default=0)
    gap_x = 0.06
    inner = 0.2 + num_columns * (cell_size + gap_x)
    share = LABEL / PAGE_WIDTH  # a label's height in units of the sheet's width
    text = max(share * inner / (1 - LETTER * share * letters), LABEL / dpi)  # inches: solves width = inner + letters * LETTER * text
    left, points = LETTER * text * letters + 0.1, 72 * text
    heads = [_broken(label, max(int((cell_size + gap_x) / (LETTER * text)), 4)) for label in column_labels or ()]
    line = LINE * text
    top = 0.1 + (1.6 * line if title else 0) + (line * _lines(heads) + 0.06 if heads else 0)
    gap_y = 0.06 + (0 if cell_labels is None else line)
    width = left + inner
    scaling = _broken(_scaling(rows, cell_size * dpi), int(width / (LETTER * text)) - 2)
    height = top + num_rows * (cell_size + gap_y) + 0.1 + line * _lines([scaling])
    figure = PageFigure(figsize=(width, height), dpi=dpi, facecolor="white")
    if title:
        figure.text(0.5, 1 - 0.1 / height, title, ha="center", va="top", fontsize=1.1 * points)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            x, y = left + j * (cell_size + gap_x), height - top - i * (cell_size + gap_y) - cell_size
            axes = figure.add_axes((x / width, y / height, cell_size / width, cell_size / height))
            axes.set_axis_off()
            if image is not None:
                axes.imshow(to_pixels(image), interpolation="nearest" if image.shape[-1] <= cell_size * dpi else "antialiased")
            if i == 0 and heads:
                axes.set_title(heads[j], fontsize=points, pad=4)
            if j == 0 and sides:
                axes.text(-0.08 / cell_size, 0.5, sides[i], transform=axes.transAxes, ha="right", va="center", fontsize=points)
            if cell_labels and cell_labels[i][j]:
                axes.text(0.5, -0.04, cell_labels[i][j], transform=axes.transAxes, ha="center", va="top", fontsize=points)
    figure.text(1 - 0.1 / width, 0.05 / height, scaling, ha="right", va="bottom", fontsize=points, color="#595959")
    return figure


def _broken(label: str, letters: int) -> str:
    """A label in lines of at most about `letters` letters; words stay whole."""
    return "\n".join(line for part in label.split("\n") for line in textwrap.wrap(part, letters, break_long_words=False) or [""])


def _scaling(rows: Sequence[Sequence[Any | None]], drawn: float) -> str:
    """How images of this size were brought to `drawn` pixels."""
    sizes = {tuple(int(side) for side in image.shape[-2:]) for row in rows for image in row if image is not None}
    if len(sizes) != 1:
        return ""
    height, width = sizes.pop()
    if width > drawn:
        return f"{width} × {height} pixels, smoothed to {drawn:.0f}"
    return f"{width} × {height} pixels, drawn {drawn / width:.3g} × (nearest)"


def reconstruction_figure(
    source: Sequence[Any],
    reconstructions: Mapping[str, Sequence[Any]],
    scores: Mapping[str, Sequence[float] | np.ndarray],
    *,
    rank_by: str,
    score_label: str = "PSNR (dB)",
    score_format: str = ".1f",
    higher_is_better: bool = True,
    num_each: int = 1,
    title: str | None = None,
) -> Figure:
    """Source images above their reconstructions, one row a method (Figure 4): the worst, median and best images of the row `rank_by`.

    `source` and each of `reconstructions`: N images in any sequence, of which only those shown are read and converted; `scores`: row ->
    (N,), printed under each image; `num_each` images a rank. The images are chosen by their rank alone, so that the figure shows failures
    as well as successes.
    """
    n = len(source)
    if list(reconstructions) != list(scores) or rank_by not in scores:
        raise ValueError(f"rank_by is {rank_by!r} and scores are of {list(scores)}, but must be of the rows {list(reconstructions)}.")
    if not 1 <= num_each <= n:
        raise ValueError(f"num_each is {num_each}, but must be from 1 to the number of images, {n}.")
    ranking = np.argsort(np.asarray(scores[rank_by], dtype=float), kind="stable")
    ranking = ranking if higher_is_better else ranking[::-1]  # worst first
    chosen, column_labels = [], []
    for word, share in PICKS.items():
        start = round(share * (n - num_each))
        chosen += [int(i) for i in ranking[start : start + num_each]]
        column_labels += [word] * num_each
    rows = [[source[i] for i in chosen]] + [[images[i] for i in chosen] for images in reconstructions.values()]
    cell_labels = [[None] * len(chosen)] + [[f"{float(values[i]):{score_format}}" for i in chosen] for values in scores.values()]
    row_labels = ["Source", *reconstructions]
    title = title or f"By {score_label} of {rank_by}"
    return image_grid(rows, row_labels=row_labels, column_labels=column_labels, cell_labels=cell_labels, title=title)


def _check_grid(rows: Sequence, row_labels: Sequence | None, column_labels: Sequence | None, cell_labels: Sequence | None) -> None:
    widths = {len(row) for row in rows}
    if len(widths) != 1 or widths == {0}:
        raise ValueError(f"rows have {sorted(widths)} images, but must all have the same number, at least one.")
    width = widths.pop()
    shapes = {"row_labels": (row_labels, len(rows)), "column_labels": (column_labels, width), "cell_labels": (cell_labels, len(rows))}
    for name, (labels, expected) in shapes.items():
        if labels is not None and len(labels) != expected:
            raise ValueError(f"{name} has {len(labels)} entries, but must have {expected}.")
    if cell_labels is not None and any(len(labels) != width for labels in cell_labels):
        raise ValueError(f"cell_labels must have {width} entries in every row.")


def _lines(labels: Sequence[str]) -> int:
    return max(label.count("\n") + 1 for label in labels)
