"""Uncertainty of the tables: confidence intervals over items, and paired tests between rows that were measured on the same items."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

SMALLEST_BOOTSTRAP = 10  # below this many values resampling says little, and "auto" uses Student's t


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval [low, high] over `n` values; `method` is "bca", "percentile" or "t"."""

    mean: float
    low: float
    high: float
    n: int
    level: float
    method: str


@dataclass(frozen=True)
class PairedComparison:
    """Row `a` minus row `b` in one metric, on the same items: mean difference with its interval, and the p-value of no difference.

    `p_adjusted` is Holm's, over the family that the comparison belongs to (equal to `p_value` for one alone).
    """

    a: str
    b: str
    metric: str
    difference: Interval
    p_value: float
    p_adjusted: float
    test: str


def mean_interval(
    values: Sequence[float] | np.ndarray, *, method: str = "auto", level: float = 0.95, num_resamples: int = 9999, seed: int = 0
) -> Interval:
    """Mean and confidence interval of per-item `values` (n >= 2, finite).

    `method`: "bca" (bias-corrected and accelerated bootstrap, Efron 1987) or "percentile", both from `seed`; "t" (Student); "auto" is "bca"
    from 10 values on, else "t". The interval of equal values is that value.
    """
    if method not in ("auto", "bca", "percentile", "t"):
        raise ValueError(f"method is {method!r}, but must be 'auto', 'bca', 'percentile' or 't'.")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, but must lie between 0 and 1.")
    array = _checked(values, "values")
    n, mean = len(array), float(array.mean())
    if method == "auto":
        method = "bca" if n >= SMALLEST_BOOTSTRAP else "t"
    if np.ptp(array) == 0:
        low = high = mean
    elif method == "t":
        low, high = stats.t.interval(level, n - 1, loc=mean, scale=stats.sem(array))
    else:
        bootstrap = stats.bootstrap(
            (array,),
            np.mean,
            n_resamples=num_resamples,
            confidence_level=level,
            method={"bca": "BCa"}.get(method, method),
            rng=np.random.default_rng(seed),
        )
        low, high = bootstrap.confidence_interval
    return Interval(mean, float(low), float(high), n, level, method)


def paired_comparison(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    *,
    names: tuple[str, str] = ("a", "b"),
    metric: str = "",
    test: str = "wilcoxon",
    method: str = "auto",
    level: float = 0.95,
    seed: int = 0,
) -> PairedComparison:
    """Two rows measured on the same items, in the same order: the interval of the mean of a - b, and a two-sided p-value.

    `test`: "wilcoxon" (signed ranks; zero differences by Pratt) or "t" (paired Student). Rows that agree on every item have p = 1.
    """
    if test not in ("wilcoxon", "t"):
        raise ValueError(f"test is {test!r}, but must be 'wilcoxon' or 't'.")
    first, second = _checked(a, names[0]), _checked(b, names[1])
    if len(first) != len(second):
        raise ValueError(f"{names[0]} has {len(first)} values and {names[1]} has {len(second)}, but both must be of the same items.")
    difference = first - second
    if not difference.any():
        p_value = 1.0
    elif np.ptp(difference) == 0 and test == "t":
        p_value = 0.0
    elif test == "t":
        p_value = float(stats.ttest_rel(first, second).pvalue)
    else:
        untied = len(np.unique(np.abs(difference))) == len(difference)
        # With ties scipy's "auto" would enumerate 2^n signs, slowly; the normal approximation corrects for them.
        p_value = float(stats.wilcoxon(difference, zero_method="pratt", method="auto" if untied else "asymptotic").pvalue)
    interval = mean_interval(difference, method=method, level=level, seed=seed)
    return PairedComparison(*names, metric, interval, p_value, p_value, test)


def compare_rows(
    rows: Mapping[str, Mapping[str, Sequence[float] | np.ndarray]],
    pairs: Sequence[tuple[str, str]],
    *,
    test: str = "wilcoxon",
    method: str = "auto",
    level: float = 0.95,
    seed: int = 0,
) -> list[PairedComparison]:
    """`pairs` of `rows` (row -> metric -> per-item values) compared in every metric that both have.

    All comparisons form one family: `p_adjusted` is Holm's over every pair and metric.
    """
    for name in (name for pair in pairs for name in pair):
        if name not in rows:
            raise ValueError(f"pairs names the row {name!r}, but the rows are {', '.join(map(repr, rows))}.")
    found = [
        paired_comparison(rows[a][metric], rows[b][metric], names=(a, b), metric=metric, test=test, method=method, level=level, seed=seed)
        for a, b in pairs
        for metric in rows[a]
        if metric in rows[b]
    ]
    adjusted = holm([comparison.p_value for comparison in found])
    return [replace(comparison, p_adjusted=float(p)) for comparison, p in zip(found, adjusted, strict=True)]


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's (1979) step-down adjustment: the i-th smallest of m p-values times (m - i + 1), made monotone, at most 1."""
    p = np.asarray(p_values, dtype=float)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p_values is {p_values!r}, but must be a list of numbers from 0 to 1.")
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def _checked(values: Sequence[float] | np.ndarray, what: str) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(f"{what} has the shape {array.shape}, but must be a list of at least 2 values.")
    if not np.isfinite(array).all():
        position = int(np.argmin(np.isfinite(array)))
        raise ValueError(f"{what} holds {array[position]} at position {position}, but must be finite.")
    return array
