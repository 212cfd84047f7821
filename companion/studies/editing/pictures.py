"""Pictures of edits: the curves, sheets chosen by rank or by seed, and sliders."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from ... import book as figures
from ...book.grids import PICKS
from ...data.edit_items import EditItem
from .curve import Curve
from .methods import Entry
from .study import Measured, column

MARKERS = "os^Dv<>Pp*h"


def curve_figure(curves: Mapping[Entry, Mapping[str | None, Curve]], groups: Mapping[str, Sequence[str]]) -> Figure:
    """Every method's curve over its strength, base (hollow, dashed) and the adapters of a group (filled): kept against followed.

    `groups`: title -> adapters whose mean is drawn, one for each training.
    """
    figure = figures.PageFigure(figsize=(7.6, 5.2), dpi=100, facecolor="white", layout="constrained")
    axes = figure.subplots()
    for i, (entry, models) in enumerate(curves.items()):
        colour, marker = figures.COLOURS[i % len(figures.COLOURS)], MARKERS[i % len(MARKERS)]
        x, y = models[None].points()
        axes.plot(x, y, color=colour, marker=marker, linestyle="--", markerfacecolor="white", linewidth=1.1, label=f"Base: {entry.title}")
        for title, group in groups.items():
            points = [models[adapter].points() for adapter in group if adapter in models]
            if points:
                x, y = np.mean(points, axis=0)
                axes.plot(x, y, color=colour, marker=marker, linewidth=1.4, label=f"{title}: {entry.title}")
    axes.set(xlabel="LPIPS to the source outside the edit (less is kept to the right)", ylabel="share of edits that follow the prompt")
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.legend(fontsize=7, ncols=2, loc="lower right")
    return figure


def sheet(
    pairs: Sequence[EditItem], measured: Measured, labels: Sequence[str], *, rank_by: str, metric: str = "lpips", num_each: int = 2
) -> Figure:
    """The best, median and worst pairs of the row `rank_by`, by its own value of `metric` (lower is better), chosen by rank alone.

    A row of images a pair: the source, the truth, and the edit of each of `labels`, with the value under it.
    """
    ranking = np.argsort(column(measured[rank_by], metric), kind="stable")  # best first
    chosen, ranks = [], []
    for word, share in PICKS.items():  # worst, median, best
        start = round((1 - share) * (len(ranking) - num_each))
        chosen += [int(i) for i in ranking[start : start + num_each]]
        ranks += [word] * num_each
    order = [i for word in ("best", "median", "worst") for i, rank in zip(chosen, ranks, strict=True) if rank == word]
    words = [word for word in ("best", "median", "worst") for rank in ranks if rank == word]
    return edit_grid(pairs, measured, labels, order, metric=metric, row_labels=words)


def edit_grid(
    pairs: Sequence[EditItem],
    measured: Measured,
    labels: Sequence[str],
    indices: Sequence[int],
    *,
    metric: str | None = "lpips",
    row_labels: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> Figure:
    """A row of images a pair: the source, the truth where it is known, and the edit of each of `labels` (shown as `columns`).

    Under the source stands what is asked, under each edit its value of `metric` (None: nothing).
    """
    has_truth = all(pairs[i].target is not None for i in indices)
    names = [
        "Source",
        *(["Truth"] if has_truth else []),
        *(columns or [label.replace(": ", "\n").replace(", ", ",\n") for label in labels]),
    ]
    rows, cells = [], []
    for i in indices:
        known = [pairs[i].source, *([pairs[i].target] if has_truth else [])]
        rows.append(known + [measured[label][i]["image"] for label in labels])
        scores = [f"{measured[label][i][metric]:.2f}" if metric and metric in measured[label][i] else None for label in labels]
        cells.append([pairs[i].kind, *([None] if has_truth else []), *scores])
    return figures.image_grid(rows, row_labels=row_labels, column_labels=names, cell_labels=cells, cell_size=0.92)


def sliders(pairs: Sequence[EditItem], measured: Measured, labels: Sequence[str], indices: Sequence[int]) -> figures.Widget:
    """Each pair under a slider that wipes from the source to the edit by each of `labels`, and to the true edit where it is known."""
    shown, texts = [], []
    for i in indices:
        asked = f"{pairs[i].source_caption} → {pairs[i].target_caption}"
        for label in labels:
            shown.append((pairs[i].source, measured[label][i]["image"]))
            texts.append(f"{asked}: {label}")
        if pairs[i].target is not None:
            shown.append((pairs[i].source, pairs[i].target))
            texts.append(f"{asked}: true edit")
    return figures.before_after(
        shown,
        labels=texts,
        sides=("Source", "Edit"),
        choice="Edit",
        alt="Source pictures, their edits and the true edits on top of each other",
    )
