"""What a record says about a statement: every outcome from synthetic records, and a turned sign turns it."""

import math

import numpy as np
import pytest
from sample_statements import N, one, paired, record
from scipy import stats

from smoothlib.evidence import (
    INCONCLUSIVE,
    NOT_MEASURED,
    NOT_REPRODUCED,
    REPRODUCED,
    find_row,
    training_means,
    trainings_interval,
    weigh,
)
from smoothlib.statistics import holm, paired_comparison

# Over items -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("smooth", "direction", "outcome"),
    [
        (1.0, "lower", REPRODUCED),
        (3.0, "lower", NOT_REPRODUCED),
        (2.0, "lower", INCONCLUSIVE),
        (1.0, "higher", NOT_REPRODUCED),
        (3.0, "higher", REPRODUCED),
    ],
)
def test_a_turned_sign_turns_the_verdict(smooth, direction, outcome):
    found = one(paired("Smooth", "Base", direction=direction), record({"Base": {"istd": 2.0}, "Smooth": {"istd": smooth}}))
    assert found.outcome == outcome
    assert found.difference == pytest.approx(smooth - 2.0) and found.n == N and found.items[0] <= found.difference <= found.items[1]


def test_the_records_own_p_value_decides_in_either_order():
    """A family of many tests: Holm's correction of the record takes away what one test alone would show."""
    rows = {"Base": {"istd": 2.0}, "Smooth": {"istd": 1.975}}
    made = record(rows, pairs=[("Base", "Smooth")])
    stored = made["comparisons"][0]
    forward, backward = one(paired("Smooth", "Base"), made), one(paired("Base", "Smooth", direction="higher"), made)
    assert forward.items == (-stored["difference"]["high"], -stored["difference"]["low"]) and forward.p == stored["p_adjusted"]
    assert backward.items == (stored["difference"]["low"], stored["difference"]["high"]) and backward.outcome == forward.outcome
    stored["p_adjusted"] = 0.06
    assert one(paired("Smooth", "Base"), made).outcome == INCONCLUSIVE
    stored["p_adjusted"] = 0.04
    assert (one(paired("Smooth", "Base"), made).outcome == REPRODUCED) == (stored["difference"]["low"] > 0)


def test_a_pair_that_the_record_has_not_joins_its_family():
    made = record({"Base": {"istd": 2.0}, "Plain LoRA": {"istd": 2.0}, "Smooth": {"istd": 1.97}}, pairs=[("Base", "Plain LoRA")])
    alone = paired_comparison(*(made["rows"][row]["metrics"]["istd"]["values"] for row in ("Smooth", "Base")))
    found = one(paired("Smooth", "Base"), made)
    assert found.p == holm([alone.p_value, made["comparisons"][0]["p_value"]])[0] > alone.p_value


@pytest.mark.parametrize(
    ("margin", "outcome"), [(1.0, INCONCLUSIVE), (1.2, REPRODUCED), (0.8, NOT_REPRODUCED)], ids=["at the margin", "inside", "outside"]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_within_needs_the_whole_interval(margin, outcome, sign):
    made = record({"A": {"istd": 5.0 + sign}, "B": {"istd": 5.0}})
    found = one(paired("A", "B", kind="within", margin=margin), made)
    assert found.outcome == outcome and found.p is None and found.note == f"allowed: {margin:g} either way"


@pytest.mark.parametrize(
    ("value", "direction", "outcome"),
    [
        (11.0, "lower", INCONCLUSIVE),  # a tenth worse, which is the margin
        (10.5, "lower", REPRODUCED),
        (5.0, "lower", REPRODUCED),
        (12.0, "lower", NOT_REPRODUCED),
        (8.0, "higher", NOT_REPRODUCED),
        (9.5, "higher", REPRODUCED),
        (15.0, "higher", REPRODUCED),
    ],
)
def test_no_worse_is_one_sided(value, direction, outcome):
    made = record({"A": {"istd": value}, "B": {"istd": 10.0}})
    assert one(paired("A", "B", kind="no_worse", margin=0.1, direction=direction), made).outcome == outcome


def test_a_frechet_distance_may_grow_by_a_share_of_its_excess_over_real_images():
    totals = {"Smooth": {"frechet_distance": 11.5}, "Base": {"frechet_distance": 11.0}}
    seeds = {"Smooth": {"frechet": [11.45, 11.55]}, "Base": {"frechet": [11.0]}}
    made = record({"Smooth": {"istd": 1.0}, "Base": {"istd": 1.0}}, totals=totals, seeds=seeds)
    weighed = paired("Smooth", "Base", kind="no_worse", margin=0.3, metric="frechet_distance")
    assert one(weighed, made).outcome == REPRODUCED  # 30 % of 11
    made["facts"]["judges"] = {"frechet_floor": 10.9}
    found = one(weighed, made)  # of .1, and half of it is the trainings' spread
    assert found.outcome != REPRODUCED and "less the real images' 10.9" in found.note


@pytest.mark.parametrize(
    ("means", "outcomes"),
    [
        ((1, 2, 3), [REPRODUCED, REPRODUCED]),
        ((3, 2, 1), [NOT_REPRODUCED, NOT_REPRODUCED]),
        ((1, 3, 2), [REPRODUCED, NOT_REPRODUCED]),
        ((1, 1, 2), [INCONCLUSIVE, REPRODUCED]),
    ],
)
def test_an_order_is_that_of_neighbours(means, outcomes):
    made = record({row: {"istd": float(mean)} for row, mean in zip("abc", means, strict=True)})
    assert [found.outcome for found in weigh(paired(*"abc", kind="ordering"), made)] == outcomes


@pytest.mark.parametrize(("smooth_nti", "outcome"), [(9.5, REPRODUCED), (13.0, NOT_REPRODUCED), (12.0, INCONCLUSIVE)])
def test_one_gap_against_another(smooth_nti, outcome):
    """Smooth gains 3 with DDIM; with NTI it gains 0.5, 4 or 3."""
    made = record({"sd": {"istd": 8.0}, "bd": {"istd": 5.0}, "sn": {"istd": smooth_nti}, "bn": {"istd": 9.0}})
    found = one(paired("sd", "bd", "sn", "bn", kind="gap", direction="higher"), made)
    assert found.outcome == outcome and found.means == (pytest.approx(3.0), pytest.approx(smooth_nti - 9.0))


# Over trainings -------------------------------------------------------------------------------------------------------------------


def test_the_interval_over_trainings_by_hand():
    seeds = {"Base": [5.0], "Smooth": [1.0, 2.0, 3.0], "Plain": [4.0, 6.0], "Once": [2.0]}
    pooled = math.sqrt((1 + 1 + 0 + 1 + 1) / (2 + 1))  # squared deviations over degrees of freedom
    t = stats.t.ppf(0.975, 3)
    assert trainings_interval(seeds, "Smooth", "Base") == pytest.approx((-3 - t * pooled / math.sqrt(3), -3 + t * pooled / math.sqrt(3)))
    both = t * pooled * math.sqrt(1 / 3 + 1 / 2)
    assert trainings_interval(seeds, "Plain", "Smooth") == pytest.approx((3 - both, 3 + both))
    once = t * pooled * math.sqrt(1 + 1 / 3)
    assert trainings_interval(seeds, "Once", "Smooth") == pytest.approx((-once, once))
    assert trainings_interval(seeds, "Unknown", "Base") is None
    assert trainings_interval({"Base": [5.0], "Once": [2.0]}, "Once", "Base") is None  # no spread known
    # two samples with equal spread: scipy's own interval
    same = stats.ttest_ind(seeds["Plain"], seeds["Smooth"]).confidence_interval()
    assert trainings_interval({k: seeds[k] for k in ("Plain", "Smooth")}, "Plain", "Smooth") == pytest.approx((same.low, same.high))


def test_what_holds_over_items_must_hold_over_trainings():
    rows = {"Base": {"istd": 2.0}, "Smooth": {"istd": 1.5}}
    alike = record(rows, seeds={"Base": {"istd": [2.0]}, "Smooth": {"istd": [1.49, 1.5, 1.51]}})
    scattered = record(rows, seeds={"Base": {"istd": [2.0]}, "Smooth": {"istd": [0.7, 1.5, 2.3]}})
    assert one(paired("Smooth", "Base"), alike).outcome == REPRODUCED
    found = one(paired("Smooth", "Base"), scattered)
    assert found.outcome == INCONCLUSIVE and found.items[1] < 0 < found.trainings[1] and found.num_trainings == (3, 1)


@pytest.mark.parametrize(
    ("smooth", "outcome"),
    [([9.0, 9.5, 10.0], REPRODUCED), ([14.0, 14.5, 15.0], NOT_REPRODUCED), ([9.0, 12.0, 15.0], INCONCLUSIVE), ([9.0], INCONCLUSIVE)],
)
def test_a_number_of_the_whole_set_has_the_trainings_only(smooth, outcome):
    seeds = {"Base": {"frechet": [12.0]}, "Smooth": {"frechet": smooth}}
    totals = {"Base": {"frechet_distance": 12.0}, "Smooth": {"frechet_distance": float(np.mean(smooth))}}
    made = record({"Base": {"istd": 2.0}, "Smooth": {"istd": 1.5}}, totals=totals, seeds=seeds)
    found = one(paired("Smooth", "Base", kind="total", metric=["fid", "frechet_distance"]), made)
    assert found.outcome == outcome and found.items is None and found.metric == "frechet_distance"
    assert ("trained once" in found.note) == (len(smooth) == 1)
    turned = one(paired("Base", "Smooth", kind="total", metric="frechet_distance"), made)
    assert turned.outcome == {REPRODUCED: NOT_REPRODUCED, NOT_REPRODUCED: REPRODUCED}.get(outcome, outcome)


def test_trainings_may_be_rows_of_their_own():
    rows = {
        "Smooth + DDIM": {"istd": 1.0},
        "Smooth-seed1 + DDIM": {"istd": 2.0},
        "Smooth-seed1 + NTI": {"istd": 9.0},
        "Base + DDIM": {"istd": 4.0},
    }
    found = training_means(record(rows), "istd")
    assert found == {"Smooth + DDIM": [pytest.approx(1.0), pytest.approx(2.0)]}


# What is missing ------------------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_not_measured_yet():
    made = record({"Base": {"istd": 2.0}, "Smooth": {"istd": 1.0}})
    for statement, found in (
        (paired("Smooth", "Base"), None),
        (paired("Smooth", "Plain LoRA"), made),
        (paired("Smooth", "Base", metric="cv"), made),
        (paired("Smooth", "Base", metric=["cv", "fid"]), made),
    ):
        assert one(statement, found).outcome == NOT_MEASURED


def test_guidance_w_is_the_row_with_guidance():
    made = {"rows": dict.fromkeys(["Base + NTI, guidance 7.5", "Base + DDIM, guidance 1", "Base + DDIM, guidance 7.5", "VAE"])}
    assert find_row(made, "Base + DDIM, guidance w") == "Base + DDIM, guidance 7.5"
    assert find_row(made, "Base + DDIM, guidance 1") == "Base + DDIM, guidance 1"
    assert find_row(made, "Smooth + DDIM, guidance w") is None and find_row(made, "Base") is None
    assert find_row(made, "None | VAE") == "VAE" and find_row(made, "None | Base") is None
