"""Result pages answer first: the box of verdicts, folded code, tables made from the record, pictures that a click enlarges."""

import json
import re
import runpy
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from browsing import DESKTOP, Site, headless
from sample_records import make, make_with_columns

from companion.base.paths import ROOT
from companion.book import walk_scrubber
from companion.book.interactive import renewed
from companion.evidence import claims, page_tables, verdict_box
from companion.evidence.records import measured_table, paired_tests
from companion.evidence.statements import Statement
from companion.evidence.weighing import weigh

NOTEBOOKS = sorted(file.stem for file in (ROOT / "notebooks").glob("*.ipynb"))
RESULTS = [name for name in NOTEBOOKS if re.match("table|fig|beyond_|train_", name)]


@pytest.fixture(scope="module")
def extension():
    return SimpleNamespace(**runpy.run_path(str(ROOT / "book" / "_ext" / "result_pages.py")))


def changed(extension, name, notebook=None):
    file = ROOT / "notebooks" / f"{name}.ipynb"
    source = [json.dumps(notebook) if notebook else file.read_text(encoding="utf-8")]
    app = SimpleNamespace(env=SimpleNamespace(doc2path=lambda docname: str(file)))
    extension.answer_first(app, f"notebooks/{name}", source)
    return json.loads(source[0])


@pytest.mark.parametrize("name", RESULTS)
def test_a_page_begins_with_its_verdicts_where_claims_use_its_record(extension, name):
    page = changed(extension, name)
    nbformat.validate(nbformat.from_dict(page))
    own = [claim for claim in claims.load_claims() if name in claim.records]
    assert "".join(page["cells"][0]["source"]).startswith("# ")
    above = "".join(page["cells"][1]["source"])
    assert above.count('<li class="verdict ') == len(own)
    assert all(verdict_box.escape(claim.claim) in above for claim in own)


def test_code_is_folded_but_for_the_parameters_and_what_a_tag_shows(extension):
    for name in RESULTS:
        for cell in changed(extension, name)["cells"]:
            if cell["cell_type"] == "code":
                tags = set(cell["metadata"]["tags"])
                assert ("hide-input" in tags) != bool(tags & {"parameters", "show-input", "remove-cell", "remove-input", "hide-cell"})
    cell = {"cell_type": "code", "metadata": {"tags": ["show-input"]}, "source": "print()"}
    extension.fold(cell)
    assert cell["metadata"]["tags"] == ["show-input"]


def test_a_marked_sentence_is_the_conclusion_with_its_glued_values(extension):
    text = "## What to make of it\n\nBefore.\n\n% conclusion\n- It goes from {glue:text}`a:.2f`\n  to {glue:text}`b:.2f`.\n- More."
    cells = [{"cell_type": "markdown", "source": source, "metadata": {}} for source in ("# Title\n\nIntroduction.", text)]
    page = changed(extension, "beyond_lazy", {"cells": cells})
    assert "It goes from {glue:text}`a:.2f` to {glue:text}`b:.2f`.\n" in page["cells"][1]["source"]
    assert page["cells"][0]["source"] == "# Title" and page["cells"][2]["source"] == "Introduction."
    without = changed(extension, "beyond_lazy", {"cells": [cells[0]]})
    assert [cell["source"] for cell in without["cells"]] == ["# Title\n\nIntroduction."]


def test_the_first_picture_stands_on_top_as_it_was_stored(extension):
    stored = json.loads((ROOT / "notebooks" / "table1_istd.ipynb").read_text(encoding="utf-8"))
    page = changed(extension, "table1_istd")
    lead = next(i for i, cell in enumerate(page["cells"]) if "lead-picture" in cell["metadata"].get("tags", []))
    pictures = [output["data"] for cell in stored["cells"] for output in cell.get("outputs", []) if "image/jpeg" in output.get("data", {})]
    assert lead == 2 and page["cells"][lead]["outputs"][0]["data"]["image/jpeg"] == pictures[0]["image/jpeg"]
    assert page["cells"][lead]["metadata"]["mystnb"]["image"]["alt"]


# The sentences of the box -----------------------------------------------------------------------------------------------------------


def test_the_answer_is_a_sentence_with_difference_interval_and_n():
    record = make()
    (found,) = weigh(Statement("table2_recon", "paired", "mse", ["VAE", "Base + DDIM, guidance 1"], "lower"), record)
    text = verdict_box.sentence(found, record)
    assert re.fullmatch(r"MSE: VAE is [\d.]+ better than Base \+ DDIM, guidance 1 \[[\d.]+, [\d.]+\](?: × \S+)?, n = 12\.", text), text


def test_a_box_has_sign_and_words_and_escapes():
    claim = claims.Claim("x", "1", "", "<b>Is</b> it?", tests=(Statement("table2_recon", "paired", "mse", ["VAE", "Other"], "lower"),))
    box = verdict_box.verdict_box([claims.verdict(claim, lambda name: None)])
    assert "<b>Is" not in box and "&lt;b&gt;Is" in box and ">…</span>" in box and "not measured yet" in box
    assert verdict_box.verdict_box([]) == ""


# Tables ---------------------------------------------------------------------------------------------------------------------------


def test_many_tests_are_folded_under_those_that_show_a_difference():
    labels = [f"row {i}" for i in range(5)]
    noise = np.random.default_rng(0).random((5, 12))
    rows = {label: {"mse": noise[i] + 2 * (i == 4), "psnr": noise[i]} for i, label in enumerate(labels)}
    record = make(rows=rows, pairs=[(a, b) for a in labels for b in labels if a < b])
    paper = page_tables.paper_of(record)
    html = page_tables.tests_html(record, paper)
    above, fold = html.split("<details>")
    shown = (paired_tests(record, paper)["At 5 %"] != "no difference shown").sum()
    assert 0 < shown < 20 and above.count("<tr>") == 1 + shown and fold.count("<tr>") == 1 + 20


def test_stored_tests_are_replaced_only_by_those_of_the_same_record():
    record = make()
    stored = paired_tests(record, page_tables.paper_of(record)).to_html()
    assert page_tables.shown(stored, record) != stored and "comparison" in page_tables.shown(stored, record)
    other = page_tables.shown(stored, record | {"comparisons": record["comparisons"][1:]})
    assert other == page_tables.shown(stored, None) and "better" in other and page_tables.shown("<p>text</p>", record) == "<p>text</p>"


def test_keys_become_labels_and_frechet_distances_excesses():
    record = make_with_columns(facts={"num_images": 500, "judges": {"frechet_floor": 10.0}})
    seeds = '<table class="dataframe"><thead><tr><th></th><th>cv</th><th>frechet</th></tr></thead><tbody>'
    seeds += "<tr><th>0</th><td>0.6</td><td>12.5</td></tr>"
    shown = page_tables.shown(seeds, record)
    assert "<th>CV ↓</th><th>FD excess ↓</th>" in shown and "<td>0.6</td><td>2.5</td>" in shown
    measured = page_tables.shown(measured_table(record).to_html(classes="dataframe"), record)
    assert "FD excess ↓" in measured and ">2.500<" in measured and "frechet_distance" not in measured


# Pictures -------------------------------------------------------------------------------------------------------------------------


def test_stored_interactive_figures_get_the_script_of_today_and_keep_their_images():

    walks = [{"Base": np.full((3, 3, 8, 8), 10, dtype=np.uint8)}]
    html = walk_scrubber(walks, [{"Base": [1.0, 2.0]}], captions=["one"], alt="A walk").html
    old = re.sub(r"<script>.*</script>", "<script>(function(){})()</script>", html, flags=re.DOTALL)
    assert old != html and renewed(old) == html and renewed("<p></p>") == "<p></p>"


@pytest.fixture(scope="module")
def browser():
    with headless() as browser:
        yield browser


@pytest.fixture(scope="module")
def site(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    script = (ROOT / "book" / "_static" / "enlarge.js").read_text(encoding="utf-8")
    style = (ROOT / "book" / "_static" / "result_pages.css").read_text(encoding="utf-8")
    svg = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' width='300' height='200'%3E%3C/svg%3E"
    body = f'<div class="bd-article"><div class="cell_output"><img alt="A sheet" src="{svg}"></div></div>'
    head = f'<meta charset="utf-8"><link rel="icon" href="data:,"><title>P</title><style>{style}</style><script>{script}</script>'
    (folder / "page.html").write_text(f'<!doctype html><html lang="en">{head}<body>{body}</body></html>', encoding="utf-8")
    site = Site(browser, folder)
    yield site
    site.close()


def test_a_picture_is_enlarged_by_keyboard_and_escape_leads_back(site):
    page = site.open(site.page(DESKTOP), "page.html")
    page.locator("button.enlarge").click()
    page.locator("dialog[open] img").wait_for()
    page.keyboard.press("Escape")
    page.locator("dialog[open]").wait_for(state="detached")
    page.keyboard.press("Enter")  # the focus is on the picture again
    image = page.locator("dialog[open] img")
    image.wait_for()
    assert image.get_attribute("alt") == "A sheet" and image.bounding_box()["width"] == 1200  # four times, the last that fits
    assert "each shown as 4 × 4 (nearest" in page.locator("dialog .said").inner_text()
    page.keyboard.press("-")
    assert image.bounding_box()["width"] == 900
    page.keyboard.press("Escape")
    assert not page.locator("dialog[open]").count()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Enlarge: A sheet" and not site.complaints
    page.close()


def test_no_table_of_a_result_page_is_cut_at_1280_pixels(browser):
    folder = ROOT / "_build" / "html"
    if not (folder / "index.html").is_file():
        pytest.skip("the book has not been built: make book")
    measure = runpy.run_path(str(ROOT / "tools" / "measure_pages.py"))["measure"]
    found = measure(browser, folder)
    assert found and not {name: values["cut"] for name, values in found.items() if values["cut"]}
