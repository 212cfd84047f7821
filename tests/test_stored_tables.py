"""Tables that a page shows as its cells have stored them: tests under a fold, digits, nothing that pandas has left out."""

import re

import numpy as np
import pandas as pd
import pytest
from sample_records import make

from companion.base.paths import ROOT
from companion.evidence import page_tables
from companion.evidence.records import paired_tests
from companion.evidence.stored_tables import FEW, NO_DIFFERENCE, choices_html, folded, in_digits

HTML = ROOT / "_build" / "html"


def frame_of_tests(n, shown):
    """n tests by other columns than those of a record; the first `shown` find something."""
    verdicts = ["first better"] * shown + [NO_DIFFERENCE] * (n - shown)
    made = {"First": "a", "Second": "b", "Edits": "local", "Metric": "MSE & more", "First - second": "+1.00 [+0.51, +1.49]"}
    return pd.DataFrame([made | {"p (Holm)": "0.01", "At 5 %": verdict} for verdict in verdicts])


def test_stored_tests_of_another_family_are_folded_without_their_numbers():
    stored = frame_of_tests(FEW + 8, 3).to_html(classes="dataframe")
    for html in (folded(stored), page_tables.shown(stored, None)):
        above, fold = html.split("<details>")
        assert above.count("<tr>") == 1 + 3 and fold.count("<tr>") == 1 + FEW + 8 and "3 of 20 tests" in above
        assert "<td>MSE &amp; more</td>" in html and "<td>19</td>" not in html
    few = folded(frame_of_tests(FEW, 3).to_html(classes="dataframe"))
    assert "<details>" not in few and few.count("<tr>") == 1 + FEW


def test_a_long_table_of_the_records_tests_is_whole_although_its_middle_was_not_stored():
    labels = [f"row {i}" for i in range(13)]
    rows = {label: {"mse": np.random.default_rng(i).random(12)} for i, label in enumerate(labels)}
    record = make(rows=rows, pairs=[(a, b) for a in labels for b in labels if a < b])
    frame = paired_tests(record, page_tables.paper_of(record))
    with pd.option_context("display.max_rows", 60):
        stored = frame._repr_html_()
    assert len(frame) == 78 and "<p>78 rows × 6 columns</p>" in stored and "<td>...</td>" in stored
    shown = page_tables.shown(stored, record)
    assert "..." not in shown and shown.rpartition("<details>")[2].count("<tr>") == 1 + 78
    assert folded(stored) == stored  # without the record nobody knows what stood in the middle


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ("0.2286 [0.2085, 0.2486]", "0.229 [0.208, 0.249]"),
        ("-0.0032 [-0.0091, -0.0000]", "-0.0032 [-0.0091, 0.0000]"),
        ("-0.000 [-0.017, +0.012]", "+0.000 [-0.017, +0.012]"),
        ("0.0000 [0.0000, 0.0000]", "0"),
        ("249.923 [244.1, 255.9]", "249.9 [244.1, 255.9]"),
        ("1.5 [1.5, 1.5]", "1.5 [1.5, 1.5]"),
        ("on [-1, 1]", "on [-1, 1]"),
    ],
)
def test_a_stored_mean_has_the_digits_of_its_interval(stored, shown):
    assert in_digits(f"<td>{stored}</td>") == f"<td>{shown}</td>"


def test_what_each_candidate_reached_is_read_from_the_record_and_not_cut_off():
    tried = {"strengths": [0.6, 0.7, 0.8, 0.9], "lpips": [0.15, 0.151, 0.16, 0.17], "followed": [0.97, 0.94, 0.9, 0.9]}
    choices = {"one": {"strength": 0.6, "good_enough": False} | tried}
    choices["two"] = {"strength": 1.0, "strengths": [], "lpips": [], "followed": [], "good_enough": True}
    record = make(facts={"choices": choices})
    html = choices_html(record)
    assert "0.6 (none reached enough success)" in html and "0.9: 0.170, 0.90</td>" in html and "<td>one setting</td>" in html
    stored = pd.DataFrame({"chosen": ["0.6"], "strength: LPIPS to the truth, success": ["0.6: 0.150..."]}).to_html(classes="dataframe")
    assert page_tables.shown(stored, record) == html


def test_no_page_shows_a_table_with_something_left_out():
    pages = sorted((HTML / "notebooks").glob("*.html"))
    if not pages:
        pytest.skip("the book has not been built: make book")
    cut = re.compile(r"<t[dh][^>]*>[^<]*\.\.\.</t[dh]>|\d+ rows × \d+ columns")
    assert not {page.stem: found for page in pages if (found := cut.findall(page.read_text(encoding="utf-8")))}
