"""Pictures of drags: the points on the source, the true picture and what each row made of it; curves over the updates."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from ... import book
from ...book.page import COLOURS, PageFigure, to_pixels
from ...data.drags import DragItem
from ...evidence.records import Record
from ..rows import Row

if TYPE_CHECKING:
    from .study import Measured

SHOWN = 256  # pixels of a marked picture's shorter side: small ones are enlarged, so that arrows are thinner than their pixels
HANDLE, TARGET = "#D55E00", "#0072B2"


def marked(image: Any, handles: Sequence[Sequence[float]], targets: Sequence[Sequence[float]] = ()) -> np.ndarray:
    """A picture (3, H, W) with its points, enlarged by whole pixels: handles orange, targets blue, a line from each to its own."""
    pixels = to_pixels(image)
    factor = max(1, SHOWN // min(pixels.shape[:2]))
    picture = Image.fromarray(pixels.repeat(factor, 0).repeat(factor, 1))
    draw, radius = ImageDraw.Draw(picture), max(4, min(picture.size) // 48)
    for (x, y), (u, v) in zip(handles, targets, strict=False):
        draw.line([x * factor, y * factor, u * factor, v * factor], fill="white", width=max(2, radius // 2))
    for points, colour in ((targets, TARGET), (handles, HANDLE)):
        for x, y in points:
            x, y = x * factor, y * factor
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour, outline="white")
    return np.asarray(picture).transpose(2, 0, 1)


def drag_figure(drags: Sequence[DragItem], measured: "Measured", rows: Sequence[Row], indices: Sequence[int]) -> Figure:
    """A column a drag: source with points, truth if there is one, and each row's picture with its distance and LPIPS under it."""
    chosen = [drags[i] for i in indices]
    grid: list[list[Any]] = [[marked(drag.image, drag.handles, drag.targets) for drag in chosen]]
    labels, under = ["Source, handles to targets"], [[None] * len(chosen)]
    if all(drag.truth is not None for drag in chosen):
        grid.append([drag.truth for drag in chosen])
        labels.append("Truth")
        under.append([None] * len(chosen))
    for row in rows:
        if row.settings.kind != "drag":
            continue
        found, place = [measured[row.label][i] for i in indices], row.settings.place
        grid.append([result["images"][place] for result in found])
        labels.append(row.label)
        under.append([_score(result, place) for result in found])
    return book.image_grid(grid, row_labels=labels, column_labels=[str(i + 1) for i in indices], cell_labels=under, cell_size=1.28)


def _score(result: Mapping[str, Any], place: int) -> str:
    truth = f", {result['lpips'][place]:.2f}" if "lpips" in result else ""
    return f"{result['distance'][place]:.1f} %{truth}"


def curve_figure(record: Record, rows: Sequence[str] | None = None) -> Figure:
    """Over the updates: the distance left by each row's own tracking, the judge's distance, and LPIPS to the truth where it is known."""
    curves = record["facts"]["curves"]
    ends = {label: row["metrics"] for label, row in record["rows"].items() if label not in curves}
    panels = [("left", "own tracking: distance left (% of the side)"), ("distance", "judge: distance to the targets (% of the side)")]
    panels += [("lpips", "LPIPS to the truth")] if all("lpips" in curve for curve in curves.values()) else []
    figure = PageFigure(figsize=(3.7 * len(panels), 3.2), dpi=100, facecolor="white", layout="constrained")
    for axes, (metric, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for i, label in enumerate(rows or curves):
            curve = curves[label]
            x = range(len(curve["left"])) if metric == "left" else curve["stops"]
            axes.plot(x, curve[metric], color=COLOURS[i % len(COLOURS)], marker="" if metric == "left" else "o", label=label, linewidth=1.4)
        for style, (label, metrics) in zip(("--", ":"), ends.items(), strict=False):
            if metric in metrics:
                axes.axhline(metrics[metric]["mean"], color="grey", linestyle=style, label=label, linewidth=1)
        axes.set(xlabel="updates of the latent", title=title)
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.3, linewidth=0.5)
        axes.legend(fontsize=7)
    return figure


def choice_table(record: Record) -> pd.DataFrame:
    """What each candidate reached on the even ids; the chosen one is marked."""
    choice = record["facts"]["choice"]
    table = pd.DataFrame(index=pd.Index(choice["tried"], name="Settings"))
    if "distance" in choice:
        table["Distance (% of the side)"] = np.round(choice["distance"], 2)
        table["LPIPS to the truth"] = np.round(choice["lpips"], 4)
        table["Good enough"] = ["yes" if value <= choice["enough"] else "" for value in choice["distance"]]
    table["Chosen"] = ["yes" if name == choice["chosen"] else "" for name in choice["tried"]]
    return table


def motion_table(record: Record, metrics: Sequence[str] = ("distance", "success", "lpips", "lpips_inside")) -> pd.DataFrame:
    """Group of drags and row -> means of some metrics: how the size and kind of the motion matter."""
    parts = {
        f"{name} (n = {group['n']})": pd.DataFrame.from_dict({label: own for label, own in group.items() if label != "n"}, orient="index")
        for name, group in record["facts"]["by_motion"].items()
    }
    table = pd.concat(parts, names=["Drags", "Row"])
    return table[[metric for metric in metrics if metric in table]].round(4)
