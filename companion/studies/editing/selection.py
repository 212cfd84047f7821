"""The choice of each method's strength, by a rule that was written down before any edit was measured.

The base model edits the pairs with even ids. Success is the share of edits that the judge places nearer to the target's caption than to the
source's. A strength is good enough when it has made at least three quarters of the way from the success of untouched sources to that of
true edits. Of the strengths that are good enough, the one whose edits are closest to the true ones (mean LPIPS) is chosen; where none is,
the one with the highest success. Between equals the one that edits less is taken.

LPIPS alone would not do, because it rewards doing little: for "add" an untouched source is closer to the true edit than any edit. One
choice serves all models of a method: a strength chosen for each model would compare choices, not models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ENOUGH = 0.75  # of the way from the untouched sources' success to that of the true edits


@dataclass(frozen=True)
class Choice:
    """The strength that was chosen, and why: what each strength reached on the even ids, and how much success was enough.

    Nothing was measured where there was one strength alone.
    """

    strength: float
    strengths: tuple[float, ...] = ()
    lpips: tuple[float, ...] = ()
    followed: tuple[float, ...] = ()
    enough: float | None = None

    @property
    def good_enough(self) -> bool:
        """Whether the chosen strength reached the success that was asked; True where there was no choice."""
        return self.enough is None or self.followed[self.strengths.index(self.strength)] >= self.enough


def choose(strengths: Sequence[float], lpips: Sequence[float], followed: Sequence[float], *, floor: float, ceiling: float) -> Choice:
    """The choice among strengths, those that edit least first.

    Args:
        lpips: mean LPIPS to the true edit at each strength.
        followed: success at each strength, from 0 to 1.
        floor, ceiling: success of untouched sources and of true edits.

    Raises:
        ValueError: the lists differ in length, or are empty.
    """
    if not len(strengths) == len(lpips) == len(followed) > 0:
        raise ValueError(f"strengths has {len(strengths)} entries, but must have as many as lpips and followed, at least one.")
    enough = floor + ENOUGH * (ceiling - floor)
    good = [i for i in range(len(strengths)) if followed[i] >= enough]
    best = min(good, key=lambda i: lpips[i]) if good else int(np.argmax(followed))
    return Choice(strengths[best], tuple(strengths), tuple(map(float, lpips)), tuple(map(float, followed)), float(enough))
