"""What a record says about a statement: every outcome from synthetic records, and a turned sign turns it."""

import math
from dataclasses import replace

import numpy as np
import pytest
from sample_statements import N, image_values, one, paired, record

from companion.evidence.statements import find_row
from companion.evidence.statistics import holm
from companion.evidence.weighing import INCONCLUSIVE, NOT_MEASURED, NOT_REPRODUCED, REPRODUCED, decide, measure, weigh

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
    assert found.difference == pytest.approx(smooth - 2.0) and found.sampled.n == N
    assert found.sampled.interval[0] <= found.difference <= found.sampled.interval[1]


def test_the_records_own_comparison_is_taken_in_either_order():
    made = record({"Base": {"istd": 2.0}, "Smooth": {"istd": 1.975}}, pairs=[("Base", "Smooth")])
    stored = made["comparisons"][0]
    forward, backward = one(paired("Smooth", "Base"), made), one(paired("Base", "Smooth", direction="higher"), made)
    assert forward.sampled.interval == (-stored["difference"]["high"], -stored["difference"]["low"])
    assert backward.sampled.interval == (stored["difference"]["low"], stored["difference"]["high"])
    assert forward.p == backward.p == stored["p_value"] and backward.outcome == forward.outcome
    stored["p_value"] = 0.06
    assert one(paired("Smooth", "Base"), made).outcome == INCONCLUSIVE


def test_statements_that_are_decided_together_are_one_family():
    """Holm's correction counts them, not what else the record compared."""
    made = record({"Base": {"istd": 2.0, "cv": 2.0}, "Smooth": {"istd": 1.97, "cv": 1.98}}, pairs=[("Base", "Smooth")])
    statements = [paired("Smooth", "Base"), paired("Smooth", "Base", metric="cv"), paired("Smooth", "Base", kind="within", margin=1.0)]
    found = decide([evidence for statement in statements for evidence in measure(statement, made)])
    assert [one.p_adjusted for one in found[:2]] == holm([found[0].p, found[1].p]).tolist() and found[2].p_adjusted is None
    assert {one.family for one in found[:2]} == {1.0, 2.0}  # the smaller p-value meets the stricter level
    alone = one(statements[0], made)
    assert alone.p_adjusted == alone.p == found[0].p < found[0].p_adjusted * 2
    made["comparisons"] = [test | {"p_adjusted": 1.0} for test in made["comparisons"]]
    assert one(statements[0], made).outcome == alone.outcome


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
    totals = {"Smooth": {"frechet_distance": image_values(11.5, 0.1, 1)}, "Base": {"frechet_distance": image_values(11.0, 0.1, 2)}}
    seeds = {"Smooth": {"frechet": [11.49, 11.51]}, "Base": {"frechet": [11.0]}}
    made = record({"Smooth": {"istd": 1.0}, "Base": {"istd": 1.0}}, totals=totals, seeds=seeds)
    weighed = paired("Smooth", "Base", kind="no_worse", margin=0.3, metric="frechet_distance")
    assert one(weighed, made).outcome == REPRODUCED  # 30 % of 11
    made["facts"]["judges"] = {"frechet_floor": 10.9}
    found = one(weighed, made)  # of .1
    assert found.outcome == NOT_REPRODUCED and "less the real images' 10.9" in found.note


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


def test_of_two_metrics_the_first_changes_more():
    """Between Base and Smooth cv falls to a half, and the mean step to a tenth less or more."""
    made = {"Base": {"cv": 2.0, "mean_step": 4.0}, "Smooth": {"cv": 1.0, "mean_step": 3.6}}
    statement = paired("Smooth", "Base", kind="mainly", metric=["cv", "mean_step"])
    found = one(statement, record(made))
    assert found.outcome == REPRODUCED
    assert found.means == (pytest.approx(math.log(2), abs=5e-3), pytest.approx(math.log(4 / 3.6), abs=5e-3))
    turned = one(paired("Smooth", "Base", kind="mainly", metric=["mean_step", "cv"]), record(made))
    assert turned.outcome == NOT_REPRODUCED and turned.difference == pytest.approx(-found.difference)
    made["Smooth"]["mean_step"] = 2.0
    assert one(statement, record(made)).outcome == INCONCLUSIVE
    assert one(paired("Smooth", "Base", kind="mainly", metric=["cv", "fid"]), record(made)).outcome == NOT_MEASURED


# Over trainings -------------------------------------------------------------------------------------------------------------------


def test_what_holds_over_items_must_hold_over_trainings():
    rows = {"Base": {"istd": 2.0}, "Smooth": {"istd": 1.5}}
    alike = record(rows, seeds={"Base": {"istd": [2.0]}, "Smooth": {"istd": [1.49, 1.5, 1.51]}})
    scattered = record(rows, seeds={"Base": {"istd": [2.0]}, "Smooth": {"istd": [0.7, 1.5, 2.3]}})
    assert one(paired("Smooth", "Base"), alike).outcome == REPRODUCED
    found = one(paired("Smooth", "Base"), scattered)
    assert found.outcome == INCONCLUSIVE and found.sampled.interval[1] < 0 < found.together[1] and found.trainings.counts == (3, 0)
    assert found.p > found.sampled.p  # the larger of both


def sets(smooth, *, noise=1.0, rows=("Smooth", "Base"), **others):
    """A record of Fréchet distances over trainings: `noise` is the standard deviation of what single images contribute to a difference."""
    seeds = {"Base": [12.0], "Smooth": smooth} | others
    totals = {row: {"frechet_distance": image_values(np.mean(values), noise, i)} for i, (row, values) in enumerate(seeds.items())}
    facts = {row: {"frechet": list(values)} for row, values in seeds.items()}
    return record({row: {"istd": 2.0} for row in seeds}, totals=totals, seeds=facts)


FD = dict(kind="total", metric=["fid", "frechet_distance"])


@pytest.mark.parametrize(
    ("smooth", "noise", "outcome"),
    [
        ([9.0, 9.2, 9.4], 1.0, REPRODUCED),
        ([14.0, 14.2, 14.4], 1.0, NOT_REPRODUCED),
        ([9.0, 12.0, 15.0], 1.0, INCONCLUSIVE),  # the trainings scatter
        ([9.0, 9.2, 9.4], 40.0, INCONCLUSIVE),  # the images do
        ([9.0], 1.0, INCONCLUSIVE),
    ],
)
def test_a_number_of_the_whole_set_must_hold_against_images_and_trainings(smooth, noise, outcome):
    made = sets(smooth, noise=noise)
    found = one(paired("Smooth", "Base", **FD), made)
    assert found.outcome == outcome and found.metric == "frechet_distance" and found.sampled.n == 400
    assert ("trained once" in found.note) == (len(smooth) == 1)
    if found.together:
        assert found.together[0] < found.sampled.interval[0] < found.sampled.interval[1] < found.together[1]
    turned = one(paired("Base", "Smooth", **FD), made)
    assert turned.outcome == {REPRODUCED: NOT_REPRODUCED, NOT_REPRODUCED: REPRODUCED}.get(outcome, outcome)


def test_a_record_without_the_chance_of_its_images_decides_nothing_about_a_set():
    """However clear the trainings are: records made before it was counted."""
    totals = {"Base": {"frechet_distance": 12.0}, "Smooth": {"frechet_distance": 2.0}}
    seeds = {"Base": {"frechet": [12.0]}, "Smooth": {"frechet": [1.9, 2.0, 2.1]}}
    made = record({"Base": {"istd": 2.0}, "Smooth": {"istd": 1.5}}, totals=totals, seeds=seeds)
    for statement in (paired("Smooth", "Base", **FD), paired("Smooth", "Base", kind="no_worse", margin=0.1, metric="frechet_distance")):
        found = one(statement, made)
        assert found.outcome == INCONCLUSIVE and "the chance of the images was not measured" in found.note
        assert found.sampled is None and found.together[1] < 0 and found.needed is None


def test_a_row_that_was_trained_once_borrows_a_spread_by_name_and_only_as_far_as_the_items_outweigh_it():
    calm = sets([5.0], noise=30.0, Plain=[11.9, 12.0, 12.1])
    found = one(paired("Smooth", "Base", **FD), calm)
    assert found.outcome == REPRODUCED and found.trainings.once == ("Smooth",) and found.trainings.spread_of == ("Plain",)
    wild = sets([-60.0], noise=1.0, Plain=[7.0, 12.0, 17.0])  # the difference is far outside either chance
    found = one(paired("Smooth", "Base", **FD), wild)
    assert found.together[1] < 0 and found.outcome == INCONCLUSIVE
    assert found.note == "Smooth trained once, and the trainings' chance, taken from Plain, outweighs that of the items"
    own = sets([-60.0, -60.1], noise=1.0, Plain=[7.0, 12.0, 17.0])
    assert one(paired("Smooth", "Base", **FD), own).outcome == REPRODUCED  # its own spread, not Plain's


def test_comparisons_of_changes_count_the_trainings_too():
    rows = {"Base": {"cv": 2.0, "mean_step": 4.0}, "Smooth": {"cv": 1.0, "mean_step": 3.6}}
    statement = paired("Smooth", "Base", kind="mainly", metric=["cv", "mean_step"])
    for scatter, outcome in ((0.01, REPRODUCED), (0.5, INCONCLUSIVE)):
        smooth = {"cv": [1.0 - scatter, 1.0, 1.0 + scatter], "mean_step": [3.6, 3.6, 3.6]}
        found = one(statement, record(rows, seeds={"Base": {"cv": [2.0], "mean_step": [4.0]}, "Smooth": smooth}))
        assert found.outcome == outcome and found.trainings.counts == (3, 0)
        spread = np.log(np.divide(smooth["cv"], smooth["mean_step"])).var(ddof=1) / 3
        assert found.trainings.part.variance == pytest.approx(spread)
    means = {"Smooth + A": 8.0, "Base + A": 5.0, "Smooth + B": 9.5, "Base + B": 9.0}
    seeds = {row: {"istd": [mean]} for row, mean in means.items()} | {
        "Smooth + A": {"istd": [7.9, 8.1]},
        "Smooth + B": {"istd": [9.0, 10.0]},
    }
    made = record({row: {"istd": mean} for row, mean in means.items()}, seeds=seeds)
    found = one(paired("Smooth + A", "Base + A", "Smooth + B", "Base + B", kind="gap", direction="higher"), made)
    assert found.trainings.part.variance == pytest.approx(np.var([7.9 - 9.0, 8.1 - 10.0], ddof=1) / 2) and found.trainings.counts == (2, 0)


def test_items_alone_decide_about_one_training_and_say_so():
    found = one(paired("Smooth", "Base"), record({"Base": {"istd": 2.0}, "Smooth": {"istd": 1.0}}))
    assert found.outcome == REPRODUCED and found.one_training and found.trainings.once == ("Smooth",)
    found = one(paired("VAE", "Base"), record({"Base": {"istd": 2.0}, "VAE": {"istd": 1.0}}))
    assert found.outcome == REPRODUCED and not found.one_training


def test_an_open_statement_says_how_many_items_would_decide_it():
    made = record({"Base": {"istd": 2.0}, "Smooth": {"istd": 1.995}})
    found = one(paired("Smooth", "Base"), made)
    difference = np.subtract(*(made["rows"][row]["metrics"]["istd"]["values"] for row in ("Smooth", "Base")))
    by_hand = ((1.959964 + 0.841621) * difference.std(ddof=1) / difference.mean()) ** 2 * math.pi / 3
    assert found.outcome == INCONCLUSIVE and found.needed == math.ceil(by_hand)
    near = one(paired("Smooth", "Base", kind="within", margin=0.01), made)
    assert near.needed == math.ceil(((1.959964 + 0.841621) * difference.std(ddof=1) / (0.01 - 0.005)) ** 2)
    assert one(paired("Smooth", "Base"), record({"Base": {"istd": 2.0}, "Smooth": {"istd": 1.0}})).needed is None


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
    assert weigh(replace(paired("Smooth", "Base", metric=["kid", "kernel_distance"]), where_recorded=True), made) == []


def test_guidance_w_is_the_row_with_guidance():
    made = {"rows": dict.fromkeys(["Base + NTI, guidance 7.5", "Base + DDIM, guidance 1", "Base + DDIM, guidance 7.5", "VAE"])}
    assert find_row(made, "Base + DDIM, guidance w") == "Base + DDIM, guidance 7.5"
    assert find_row(made, "Base + DDIM, guidance 1") == "Base + DDIM, guidance 1"
    assert find_row(made, "Smooth + DDIM, guidance w") is None and find_row(made, "Base") is None
    assert find_row(made, "None | VAE") == "VAE" and find_row(made, "None | Base") is None
