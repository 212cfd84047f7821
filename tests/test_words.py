"""The glossary's abbreviations on the pages, and how long the first pages are."""

import re
import runpy
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup
from docutils import nodes
from docutils.utils import new_document

from companion.base.paths import ROOT

HTML = ROOT / "_build" / "html"
WORDS = {"CV": "coefficient of variation", "LoRA": "low-rank adaptation"}


@pytest.fixture(scope="module")
def tool():
    return SimpleNamespace(**runpy.run_path(str(ROOT / "book" / "_ext" / "book_words.py")))


def marked(tool, *texts):
    document = new_document("page")
    for text in texts:
        document += text if isinstance(text, nodes.Node) else nodes.paragraph("", text)
    tool.mark_text(document, WORDS)
    return document


def test_the_first_use_is_expanded_and_all_have_a_hover(tool):
    document = marked(tool, "A CV of LoRAs.", "Another CV, and the Smooth-LoRA.")
    assert document.astext().split("\n\n") == [
        "A CV (coefficient of variation) of LoRAs (low-rank adaptation).",
        "Another CV, and the Smooth-LoRA.",
    ]
    assert [node["explanation"] for node in document.findall(nodes.abbreviation)] == [WORDS["CV"], WORDS["LoRA"], WORDS["CV"]]


def test_words_that_are_there_already_are_not_repeated(tool):
    assert marked(tool, "The coefficient of variation (CV) and CV.").astext() == "The coefficient of variation (CV) and CV."
    assert marked(tool, "The spread (CV) again.").astext() == "The spread (CV) again."


def test_code_and_titles_are_left_alone(tool):
    kept = [nodes.literal_block("", "CV"), nodes.title("", "CV"), nodes.paragraph("", "", nodes.literal("", "CV"))]
    assert not list(marked(tool, *kept).findall(nodes.abbreviation))


def test_outputs_get_hovers_in_headings_and_at_the_first_use(tool):
    html = "<table><th>CV</th><th>CV</th><td>CV of CV</td></table><script>CV</script><p title='CV'>LoRA LoRA</p>"
    found = tool.mark_html(html, WORDS)
    cv, lora = (f'<abbr title="{WORDS[name]}">{name}</abbr>' for name in WORDS)
    assert found == f"<table><th>{cv}</th><th>{cv}</th><td>CV of CV</td></table><script>CV</script><p title='CV'>{lora} LoRA</p>"


def test_the_glossary_is_the_one_list(tool):
    found = tool.abbreviations()
    assert found["ISTD"] == "interpolation standard deviation" and len(found) >= 12 and "walk" not in found


# The built pages ------------------------------------------------------------------------------------------------------------------------

built = pytest.mark.skipif(not (HTML / "index.html").is_file(), reason="the book has not been built: make book")


def prose(name, until=None):
    """The words that a page shows, without what is folded, code, scripts and drawings."""
    html = (HTML / f"{name}.html").read_text(encoding="utf-8")
    article = BeautifulSoup(html.partition(until)[0] if until else html, "html.parser").select_one("article.bd-article")
    for element in article.select("script, style, noscript, svg, select, details, title, .dropdown, .cell_input, .headerlink"):
        element.decompose()
    return re.findall(r"\w[\w.'’-]*", article.get_text(" "))


@built
def test_the_first_page_is_short():
    assert 150 < len(prose("book/intro")) <= 600


@built
def test_the_summary_takes_five_minutes():
    assert 'id="the-tables-for-reference"' in (HTML / "notebooks" / "summary.html").read_text(encoding="utf-8")
    assert 300 < len(prose("notebooks/summary", until='id="the-tables-for-reference"')) <= 900


@built
def test_pages_have_hovers(tool):
    pages = [file for file in sorted(HTML.rglob("*.html")) if file.parent.name in ("book", "notebooks")]
    with_hovers = [file for file in pages if "<abbr " in file.read_text(encoding="utf-8")]
    assert len(with_hovers) >= 0.8 * len(pages)


@built
def test_heads_have_one_title_and_a_description():
    for file in [*(HTML / "book").glob("*.html"), *(HTML / "notebooks").glob("*.html")]:
        head = file.read_text(encoding="utf-8").partition("</head>")[0]
        title = re.search(r"<title>(.*?)</title>", head, re.DOTALL)[1].split(" &#8212; ")
        assert len(title) == len(set(title)), file.name
        assert len(re.findall(r'<meta name="description" content="[^"]{20,}">', head)) == 1, file.name
