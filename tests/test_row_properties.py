"""Rows and records hold any labels and numbers: a table keeps its cells, a record its values, and no label is markup."""

import json
from html.parser import HTMLParser

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples, is_sentence
from sample_records import make

from companion.evidence.record_checks import RecordError
from companion.evidence.records import load_record, save_record
from companion.evidence.tables import html_table, markdown_table
from companion.studies.rows import Row, adapter_titles, check_rows, glue_key

labels = st.text(max_size=12) | st.text("|\\`*$[]()<>&;#! \n\rab", max_size=12)


@examples(100)
@given(st.integers(1, 3).flatmap(lambda width: st.lists(st.lists(labels, min_size=width, max_size=width), min_size=1, max_size=3)))
def test_a_markdown_table_keeps_its_cells_and_begins_no_markup(rows):
    lines = markdown_table(rows).split("\n")
    assert len(lines) == len(rows) + 1
    for line in lines:
        bare = line.replace("\\\\", "")
        assert bare.count("|") - bare.count("\\|") == len(rows[0]) + 1, line
        assert bare.count("`") == bare.count("\\`") and bare.count("$") == bare.count("\\$") and "<a" not in line


class Texts(HTMLParser):
    """The tags and the texts of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.text = set(), ""

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


@examples(60)
@given(st.lists(st.text("<>&\"'/scriptonmg= ", max_size=20), min_size=1, max_size=3))
def test_no_label_is_markup_in_a_page(texts):
    page = Texts()
    page.feed(html_table(pd.DataFrame({"Method": texts, "Value": ["1"] * len(texts)})))
    page.close()
    assert page.tags <= {"table", "thead", "tbody", "tr", "th", "td", "br", "div", "span"}
    for text in texts:
        assert "".join(text.split()) in "".join(page.text.split())


@examples(60)
@given(st.lists(labels, min_size=1, max_size=4))
def test_rows_have_different_labels_or_are_refused(names):
    rows = [Row(name) for name in names]
    if len(set(names)) == len(names):
        check_rows(rows)
    else:
        with pytest.raises(ValueError, match="more than once") as raised:
            check_rows(rows)
        assert is_sentence(str(raised.value))
    assert all(c.isalnum() or c == "_" for name in names for c in glue_key(name))


@examples(60)
@given(st.lists(st.text("aAbB./ ", min_size=1, max_size=6), max_size=3))
def test_rows_are_called_after_their_adapters_or_these_are_refused(adapters):
    try:
        titles = adapter_titles(adapters)
    except ValueError as error:
        assert is_sentence(str(error))
    else:
        assert len(set(titles.values())) == len(titles) == len(adapters) + 1


@examples(10)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=12, max_size=12), st.text(min_size=1, max_size=10), st.integers(0, 11))
def test_a_record_comes_back_as_it_was_saved_and_no_number_changes_unseen(tmp_path, values, label, place):
    record = make({label: {"mse": values}})
    file = save_record(record, tmp_path / "table2_recon.json")
    loaded = load_record(file)
    assert loaded["rows"][label]["metrics"]["mse"]["values"] == values and {key: loaded[key] for key in record} == record
    changed = file.read_text(encoding="utf-8").replace(loaded["seal"], "0" * 64)
    file.write_text(changed, encoding="utf-8")
    with pytest.raises(RecordError, match=r"table2_recon\.json: seal is"):
        load_record(file)
    loaded["rows"][label]["metrics"]["mse"]["values"][place] += 1
    file.write_text(json.dumps(loaded), encoding="utf-8")
    with pytest.raises(RecordError, match=r"table2_recon\.json: "):
        load_record(file)
