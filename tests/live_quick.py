"""A phone's page with live widgets whose model takes few steps, for tests of what does not depend on their number."""

import torch
from browsing import LOOK
from live_site import PHONE, wait
from test_accessibility import SERIOUS, findings

QUICK = [2, 4]  # steps while something moves, and at rest: enough for a switch to lie between them


def quick_page(site):
    page = site.page(PHONE, has_touch=True)
    page.route("**/manifest.json", lambda route: route.fulfill(json=route.fetch().json() | {"steps": QUICK}))
    return site.open(page, "index.html")


def says(page, widget, beginning):
    """Wait until the widget's status line begins so."""
    wait(page, "([e, text]) => e.textContent.startsWith(text)", [widget.locator(".live-status").element_handle(), beginning])


def shows(page, name, value, how="="):
    """Wait until the widget `name` shows `value`: `how` is the operator of CSS, = for all of it, ^= and $= for how it begins and ends."""
    page.wait_for_selector(f'[data-live="{name}"][data-shown{how}"{value}"]')


def psnr(a, b):
    """In dB, of images in [-1, 1]."""
    return float(-10 * torch.log10(((a - b) / 2).square().mean()))


def faults(site, page):
    """In light and dark what axe-core finds, and what cannot be read or does not fit; what the console or the network said."""
    found = []
    for theme in ("light", "dark"):
        page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
        found += [(theme, *finding) for finding in findings(page) if finding[0] in SERIOUS]
        found += page.evaluate(LOOK)["problems"]
    return found + site.complaints
