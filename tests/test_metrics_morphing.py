"""MorphBench's perceptual path length and distance variance: closed forms, and what they are in the words of Sec. 4.1."""

import numpy as np
import pytest
import torch

from smoothlib.metrics import perceptual_distance_variance, perceptual_path_length, step_statistics


def test_even_steps_have_the_length_of_their_sum_and_no_variance():
    steps = torch.full((3, 16), 0.25)
    assert torch.equal(perceptual_path_length(steps), torch.full((3,), 4.0, dtype=torch.float64))
    assert torch.equal(perceptual_distance_variance(steps), torch.zeros(3, dtype=torch.float64))


def test_one_jump_of_unit_length():
    """All of the way in one of n steps: length 1, variance (1 - 1/n) / n, or 1/n with ddof 1."""
    n = 16
    jump = np.eye(n)[5]
    assert perceptual_path_length(jump) == 1
    assert perceptual_distance_variance(jump).item() == pytest.approx((1 - 1 / n) / n)
    assert perceptual_distance_variance(jump, ddof=1).item() == pytest.approx(1 / n)


def test_a_walk_that_merely_moves_less_scores_better_in_both():
    steps = torch.rand(5, 16, dtype=torch.float64)
    torch.testing.assert_close(perceptual_path_length(steps / 2), perceptual_path_length(steps) / 2)
    torch.testing.assert_close(perceptual_distance_variance(steps / 2), perceptual_distance_variance(steps) / 4)


@pytest.mark.parametrize("ddof", [0, 1])
def test_they_are_istd_and_mean_step_under_other_names(ddof):
    steps = torch.rand(7, 10, dtype=torch.float64)
    known = step_statistics(steps, ddof=ddof)
    length, variance = perceptual_path_length(steps), perceptual_distance_variance(steps, ddof=ddof)
    torch.testing.assert_close(length, 10 * known["mean_step"])
    torch.testing.assert_close(variance, known["istd"] ** 2)
    torch.testing.assert_close(10 * variance.sqrt() / length, known["cv"])


@pytest.mark.parametrize("measure", [perceptual_path_length, perceptual_distance_variance])
@pytest.mark.parametrize(
    "wrong, said", [([0.1, -0.1], "negative"), ([0.1, float("nan")], "non-finite"), (0.1, r"shape \(\)"), ([], r"\(0,\)")]
)
def test_what_is_no_distance_is_refused(measure, wrong, said):
    with pytest.raises(ValueError, match=said):
        measure(wrong)


def test_one_step_has_a_length_but_no_variance():
    assert perceptual_path_length([0.5]) == 0.5
    with pytest.raises(ValueError, match="at least 2"):
        perceptual_distance_variance([0.5])
    with pytest.raises(ValueError, match="ddof is 2, but must be 0 or 1"):
        perceptual_distance_variance([0.5, 0.5], ddof=2)
