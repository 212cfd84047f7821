"""A page with live widgets, served with the model's files as a built book serves them."""

import contextlib
import json

import pytest
from browsing import PHONE, Site, headless

from companion.base.paths import ROOT
from companion.book.live import export, widgets

LOADING = 120_000  # milliseconds, on a busy machine
STEPS = (1, 2)  # while a slider moves, and at rest: a walk of a test takes seconds
HEAD = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"><title>Live</title>'
PAGE = f'<!doctype html><html lang="en" data-theme="THEME"><head>{HEAD}</head><body><main><h1>Live</h1>WIDGETS</main></body></html>'


@contextlib.contextmanager
def live_site(folder, *names):
    """index.html (light) and dark.html with the widgets `names`; the files that the book has in _static, but for fewer steps."""
    pytest.importorskip("onnx", reason="the extra live is not installed: pip install -c constraints.txt -e '.[live]'")
    made = export.export()
    static = folder / "_static"
    (static / "vendor").mkdir(parents=True)
    (static / "vendor" / "ort").symlink_to(export.RUNTIME)
    (static / "live" / "model").mkdir(parents=True)
    for source, target in ((ROOT / "book" / "_static" / "live", static / "live"), (export.HOME, static / "live" / "model")):
        for file in source.iterdir():
            (target / file.name).symlink_to(file)
    (static / "live" / "model" / export.MANIFEST).unlink()
    (static / "live" / "model" / export.MANIFEST).write_text(json.dumps(made | {"steps": STEPS}), encoding="utf-8")
    text = PAGE.replace("WIDGETS", "".join(widgets.launcher(name, made, "./_static") for name in names))
    for theme, name in (("light", "index.html"), ("dark", "dark.html")):
        (folder / name).write_text(text.replace("THEME", theme), encoding="utf-8")
    with headless() as browser:
        site = Site(browser, folder)
        yield site
        site.close()


def button(page, name):
    return page.locator(f'[data-live="{name}"]').get_by_role("button", name="Load the model")


def loaded(page, name):
    """Press the widget's button, wait until its model is there, and return the widget."""
    button(page, name).click()
    page.locator(f'[data-live="{name}"] .live-body').wait_for(timeout=LOADING)
    return page.locator(f'[data-live="{name}"]')


def wait(page, condition, argument=None, times=1):
    page.wait_for_function(condition, arg=argument, timeout=times * LOADING)


__all__ = ["LOADING", "PHONE", "STEPS", "button", "live_site", "loaded", "wait"]
