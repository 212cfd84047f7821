"""What the extension of the result pages does with figures without a picture, with progress, and with style on a phone and on paper."""

import json
import re
import runpy
from types import SimpleNamespace

import pytest

from companion.base.paths import ROOT

STATIC = ROOT / "book" / "_static"
WIDGET = '<div class="smooth-widget">a walk</div>'


@pytest.fixture(scope="module")
def extension():
    return SimpleNamespace(**runpy.run_path(str(ROOT / "book" / "_ext" / "result_pages.py")))


def changed(extension, *cells):
    title = {"cell_type": "markdown", "metadata": {}, "source": "# Title\n\nA question."}
    app = SimpleNamespace(env=SimpleNamespace(doc2path=lambda docname: f"{docname}.ipynb"))
    source = [json.dumps({"cells": [title, *cells]})]
    extension.answer_first(app, "notebooks/beyond_nothing_yet", source)
    return json.loads(source[0])["cells"]


def code(*shown, tags=()):
    outputs = [{"output_type": "display_data", "metadata": {"name": kind}, "data": {kind: text}} for kind, text in shown]
    return {"cell_type": "code", "metadata": {"tags": list(tags)}, "source": "x", "outputs": outputs}


def test_lines_of_progress_are_left_out_and_nothing_else(extension):
    texts = ["Base: 180 of 180", "Base: SDEdit, 0.4: 36 of 36\n", "Base: 3 of 36", "n = 5", "Base: 6 of 6\nDone."]
    (cell,) = [cell for cell in changed(extension, code(*(("text/plain", text) for text in texts))) if cell["cell_type"] == "code"]
    assert [output["data"]["text/plain"] for output in cell["outputs"]] == texts[2:]


def test_an_interactive_figure_leads_a_page_without_a_picture_and_stands_there_once(extension):
    cells = changed(
        extension, code(("text/html", "<p>table</p>"), ("text/html", WIDGET)), code(("text/html", WIDGET), tags=["remove-cell"])
    )
    lead = next(i for i, cell in enumerate(cells) if "lead-picture" in cell["metadata"].get("tags", []))
    assert lead == 2 and cells[lead]["outputs"] == [
        {"output_type": "display_data", "metadata": {"name": "text/html"}, "data": {"text/html": WIDGET}}
    ]
    assert [output["data"]["text/html"] for output in cells[lead + 2]["outputs"]] == ["<p>table</p>"]


def test_a_picture_goes_before_an_interactive_figure(extension):
    cells = changed(extension, code(("text/html", WIDGET)), code(("image/png", "PNG")))
    (lead,) = [cell for cell in cells if "lead-picture" in cell["metadata"].get("tags", [])]
    assert list(lead["outputs"][0]["data"]) == ["image/png"] and cells[-1]["outputs"][0]["data"] == {"image/png": "PNG"}


def test_words_in_tables_are_not_broken_anywhere_on_a_phone():
    """`overflow-wrap: anywhere` on a table's cells stands only behind a minimum width."""
    for name in ("book.css", "result_pages.css"):
        css = (STATIC / name).read_text(encoding="utf-8")
        wide = re.sub(r"@media \(min-width.*?\n}", "", css, flags=re.DOTALL)
        assert not re.findall(r"^.*dataframe.*anywhere.*$", wide, re.MULTILINE)
