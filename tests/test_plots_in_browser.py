"""The plots that are drawn in the page, in a real browser: filter and order by keyboard, both modes, no small text."""

import pytest
from browsing import DESKTOP, PHONE, TIMEOUT, headless

from companion.book.forest import forest_plot
from companion.book.scatter import frontier


def part(effect, outcome="reproduced"):
    return {"effect": effect, "low": effect - 0.2, "high": effect + 0.2, "outcome": outcome, "label": "istd"}


ROWS = [
    {"name": "first", "claim": "First.", "href": "", "outcome": "inconclusive", "parts": [part(0.1, "inconclusive")]},
    {"name": "second", "claim": "Second.", "href": "", "outcome": "reproduced", "parts": [part(0.9), part(2.0)]},
    {"name": "third", "claim": "Third.", "href": "", "outcome": "not testable here", "parts": []},
    {"name": "fourth", "claim": "Fourth.", "href": "", "outcome": "not reproduced", "parts": [part(-5.0, "not reproduced")]},
]
SHOWN = "[...document.querySelectorAll('tbody tr')].filter(r => r.checkVisibility()).map(r => r.cells[0].textContent)"
SMALLEST = """Math.min(...[...document.querySelectorAll('.smooth-theme *')]
    .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    .filter(e => e.tagName !== 'STYLE' && e.tagName !== 'title' && e.getClientRects().length)
    .map(e => parseFloat(getComputedStyle(e).fontSize) * (e.ownerSVGElement ? e.ownerSVGElement.getScreenCTM().a : 1)))"""
POINT = {"x": 1.0, "y": 2.0, "x_ends": (0.5, 1.5), "y_ends": None, "label": "p"}


@pytest.fixture(scope="module")
def browser():
    with headless() as browser:
        yield browser


def opened(browser, widget, viewport=DESKTOP, theme="light"):
    page = browser.new_page(viewport=viewport)
    page.set_default_timeout(TIMEOUT)
    page.set_content(f"<html data-theme='{theme}'><body style='margin:8px'>{widget.html}</body></html>")
    return page


def test_claims_are_filtered_and_ordered_by_keyboard(browser):
    page = opened(browser, forest_plot(ROWS, alt="claims"))
    assert page.evaluate(SHOWN) == ["first", "second", "third", "fourth"]
    page.get_by_label("Order").focus()
    page.keyboard.type("effect")
    assert page.evaluate(SHOWN) == ["second", "first", "fourth", "third"]  # by the weakest part; without an effect last
    page.get_by_role("button", name="not reproduced").focus()
    page.keyboard.press("Enter")
    assert page.evaluate(SHOWN) == ["fourth"] and page.locator("[aria-live]").text_content() == "1 shown"
    page.get_by_role("button", name="all").focus()
    page.keyboard.press("Space")
    assert len(page.evaluate(SHOWN)) == 4
    page.close()


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize(
    "widget",
    [forest_plot(ROWS, alt="claims"), frontier({"a": [POINT]}, x_label="x", y_label="y", alt="points")],
    ids=["forest", "frontier"],
)
def test_plots_are_legible_and_take_the_pages_mode(browser, widget, viewport):
    grounds = set()
    for theme in ("light", "dark"):
        page = opened(browser, widget, viewport, theme)
        assert page.evaluate(SMALLEST) >= 11
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        grounds.add(page.evaluate("getComputedStyle(document.querySelector('.smooth-theme')).backgroundColor"))
        page.close()
    assert len(grounds) == 2
