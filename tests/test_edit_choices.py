"""The two numbers that the benchmark of edits turns on: which strength is chosen, and what is gained at equal preservation."""

import numpy as np
import pytest

from companion.studies.editing.curve import Curve, Gain, gain
from companion.studies.editing.selection import choose

STRENGTHS = (0.2, 0.4, 0.6, 0.8)
KINDS = ["replace"] * 30 + ["add"] * 10


def test_the_closest_strength_with_enough_success_is_chosen():
    found = choose(STRENGTHS, [0.10, 0.15, 0.14, 0.20], [0.1, 0.8, 0.9, 0.95], floor=0.0, ceiling=1.0)
    assert found.strength == 0.6 and found.good_enough and found.enough == 0.75
    # enough is counted from untouched sources to true edits, not from 0 to 1
    assert choose(STRENGTHS, [0.10, 0.15, 0.14, 0.20], [0.1, 0.8, 0.9, 0.95], floor=0.0, ceiling=0.12).strength == 0.2


def test_without_enough_success_the_highest_is_chosen_and_between_equals_the_least_edit():
    found = choose(STRENGTHS, [0.1, 0.2, 0.3, 0.4], [0.1, 0.3, 0.5, 0.5], floor=0.0, ceiling=1.0)
    assert found.strength == 0.6 and not found.good_enough
    assert choose(STRENGTHS, [0.2, 0.1, 0.1, 0.1], [1, 1, 1, 1], floor=0.0, ceiling=1.0).strength == 0.4


def test_a_choice_without_values_for_each_strength_is_refused():
    with pytest.raises(ValueError, match=r"strengths has 4 entries, but must have as many as lpips"):
        choose(STRENGTHS, [0.1], [0.1], floor=0, ceiling=1)


def straight(strengths, rise=0.0, noise=0.0):
    """A curve whose success is twice its distance from the source, plus `rise`; the pairs scatter in both by `noise`."""
    rng, s = np.random.default_rng(1), np.asarray(strengths)[:, None]
    scatter = noise * rng.normal(size=(2, 1, len(KINDS)))
    return Curve(s + scatter[0] - scatter[0].mean(), 2 * s + rise + scatter[1] - scatter[1].mean())


def test_a_model_that_moves_along_the_curve_gains_nothing():
    found = gain(straight([0.1, 0.2, 0.4]), [straight([0.05, 0.15, 0.3])], KINDS, resamples=50)
    assert found.mean == pytest.approx(0, abs=1e-12) and found.span == pytest.approx((0.1, 0.3))


def test_a_model_that_moves_the_curve_gains_the_distance_between_the_two():
    found = gain(straight([0.1, 0.2, 0.4]), [straight([0.05, 0.15, 0.3], rise=0.07), straight([0.1, 0.3], rise=0.09)], KINDS, resamples=50)
    assert found.mean == pytest.approx(0.08) and found.trainings == pytest.approx((0.07, 0.09))
    assert found.low == pytest.approx(0.08) and found.high == pytest.approx(0.08) and found.share == 1  # pairs without scatter


def test_curves_without_a_range_in_common_are_not_compared():
    assert gain(straight([0.1, 0.2]), [straight([0.3, 0.4])], KINDS) == Gain(None, None, None)
    assert gain(straight([0.1, 0.2]), [], KINDS) == Gain(None, None, None)


def test_the_interval_is_that_of_the_pairs():
    """Success of each pair is independent between the models: the interval is that of the difference of two means of n values."""
    rng, n = np.random.default_rng(0), 400
    x = np.tile([[0.1], [0.3]], (1, n))
    first, second = (np.tile(rng.normal(size=n), (2, 1)) for _ in range(2))
    found = gain(Curve(x, first), [Curve(x, second)], ["replace"] * n, resamples=2000)
    assert found.mean == pytest.approx((second - first)[0].mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * np.sqrt(2 / n), rel=0.1)


def test_resamples_keep_the_number_of_each_kind():
    """Success that hangs on the kind alone has no chance of the pairs in it."""
    of_kind = np.array([kind == "add" for kind in KINDS], float)
    base, other = (Curve(np.tile([[0.1], [0.3]], (1, 40)), np.tile(value * of_kind, (2, 1))) for value in (1.0, 3.0))
    found = gain(base, [other], KINDS, resamples=100)
    assert found.low == pytest.approx(found.high) == pytest.approx(0.5)
