"""The choice of the settings of all drags, by a rule that was written down before any drag was measured.

The base model drags the pairs with even ids. A choice is good enough when the judge finds the handles at least half of the way from where
they are in untouched sources to where they are in the true pictures, on average. Of the choices that are good enough, the one whose
pictures are closest to the true ones (mean LPIPS) is taken; where none is, the one with which the handles get farthest. Between equals the
first is taken, which does less.

LPIPS alone would not do: an untouched source is closer to the truth than many a drag. One choice serves all models: settings chosen for
each would compare choices, not models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ENOUGH = 0.5  # of the way from the untouched sources' distance to that of the true pictures


@dataclass(frozen=True)
class Choice:
    """The index of the settings chosen, what each reached on the even ids, and the distance that was enough."""

    index: int
    distance: tuple[float, ...]
    lpips: tuple[float, ...]
    enough: float

    @property
    def good_enough(self) -> bool:
        """Whether the chosen settings bring the handles as far as was asked."""
        return self.distance[self.index] <= self.enough


def choose(distance: Sequence[float], lpips: Sequence[float], *, untouched: float, truth: float) -> Choice:
    """The choice among settings, those that do least first.

    Args:
        distance: mean distance to the targets with each.
        lpips: mean LPIPS to the true pictures with each.
        untouched, truth: mean distance in untouched sources and in true pictures.

    Raises:
        ValueError: the lists differ in length, or are empty.
    """
    if not len(distance) == len(lpips) > 0:
        raise ValueError(f"distance has {len(distance)} entries and lpips {len(lpips)}, but must have as many, at least one.")
    enough = untouched + ENOUGH * (truth - untouched)
    good = [i for i, value in enumerate(distance) if value <= enough]
    index = min(good, key=lambda i: lpips[i]) if good else int(np.argmin(distance))
    return Choice(index, tuple(map(float, distance)), tuple(map(float, lpips)), float(enough))
