"""The live widget Invert and edit in a real browser: by keys, with a reader's own file, against smoothlib."""

import io
import os

import numpy as np
import pytest
import torch
from live_quick import faults, psnr, quick_page, says, shows
from live_site import live_site, loaded, wait
from PIL import Image

from companion.book.live import export, scenes
from companion.data.items import to_tensor
from companion.data.pictures import square
from companion.weights.pipelines import load_pipeline
from smoothlib.editing.inversions import Inversion, invert
from smoothlib.editing.prompt_switch import PromptSwitch, edit
from smoothlib.sampling import share_of_steps

STEPS, RATIO, GUIDANCE = 10, 0.8, 3.0  # of the comparison with smoothlib
SHOWN = "() => document.querySelector('[data-live=edit]').dataset.shown"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with live_site(tmp_path_factory.mktemp("site"), "edit") as site:
        yield site


@pytest.fixture(scope="module")
def page(site):
    return quick_page(site)


@pytest.fixture(scope="module")
def editor(page):
    widget = loaded(page, "edit")
    shows(page, "edit", "replace-000 0.8")
    return widget


@pytest.fixture(scope="module")
def browsers(page, editor):
    """The first scene back again and edited by the browser with STEPS steps: [row][0: back, 1: edited], (3, 64, 64)."""
    images = page.evaluate(
        """async ([steps, ratio]) => {
        const {live} = document.querySelector('[data-live=edit]'), {edited, invert} = await import('./_static/live/switching.js');
        const way = await invert(live.offered[0], live.source(), steps, 'compared', () => true, () => {});
        const {images} = await edited(way, live.target(), ratio, 'compared', 0);
        return [0, 1].map(row => [[...way.images[row]], [...images[row]]]);
    }""",
        [STEPS, RATIO],
    )
    return torch.tensor(images).reshape(2, 2, 3, 64, 64)


@pytest.mark.parametrize("row", [0, 1], ids=["base", "smooth"])
def test_an_inversion_and_a_switch_are_those_of_smoothlib(browsers, row):
    pair = scenes.chosen()[0]
    pipe = load_pipeline(export.MODEL, adapter=(None, export.ADAPTER)[row])
    image, source, target = to_tensor(pair.source)[None], [pair.record["source_caption"]], [pair.record["target_caption"]]
    shared = {"guidance_scale": GUIDANCE, "num_inference_steps": STEPS}
    inverted = invert(pipe, image, source, Inversion("ddim"), **shared)
    for ratio, found in ((0.0, browsers[row, 0]), (RATIO, browsers[row, 1])):
        settings = PromptSwitch(ratio=ratio, **shared)
        expected = edit(pipe, image, source, target, inversion=inverted, settings=settings).images[0]
        print("PSNR at ratio", ratio, psnr(found, expected))
        assert psnr(found, expected) >= 40


def test_the_switch_lies_where_smoothlib_puts_it(page, editor):
    cases = [(k / 100, steps) for k in range(0, 101, 5) for steps in (4, 7, 20, 50)]
    found = page.evaluate(
        "async cases => { const {switchStep} = await import('./_static/live/switching.js'); return cases.map(one => switchStep(...one)); }",
        cases,
    )
    assert found == [steps - share_of_steps(ratio, steps) for ratio, steps in cases]


def test_every_scene_is_offered_with_its_captions_and_its_edit_is_one_switch(page, editor):
    found = page.evaluate("""async () => {
        const manifest = await (await fetch('_static/live/model/manifest.json')).json();
        const {live} = document.querySelector('[data-live=edit]');
        const {caption} = await import('./_static/live/caption_menu.js'), {switchMenu} = await import('./_static/live/switch_menu.js');
        return live.offered.map(scene => {
            const menu = switchMenu(document.createElement('div'), manifest, () => {});
            menu.set(scene.words, scene.target);
            return [caption(manifest, scene.words), caption(manifest, menu.words()), [...scene.pixels], [...scene.truth]];
        });
    }""")
    assert len(found) == len(scenes.chosen()) == scenes.EACH * len(scenes.KINDS)
    for pair, (source, target, pixels, truth) in zip(scenes.chosen(), found, strict=True):
        assert (source, target) == (pair.record["source_caption"], pair.record["target_caption"])
        for image, wanted in ((pixels, pair.source), (truth, pair.target)):
            assert torch.allclose(torch.tensor(image).reshape(3, 64, 64), to_tensor(wanted), atol=1e-6)


def test_the_slider_answers_to_keys_and_at_0_the_picture_just_comes_back(page, editor):
    slider = editor.locator(".live-ratio")
    slider.focus()
    for k in range(2):
        page.keyboard.press("ArrowLeft")
        assert slider.get_attribute("aria-valuetext") == f"r 0.{75 - 5 * k}: {3 - k} of 4 steps"
    shows(page, "edit", " 0.7", "$=")
    says(page, editor, "Edited at r 0.70. PSNR to the true edit: base model ")
    page.keyboard.press("Home")
    shows(page, "edit", " 0", "$=")
    back, edited = (editor.locator(f".live-smooth-{name}").evaluate("e => e.toDataURL()") for name in ("back", "edit"))
    assert back == edited
    numbers = page.evaluate("() => document.querySelector('[data-live=edit]').live.way().images.map(image => [...image])")
    for image, name in zip(torch.tensor(numbers), ("base", "smooth"), strict=True):
        pair = scenes.chosen()[0]
        for wanted, number in ((pair.source, "returned"), (pair.target, "reached")):
            shown = float(editor.locator(f".live-{name}-{number}").inner_text())
            assert shown == pytest.approx(psnr(image, to_tensor(wanted).flatten()), abs=0.051)
    page.keyboard.press("End")
    shows(page, "edit", " 1", "$=")


def test_another_word_has_no_true_picture_and_says_so(page, editor):
    editor.locator(".live-value").select_option("dog")
    says(page, editor, "Edited at r 1.00. There is no true picture of this edit.")
    assert editor.locator(".live-base-reached").inner_text() == "no true picture"
    assert "“a photo of a christmas tree on a tiled floor in a lobby” → “a photo of a dog on a tiled floor" in editor.inner_text()


def test_an_inversion_can_be_cancelled_and_goes_on_where_it_was(page, editor):
    editor.locator(".live-scene").select_option(index=3)
    editor.get_by_role("button", name="Cancel").click()
    assert editor.locator(".live-status").inner_text() == "Cancelled." and editor.locator(".live-working").is_hidden()
    assert page.evaluate("() => document.querySelector('[data-live=edit]').live.way()") is None
    editor.get_by_role("button", name="Go on").click()
    says(page, editor, "Edited at r 1.00. PSNR to the true edit: base model ")


def as_png(image):
    content = io.BytesIO()
    image.save(content, "png")
    return content.getvalue()


def smooth_picture(width, height):
    x, y = np.meshgrid(np.linspace(0, 3, width), np.linspace(0, 3, height))
    pixels = np.stack([np.sin(x) * 0.5 + 0.5, np.cos(y) * 0.5 + 0.5, (np.sin(x * y) + 1) / 2], axis=-1)
    return Image.fromarray((255 * pixels).round().astype(np.uint8))


@pytest.mark.parametrize(("width", "height"), [(300, 200), (40, 40)], ids=["large", "small"])
def test_a_readers_own_picture_is_cropped_resized_and_sent_nowhere(page, editor, width, height):
    image, asked = smooth_picture(width, height), []
    before = page.evaluate(SHOWN)
    page.on("request", lambda request: None if request.url.startswith("blob:") else asked.append(request.url))
    editor.locator(".live-file").set_input_files({"name": "own.png", "mimeType": "image/png", "buffer": as_png(image)})
    wait(page, "was => (now => now !== was && now.startsWith('own '))(document.querySelector('[data-live=edit]').dataset.shown)", before)
    said = editor.locator(".live-own").inner_text()
    assert said.startswith("Your picture stays on this device. It was ") and "resized to 64 x 64 pixels" in said
    assert ("cut to its middle 200 x 200 pixels" in said) == (width != height)
    found = page.evaluate("() => [...document.querySelector('[data-live=edit]').live.way().picture.pixels]")
    assert psnr(torch.tensor(found).reshape(3, 64, 64), to_tensor(square(image, 64))) > 35  # another filter, the same picture
    says(page, editor, "Edited at r 1.00. There is no true picture of this edit.")
    assert not asked


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("notes.png", lambda: b"not a picture", "notes.png cannot be read, but must be a picture such as a PNG, JPEG or WebP file."),
        ("large.png", lambda: os.urandom(16) * 700_000, "large.png has 11.2 MB, but must have at most 10 MB."),
        ("wide.png", lambda: as_png(Image.new("L", (5200, 5000))), "wide.png has 5200 x 5000 pixels, but must have at most 25 million."),
    ],
    ids=["no picture", "bytes", "pixels"],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence(page, editor, name, content, sentence, tmp_path):
    before = page.evaluate(SHOWN)
    (tmp_path / name).write_bytes(content())
    editor.locator(".live-file").set_input_files(tmp_path / name)
    says(page, editor, sentence)
    assert editor.locator(".live-file").input_value() == ""
    assert page.evaluate(SHOWN) == before


def test_it_fits_a_phone_and_axe_the_console_and_the_network_have_nothing_to_say(site, page, editor):
    assert not faults(site, page)
