"""The machine's Chromium, a folder served over http to it, and what a look at a page finds.

Chromium is the machine's own: the file that the variable CHROMIUM names, or the first of COMMANDS on the PATH. Without it the tests in a
browser are skipped, or fail where REQUIRE_BROWSER is set, as in continuous integration.
"""

import contextlib
import functools
import os
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import sync_playwright

COMMANDS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
NO_CHROMIUM = "Chromium is not installed: apt-get install chromium, or set CHROMIUM to the file of a Chromium or Chrome"
TIMEOUT = 1000 * int(os.environ.get("BROWSER_TIMEOUT", "60"))  # milliseconds for any one step, on a busy machine
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
CONTRAST = 4.5  # WCAG 2, level AA, text

# What a page's checks see, in one call. `problems` are sentences; the counts tell that there was something to check.
LOOK = """async () => {
  const problems = [], shown = e => e.checkVisibility({opacityProperty: true, visibilityProperty: true}) && e.getClientRects().length;
  const name = e => (e.outerHTML || '').slice(0, 160).replace(/data:[^"]{40,}/, 'data:...');
  const rgba = text => { const n = text.match(/[\\d.]+/g).map(Number); return [n[0], n[1], n[2], n.length > 3 ? n[3] : 1]; };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const ground = e => {
    const layers = [];
    for (; e; e = e.parentElement) {
      const style = getComputedStyle(e);
      if (style.backgroundImage !== 'none') return null;
      layers.push(rgba(style.backgroundColor));
      if (layers.at(-1)[3] === 1) break;
    }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };

  // Text: every element that has text of its own.
  const pale = new Map(); let texts = 0;
  for (const e of document.querySelectorAll('body *:not(svg *, script, style, noscript, option)')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || !shown(e)) continue;
    const below = ground(e);
    if (!below) continue;
    texts++;
    const style = getComputedStyle(e), ratio = contrast(over(rgba(style.color), below), below);
    if (ratio < CONTRAST) pale.set(`${style.color} on rgb(${below.slice(0, 3).map(Math.round)})`, [ratio.toFixed(2), name(e)]);
  }
  for (const [colours, [ratio, e]] of pale) problems.push(`contrast ${ratio}, ${colours}: ${e}`);

  // Images: there, described, as they were drawn.
  const images = [...document.images];
  for (const image of images) {
    image.loading = 'eager';
    try { await image.decode(); } catch { /* naturalWidth tells */ }
    if (!(image.alt || '').trim()) problems.push(`no alt text: ${name(image)}`);
    if (!image.naturalWidth) { problems.push(`not loaded: ${name(image)}`); continue; }
    if (image.closest('.btn')) continue;  // a button's icon is no figure
    for (let e = image; e; e = e.parentElement) {
      const filter = e.matches('img.plot') ? 'none' : getComputedStyle(e).filter;  // plots alone may be turned dark
      if (filter !== 'none') problems.push(`filter ${filter}: ${name(image)}`);
    }
    const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight), pen = canvas.getContext('2d');
    pen.drawImage(image, 0, 0);
    const pixels = pen.getImageData(0, 0, canvas.width, canvas.height).data;
    const opaque = pixels.every((value, i) => i % 4 !== 3 || value === 255);
    if (!opaque && rgba(getComputedStyle(image).backgroundColor)[3] < 1) problems.push(`see-through: ${name(image)}`);
  }

  // Width: the page does not scroll sideways, and what is wider scrolls inside a box of its own.
  const width = document.documentElement.clientWidth;
  const scrolled = Math.max(document.documentElement.scrollWidth, document.body.scrollWidth);
  if (scrolled > width + 1) problems.push(`the page is ${scrolled} pixels wide in a window of ${width}`);
  for (const e of document.querySelectorAll(`${document.querySelector('.bd-article') ? '.bd-article' : 'main'} *:not(svg *)`)) {
    const box = e.getBoundingClientRect();
    if (box.right <= width + 1 || box.width < 2 || !shown(e)) continue;
    let inside = false;
    for (let p = e.parentElement; p && p !== document.body && !inside; p = p.parentElement)
      inside = ['auto', 'scroll', 'hidden', 'clip'].includes(getComputedStyle(p).overflowX) && p.getBoundingClientRect().right <= width + 1
        && p.tagName !== 'MAIN' && !p.matches('.bd-main, .bd-content, .bd-article-container, .bd-article, article');
    if (!inside) problems.push(`beyond the right edge, at ${Math.round(box.right)}: ${name(e)}`);
  }

  // Mathematics.
  const math = [...document.querySelectorAll('.math')];
  if (math.length) await MathJax.startup.promise;
  for (const e of math) {
    if (!e.querySelector('mjx-container svg')) problems.push(`mathematics not set: ${name(e)}`);
    if (e.querySelector('[data-mml-node="merror"], mjx-merror')) problems.push(`error in mathematics: ${e.textContent.slice(0, 80)}`);
  }
  return {problems, texts, images: images.length, math: math.length, theme: document.documentElement.dataset.theme};
}""".replace("CONTRAST", str(CONTRAST))


@functools.cache
def chromium():
    """The browser's file, or None."""
    named = os.environ.get("CHROMIUM")
    return named or next(filter(None, map(shutil.which, COMMANDS)), None)


@contextlib.contextmanager
def headless():
    """The browser; skips or fails the test where there is none."""
    if chromium() is None:
        (pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip)(NO_CHROMIUM)
    root = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
    # No name but the server's own can be resolved: what is asked for outside fails, and is reported, with or without a network.
    outside = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=[*root, *outside, "--disable-gpu", "--force-color-profile=srgb"], timeout=TIMEOUT
        )
        yield browser
        browser.close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Site:
    """A folder served over http, and pages opened from it whose requests and messages are kept."""

    def __init__(self, browser, folder):
        self.browser, self.contexts, self.complaints = browser, {}, []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}/"

    def page(self, viewport, scheme="light", **more):
        """A fresh tab; tabs of the same settings share what they have loaded."""
        key = (viewport["width"], scheme, *more.items())
        if key not in self.contexts:
            context = self.browser.new_context(viewport=viewport, color_scheme=scheme, reduced_motion="reduce", **more)
            context.set_default_timeout(TIMEOUT)
            self.contexts[key] = context
        page = self.contexts[key].new_page()
        page.on("request", self._request)
        page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url}, {request.failure}"))
        page.on(
            "response", lambda response: self.complaints.append(f"{response.status}: {response.url}") if response.status >= 400 else None
        )
        page.on("console", lambda message: self.complaints.append(f"console: {message.text}") if message.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(f"script: {error}"))
        return page

    def _request(self, request):
        if urlsplit(request.url).scheme not in ("data", "blob") and not request.url.startswith(self.address):
            self.complaints.append(f"outside: {request.url}")

    def open(self, page, path):
        self.complaints.clear()
        page.goto(self.address + path, wait_until="load")
        return page

    def close(self):
        for context in self.contexts.values():
            context.close()
        self.server.shutdown()
        self.server.server_close()


def sliders_answer_to_the_keyboard(page):
    """ArrowRight on every slider of a page: another value, said and shown. Returns what is wrong; the toy has its own test."""
    problems = []
    for slider in page.locator("input[type=range]:not(.smooth-toy *)").all():
        figure = slider.locator("xpath=ancestor::*[contains(@class, 'smooth-widget') or contains(@class, 'smooth-explore')]")
        if not slider.is_visible() or not figure.count():
            problems.append("a slider that is hidden or in no figure")
            continue
        before = slider.get_attribute("aria-valuetext"), shown_images(figure)
        slider.focus()
        page.keyboard.press("ArrowRight")
        after = slider.get_attribute("aria-valuetext"), shown_images(figure)
        if not after[0] or any(a == b for a, b in zip(before, after, strict=True)):
            problems.append(f"slider of {figure.get_attribute('aria-label')!r}: ArrowRight changes nothing, {after[0]!r}")
        if slider.evaluate("e => getComputedStyle(e).outlineStyle") == "none":
            problems.append(f"slider of {figure.get_attribute('aria-label')!r}: its focus cannot be seen")
    return problems


def shown_images(figure):
    """Where the visible images of a figure stand and how they are cut."""
    places = """e => [...e.querySelectorAll('img')].filter(i => i.checkVisibility()).map(i =>
        [i.getBoundingClientRect().x, i.getBoundingClientRect().y, getComputedStyle(i.closest('figure')).clipPath])"""
    return figure.evaluate(places)
