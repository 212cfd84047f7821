"""Does a model move a method's curve of preservation against success, or only move along it?

The curve has a point for each strength: the mean LPIPS to the source outside the edit (lower keeps more) and success, the share of edits
that the judge places nearer to the target's caption than to the source's. A model that edits less keeps more and succeeds less: it has
moved along the curve. The number that tells the two apart is the gain in success at equal preservation. Both curves are interpolated
linearly over the range of preservation that they share, and the gain is the mean difference of their success over this range. It was
defined before any edit was measured. Its interval is a bootstrap over pairs, drawn within each kind of edit; both models get the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

GRID, RESAMPLES, LEVEL = 50, 2000, 0.95


@dataclass(frozen=True)
class Curve:
    """A method's values at S strengths for n pairs: preservation and success, (S, n) each."""

    preservation: np.ndarray
    success: np.ndarray

    def __post_init__(self) -> None:
        if self.preservation.ndim != 2 or self.preservation.shape != self.success.shape:
            raise ValueError(
                f"preservation is {self.preservation.shape} and success {self.success.shape}, but both must be (strengths, pairs)."
            )

    def points(self, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Mean preservation and success at each strength, (S,) each; `weights` (n,) of the pairs, which sum to 1."""
        if weights is None:
            weights = np.full(self.success.shape[1], 1 / self.success.shape[1])
        return self.preservation @ weights, self.success @ weights


@dataclass(frozen=True)
class Gain:
    """Success gained at equal preservation: the mean over trainings, its interval over pairs, each training's own, and the range shared.

    share: how many of the resamples had a range in common; the interval is of those. None of the figures is there where the curves share no
    range of preservation.
    """

    mean: float | None
    low: float | None
    high: float | None
    trainings: tuple[float, ...] = ()
    span: tuple[float, float] | None = None
    share: float = 0.0


def gain(base: Curve, others: Sequence[Curve], kinds: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0) -> Gain:
    """The gain in success at equal preservation of a model over `base`.

    Args:
        base: the base model's curve.
        others: the model's curves, one for each training, of the same pairs.
        kinds: each pair's kind of edit, (n,): resamples keep the number of each kind.
    """
    whole = [_gain(base, other, None) for other in others]
    if not others or any(np.isnan(one) for one in whole):
        return Gain(None, None, None)
    rng, found = np.random.default_rng(seed), []
    for _ in range(resamples):
        weights = _resampled(kinds, rng)
        found.append(np.mean([_gain(base, other, weights) for other in others]))
    drawn = np.asarray(found)
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(drawn) else (np.nan, np.nan)
    spans = [_span(base, other, None) for other in others]
    span = max(low_ for low_, _ in spans), min(high_ for _, high_ in spans)
    ends = (float(low), float(high)) if len(drawn) else (None, None)
    return Gain(float(np.mean(whole)), *ends, tuple(map(float, whole)), tuple(map(float, span)), len(drawn) / resamples)


def _resampled(kinds: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """Weights (n,) of pairs drawn with replacement, as many of each kind as there are."""
    names = np.asarray(kinds)
    weights = np.zeros(len(names))
    for kind in np.unique(names):
        of_kind = np.flatnonzero(names == kind)
        np.add.at(weights, rng.choice(of_kind, len(of_kind)), 1 / len(names))
    return weights


def _span(base: Curve, other: Curve, weights: np.ndarray | None) -> tuple[float, float]:
    """The range of preservation that both curves reach."""
    ends = [(x.min(), x.max()) for x in (curve.points(weights)[0] for curve in (base, other))]
    return max(low for low, _ in ends), min(high for _, high in ends)


def _gain(base: Curve, other: Curve, weights: np.ndarray | None) -> float:
    low, high = _span(base, other, weights)
    if low >= high:
        return np.nan
    grid = np.linspace(low, high, GRID)
    return float(np.mean(_at(other, weights, grid) - _at(base, weights, grid)))


def _at(curve: Curve, weights: np.ndarray | None, grid: np.ndarray) -> np.ndarray:
    """Success at each preservation of `grid`, between the points of the curve."""
    x, y = curve.points(weights)
    order = np.argsort(x, kind="stable")
    return np.interp(grid, x[order], y[order])
