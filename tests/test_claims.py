"""The paper's claims and their verdicts."""

import json
import re
from html.parser import HTMLParser

import pytest
import yaml
from sample_statements import paired, record

from companion.base import paths
from companion.base.config import ConfigurationError
from companion.evidence import claims, claims_table
from companion.evidence import records as results
from companion.evidence.claims import Claim, ClaimsTable, evaluate, load_claims
from companion.evidence.statements import find_row
from companion.evidence.weighing import INCONCLUSIVE, NOT_MEASURED, NOT_REPRODUCED, REPRODUCED


def stored(folder, **rows):
    results.save_record(record(rows), folder / "table1_istd.json")


def test_claims_follow_the_records(tmp_path):
    """From nothing, over a record with the base row only, to one in which Smooth is better or worse."""
    chosen = [claim for claim in load_claims() if claim.records == ["table1_istd"] and all(t.kind == "paired" for t in claim.tests)]
    assert {claim.id for claim in chosen} >= {"table1-istd", "table1-evenness", "table1-regularizer", "table1-alignment"}

    def outcomes():
        return {verdict.claim.id: verdict.text for verdict in evaluate(chosen, folder=tmp_path)}

    with pytest.raises(ConfigurationError, match=r"Parameter records is '.*', but must be a folder with recorded results"):
        outcomes()  # a wrong folder is no result
    results.save_record(record({"Base": {"mse": 1.0}}, name="table2_recon", table="table2"), tmp_path / "table2_recon.json")
    assert set(outcomes().values()) == {NOT_MEASURED}
    low = {"istd": 1.0, "cv": 1.0, "lpips_cv": 1.0, "scene_alignment": 30.0}
    high = {"istd": 2.0, "cv": 2.0, "lpips_cv": 2.0, "scene_alignment": 20.0}
    stored(tmp_path, Base=high)
    assert set(outcomes().values()) == {NOT_MEASURED}
    stored(tmp_path, **{"Base": high, "Plain LoRA": high, "Smooth": low})
    assert set(outcomes().values()) == {"reproduced on the embedded model, one training"}
    stored(tmp_path, **{"Base": low, "Plain LoRA": low, "Smooth": high})
    assert set(outcomes().values()) == {"not reproduced on the embedded model, one training"}
    stored(tmp_path, **{"Base": high, "Plain LoRA": high, "Smooth": high})
    assert set(outcomes().values()) == {"inconclusive on the embedded model"}


def test_a_claim_holds_only_as_a_whole():
    claim = Claim("a", "1", "", "A.", tests=(paired("Smooth", "Base"), paired("Smooth", "Base", metric="cv")))

    def outcome(**smooth):
        made = record({"Base": {"istd": 2.0, "cv": 2.0}, "Smooth": smooth}, model="a large model, 512 x 512")
        return claims.verdict(claim, lambda name: made).text

    assert outcome(istd=1.0, cv=1.0) == "reproduced on a large model, 512 x 512, one training"
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
    assert {claim.section[0] for claim in found} == set("1345AB")
    for claim in found:
        assert claim.claim.endswith(".") and "\n" not in claim.claim
        assert not claim.to_come or claim.reading, claim.id  # what would decide it is said before it is measured
    by_id = {claim.id: claim for claim in found}
    standard = [[test.metric for test in by_id[name].tests] for name in ("table1-evenness", "table1-regularizer")]
    assert standard == [["istd", "cv", "lpips_cv"]] * 2  # one standard of "smoother"
    figures = {number for claim in found if claim.place.startswith("Fig.") for number in re.findall(r"\d+", claim.place)}
    assert figures >= set("3456789") | {"10"} and {f"Table {number}" for number in (1, 2, 3, 4)} <= {claim.place for claim in found}


def test_rows_and_metrics_of_the_claims_are_those_of_the_notebooks():
    """A row that no notebook writes would leave its claim unmeasured for ever."""
    own = {"cv", "lpips_cv", "mean_step", "frechet_distance", "kernel_distance", "kid", "scene_alignment"}
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
    from companion.studies.interpolation.walks import COLUMNS, figure3_methods
    from companion.studies.reconstruction.reconstruct import table2_methods

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
        ([BAD], "claim a: The claim 'a' must have exactly one of tests, mathematics, not_testable and to_come"),
        ([BAD | {"tests": [TEST], "to_come": "later"}], "must have exactly one of"),
        ([BAD | {"to_come": "later", "sektion": "4"}], "claim a: .*sektion"),
        ([BAD | {"mathematics": "So."}], "must have checked_in, where it is computed, if and only if it has mathematics"),
        ([BAD | {"to_come": "later", "checked_in": ["paper_vs_code 1"]}], "must have checked_in, where it is computed, if and only if"),
        ([BAD | {"tests": [TEST | {"kind": "mainly"}]}], "metric is 'm', but must be a list of two for 'mainly'"),
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
    chosen = [
        first,
        Claim("b", "A.1", "", "B.", not_testable="Needs eyes."),
        Claim("c", "4.4", "", "C.", to_come="Edits."),
        Claim("d", "3.3", "Eq. 9", "D.", mathematics="Not so.", checked_in=("paper_vs_code 3",)),
    ]
    made = record({"Base": {"istd": 2.0}, "Smooth": {"istd": 1.0}}, seeds={"Base": {"istd": [2.0]}, "Smooth": {"istd": [0.98, 1.0, 1.02]}})
    made["provenance"] |= {"modules": {"smoothlib.metrics.istd": "0" * 16}, "config": {"num_inference_steps": 20, "guidance_scale": 3.0}}
    results.save_record(made, tmp_path / "table1_istd.json")
    table = ClaimsTable(evaluate(chosen, folder=tmp_path))
    assert table.counts() == "Of 4 claims: 1 reproduced, 1 not measured yet, 1 checked as mathematics, 1 not testable here."
    assert table.notes() == ["table1_istd: Recorded with older code: smoothlib.metrics.istd has changed since."]
    (claim, where, text, reason), eyes, later, derived = table.rows()
    assert (claim, where, text) == ("Lower < higher | so. [As read.]", "Sec. 4.2, Table 1", "reproduced on the embedded model")
    pattern = r"ISTD of Smooth 1\.000, of Base 2\.000: difference -1\.000 \[-1\.0\d\d, -0\.9\d\d\], n = 20; "
    pattern += r"with the trainings' chance \(3 trainings\) \[-1\.0\d\d, -0\.9\d\d\]; p = 0\.0\d+ "
    pattern += r"Measured on: Smooth: LoRA of rank 2 on all layers, .* 20 sampling steps, guidance 3\."
    assert re.fullmatch(pattern, reason), reason
    assert eyes[1:] == ("App. A.1", "not testable here", "Needs eyes.") and later[2:] == ("not measured yet", "Edits.")
    assert derived[2:] == ("checked as mathematics", "Not so. Checked in paper_vs_code 3.")

    html = table._repr_html_()
    parser = Cells()
    parser.feed(html)
    assert parser.open == [] and parser.count == 4 * 4
    assert "Lower &lt; higher" in html and '<a href="table1_istd.html">' in html and table.counts() in html and "older code" in html
    lines = table.markdown().splitlines()
    assert len(lines) == 2 + 4 and {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {5}
    assert table.counts() in str(table) and repr(table) == str(table) and reason in str(table)


@pytest.mark.parametrize(
    ("mean", "ends", "text"),
    [
        (8.563, (-2.4, 19.5), "+9 [-2, +20]"),
        (-0.8547, (-1.0357, -0.6921), "-0.85 [-1.04, -0.69]"),
        (-4.87e-06, (-1.93e-05, 9e-06), "-0.5 [-1.9, +0.9] × 10⁻⁵"),
        (-0.00033, (-0.000412, -0.000283), "-33.0 [-41.2, -28.3] × 10⁻⁵"),
        (1234.0, (-300.0, 2800.0), "+1200 [-300, +2800]"),
        (1.0, (0.9004, 1.0996), "+1.00 [+0.90, +1.10]"),
    ],
)
def test_numbers_have_two_digits_of_their_interval(mean, ends, text):
    assert claims_table.with_interval(mean, ends) == text


def test_an_inconclusive_claim_says_how_many_items_it_would_need():
    claim = Claim("a", "1", "", "A.", tests=(paired("Smooth", "Base"), paired("Smooth", "Base", metric="cv")))
    made = record({"Base": {"istd": 2.0, "cv": 2.0}, "Smooth": {"istd": 1.995, "cv": 1.0}})
    found = claims.verdict(claim, lambda name: made)
    assert found.outcome == INCONCLUSIVE and found.evidence[0].needed > 20 and found.evidence[1].needed is None
    assert re.search(r"needs about [\d,]+ items\)$", found.figures[0]) and "items" not in found.figures[1]
    assert "Trained once: Smooth." in found.remarks


def test_what_is_checked_as_mathematics_is_computed_where_the_claim_says():
    notebook = json.loads((paths.ROOT / "notebooks" / "paper_vs_code.ipynb").read_text(encoding="utf-8"))["cells"]
    derived = [claim for claim in load_claims() if claim.mathematics]
    assert len(derived) >= 5
    for place in (place for claim in derived for place in claim.checked_in):
        if place.startswith("tests/"):
            file, _, name = place.partition("::")
            assert f"def {name}(" in (paths.ROOT / file).read_text(encoding="utf-8"), place
        else:
            number = place.removeprefix("paper_vs_code ")
            (at,) = [i for i, cell in enumerate(notebook) if "".join(cell["source"]).startswith(f"(pvc-{number})=")]
            assert notebook[at + 1]["cell_type"] == "code" and "assert" in "".join(notebook[at + 1]["source"]), place


def test_the_recorded_results_give_the_verdicts_that_their_values_give():
    """The shipped records, looked at without `evidence`: signs of the means, and nothing decided without a record."""
    for verdict in evaluate():
        have = {name for name in verdict.claim.records if results.recorded(name) is not None}
        if verdict.outcome in (REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE):
            assert have == set(verdict.claim.records) and verdict.figures
            assert re.search("on the embedded model(, one training)?$", verdict.text) and verdict.rows
        if verdict.outcome == REPRODUCED:
            for test in (t for t in verdict.claim.tests if t.kind == "paired"):
                made = results.recorded(test.record)
                a, b = (made["rows"][find_row(made, row)]["metrics"] for row in test.rows)
                metric = next(m for m in ([test.metric] if isinstance(test.metric, str) else test.metric) if m in a)
                assert (a[metric]["mean"] < b[metric]["mean"]) == (test.direction == "lower"), verdict.claim.id


def test_the_command_prints_the_verdicts_or_refuses_in_one_sentence(tmp_path, capsys):
    stored(tmp_path, Base={"istd": 1.0})
    assert claims.main(["--records", str(tmp_path)]) == 0 and capsys.readouterr().out.startswith(f"Of {len(load_claims())} claims: ")
    with pytest.raises(SystemExit) as stopped:
        claims.main(["--records", str(tmp_path / "nope")])
    assert stopped.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit):
        claims.main(["--anything"])
    assert capsys.readouterr().err == "python -m companion.evidence.claims: unrecognized arguments: --anything; --help shows how.\n"
