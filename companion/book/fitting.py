"""Interactive figures within the size that a page allows: smaller images where photographs need more, then fewer choices."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from .encoding import data_uris, lowest_bytes

SMALLEST = 128  # pixels: smaller photographs show little
NOTE_LENGTH = 200  # bytes kept free for the sentence on the encoding

Markup = Callable[[Sequence[str], str], str]  # data URIs, their encoding in words -> the whole figure
Make = Callable[[int, int], tuple[list[np.ndarray], Markup]]  # number of choices, longest side in pixels -> pictures, markup


def fitted(make: Make, *, choices: int, side: int, max_kb: int) -> tuple[str, int]:
    """The figure in at most `max_kb` kilobytes, and how many of the choices it has.

    All at `side` where they fit at some quality; else smaller, down to `SMALLEST`; else the first choices alone, at that size.

    Raises:
        ValueError: not even one choice fits.
    """
    while True:
        pictures, markup = make(choices, side)
        allowed = max_kb * 1000 - len(markup([""] * len(pictures), "").encode()) - NOTE_LENGTH
        needed = lowest_bytes(pictures)
        if needed <= allowed or (side <= SMALLEST and choices == 1):
            uris, encoding = data_uris(pictures, max_bytes=allowed)
            return markup(uris, encoding), choices
        share = max(allowed, 0) / needed
        if side > SMALLEST:
            side = min(side - 1, max(SMALLEST, int(0.97 * side * math.sqrt(share))))
        else:
            choices = min(choices - 1, max(1, int(choices * share)))
