"""A page with live widgets, served with the model's files as a built book serves them."""

import contextlib

import pytest
from browsing import PHONE, Site, headless

from companion.base.paths import ROOT
from companion.book.live import export, widgets

LOADING = 120_000  # milliseconds, on a busy machine
HEAD = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"><title>Live</title>'
PAGE = f'<!doctype html><html lang="en" data-theme="THEME"><head>{HEAD}</head><body><main>WIDGETS</main></body></html>'


@contextlib.contextmanager
def live_site(folder, *names):
    """index.html (light) and dark.html with the widgets `names`; the files that the book has in _static."""
    pytest.importorskip("onnx", reason="the extra live is not installed: pip install -c constraints.txt -e '.[live]'")
    made = export.export()
    static = folder / "_static"
    (static / "vendor").mkdir(parents=True)
    (static / "live").mkdir()
    (static / "vendor" / "ort").symlink_to(export.RUNTIME)
    for file in (ROOT / "book" / "_static" / "live").iterdir():
        (static / "live" / file.name).symlink_to(file)
    (static / "live" / "model").symlink_to(export.HOME)
    text = PAGE.replace("WIDGETS", "".join(widgets.launcher(name, made, "./_static") for name in names))
    for theme, name in (("light", "index.html"), ("dark", "dark.html")):
        (folder / name).write_text(text.replace("THEME", theme), encoding="utf-8")
    with headless() as browser:
        site = Site(browser, folder)
        yield site
        site.close()


def loaded(page, name):
    """Press the widget's button, wait until its model is there, and return the widget."""
    widget = page.locator(f'.live-widget[data-live="{name}"]')
    widget.get_by_role("button", name="Load the model").click()
    widget.locator(".live-body").wait_for(timeout=LOADING)
    return widget


def wait(page, condition, argument=None, times=1):
    page.wait_for_function(condition, arg=argument, timeout=times * LOADING)


__all__ = ["LOADING", "PHONE", "live_site", "loaded", "wait"]
