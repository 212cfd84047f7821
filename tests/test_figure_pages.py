"""The interactive figures in a real browser, whatever the book holds today."""

import io

import numpy as np
import pytest
from browsing import DESKTOP, LOOK, PHONE, Site, headless, sliders_answer_to_the_keyboard
from PIL import Image

from companion.book import before_after, walk_scrubber

SHADES = {"Base": (200, 40, 40), "Smooth": (40, 40, 200)}
FRAMES = 11


def shade(row, i, k):
    """The colour of prompt i's frame k: each differs from all others in green."""
    return np.add(SHADES[row], (0, 15 * k + 7 * i, 0))


@pytest.fixture(scope="module")
def browser():
    with headless() as browser:
        yield browser


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


def to_the_first_prompt_and_frame(page, walk):
    if walk.locator("select").count():
        walk.locator("select").select_option(index=0)
    walk.locator("input[type=range]").focus()
    page.keyboard.press("Home")


def test_a_walk_opens_before_its_largest_step(page):
    """Of all prompts: the largest step is the last one of Base in the second."""
    walk = page.locator(".smooth-walk").first
    assert walk.locator("select").evaluate("e => e.selectedIndex") == 1
    np.testing.assert_array_equal(colours(walk), [shade("Base", 1, 9), shade("Smooth", 1, 9)])
    assert "Opens before the largest step" in walk.locator(".smooth-note").inner_text()
    to_the_first_prompt_and_frame(page, walk)
    walk.get_by_role("button", name="Largest jump").click()
    assert walk.locator("input[type=range]").get_attribute("aria-valuetext") == "frame 10 of 11, eta = 0.9"


def test_a_walk_plays_unless_the_reader_wants_it_still(page, figures):
    walk = page.locator(".smooth-walk").first
    to_the_first_prompt_and_frame(page, walk)
    walk.get_by_role("button", name="Next frame").click()  # the pages of these tests ask for reduced motion
    page.wait_for_timeout(1200)
    assert walk.locator("input[type=range]").input_value() == "1"
    page.emulate_media(reduced_motion="no-preference")
    walk.get_by_role("button", name="Play").click()
    page.wait_for_function("document.querySelector('.smooth-walk input').value >= 3")
    walk.get_by_role("button", name="Pause").click()
    stopped = walk.locator("input[type=range]").input_value()
    page.wait_for_timeout(1200)
    assert walk.locator("input[type=range]").input_value() == stopped


def test_arrow_keys_move_a_walk(page):
    walk = page.locator(".smooth-walk").first
    slider = walk.locator("input[type=range]")
    to_the_first_prompt_and_frame(page, walk)
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
    to_the_first_prompt_and_frame(page, walk)
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
    for walk in page.locator(".smooth-walk").all():
        to_the_first_prompt_and_frame(page, walk)
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
    view, pixels = page.locator(".smooth-view:visible").first, "e => getComputedStyle(e).imageRendering"
    assert view.bounding_box()["width"] == wide and page.locator("img:visible").first.evaluate(pixels) == "pixelated"
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
