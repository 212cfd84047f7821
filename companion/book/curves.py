"""Curves over the steps of a training, as a matplotlib Figure."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from ..base.reading import parse_json, read_text
from .page import COLOURS, PageFigure


def logged(file: str | Path) -> list[dict]:
    """The lines of a training's log: "step", "seconds" and what the training measured."""
    return [parse_json(line, f"a line of {file}") for line in read_text(Path(file)).splitlines() if line.strip()]


def training_curves(logs: Mapping[str, str | Path], *, metric: str = "loss", panel_size: tuple[float, float] = (4.2, 2.8)) -> Figure:
    """One panel a training: `metric` over steps from its log, JSON lines with "step", "seconds" and the metric, on a logarithmic axis."""
    figure = PageFigure(figsize=(panel_size[0] * len(logs), panel_size[1]), dpi=100, facecolor="white", layout="constrained")
    for axes, (name, file) in zip(figure.subplots(1, len(logs), squeeze=False)[0], logs.items(), strict=True):
        lines = logged(file)
        points = [(line["step"], line[metric]) for line in lines if metric in line]
        if not points:
            raise ValueError(f"metric is {metric!r}, but {Path(file).name} logs {', '.join(lines[-1]) if lines else 'nothing'}.")
        axes.plot(*zip(*points, strict=True), color=COLOURS[0], linewidth=1.2)
        axes.set(yscale="log", xlabel="step", ylabel=metric, title=f"{name}, {lines[-1]['seconds'] / 60:.0f} minutes")
        axes.grid(alpha=0.3, which="both", linewidth=0.5)
    return figure
