"""The book before it is built: prose types no result, what a page includes or names exists, overviews show what the records hold."""

import ast
import json
import re
import runpy
from functools import cache
from html import escape
from types import SimpleNamespace

import nbformat
import pytest

from companion.base import staleness
from companion.base.paths import ROOT, SCENES
from companion.book import forest
from companion.data.load import load_split
from companion.evidence import claims, effects, status
from companion.evidence import records as results
from companion.evidence.findings import findings
from companion.studies.smoothness import first_look

BOOK = ROOT / "book"
PAGES = sorted(BOOK.glob("*.md"))

# Prose ----------------------------------------------------------------------------------------------------------------------------

NOT_PROSE = [  # code, mathematics, roles (citations, glue, references), link targets, included files
    r"^(```+).*?^\1\s*?$", r"^:[\w-]+:.*?$", r"\$\$.*?\$\$", r"\$[^$]+\$", r"\{[\w:-]+\}`[^`]*`", r"`[^`]*`", r"\]\([^)]*\)", r"<[^>]+>",
]  # fmt: skip
NAMES = r"(?:Python|Apache-|BSD-|CC BY|CC0|Stable\s+Diffusion|Sec\.|Eq\.|Table|Fig\.|Mitsuba)\s?\d+(?:\.\d+)*(?:(?: to |-)\d+(?:\.\d+)*)?"
RESULT = r"\d[\d,]*\.\d+|\d+(?:\.\d+)?\s?%|\d{1,3}(?:,\d{3})+|\d+\s?dB|±"  # a fraction, a percentage, a large count, decibels
SETTINGS = {  # what may be typed: levels of the statistics, settings that define a symbol, the data set's make-up
    "method.md": ["0.22", "0.88"],  # follow from the dimension alone; test_diffusion has them
    "run_it.md": ["0.07", "0.14", "0.5", "0.7", "0.8", "1.5", "10.4", "4.3", "7.4"],  # memory on a T4: an estimate, and said to be one
    "notation.md": ["0.18215", "7.5", "0.01", "0.6", "0.9", "0.1"],
    "scenes.md": ["30 %", "84 %", "10,000", "1,000"],
}


def typed_results(text):
    """Numbers in a page's prose that look like results."""
    for pattern in [*NOT_PROSE, NAMES]:
        text = re.sub(pattern, " ", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(RESULT, text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_never_types_a_number(page):
    """Results are glued from notebooks; the paper's numbers come from data/paper."""
    assert not [number for number in typed_results(page.read_text(encoding="utf-8")) if number not in SETTINGS.get(page.name, [])]


def test_what_may_be_typed_is_still_there():
    for name, numbers in SETTINGS.items():
        assert set(numbers) <= set(typed_results((BOOK / name).read_text(encoding="utf-8"))), name


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ISTD falls from 2.27 to 1.43 and FD by 12 %", ["2.27", "1.43", "12 %"]),
        ("PSNR rises by 2 dB, 1,000 images, 3 ± 1", ["2 dB", "1,000", "±"]),
        ("```text\n0.5\n```\nthen 0.25 in $0.75$ and `0.9` and {cite:p}`a0.1` on Python 3.11, Sec. 4.2, Eq. 9 to 13", ["0.25"]),
        ("$$\nr = 0.385\n$$ [link](a-1.5.html) Stable Diffusion 1.5, CC BY 4.0", []),
        ("{glue:text}`../notebooks/t.ipynb::k:.3f` images", []),
    ],
)
def test_what_looks_like_a_result(text, found):
    assert typed_results(text) == found


def test_the_data_card_counts_what_the_data_holds():
    counts = json.loads((SCENES / "card.json").read_text(encoding="utf-8"))["counts"]
    text = (BOOK / "scenes.md").read_text(encoding="utf-8")
    assert f"{counts['train']:,} training scenes" in text and f"{counts['test']:,} test scenes" in text
    assert f"{counts['compositional']} scenes" in text


# What a page includes or names ----------------------------------------------------------------------------------------------------


@cache
def parsed(file):
    text = file.read_text(encoding="utf-8")
    return text, ast.parse(text)


def definition(file, name):
    """Source of a function, class or method."""
    text, node = parsed(file)
    for part in name.split("."):
        (node,) = [child for child in ast.walk(node) if isinstance(child, ast.FunctionDef | ast.ClassDef) and child.name == part]
    return ast.get_source_segment(text, node)


def test_included_code_is_there_and_every_equation_has_some():
    text = (BOOK / "method.md").read_text(encoding="utf-8")
    included = re.findall(r"```\{literalinclude\} (\S+)\n(.*?)```", text, flags=re.DOTALL)
    assert len(included) > 20
    for target, options in included:
        options = dict(re.findall(r"^:([\w-]+): ?(.*)$", options, flags=re.MULTILINE))
        source = definition((BOOK / target).resolve(), options["pyobject"])
        assert all(options[key].strip('"') in source for key in ("start-at", "end-at") if key in options), f"{target} {options}"
    labels = re.findall(r"\(eq-(\d+)\)$", text, flags=re.MULTILINE)
    assert labels == [str(number) for number in range(1, 21)], "each once, in the paper's order: Sphinx numbers them so"


def test_every_equation_has_a_check_that_exists():
    text = (BOOK / "method.md").read_text(encoding="utf-8")
    table = text.partition("## Where each equation is checked")[2]
    rows = [line for line in table.splitlines() if line.startswith("| {eq}")]
    first_cells = " ".join(line.split("|")[1] for line in rows)
    numbered = {int(n) for n in re.findall(r"eq-(\d+)", first_cells)} | {12}  # 11 to 13
    assert numbered == set(range(1, 21)) and "{eq}`eq-11` to {eq}`eq-13`" in first_cells
    for file, name in re.findall(r"`(tests/\w+\.py)::(\w+)`", table):
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{name}"
    items = set(re.findall(r"<(pvc-\d+)>", text))
    labels = (ROOT / "notebooks" / "paper_vs_code.ipynb").read_text(encoding="utf-8")
    assert len(items) > 10 and not [item for item in items if f"({item})=" not in labels]


def test_commands_of_the_book_name_files_that_exist():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    files = set(re.findall(r"(?:configs|data/paper|data/scenes|book/_static)/[\w./-]+\.\w+", text))
    assert len(files) >= 3 and not [file for file in files if not (ROOT / file).exists() and "train-" not in file]
    cited = {key for keys in re.findall(r"\{cite:p\}`([^`]+)`", text) for key in keys.split(",")}
    known = set(re.findall(r"^@\w+\{(\w+),", (BOOK / "references.bib").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert cited <= known


# Overviews ------------------------------------------------------------------------------------------------------------------------


def outputs(name):
    """The HTML that a notebook was committed with, one a display; skipped where it has not been run."""
    cells = [cell for cell in nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells if cell.cell_type == "code"]
    if not any(cell.outputs for cell in cells):
        pytest.skip(f"{name} has not been run: make {name}, then make record NAME={name}")
    return [output.data["text/html"] for cell in cells for output in cell.outputs if "text/html" in output.get("data", {})]


def lasting(html):
    """Without the sentences about the code's state, which the book's build looks up anew."""
    return re.sub(r"\s*(?:Recorded with older code: .*? changed since|Whether the code has changed .*? made it)\.", "", html)


def same(stored, now):
    return lasting("".join(stored)) == lasting("".join(now))


def test_the_summary_shows_what_the_records_say():
    """After a new recording: `make refresh`."""
    verdicts = claims.evaluate()
    shown = outputs("summary")
    told = findings(verdicts, results.recorded)
    assert len(told) == 3 and all(escape(sentence) in "".join(shown[:3]) for _, sentence in told.values())
    plot, *others = shown[3:]
    assert plot == forest.forest_plot(effects.forest_rows(verdicts), alt=claims.ClaimsTable(verdicts).counts()).html
    tables = [html for html in others if html.startswith('<div class="comparison"')]
    shown = [
        results.comparison_table(name.partition("_")[0], recorded=results.recorded(name), headline=True)._repr_html_()
        for name in ("table1_istd", "table2_recon", "table3_lambda", "table4_rank")
    ]
    assert same(tables[: len(shown)], shown)


def test_the_claims_page_shows_what_the_records_say():
    """After a new recording: `make refresh`."""
    (shown,) = outputs("claims")
    table = claims.ClaimsTable(claims.evaluate())
    body = re.compile("<tbody>.*</tbody>", re.DOTALL)
    assert body.search(shown)[0] == body.search(table._repr_html_())[0]
    assert table.counts() in shown


def test_the_first_look_is_at_the_walks_that_the_record_ranks_first():
    """After a new recording of Table 1: `make first_look`, `make record NAME=first_look`."""
    record = results.recorded("table1_istd")
    sliders = outputs("first_look")[-1]
    found = first_look.by_rank(record)
    prompts = first_look.prompts_of(record, load_split("scenes", record["provenance"]["config"]["split"]), list(found.values()))
    assert re.findall("<option>(.*?)</option>", sliders) == [f"{words}: {p.caption}" for words, p in zip(found, prompts, strict=True)]


def test_the_status_page_shows_what_the_records_say():
    assert same(outputs("status")[:1], [status.execution_table()._repr_html_()])


def test_a_changed_number_is_noticed():
    html = claims.ClaimsTable(claims.evaluate())._repr_html_()
    note = "Recorded with older code: companion.studies.smoothness.walks has changed since."
    assert same([html.replace("</ul>", f" {note}</ul>")], [html]) and not same([html.replace("n = 64", "n = 65")], [html])
    assert lasting(f"Recorded: x. {note} y") == "Recorded: x. y"


# The extension --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def companion():
    return SimpleNamespace(**runpy.run_path(str(BOOK / "_ext" / "book_pages.py")))


def app_of(file):
    return SimpleNamespace(env=SimpleNamespace(doc2path=lambda docname: str(file)), config=SimpleNamespace(html_title="P", html_baseurl=""))


WALKS = "companion.studies.smoothness.walks"


@pytest.mark.parametrize("changed", [True, False])
def test_a_page_with_an_older_record_says_so(companion, changed, monkeypatch):
    record = {"provenance": {"modules": {WALKS: "0" * 16 if changed else staleness._hash_now(WALKS)}}}
    monkeypatch.setitem(companion.stale_sentences.__globals__, "_record", lambda name: record if name == "table1_istd" else None)
    source = [(ROOT / "notebooks" / "table1_istd.ipynb").read_text(encoding="utf-8")]
    before = json.loads(source[0])["cells"]
    companion.add_notice(app_of("notebooks/table1_istd.ipynb"), "notebooks/table1_istd", source)
    after = nbformat.reads(source[0], as_version=4)
    nbformat.validate(after)
    assert len(after.cells) == len(before) + changed and after.cells[0].source.startswith("# ")
    assert (f"`{WALKS}` has changed since" in after.cells[1].source) == changed
    other = ["{}"]
    companion.add_notice(app_of("book/method.md"), "book/method", other)
    companion.add_notice(app_of("notebooks/paper_vs_code.ipynb"), "notebooks/paper_vs_code", other)
    assert other == ["{}"]


def test_overviews_say_it_of_every_older_record(companion, monkeypatch):
    names = sorted(file.stem for file in (ROOT / "data" / "results").glob("*.json"))
    monkeypatch.setitem(companion.stale_sentences.__globals__, "_record", lambda name: {"provenance": {}})
    sentences = companion.stale_sentences("notebooks/summary")
    assert [re.match(r"\*\*(\w+)\*\*: Whether", sentence)[1] for sentence in sentences] == names
    found = SimpleNamespace(found_docs={"notebooks/summary", "book/method", "notebooks/table2_recon"})
    assert companion.always_read(None, found, set(), set(), set()) == ["notebooks/summary", "notebooks/table2_recon"]


def test_a_link_to_a_page_has_a_preview(companion):
    from docutils import nodes
    from docutils.utils import new_document

    document = new_document("page")
    document += nodes.paragraph(text="Short.")
    document += nodes.paragraph(text='What the paper calls "smooth", and\n what is measured of it, ' + "with many words " * 20)
    context, app = {"title": "Table 1: <em>smoothness</em>"}, app_of("x")
    companion.add_preview(app, "notebooks/table1_istd", "page.html", context, document)
    tags = dict(re.findall(r'<meta property="(og:\w+)" content="([^"]*)">', context["metatags"]))
    assert tags["og:title"] == "Table 1: smoothness" and tags["og:description"].startswith(
        "What the paper calls &quot;smooth&quot;, and what"
    )
    assert len(tags["og:description"]) < 215 and tags["og:description"].endswith(" ...") and "og:image" not in tags
    app.config.html_baseurl = "https://example.org/book/"
    companion.add_preview(app, "notebooks/table1_istd", "page.html", context, document)
    tags = dict(re.findall(r'<meta property="(og:\w+)" content="([^"]*)">', context["metatags"]))
    assert tags["og:url"] == "https://example.org/book/notebooks/table1_istd.html"
    path, content = companion.preview_picture()
    assert tags["og:image"] == f"https://example.org/book/{path}"
    assert content[:4] in (b"\x89PNG", b"\xff\xd8\xff\xe0") if content else (BOOK / path).is_file()
