"""The built book and the interactive figures in a real browser: headless Chromium, over http, light and dark, desktop and phone.

Chromium is the machine's own: the file that the variable CHROMIUM names, or the first of COMMANDS on the PATH. Without it these tests are
skipped, or fail where REQUIRE_BROWSER is set, as in continuous integration.
"""

import base64
import functools
import io
import os
import re
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from smoothlib.figures import before_after, walk_scrubber
from smoothlib.paths import ROOT

HTML = ROOT / "_build" / "html"
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
    for (let e = image; e; e = e.parentElement)
      if (getComputedStyle(e).filter !== 'none') problems.push(`filter ${getComputedStyle(e).filter}: ${name(image)}`);
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


@pytest.fixture(scope="module")
def browser():
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


def sliders_answer_to_the_keyboard(page):
    """ArrowRight on every slider of a page: another value, said and shown. Returns what is wrong."""
    problems = []
    for slider in page.locator("input[type=range]").all():
        figure = slider.locator("xpath=ancestor::*[contains(@class, 'smooth-widget')]")
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
        [i.getBoundingClientRect().x, getComputedStyle(i.closest('figure')).clipPath])"""
    return figure.evaluate(places)


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


# The interactive figures, whatever the book holds today ------------------------------------------------------------------------------

SHADES = {"Base": (200, 40, 40), "Smooth": (40, 40, 200)}
FRAMES = 11


def shade(row, i, k):
    """The colour of prompt i's frame k: each differs from all others in green."""
    return np.add(SHADES[row], (0, 15 * k + 7 * i, 0))


@pytest.fixture(scope="module")
def figures(browser, tmp_path_factory):
    """A page with two scrubbers, the same one once more, and two wipers, on a dark ground."""
    ones = np.ones((1, 3, 64, 64))
    walks = [
        {row: np.stack([shade(row, i, k)[:, None, None] * ones[0] for k in range(FRAMES)]).astype(np.uint8) for row in SHADES}
        for i in (0, 1)
    ]
    distances = [{"Base": np.linspace(1, 2, 10) + i, "Smooth": np.linspace(2, 1, 10) + i} for i in (0, 1)]
    long = "a very long caption " * 6
    walk = walk_scrubber(walks, distances, captions=["a <b>red</b> cube", long], alt="Two rows of walks")
    single = walk_scrubber(walks[:1], distances[:1], captions=["only one"], alt="One walk")
    red, blue = (np.broadcast_to(np.array(colour).reshape(3, 1, 1), (3, 64, 64)).astype(np.uint8) for colour in SHADES.values())
    wipe = before_after([(red, blue), (blue, red)], labels=["first", "second"], alt="Two pairs")
    large = before_after([(red.repeat(9, 1).repeat(9, 2),) * 2], labels=["large"], alt="A large pair")
    folder = tmp_path_factory.mktemp("figures")
    body = "<hr>".join(f"<div>{figure.html}</div>" for figure in (walk, single, walk, wipe, large))
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"><title>Figures</title>'
    theme = "html body main div img{max-width:100%;height:20px;margin:1em;padding:.5rem;filter:brightness(.8);background:#999}"
    style = f"<style>body{{background:#121212;color:#eee;margin:8px}} {theme}</style>"
    (folder / "figures.html").write_text(f'<!doctype html><html lang="en">{head}{style}<body><main>{body}</main></body></html>')
    site = Site(browser, folder)
    yield site
    site.close()


@pytest.fixture
def page(figures):
    page = figures.open(figures.page(DESKTOP), "figures.html")
    yield page
    assert not figures.complaints
    page.close()


def colours(figure):
    """The colour in the middle of each visible view of a walk."""
    views = [view for view in figure.locator(".smooth-view").all() if view.is_visible()]
    pictures = [np.asarray(Image.open(io.BytesIO(view.screenshot())).convert("RGB")) for view in views]
    for picture in pictures:
        assert (picture[2:-2, 2:-2] == picture[2, 2]).all(), (
            "one frame fills the view, but for rims that share their pixels with the ground"
        )
    return [picture[2, 2] for picture in pictures]


def test_arrow_keys_move_a_walk(page):
    walk = page.locator(".smooth-walk").first
    slider = walk.locator("input[type=range]")
    assert slider.get_attribute("aria-valuetext") == "frame 1 of 11, eta = 0"
    np.testing.assert_array_equal(colours(walk), [shade("Base", 0, 0), shade("Smooth", 0, 0)])
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "frame 4 of 11, eta = 0.3" == walk.locator(".smooth-at").inner_text()
    np.testing.assert_array_equal(colours(walk), [shade("Base", 0, 3), shade("Smooth", 0, 3)])
    section = walk.locator("section").first
    assert section.locator("img").first.get_attribute("alt") == "Base, a <b>red</b> cube, frame 4 of 11"
    marked = [point.get_attribute("data-frame") for point in section.locator(".smooth-now").all()]
    assert marked == ["3", "3"]  # one a row: the third step leads to the fourth frame
    assert "step to this frame 1.22" in section.inner_text() and "step to this frame 1.78" in section.inner_text()
    cursor, point = (section.locator(found).first.bounding_box() for found in (".smooth-cursor", ".smooth-now"))
    assert cursor["x"] + cursor["width"] / 2 == pytest.approx(point["x"] + point["width"] / 2, abs=1)
    page.keyboard.press("End")
    np.testing.assert_array_equal(colours(walk), [shade("Base", 0, 10), shade("Smooth", 0, 10)])
    page.keyboard.press("Home")
    assert "first frame, no step yet" in section.inner_text() and not section.locator(".smooth-now").count()


def test_choosing_a_prompt_keeps_the_frame(page):
    walk = page.locator(".smooth-walk").first
    walk.locator("input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    walk.locator("select").focus()
    page.keyboard.press("ArrowDown")
    assert [section.is_visible() for section in walk.locator("section").all()] == [False, True]
    np.testing.assert_array_equal(colours(walk), [shade("Base", 1, 1), shade("Smooth", 1, 1)])


def test_figures_on_one_page_do_not_disturb_each_other(page):
    sliders = page.locator("input[type=range]").all()
    assert len(sliders) == 5
    for moved in range(5):
        before = [slider.get_attribute("aria-valuetext") for slider in sliders]
        sliders[moved].focus()
        page.keyboard.press("ArrowRight")
        after = [slider.get_attribute("aria-valuetext") for slider in sliders]
        assert [a != b for a, b in zip(before, after, strict=True)] == [i == moved for i in range(5)]
    assert not sliders_answer_to_the_keyboard(page)


def wiped(page, figure):
    """The share of the picture that shows the left image."""
    pair = next(pair for pair in figure.locator(".smooth-pair").all() if pair.is_visible())
    picture = np.asarray(Image.open(io.BytesIO(pair.screenshot())).convert("RGB")).astype(int)
    row = picture[picture.shape[0] // 2]
    left, right = (np.abs(row - colour).sum(-1) < 12 for colour in SHADES.values())
    assert (left | right).mean() > 0.97  # the rest is the line between them
    assert np.flatnonzero(left).max(initial=-1) < np.flatnonzero(right).min(initial=len(row))
    return left.sum() / (left.sum() + right.sum())


def test_wiping_by_keyboard_and_by_pointer(page):
    figure = page.locator(".smooth-compare").first
    slider = figure.locator("input[type=range]")
    assert wiped(page, figure) == pytest.approx(0.5, abs=0.02)
    slider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "Source 60 %, Reconstruction 40 %"
    assert wiped(page, figure) == pytest.approx(0.6, abs=0.02)
    box = figure.locator(".smooth-pair").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 30)
    page.mouse.up()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 30)  # no button held: nothing moves
    assert slider.get_attribute("aria-valuetext") == "Source 25 %, Reconstruction 75 %"
    assert wiped(page, figure) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(("viewport", "wide"), [(DESKTOP, 256), (PHONE, 128)])
def test_figures_fit_are_unfiltered_and_readable(figures, viewport, wide):
    page = figures.open(figures.page(viewport, "dark"), "figures.html")
    seen = page.evaluate(LOOK)
    assert not seen["problems"] and seen["images"] == 16 and not figures.complaints
    view, pixels = page.locator(".smooth-view").first, "e => getComputedStyle(e).imageRendering"
    assert view.bounding_box()["width"] == wide and page.locator("img").first.evaluate(pixels) == "pixelated"
    assert page.locator("img").last.evaluate(pixels) == "auto"
    page.close()


def test_without_scripts_every_image_shows(figures):
    page = figures.open(figures.page(PHONE, java_script_enabled=False), "figures.html")
    assert all(image.is_visible() for image in page.locator("img").all())
    assert not any(control.is_visible() for control in page.locator("input, select").all())
    strip = page.locator(".smooth-view").first
    picture = np.asarray(Image.open(io.BytesIO(strip.screenshot())).convert("RGB"))
    np.testing.assert_array_equal(picture[40, 64], shade("Base", 0, 0))
    np.testing.assert_array_equal(picture[40, 128 + 64], shade("Base", 0, 1))
    page.close()


def test_a_browser_is_required_where_it_is_said_to_be():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"^export REQUIRE_BROWSER=1$", script, re.MULTILINE) and "apt-get install" in script
