"""The comparison table and the paired tests beside it, with the paper's columns and others."""

import re
from html.parser import HTMLParser

import pytest
from sample_records import VAE, make, make_with_columns

from companion.evidence.digits import in_words
from companion.evidence.paper import load_paper_table
from companion.evidence.records import comparison_table, load_record, paired_tests, save_record
from companion.evidence.statistics import mean_interval
from companion.evidence.tables import markdown_table


def test_the_headline_leaves_out_what_answers_to_no_printed_row():
    frame = comparison_table("table2", recorded=make(), headline=True).dataframe()
    assert "Base + DDIM, guidance 1" in frame.index.get_level_values(0) and len(frame) == 5 + 2


def test_comparison_table_puts_measured_rows_under_the_papers():
    recorded = make()
    table = comparison_table("table2", recorded=recorded, this_run=make(config={"num_images": 8}))
    frame = table.dataframe()
    assert list(frame.columns) == ["MSE ↓", "LPIPS ↓", "SSIM ↑", "PSNR ↑"]
    assert list(frame.index) == [
        ("Stable Diff. + DDIM", "Paper"),
        ("Base + DDIM, guidance 1", "Recorded"),
        ("Base + DDIM, guidance 1", "This run"),
        ("Smooth Diff. + DDIM", "Paper"),
        ("Stable Diff. + NTI", "Paper"),
        ("Smooth Diff. + NTI", "Paper"),
        ("VAE Reconstruction", "Paper"),
        ("VAE", "Recorded"),
        ("VAE", "This run"),
        ("Base + DDIM, guidance 3", "Recorded"),
        ("Base + DDIM, guidance 3", "This run"),
    ]
    assert frame.loc[("Stable Diff. + DDIM", "Paper")].tolist() == ["0.1756", "0.5385", "0.2662", "13.97"]
    interval = mean_interval(VAE["psnr"])
    assert frame.loc[("VAE", "Recorded"), "PSNR ↑"] == f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
    assert frame.loc[("Base + DDIM, guidance 3", "This run")].tolist()[1:] == ["–"] * 3
    assert "This run's settings differ from the recorded ones: num_images = 8 (recorded 12)." in table.notes()
    assert "n = 12" in str(table) and repr(table) == str(table)


def changed(record, **provenance):
    return record | {"provenance": record["provenance"] | provenance}


def test_a_run_is_compared_with_the_recorded_one_in_settings_weights_and_data():
    recorded = changed(make(), models={"base": "0" * 64, "smooth": "a" * 64, "old": "c" * 64})

    def differences(**provenance):
        notes = comparison_table("table2", recorded=recorded, this_run=changed(recorded, date="2026-01-01T00:00:00", **provenance)).notes()
        return [note for note in notes if note.startswith(("This run's", "Only "))]

    assert differences() == []
    assert differences(models={"base": "0" * 64, "smooth": "b" * 64, "new": "d" * 64}) == [
        "This run's weights differ from the recorded ones of the same name: smooth bbbbbbbb (recorded aaaaaaaa).",
        "Only this run has the weights new.",
        "Only the recorded run has the weights old.",
    ]
    assert differences(data_hash="beef") == [
        "This run's data differ from the recorded ones: the same settings chose other images or captions."
    ]
    other = recorded["provenance"]["config"] | {"seed": 1}
    assert differences(config=other, data_hash="beef") == ["This run's settings differ from the recorded ones: seed = 1 (recorded 0)."]


def test_the_recorded_run_is_shown_once(tmp_path):
    record = make()
    again = load_record(save_record(record, tmp_path / "table2_recon.json"))
    assert str(comparison_table("table2", this_run=record, recorded=again)) == str(comparison_table("table2", recorded=again))


def test_a_frechet_distance_comes_with_its_number_of_images_and_its_floor():
    record = make_with_columns(facts={"num_images": 500, "judges": {"frechet_floor": 100.62}})
    (note,) = [note for note in comparison_table("table1", recorded=record).notes() if "FD" in note]
    assert "500 generated with 500 real images" in note and "100.6 apart" in note
    assert not [note for note in comparison_table("table1", recorded=make_with_columns()).notes() if "FD compares" in note]


def test_a_frechet_distance_is_shown_as_what_exceeds_that_of_real_images():
    frame = comparison_table("table1", recorded=make_with_columns(facts={"num_images": 500, "judges": {"frechet_floor": 10.0}})).dataframe()
    assert frame.loc[("Base", "Recorded"), "FD excess ↓"] == "2.500" and "FD ↓" not in frame.columns
    without = comparison_table("table1", recorded=make_with_columns()).dataframe()
    assert without.loc[("Base", "Recorded"), "FD ↓"] == "12.50"  # nothing to subtract


@pytest.mark.parametrize(
    "mean, ends, direction, text",
    [
        (8.56, (3.2, 13.9), "down", "8.6 worse [3.2, 13.9]"),
        (8.56, (3.2, 13.9), "up", "8.6 better [3.2, 13.9]"),
        (-0.8494, (-1.04, -0.69), "down", "0.85 better [0.69, 1.04]"),
        (-0.28, (-0.73, 0.16), "up", "0.28 worse [-0.16, 0.73]"),
        (-0.97, (-1.15, -0.81), "none", "0.97 smaller [0.81, 1.15]"),
        (4.87e-6, (-9e-6, 1.93e-5), "down", "0.5 worse [-0.9, 1.9] × 10⁻⁵"),
    ],
)
def test_a_difference_in_words(mean, ends, direction, text):
    assert in_words(mean, ends, direction) == text


def test_the_keyboard_reaches_what_scrolls():
    assert '<div class="comparison" tabindex="0" role="region" aria-label="' in comparison_table("table1")._repr_html_()


def test_comparison_table_without_runs_is_the_papers():
    frame = comparison_table("table4").dataframe()
    assert [source for _, source in frame.index] == ["Paper"] * 4 and frame.shape == (4, 3)


def test_comparison_table_never_subtracts_and_escapes():
    record = make(model="<script>alert(1)</script>")
    table = comparison_table("table2", this_run=record)
    printed = {value for values in table.paper.rows.values() for value in values.values()}
    for row in record["rows"].values():
        for metric, interval in row["metrics"].items():
            printed |= {f"{interval[key]:.{table.paper.decimals(metric)}f}" for key in ("mean", "low", "high")}
    shown = re.findall(r"-?[\d.]+", " ".join(table.dataframe().to_numpy().ravel()))
    assert len(shown) == 20 + 3 * 9 and set(shown) <= printed  # nothing is shown that was neither printed nor measured
    html = table._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html
    parser = Balanced()
    parser.feed(html)
    assert parser.open == [] and parser.cells == 8 * 4


class Balanced(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.cells = [], 0

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.cells += tag == "td"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_markdown_has_one_line_a_row():
    lines = comparison_table("table2", this_run=make()).markdown().splitlines()
    assert lines[0] == "| Method | Source | MSE ↓ | LPIPS ↓ | SSIM ↑ | PSNR ↑ |" and len(lines) == 2 + 8
    assert {line.count("|") for line in lines} == {7}


def test_table_of_another_table_is_refused():
    with pytest.raises(ValueError, match="table is 'table1', but the record table2_recon is of 'table2'"):
        comparison_table("table1", this_run=make())


def test_paired_tests_say_who_is_better():
    frame = paired_tests(make(), load_paper_table("table2"))
    assert frame["Metric"].tolist() == ["MSE ↓", "LPIPS ↓", "SSIM ↑", "PSNR ↑"]
    assert frame["At 5 %"].tolist() == ["first better", "first better", "second better", "second better"]
    same = make(rows={"a": VAE, "b": VAE}, pairs=[("a", "b")])
    assert set(paired_tests(same, load_paper_table("table2"))["At 5 %"]) == {"no difference shown"}


def test_further_columns_stand_beside_the_papers():
    record = make_with_columns()
    table = comparison_table("table1", this_run=record)
    frame = table.dataframe()
    assert list(frame.columns) == ["ISTD ↓", "CV ↓", "FD ↓"]  # no run has FID or CLIP Score
    (note,) = [note for note in table.notes() if note.startswith("Not measured in any run")]
    assert "FID: Stable Diffusion 12.70, Smooth Diffusion 12.10" in note  # what the paper prints there is not lost
    assert frame.loc[("Stable Diffusion", "Paper"), "CV ↓"] == "–"
    assert frame.loc[("Base", "This run"), "FD ↓"] == "12.50"
    assert "[" in frame.loc[("Base", "This run"), "CV ↓"]
    tests = paired_tests(record, table.paper)
    assert set(tests["Metric"]) == {"ISTD ↓", "CV ↓"} and set(tests["At 5 %"]) == {"first better"}


def test_a_record_with_further_columns_is_stored_and_read(tmp_path):
    record = make_with_columns(facts={"seeds": [1, 2]})
    again = load_record(save_record(record, tmp_path / "table2_recon.json"))
    assert str(comparison_table("table1", recorded=again)) == str(comparison_table("table1", recorded=record))
    assert again["facts"] == {"seeds": [1, 2]}


def test_a_metric_without_a_column_is_refused():
    with pytest.raises(ValueError, match="has the metric 'cv', but table1's metrics are"):
        make_with_columns(columns={})
    with pytest.raises(ValueError, match="columns gives cv the direction 'left'"):
        make_with_columns(columns={"cv": {"label": "CV", "direction": "left"}})


def test_markdown_shows_labels_as_they_are_written():
    rows = [("a|b", "[x](y) *em*"), ("<script>", "p < 0.0001"), ("line\nbreak", "$5 or $6 `code` \\ &amp; R&D")]
    heading, _, *lines = markdown_table([("one", "two"), *rows]).splitlines()
    assert heading == "| one | two |"
    assert lines == [
        r"| a\|b | [x]\(y) \*em\* |",
        "| &lt;script> | p < 0.0001 |",
        r"| line break | \$5 or \$6 \`code\` \\ &amp;amp; R&D |",
    ]
