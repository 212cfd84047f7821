"""The built book in a real browser: headless Chromium, over http, light and dark, desktop and phone."""

import base64
import io
import re

import pytest
from browsing import DESKTOP, LOOK, PHONE, TIMEOUT, Site, headless, sliders_answer_to_the_keyboard
from PIL import Image

from companion.base.paths import ROOT

HTML = ROOT / "_build" / "html"


@pytest.fixture(scope="module")
def browser():
    with headless() as browser:
        yield browser


@pytest.fixture(scope="module")
def book(browser):
    if not (HTML / "index.html").is_file():
        pytest.skip("the book has not been built: make book")
    site = Site(browser, HTML)
    yield site
    site.close()


def paths():
    """All pages but index.html, which only leads to the first one."""
    files = [file.relative_to(HTML) for file in sorted(HTML.rglob("*.html"))]
    return [file.as_posix() for file in files if file.parts[0] not in ("_static", "_sources", "index.html")] or ["book/intro.html"]


def set_scheme(page, scheme):
    page.emulate_media(color_scheme=scheme)
    page.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)


# The book --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", paths())
def test_page_in_light_and_dark_on_desktop_and_phone(book, path):
    """Each width loads the page once, in one mode, and is then switched to the other by the system's preference."""
    problems = []
    for device, viewport, schemes in (("desktop", DESKTOP, ("light", "dark")), ("phone", PHONE, ("dark", "light"))):
        page = book.open(book.page(viewport, schemes[0]), path)
        for scheme in schemes:
            set_scheme(page, scheme)
            seen = page.evaluate(LOOK)
            problems += [f"{device}, {scheme}: {problem}" for problem in seen["problems"]]
            assert seen["theme"] == scheme and seen["texts"]
        if path == "book/method.html":
            assert seen["math"] > 20
        problems += [f"{device}: {complaint}" for complaint in book.complaints]
        if device == "desktop":
            problems += sliders_answer_to_the_keyboard(page)
        page.close()
    assert not problems, "\n".join(["", *dict.fromkeys(problems)])


def test_the_address_without_a_page_leads_to_the_introduction(book):
    page = book.open(book.page(DESKTOP), "")
    page.wait_for_url(book.address + "book/intro.html", wait_until="load")
    assert not book.complaints
    page.close()


def test_the_readers_choice_of_mode_goes_before_the_systems(book):
    page = book.open(book.page(DESKTOP, "light"), "book/intro.html")
    modes = []
    for _ in range(3):
        page.locator(".theme-switch-button:visible").first.click()
        modes.append(page.evaluate("[document.documentElement.dataset.mode, document.documentElement.dataset.theme]"))
        if modes[-1] == ["dark", "dark"]:
            break
    assert modes[-1] == ["dark", "dark"], modes
    book.open(page, "book/method.html")
    seen = page.evaluate(LOOK)
    assert seen["theme"] == "dark" and not seen["problems"] and not book.complaints
    page.evaluate("localStorage.clear()")
    page.close()


def test_search_finds_the_regularizer(book):
    page = book.open(book.page(DESKTOP, "light"), "search.html?q=regularizer")
    found = page.locator("#search-results ul.search li a")
    found.first.wait_for()
    page.wait_for_function(
        "!document.querySelector('#search-progress') || document.querySelector('.search-summary').textContent.match(/[0-9]/)"
    )
    assert any("book/method.html" in link.get_attribute("href") for link in found.all())
    assert not book.complaints
    page.close()


FAULTS = {
    "no alt text": '<img src="GREY">',
    "not loaded": '<img src="data:image/png;base64,AAAA" alt="broken">',
    "filter brightness(0.8)": '<div style="filter:brightness(.8)"><img src="GREY" alt="dimmed"></div>',
    "see-through": '<img src="CLEAR" alt="clear">',
    "contrast 1.92": '<p style="color:#bbb;background:#fff">pale</p>',
    "contrast 1.61": '<div style="background:#fff"><p style="color:rgba(0,0,0,.2)">pale, half through</p></div>',
    "beyond the right edge, at 1508": '<p style="width:1500px">wide</p>',
    "the page is 1508 pixels wide in a window of 1280": '<table style="width:1500px"><tr><td>wide</td></tr></table>',
    "mathematics not set": '<span class="math">x</span>',
    "error in mathematics": '<span class="math"><mjx-container><svg data-mml-node="merror"></svg></mjx-container></span>',
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_looked_for_is_found(browser, fault):
    """The checks of the book's pages, on pages with one fault each and on one without."""
    page = browser.new_page(viewport=DESKTOP)
    page.set_default_timeout(TIMEOUT)
    body = FAULTS[fault]
    for name, colour in (("GREY", (128, 128, 128, 255)), ("CLEAR", (128, 128, 128, 100))):
        content = io.BytesIO()
        Image.new("RGBA", (8, 8), colour).save(content, format="png")
        body = body.replace(name, "data:image/png;base64," + base64.b64encode(content.getvalue()).decode())
    frame = "<body style='background:#fff'><main>{}</main><script>MathJax={{startup:{{promise:0}}}}</script>"
    page.set_content(frame.format(f"<p>sound</p>{body}"))
    problems = page.evaluate(LOOK)["problems"]
    assert any(problem.startswith(fault) for problem in problems), problems
    page.set_content(frame.format('<p>sound</p><div style="overflow-x:auto"><p style="width:1500px">wide in a box</p></div>'))
    assert not page.evaluate(LOOK)["problems"]
    page.close()


def test_a_browser_is_required_where_it_is_said_to_be():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"^export REQUIRE_BROWSER=1$", script, re.MULTILINE) and "apt-get install" in script
