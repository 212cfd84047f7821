"""The paper's claims and their verdicts: every outcome from synthetic records, and a turned sign turns the verdict."""

import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from scipy import stats

from smoothlib import claims, paths, results
from smoothlib.claims import Claim, ClaimsTable, evaluate, load_claims
from smoothlib.evidence import (
    INCONCLUSIVE,
    NOT_MEASURED,
    NOT_REPRODUCED,
    REPRODUCED,
    Statement,
    find_row,
    training_means,
    trainings_interval,
    weigh,
)
from smoothlib.statistics import holm, paired_comparison

N = 20
NOISE = np.random.default_rng(0).normal(0, 0.05, N)
COLUMNS = {
    "cv": {"label": "CV", "direction": "down"},
    "lpips_cv": {"label": "LPIPS CV", "direction": "down"},
    "frechet_distance": {"label": "FD", "direction": "down"},
    "scene_alignment": {"label": "Alignment", "direction": "up"},
}


def values(mean, shift=0):
    return mean + np.roll(NOISE, shift) - NOISE.mean()


def record(rows, *, name="table1_istd", table="table1", totals=None, seeds=None, pairs=(), model="mini, 64 x 64"):
    """rows: label -> metric -> mean; every item's value is that mean and a little noise, other noise in other rows."""
    made = {
        label: {m: values(mean, i + j) for j, (m, mean) in enumerate(metrics.items())} for i, (label, metrics) in enumerate(rows.items())
    }
    return results.make_record(
        name,
        table=table,
        model=model,
        items=[str(i) for i in range(N)],
        rows=made,
        pairs=pairs,
        columns=COLUMNS if table else None,
        totals=totals,
        facts={"training_seeds": seeds} if seeds else None,
        provenance={"modules": {}},
    )


def one(statement, found):
    (evidence,) = weigh(statement, found)
    return evidence


def paired(*rows, direction="lower", metric="istd", kind="paired", margin=None):
    return Statement("table1_istd", kind, metric, rows, direction, margin)


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


# Claims ---------------------------------------------------------------------------------------------------------------------------


def stored(folder, **rows):
    results.save_record(record(rows), folder / "table1_istd.json")


def test_claims_follow_the_records(tmp_path):
    """From nothing, over a record with the base row only, to one in which Smooth is better or worse."""
    chosen = [claim for claim in load_claims() if claim.records == ["table1_istd"] and all(t.kind == "paired" for t in claim.tests)]
    assert {claim.id for claim in chosen} >= {"table1-istd", "table1-evenness", "table1-regularizer", "table1-alignment"}

    def outcomes():
        return {verdict.claim.id: verdict.text for verdict in evaluate(chosen, folder=tmp_path)}

    assert set(outcomes().values()) == {NOT_MEASURED}
    low = {"istd": 1.0, "cv": 1.0, "lpips_cv": 1.0, "scene_alignment": 30.0}
    high = {"istd": 2.0, "cv": 2.0, "lpips_cv": 2.0, "scene_alignment": 20.0}
    stored(tmp_path, Base=high)
    assert set(outcomes().values()) == {NOT_MEASURED}
    stored(tmp_path, **{"Base": high, "Plain LoRA": high, "Smooth": low})
    assert set(outcomes().values()) == {"reproduced on the embedded model"}
    stored(tmp_path, **{"Base": low, "Plain LoRA": low, "Smooth": high})
    assert set(outcomes().values()) == {"not reproduced on the embedded model"}
    stored(tmp_path, **{"Base": high, "Plain LoRA": high, "Smooth": high})
    assert set(outcomes().values()) == {"inconclusive on the embedded model"}


def test_a_claim_holds_only_as_a_whole():
    claim = Claim("a", "1", "", "A.", tests=(paired("Smooth", "Base"), paired("Smooth", "Base", metric="cv")))

    def outcome(**smooth):
        made = record({"Base": {"istd": 2.0, "cv": 2.0}, "Smooth": smooth}, model="a large model, 512 x 512")
        return claims.verdict(claim, lambda name: made).text

    assert outcome(istd=1.0, cv=1.0) == "reproduced on a large model, 512 x 512"
    assert outcome(istd=1.0, cv=2.0).startswith(INCONCLUSIVE)
    assert outcome(istd=1.0, cv=3.0).startswith(NOT_REPRODUCED)
    assert outcome(istd=1.0) == NOT_MEASURED
    assert outcome(istd=3.0).startswith(NOT_REPRODUCED)


def test_the_deciding_figure_is_of_a_test_with_the_verdicts_outcome():
    tests = (paired("Smooth", "Base"), paired("Smooth", "Base", metric="cv"))
    claim = Claim("one", "4.2", "Table 1", "Both fall.", tests)
    made = record({"Base": {"istd": 2.0, "cv": 1.0}, "Smooth": {"istd": 1.0, "cv": 2.0}})
    found = claims.verdict(claim, lambda name: made)
    assert found.outcome == NOT_REPRODUCED and found.deciding_figure == found.figures[1] != found.figures[0]
    found = claims.verdict(claim, lambda name: record({"Base": {"istd": 2.0, "cv": 2.0}, "Smooth": {"istd": 1.0, "cv": 1.0}}))
    assert found.outcome == REPRODUCED and found.deciding_figure == found.figures[0]


def test_what_was_tried_is_told_unless_the_claim_was_reproduced():
    claim = Claim("a", "1", "", "A.", tests=(paired("Smooth", "Base"),), tried="Longer training.")
    for smooth, told in ((1.0, False), (2.0, True), (3.0, True)):
        made = record({"Base": {"istd": 2.0}, "Smooth": {"istd": smooth}})
        table = ClaimsTable([claims.verdict(claim, lambda name, made=made: made)])
        assert table.rows()[0][3].endswith("Tried: Longer training.") == told == ("Tried: Longer" in table._repr_html_())


def test_every_claim_of_the_file_is_tested_or_says_why_not():
    found = load_claims()
    assert len({claim.id for claim in found}) == len(found) > 30
    assert {claim.section[0] for claim in found} == set("34AB")
    for claim in found:
        assert claim.claim.endswith(".") and "\n" not in claim.claim
    figures = {number for claim in found if claim.place.startswith("Fig.") for number in re.findall(r"\d+", claim.place)}
    assert figures >= set("3456789") | {"10"} and {f"Table {number}" for number in (1, 2, 3, 4)} <= {claim.place for claim in found}


def test_rows_and_metrics_of_the_claims_are_those_of_the_notebooks():
    """A row that no notebook writes would leave its claim unmeasured for ever."""
    own = {"cv", "lpips_cv", "frechet_distance", "scene_alignment"}
    for claim in load_claims():
        for test in claim.tests:
            metrics = {test.metric} if isinstance(test.metric, str) else set(test.metric)
            if test.record.startswith("table"):
                assert metrics <= own | set(results.load_paper_table(test.record.partition("_")[0]).metrics), claim.id
            notebook = paths.ROOT / "notebooks" / f"{test.record}.ipynb"
            if notebook.is_file() and test.record in ("table1_istd", "table3_lambda", "table4_rank"):  # others: below
                text = notebook.read_text(encoding="utf-8")
                assert not [row for row in test.rows if json.dumps(json.dumps(row))[1:-1] not in text], claim.id


def test_rows_of_reconstructions_and_interpolations_are_those_that_their_methods_make():
    from smoothlib.pair_walks import COLUMNS, figure3_methods
    from smoothlib.reconstruction import table2_methods

    tests = [test for claim in load_claims() for test in claim.tests]
    for records, methods in (
        (["table2_recon"], table2_methods(4.0, ["smooth"])),
        (["fig03_interpolation", "fig07_interpolation"], figure3_methods(["smooth"])),
    ):
        made = {"rows": {method.label: None for method in methods}}
        used = {row for test in tests if test.record in records for row in test.rows}
        assert len(used) > 1 and not [row for row in used if find_row(made, row) is None]
    assert {test.metric for test in tests if test.record in ("fig03_interpolation", "fig07_interpolation")} <= set(COLUMNS)
    configs = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in (paths.CONFIGS / "training").glob("variant_*.yaml")]
    variants = {config["export_to"] for config in configs}
    used = [row for test in tests if test.record == "fig08_reuse" for row in test.rows]
    assert used and not [row for row in used if row.removesuffix(" + smooth") not in variants]


BAD = {"id": "a", "section": "4", "place": "", "claim": "A."}
TEST = {"record": "r", "kind": "paired", "metric": "m", "rows": ["a", "b"]}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([BAD], "claim a: The claim 'a' must have exactly one of tests, not_testable and to_come"),
        ([BAD | {"tests": [TEST], "to_come": "later"}], "must have exactly one of"),
        ([BAD | {"to_come": "later", "sektion": "4"}], "claim a: .*sektion"),
        ([BAD | {"to_come": "later"}] * 2, "has the id a twice"),
        ([BAD | {"tests": [TEST | {"kind": "t"}]}], "kind is 't', but must be one of paired, total"),
        ([BAD | {"tests": [TEST | {"rows": ["a"]}]}], "rows has 1 entries, but kind 'paired' needs 2"),
        ([BAD | {"tests": [TEST | {"kind": "ordering"}]}], "rows has 2 entries, but kind 'ordering' needs 3 or more"),
        ([BAD | {"tests": [TEST | {"direction": "down"}]}], "direction is 'down', but must be 'lower' or 'higher'"),
        ([BAD | {"tests": [TEST | {"kind": "within"}]}], "margin is None, but must be a positive number"),
        ([BAD | {"tests": [TEST | {"margin": 1}]}], "margin is 1, but must be"),
    ],
)
def test_a_bad_claim_is_named(tmp_path, content, sentence):
    file = tmp_path / "claims.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(ValueError, match=sentence):
        load_claims(file)


# The table ------------------------------------------------------------------------------------------------------------------------


class Cells(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.count = [], 0

    def handle_starttag(self, tag, attributes):
        self.count += tag == "td"
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_table_shows_verdicts_and_figures(tmp_path):
    first = Claim("a", "4.2", "Table 1", "Lower < higher | so.", tests=(paired("Smooth", "Base"),), reading="As read.")
    chosen = [first, Claim("b", "A.1", "", "B.", not_testable="Needs eyes."), Claim("c", "4.4", "", "C.", to_come="Edits.")]
    made = record({"Base": {"istd": 2.0}, "Smooth": {"istd": 1.0}})
    made["provenance"]["modules"] = {"metrics.istd": "0" * 16}
    results.save_record(made, tmp_path / "table1_istd.json")
    table = ClaimsTable(evaluate(chosen, folder=tmp_path))
    assert table.counts() == "Of 3 claims: 1 reproduced, 1 not measured yet, 1 not testable here."
    assert table.notes() == ["table1_istd: Recorded with older code: smoothlib.metrics.istd has changed since."]
    (claim, where, text, reason), eyes, later = table.rows()
    assert (claim, where, text) == ("Lower < higher | so. [As read.]", "Sec. 4.2, Table 1", "reproduced on the embedded model")
    assert re.fullmatch(r"ISTD of Smooth 1\.00, of Base 2\.00: difference -1 \[-1\S*, -0\.\d+\], p < 0\.0001, n = 20", reason), reason
    assert eyes[1:] == ("App. A.1", "not testable here", "Needs eyes.") and later[2:] == ("not measured yet", "Edits.")

    html = table._repr_html_()
    parser = Cells()
    parser.feed(html)
    assert parser.open == [] and parser.count == 3 * 4
    assert "Lower &lt; higher" in html and '<a href="table1_istd.html">' in html and table.counts() in html and "older code" in html
    lines = table.markdown().splitlines()
    assert len(lines) == 2 + 3 and {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {5}
    assert table.counts() in str(table) and repr(table) == str(table) and reason in str(table)


def test_the_recorded_results_give_the_verdicts_that_their_values_give():
    """The shipped records, looked at without `evidence`: signs of the means, and nothing decided without a record."""
    for verdict in evaluate():
        have = {name for name in verdict.claim.records if results.recorded(name) is not None}
        if verdict.outcome in (REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE):
            assert have == set(verdict.claim.records) and verdict.figures and verdict.text.endswith("on the embedded model")
        if verdict.outcome == REPRODUCED:
            for test in (t for t in verdict.claim.tests if t.kind == "paired"):
                made = results.recorded(test.record)
                a, b = (made["rows"][find_row(made, row)]["metrics"] for row in test.rows)
                metric = next(m for m in ([test.metric] if isinstance(test.metric, str) else test.metric) if m in a)
                assert (a[metric]["mean"] < b[metric]["mean"]) == (test.direction == "lower"), verdict.claim.id
