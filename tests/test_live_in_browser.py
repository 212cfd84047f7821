"""The widget Walk in a real browser: a reader loads the model, moves the slider, and sees what PyTorch would have made."""

import shutil

import pytest
import torch
from browsing import PHONE, Site, headless

from companion.base.paths import ROOT
from companion.book.live import export, menu, widgets
from companion.weights.pipelines import load_pipeline
from smoothlib import decode_latents, encode_prompts, sample, step_statistics

pytest.importorskip("onnx", reason="the extra live is not installed: pip install -c constraints.txt -e '.[live]'")
FOLDERS = ("live", "vendor/ort")
LOADING = 120_000  # milliseconds, on a busy machine
HEAD = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"><title>Walk</title>'
PAGE = f'<!doctype html><html lang="en" data-theme="light"><head>{HEAD}</head><body><main>WIDGET</main></body></html>'


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    for name in FOLDERS:
        shutil.copytree(ROOT / "book" / "_static" / name, folder / "_static" / name)
    made = export.export(folder / "_static" / "live" / "model")
    (folder / "index.html").write_text(PAGE.replace("WIDGET", widgets.walk(made, "_static")), encoding="utf-8")
    with headless() as browser:
        site = Site(browser, folder)
        yield site
        site.close()


@pytest.fixture(scope="module")
def ready(site):
    """The page on a phone's screen after the model was asked for and has answered once."""
    page = site.page(PHONE)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    site.open(page, "index.html")
    before = [url for url in asked if "/model/" in url or "/vendor/" in url]
    page.get_by_role("button", name="Load the model").click()
    page.wait_for_selector(".live-walk[data-first]", timeout=LOADING)
    assert not before, "something of the model was loaded before anyone asked"
    print("seconds to the first picture:", page.get_attribute(".live-walk", "data-first"))
    return page


def psnr(a, b):
    return float(-10 * torch.log10(((a - b) / 2).square().mean()))


def test_a_picture_equals_pytorchs_from_the_same_noise(ready):
    made = ready.evaluate("""async () => {
        const {live} = document.querySelector('.live-walk'), {noise, caption} = live.job(0.35), {images} = await live.picture(0.35, 20);
        return {noise: [...noise], caption, images: images.map(image => [...image])};
    }""")
    (subject,) = [one for one in menu.subjects() if one.file == made["caption"]["file"]]
    noise = torch.tensor(made["noise"]).reshape(1, 4, 16, 16)
    assert abs(float(noise.mean())) < 0.15 and 0.9 < float(noise.std()) < 1.1
    for image, adapter in zip(made["images"], (None, export.ADAPTER), strict=True):
        pipe = load_pipeline(export.MODEL, adapter=adapter)
        words = encode_prompts(pipe, [menu.captions(subject)[made["caption"]["row"]]])
        expected = decode_latents(pipe, sample(pipe, noise, words, guidance_scale=3.0, num_inference_steps=20))
        found = psnr(torch.tensor(image).reshape(1, 3, 64, 64), expected)
        print("PSNR", adapter, found)
        assert found >= 40


def test_the_slider_answers_to_keys_and_the_walk_completes_with_its_numbers(ready, site):
    slider = ready.locator(".live-eta")
    slider.focus()
    ready.keyboard.press("ArrowRight")
    ready.wait_for_selector('.live-walk[data-shown^="0.05 "]', timeout=LOADING)
    ready.wait_for_selector('.live-walk[data-shown="0.05 20"]', timeout=LOADING)
    assert slider.get_attribute("aria-valuetext") == "eta 0.05, 20 steps"
    ready.wait_for_function("document.querySelector('.live-status').textContent.startsWith('The walk is complete')", timeout=4 * LOADING)
    walks = ready.evaluate("""async () => {
        const {live} = document.querySelector('.live-walk'), frames = [];
        for (let k = 0; k < 11; k++) frames.push((await live.picture(k / 10, 20)).images.map(image => [...image]));
        return frames;
    }""")
    pixels = torch.tensor(walks, dtype=torch.float64).transpose(0, 1) / 2 + 0.5  # (2, 11, 3 H W)
    numbers = step_statistics(pixels.diff(dim=1).norm(dim=2))
    for row, name in enumerate(("base", "smooth")):
        shown = {word: float(ready.inner_text(f".live-{name}-{word}")) for word in ("istd", "mean", "cv")}
        assert shown["istd"] == pytest.approx(float(numbers["istd"][row]), abs=0.0051)
        assert shown["mean"] == pytest.approx(float(numbers["mean_step"][row]), abs=0.0051)
        assert shown["cv"] == pytest.approx(float(numbers["cv"][row]), abs=0.00051)
    assert ready.locator(".live-point").count() == 20
    assert ready.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert not site.complaints


def test_another_pair_begins_a_new_walk_and_a_wrong_seed_is_one_sentence(ready):
    before = ready.evaluate("document.querySelector('.live-smooth').toDataURL()")
    ready.get_by_role("button", name="Another pair").click()
    assert ready.input_value(".live-seed-a") == "3" and ready.inner_text(".live-base-cv") == "–"
    ready.wait_for_function("was => document.querySelector('.live-smooth').toDataURL() !== was", arg=before, timeout=LOADING)
    ready.fill(".live-seed-a", "-1")
    ready.press(".live-seed-a", "Tab")
    assert ready.inner_text(".live-status").startswith("The seed is -1, but must be a whole number from 0 to 999999")
    ready.select_option(".live-class", "dog")
    assert ready.is_disabled(".live-colour")


def test_loading_can_be_cancelled_and_begun_again(site):
    page = site.page(PHONE)
    page.route("**/unet.onnx", lambda route: None)  # never answered: there is time to cancel
    site.open(page, "index.html")
    page.get_by_role("button", name="Load the model").click()
    page.get_by_role("button", name="Cancel").click()
    page.wait_for_function("document.querySelector('.live-status').textContent === 'Loading was cancelled.'")
    assert page.is_enabled(".live-load") and page.is_hidden(".live-progress")
    page.close()


def test_a_browser_without_simd_is_told_in_one_sentence(site):
    page = site.page(PHONE)
    page.add_init_script("WebAssembly.validate = () => false")
    site.open(page, "index.html")
    page.wait_for_function("document.querySelector('.live-status').textContent.includes('lacks WebAssembly SIMD')")
    assert page.is_hidden(".live-load")
    page.close()
