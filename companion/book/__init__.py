"""Figures of the book, a function each.

Still ones are matplotlib Figures on an opaque white ground that reads in light and dark pages. Interactive ones, `walk_scrubber` and
`before_after`, are HTML that needs no kernel and nothing from outside.

Images are arrays or tensors (3, H, W), uint8 or floats in [-1, 1]. Small ones are enlarged by whole pixels: 64x64 stays 64x64 to the eye.
"""

from .curves import training_curves
from .grids import image_grid, reconstruction_figure
from .interactive import Widget, before_after, walk_scrubber
from .page import COLOURS, MAX_KB, PageFigure, save_figure

__all__ = [
    "COLOURS",
    "MAX_KB",
    "PageFigure",
    "Widget",
    "before_after",
    "image_grid",
    "reconstruction_figure",
    "save_figure",
    "training_curves",
    "walk_scrubber",
]
