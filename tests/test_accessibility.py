"""axe-core on every page of the built book, in light and dark: nothing serious or critical. It is vendored for the tests alone."""

import re

import pytest
from browsing import DESKTOP, TIMEOUT, Site, headless
from test_pages import HTML, paths, set_scheme

from companion.base.paths import ROOT

AXE = ROOT / "tests" / "vendor" / "axe-core"
SERIOUS = ("serious", "critical")
# Findings with the place of the first element; frames (there are none) are not looked into.
RUN = """async () => (await axe.run(document, {iframes: false, resultTypes: ['violations']})).violations.map(
    v => [v.impact, v.id, v.help, v.nodes.length, v.nodes[0].target.join(' '), v.nodes[0].html.slice(0, 200)])"""


@pytest.fixture(scope="module")
def book():
    if not (HTML / "index.html").is_file():
        pytest.skip("the book has not been built: make book")
    with headless() as browser:
        site = Site(browser, HTML)
        yield site
        site.close()


def findings(page):
    """What axe-core finds on an open page: impact, rule, help, how many elements, the first one's place and source."""
    page.add_script_tag(path=AXE / "axe.min.js")
    return page.evaluate(RUN)


@pytest.mark.parametrize("path", paths())
def test_no_serious_finding_in_light_or_dark(book, path):
    page = book.open(book.page(DESKTOP), path)
    serious = []
    for scheme in ("light", "dark"):
        set_scheme(page, scheme)
        serious += [(scheme, *finding) for finding in findings(page) if finding[0] in SERIOUS]
    page.close()
    assert not serious


def test_it_finds_what_it_looks_for(book):
    """A picture without a description and a control without a name are found."""
    page = book.page(DESKTOP)
    page.set_content('<html lang="en"><title>x</title><main><h1>x</h1><img src="data:,"><button></button></main></html>', timeout=TIMEOUT)
    found = {rule: impact for impact, rule, *_ in findings(page)}
    page.close()
    assert found["image-alt"] in SERIOUS and found["button-name"] in SERIOUS


def test_what_is_vendored_says_which_version_it_is_and_under_which_licence():
    version = re.match(r"/\*! axe v([\d.]+)", (AXE / "axe.min.js").read_text(encoding="utf-8"))[1]
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert f"axe-core {version}, MPL-2.0" in notice and "Mozilla Public License" in (AXE / "LICENSE").read_text(encoding="utf-8")
    assert not list((ROOT / "book").rglob("axe*.js"))


def test_boxes_that_scroll_can_be_reached_and_scrolled_by_keyboard(book):
    """Every box of the article that scrolls sideways takes the focus, and ArrowRight scrolls it."""
    page = book.open(book.page({"width": 800, "height": 900}), "book/recipes.html")
    boxes = page.locator("[data-scrolls]")
    assert boxes.count() >= 2
    for box in boxes.all():
        assert box.get_attribute("tabindex") == "0" and box.get_attribute("aria-label")
        box.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("e => e.scrollLeft > 0", arg=box.element_handle())
    page.close()
