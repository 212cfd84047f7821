"""The chance of items and trainings in a difference: closed forms, and intervals that cover a known truth as often as they say."""

import math

import numpy as np
import pytest
import torch
from sample_statements import record
from scipy import stats

from companion.evidence.chance import LEVEL, POWER, Part, interval, is_trained, needed_items, p_value, training_means, trainings
from smoothlib.metrics import (
    frechet_distance_from_features,
    frechet_image_values,
    kernel_distance_from_features,
    kernel_distance_image_values,
)


def test_one_part_is_students_interval_and_test():
    values = np.random.default_rng(0).normal(0.3, 1.0, 12)
    part = Part(values.var(ddof=1) / 12, 11)
    expected = stats.ttest_1samp(values, 0)
    assert interval(values.mean(), [part]) == pytest.approx(tuple(expected.confidence_interval()))
    assert p_value(values.mean(), [part]) == pytest.approx(expected.pvalue)
    assert interval(1.0, [Part(0.0, 5)]) == (1.0, 1.0) and p_value(0.0, [Part(0.0, 5)]) == 1.0 and p_value(1.0, [Part(0.0, 5)]) == 0.0


def test_two_parts_add_their_squared_half_widths():
    parts = [Part(0.4, 2), Part(0.9, 30)]
    half = math.sqrt(0.4 * stats.t.isf(0.025, 2) ** 2 + 0.9 * stats.t.isf(0.025, 30) ** 2)
    assert interval(1.0, parts) == pytest.approx((1 - half, 1 + half))
    assert all(half > -interval(0.0, [part])[0] for part in parts)
    for level in (0.5, 0.95, 0.999):
        difference = interval(0.0, parts, level)[1]
        assert p_value(difference, parts) == p_value(-difference, parts) == pytest.approx(1 - level)


# Trainings ------------------------------------------------------------------------------------------------------------------------


def seeded(**rows):
    seeds = {row: {"istd": values} for row, values in rows.items()}
    return record({row: {"istd": 1.0} for row in rows}, seeds=seeds)


def spread(made, a, b):
    return trainings(made, training_means(made, "istd"), a, b)


def test_the_spread_is_the_rows_own_or_named():
    made = seeded(Base=[5.0], Smooth=[1.0, 2.0, 3.0], Plain=[4.0, 6.0], Once=[2.0])
    own = spread(made, "Smooth", "Base")
    assert (own.counts, own.once, own.spread_of) == ((3, 0), (), ("Smooth",)) and own.part == Part(pytest.approx(1 / 3), 2)
    both = spread(made, "Plain", "Smooth")
    pooled = (1 + 0 + 1 + 1 + 1) / 3  # squared deviations over degrees of freedom
    assert both.spread_of == ("Plain", "Smooth") and both.part == Part(pytest.approx(pooled * (1 / 2 + 1 / 3)), 3)
    borrowed = spread(made, "Once", "Base")
    assert (borrowed.counts, borrowed.once, borrowed.spread_of) == ((1, 0), ("Once",), ("Smooth", "Plain"))
    assert borrowed.part == Part(pytest.approx(pooled), 3)
    unknown = spread(seeded(Base=[5.0], Once=[2.0]), "Once", "Base")
    assert unknown.part is None and unknown.once == ("Once",)
    none = spread(made, "Base", "Base")
    assert none.part is None and none.once == () and none.counts == (0, 0)
    # two samples with equal spread: scipy's own interval
    same = stats.ttest_ind([4.0, 6.0], [1.0, 2.0, 3.0]).confidence_interval()
    assert interval(3.0, [both.part]) == pytest.approx((same.low, same.high))


def test_trainings_may_be_rows_of_their_own():
    labels = ("Smooth + DDIM", "Smooth-seed1 + DDIM", "Smooth-seed1 + NTI", "Smooth walk", "Smooth-seed1 walk", "Base + DDIM")
    made = record({label: {"istd": float(i)} for i, label in enumerate(labels)})
    found = training_means(made, "istd")
    assert found == {"Smooth + DDIM": pytest.approx([0.0, 1.0]), "Smooth walk": pytest.approx([3.0, 4.0])}


def test_what_the_record_says_of_its_adapters_decides_which_rows_are_trained():
    made = record({row: {"istd": 1.0} for row in ("Base", "Smooth", "mini-oil", "mini-oil + smooth")})
    assert [is_trained(made, row) for row in made["rows"]] == [False, True, False, True]
    made["facts"] = {"adapters": {"Base": ["smooth"], "Smooth": [None]}}
    assert is_trained(made, "Base") and not is_trained(made, "Smooth")


# How many items -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", [0.1, 0.3])
def test_with_the_items_needed_the_test_has_its_power(effect):
    """Against the power of Student's test from the noncentral t distribution."""
    n = needed_items(effect, 1.0)
    critical = stats.t.isf(LEVEL / 2, n - 1)
    power = stats.nct.sf(critical, n - 1, effect * math.sqrt(n)) + stats.nct.cdf(-critical, n - 1, effect * math.sqrt(n))
    assert power == pytest.approx(POWER, abs=0.01)
    assert needed_items(effect, 1.0, test="wilcoxon") == pytest.approx(n * math.pi / 3, abs=1.1)
    assert needed_items(effect, 1.0, level=LEVEL / 4) > n and needed_items(-effect, 1.0) == n


def test_no_number_of_items_makes_up_for_too_few_trainings():
    trained = Part(0.0025, 2)  # alone: 4.3 * .05 + .84 * .05
    assert needed_items(0.256, 1.0, trained=trained) == needed_items(0.0, 1.0) == math.inf
    n = needed_items(0.3, 1.0, trained=trained)
    assert needed_items(0.3, 1.0) < n < math.inf
    parts = [trained, Part(1 / n, 10**9)]  # with so many items the interval ends one z of the power before zero
    before = 0.3 - interval(0.0, parts)[1]
    assert before == pytest.approx(stats.norm.ppf(POWER) * math.sqrt(0.0025 + 1 / n), rel=0.01)


# Coverage of a known truth --------------------------------------------------------------------------------------------------------

N, D = 150, 6
MEASURES = {
    "frechet": (frechet_distance_from_features, frechet_image_values),
    "kernel": (lambda a, b: kernel_distance_from_features(a, b, paired=True), kernel_distance_image_values),
}


def draw(rng, trainings, spread):
    """Real features, and those of a base model and of several trainings of another one, on the same N captions.

    What is drawn is shared in part: a caption's content by all of them, its noise by the models.
    """
    content, noise = rng.normal(size=(N, D)), rng.normal(size=(N, D))
    real = content + 0.5 * rng.normal(size=(N, D))
    base = 1.2 * content + 0.4 * noise + 0.2
    tuned = [base * rng.normal(1, spread) + rng.normal(0.6, spread) + 0.3 * np.tanh(noise) for _ in range(trainings)]
    return [torch.from_numpy(features) for features in (real, base, *tuned)]


@pytest.mark.parametrize("measure", MEASURES)
def test_intervals_over_images_and_trainings_cover_the_difference(measure):
    """The difference of two models over new captions and new trainings; without either source of chance the interval is too narrow."""
    distance, image_values = MEASURES[measure]
    rng, found, parts = np.random.default_rng(0), [], []
    for _ in range(300):
        real, base, *tuned = draw(rng, 3, 0.03)
        seeds = [distance(features, real).item() for features in tuned]
        values = np.mean([image_values(features, real).numpy() for features in tuned], axis=0) - image_values(base, real).numpy()
        found.append(np.mean(seeds) - distance(base, real).item())
        parts.append([Part(values.var(ddof=1) / N, N - 1), Part(np.var(seeds, ddof=1) / 3, 2)])
    truth = np.mean(found)  # of the estimator at this N: its bias is the reported number's own
    assert 0.92 <= coverage(truth, found, parts) <= 0.99
    assert coverage(truth, found, [one[:1] for one in parts]) < 0.9  # images alone
    assert np.mean([one[0].variance + one[1].variance for one in parts]) == pytest.approx(np.var(found, ddof=1), rel=0.25)


def coverage(truth, found, parts):
    ends = [interval(difference, part) for difference, part in zip(found, parts, strict=True)]
    return np.mean([low <= truth <= high for low, high in ends])
