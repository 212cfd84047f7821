"""Intervals and tests against closed forms, scipy and worked examples."""

import numpy as np
import pytest
from scipy import stats

from companion.evidence.statistics import compare_rows, holm, mean_interval, paired_comparison

VALUES = np.random.default_rng(1).gamma(2.0, size=64)


def test_t_interval_is_the_closed_form():
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.7764451051977987 * np.sqrt(2.5 / 5)  # t quantile 0.975 with 4 degrees of freedom
    interval = mean_interval(values, method="t")
    assert (interval.mean, interval.n, interval.method, interval.level) == (3.0, 5, "t", 0.95)
    assert interval.low == pytest.approx(3 - half, rel=1e-12) and interval.high == pytest.approx(3 + half, rel=1e-12)


@pytest.mark.parametrize(("method", "name"), [("bca", "BCa"), ("percentile", "percentile")])
def test_bootstrap_is_scipys_from_the_same_seed(method, name):
    expected = stats.bootstrap((VALUES,), np.mean, n_resamples=9999, method=name, rng=np.random.default_rng(3)).confidence_interval
    interval = mean_interval(VALUES, method=method, seed=3)
    assert (interval.low, interval.high) == tuple(expected)
    assert interval == mean_interval(VALUES, method=method, seed=3) != mean_interval(VALUES, method=method, seed=4)


def test_bca_covers_the_mean_of_a_skewed_distribution():
    rng = np.random.default_rng(0)
    intervals = [mean_interval(rng.gamma(2.0, size=64), num_resamples=499) for _ in range(300)]
    covered = np.mean([interval.low <= 2 <= interval.high for interval in intervals])
    assert 0.91 <= covered <= 0.985  # 0.95, give or take 2.5 standard errors and the bootstrap's own bias at n = 64


def test_auto_uses_t_for_few_values_and_says_so():
    assert mean_interval(VALUES).method == "bca"
    assert mean_interval(VALUES[:9]) == mean_interval(VALUES[:9], method="t")


def test_equal_values_have_no_width():
    interval = mean_interval([0.1] * 12)
    assert interval.low == interval.mean == interval.high == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (([1.0],), r"values has the shape \(1,\), but must be a list of at least 2 values"),
        (([1.0, 2.0, np.nan],), "values holds nan at position 2, but must be finite"),
        (([[1.0, 2.0]],), "values has the shape"),
    ],
)
def test_bad_values_are_named(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        mean_interval(*arguments)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="method is 'bayes', but must be"):
        mean_interval(VALUES, method="bayes")
    with pytest.raises(ValueError, match="level is 95, but must lie between 0 and 1"):
        mean_interval(VALUES, level=95)
    with pytest.raises(ValueError, match="test is 'u', but must be"):
        paired_comparison(VALUES, VALUES, test="u")
    with pytest.raises(ValueError, match="a has 64 values and b has 63, but both"):
        paired_comparison(VALUES, VALUES[1:])


def test_paired_t_is_the_closed_form_and_scipys():
    other = VALUES + np.random.default_rng(2).normal(0.1, 0.3, size=64)
    difference = VALUES - other
    t = difference.mean() / (difference.std(ddof=1) / 8)
    comparison = paired_comparison(VALUES, other, test="t", method="t")
    assert comparison.p_value == pytest.approx(2 * stats.t.sf(abs(t), 63), rel=1e-12)
    assert comparison.difference.mean == pytest.approx(VALUES.mean() - other.mean())
    expected = stats.ttest_rel(VALUES, other).confidence_interval()
    assert (comparison.difference.low, comparison.difference.high) == pytest.approx(tuple(expected))


def test_wilcoxon_is_exact_for_few_items():
    """Ten differences of one sign: the two-sided p-value is 2 / 2^10."""
    comparison = paired_comparison(np.arange(1.0, 11.0), np.zeros(10))
    assert comparison.p_value == pytest.approx(2 / 2**10, rel=1e-12)


def test_pairing_finds_what_an_unpaired_test_misses():
    better = VALUES - 0.05
    assert stats.ttest_ind(VALUES, better).pvalue > 0.5
    comparison = paired_comparison(VALUES, better + np.random.default_rng(5).normal(0, 0.02, 64))
    assert comparison.p_value < 1e-8 and comparison.difference.low > 0.04


@pytest.mark.parametrize("test", ["wilcoxon", "t"])
def test_rows_that_agree_everywhere_are_not_different(test):
    comparison = paired_comparison(VALUES, VALUES, test=test)
    assert (comparison.p_value, comparison.difference.low, comparison.difference.high) == (1.0, 0.0, 0.0)


def test_holm_worked_examples():
    # Holm (1979): sorted p times 4, 3, 2, 1, made monotone.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.5]), [1.0, 1.0])
    np.testing.assert_allclose(holm([0.02]), [0.02])
    assert holm([]).shape == (0,)
    with pytest.raises(ValueError, match="from 0 to 1"):
        holm([0.5, 1.5])


def test_compare_rows_is_one_family():
    rng = np.random.default_rng(0)
    rows = {name: {"mse": rng.random(20), "psnr": rng.random(20)} for name in ("a", "b", "c")}
    pairs = [("a", "b"), ("a", "c")]
    found = compare_rows(rows, pairs)
    assert [(c.a, c.b, c.metric) for c in found] == [("a", "b", "mse"), ("a", "b", "psnr"), ("a", "c", "mse"), ("a", "c", "psnr")]
    np.testing.assert_array_equal([c.p_adjusted for c in found], holm([c.p_value for c in found]))
    alone = paired_comparison(rows["a"]["psnr"], rows["c"]["psnr"])
    assert found[3].p_value == alone.p_value and found[3].difference == alone.difference
    with pytest.raises(ValueError, match="pairs names the row 'd', but the rows are 'a', 'b', 'c'"):
        compare_rows(rows, [("a", "d")])
