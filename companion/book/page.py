"""What all figures share: pixels, colours, an opaque ground, PNG files of at most 300 kB."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from smoothlib.pixels import to_uint8

from ..base.files import atomic_write

# Okabe & Ito's colours: told apart with every common colour blindness, and in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MAX_KB = 300
SMALLEST_DPI = 60  # below this labels cannot be read


def to_pixels(image: Any) -> np.ndarray:
    """(3, H, W), uint8 or floats in [-1, 1] -> (H, W, 3) uint8."""
    tensor = image.detach().cpu() if isinstance(image, torch.Tensor) else torch.from_numpy(np.array(image))
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise ValueError(f"An image has the shape {tuple(tensor.shape)}, but must be (3, H, W).")
    if tensor.dtype != torch.uint8:
        if not tensor.isfinite().all() or tensor.abs().max() > 1 + 1e-4:
            raise ValueError(f"An image has values from {tensor.min():.3g} to {tensor.max():.3g}, but must lie in [-1, 1].")
        tensor = to_uint8(tensor.float())
    return tensor.permute(1, 2, 0).numpy()


def save_figure(figure: Figure, file: str | Path, *, alt: str, max_kb: int = MAX_KB, dpi: int | None = None) -> Path:
    """Write a PNG of at most `max_kb` kilobytes, with `alt` as its description; where it is larger the resolution is lowered step by step.

    Raises ValueError for another suffix, an empty `alt`, or a figure that is too large even at the lowest resolution that can be read.
    """
    file = Path(file)
    if file.suffix != ".png":
        raise ValueError(f"file is {file.name!r}, but its suffix must be .png.")
    if not alt.strip():
        raise ValueError("alt is empty, but must say what the figure shows.")
    atomic_write(file, _fitted(figure, max_kb, dpi or int(figure.dpi), alt=alt))
    return file


class PageFigure(Figure):
    """A matplotlib Figure that shows itself in notebooks without pyplot (no global list, no display needed), in at most 300 kB.

    As PNG where that is small enough at full resolution, else as JPEG: a sheet of many images would lose more by shrinking.
    """

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, bytes]:
        png = _drawn(self, int(self.dpi))
        if len(png) <= MAX_KB * 1000:
            return {"image/png": png}
        return {"image/jpeg": _fitted(self, MAX_KB, int(self.dpi), kind="jpeg", options={"quality": 88})}


def _drawn(figure: Figure, dpi: int, *, kind: str = "png", options: dict[str, Any] | None = None, alt: str = "") -> bytes:
    content = io.BytesIO()
    described = {"metadata": {"Description": alt, "Software": None} if alt else {"Software": None}} if kind == "png" else {}
    figure.savefig(content, format=kind, dpi=dpi, facecolor="white", pil_kwargs=options or {"optimize": True}, **described)
    return content.getvalue()


def _fitted(figure: Figure, max_kb: int, dpi: int, **how: Any) -> bytes:
    """The figure in at most `max_kb` kilobytes, at lower resolution if need be."""
    while len(content := _drawn(figure, dpi, **how)) > max_kb * 1000:
        if dpi <= SMALLEST_DPI:
            raise ValueError(f"max_kb is {max_kb}, but the figure has {len(content) // 1000} kB even at {dpi} dpi: show fewer images.")
        dpi = max(SMALLEST_DPI, int(dpi * 0.85))
    return content
