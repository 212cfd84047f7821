"""The live widgets in a real browser: a reader loads the model, moves sliders, and sees what PyTorch would have made."""

from pathlib import Path

import pytest
import torch
from browsing import LOOK
from live_site import LOADING, PHONE, STEPS, button, live_site, loaded, wait
from test_accessibility import SERIOUS, findings
from test_live import rescale

from companion.book.live import export
from companion.weights.pipelines import load_pipeline
from smoothlib import decode_latents, encode_prompts, sample, step_statistics

FRAMES, FINE = 11, STEPS[1]
WALKED = f"document.querySelector('[data-live=walk]').dataset.walk === '{FINE}'"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with live_site(tmp_path_factory.mktemp("site"), "walk", "smoothness") as site:
        yield site


@pytest.fixture(scope="module")
def ready(site):
    """The page on a phone's screen after the model was asked for and has answered once."""
    page = site.page(PHONE)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    site.open(page, "index.html")
    assert not [url for url in asked if "_static" in url], "something was loaded before anyone asked"
    loaded(page, "walk")
    page.wait_for_selector("[data-live=walk][data-first]", timeout=LOADING)
    print("seconds to the first picture:", page.get_attribute("[data-live=walk]", "data-first"))
    return page


def expected(noise, caption, scale, steps):
    """PyTorch's picture."""
    pipe = load_pipeline(export.MODEL, adapter=export.ADAPTER if scale else None)
    if scale:
        rescale(pipe.unet, scale)
    latents = sample(pipe, noise, encode_prompts(pipe, [caption]), guidance_scale=3.0, num_inference_steps=steps)
    return decode_latents(pipe, latents)


def walked(page, steps):
    """What the library says of the walk that the widget Walk has made."""
    walks = page.evaluate(
        """async steps => {
        const {live} = document.querySelector('[data-live=walk]'), frames = [];
        for (let k = 0; k < 11; k++) frames.push((await live.picture(k / 10, steps)).images.map(image => [...image]));
        return frames;
    }""",
        steps,
    )
    pixels = torch.tensor(walks, dtype=torch.float64).transpose(0, 1) / 2 + 0.5  # (2, 11, 3 H W)
    return step_statistics(pixels.diff(dim=1).norm(dim=2))


def psnr(a, b):
    return float(-10 * torch.log10(((torch.tensor(a).reshape(b.shape) - b) / 2).square().mean()))


def test_a_picture_equals_pytorchs_from_the_same_noise(ready):
    """At the steps that the book has, for the base model, Smooth Diffusion and a strength beyond it in one call."""
    made = ready.evaluate("""async steps => {
        const {ask} = await import('./_static/live/engine.js'), {noise} = await import('./_static/live/mathematics.js');
        const start = noise(5, 1024), prompts = 'a photo of a blue car on grass in a sunny park', scales = [0, 1, 1.5];
        const request = {kind: 'sample', latents: scales.map(() => start), prompts, scales, steps};
        const {images} = await ask('test', 0, null, request);
        return {noise: [...start], prompts, scales, images: images.map(image => [...image])};
    }""", export.STEPS[0])  # fmt: skip
    noise = torch.tensor(made["noise"]).reshape(1, 4, 16, 16)
    assert abs(float(noise.mean())) < 0.15 and 0.9 < float(noise.std()) < 1.1
    for scale, image in zip(made["scales"], made["images"], strict=True):
        found = psnr(image, expected(noise, made["prompts"], scale, export.STEPS[0]))
        print(f"PSNR at scale {scale}: {found:.1f} dB")
        assert found >= 40


def test_a_latent_an_image_and_an_inversion_equal_pytorchs(ready):
    """The encoder's part is loaded when it is asked for; steps 0 to 3 and the rest are the whole; inversion leads back."""
    made = ready.evaluate("""async () => {
        const {ask, load} = await import('./_static/live/engine.js'), {noise} = await import('./_static/live/mathematics.js');
        await load(['encoder'], null, new AbortController().signal);
        const how = {prompts: 'a photo of a cat', scales: 1, steps: 6}, start = noise(3, 1024);
        const wish = request => ask('test', 0, null, request);
        const {latents: half} = await wish({...how, kind: 'sample', latents: [start], last: 2, plain: true});
        const {latents, images} = await wish({...how, kind: 'sample', latents: half, first: 3});
        const encoded = await wish({kind: 'encode', images});
        const inverted = await wish({...how, kind: 'invert', latents: encoded.latents, guidance: 1});
        return [start, latents[0], images[0], encoded.latents[0], inverted.latents[0]].map(one => [...one]);
    }""")  # fmt: skip
    from smoothlib import ddim_invert, encode_images

    noise, latents, image, encoded, inverted = made
    pipe = load_pipeline(export.MODEL, adapter=export.ADAPTER)
    words = encode_prompts(pipe, ["a photo of a cat"])
    whole = sample(pipe, torch.tensor(noise).reshape(1, 4, 16, 16), words, guidance_scale=3.0, num_inference_steps=6)
    z0 = encode_images(pipe, torch.tensor(image).reshape(1, 3, 64, 64))
    back = ddim_invert(pipe, z0, words, num_inference_steps=6)[-1]
    for got, wanted in ((latents, whole), (encoded, z0), (inverted, back)):
        assert (torch.tensor(got).reshape(wanted.shape) - wanted).norm() <= 1e-2 * wanted.norm()


def test_the_slider_answers_to_keys_and_pointer_and_the_walk_completes_with_its_numbers(ready, site):
    slider = ready.locator(".live-eta")
    slider.focus()
    ready.keyboard.press("ArrowRight")
    wait(ready, f"document.querySelector('[data-live=walk]').dataset.shown === '0.05 {FINE}'")
    assert slider.get_attribute("aria-valuetext") == f"eta 0.05, {FINE} steps"
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    ready.mouse.move(box["x"] + 10, box["y"] + box["height"] / 2)
    ready.mouse.down()
    for share in (0.3, 0.5, 0.6, 0.75):
        ready.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
    wait(ready, "/^0.[4-8]\\d* /.test(document.querySelector('[data-live=walk]').dataset.shown)")  # while the pointer is down
    ready.mouse.up()
    wait(ready, WALKED)
    numbers = walked(ready, FINE)
    for row, name in enumerate(("base", "smooth")):
        shown = {word: float(ready.inner_text(f".live-{name}-{word}")) for word in ("istd", "mean", "cv")}
        assert shown["istd"] == pytest.approx(float(numbers["istd"][row]), abs=0.0051)
        assert shown["mean"] == pytest.approx(float(numbers["mean_step"][row]), abs=0.0051)
        assert shown["cv"] == pytest.approx(float(numbers["cv"][row]), abs=0.00051)
    assert ready.locator("[data-live=walk] .live-point").count() == 2 * (FRAMES - 1)
    assert f"DDIM, {FINE} steps, guidance 3" in ready.inner_text("[data-live=walk] caption")
    assert ready.inner_text("[data-live=walk] .live-status").startswith("The walk is complete")
    assert not site.complaints and ready.evaluate("document.getAnimations().length") == 0


def test_two_widgets_share_the_model_and_agree(ready, site):
    """Smoothness beside a walk that is being made: its ends are that walk's rows, and a strength between is PyTorch's."""
    ready.get_by_role("button", name="Another pair").click()
    assert ready.input_value("[data-live=walk] .live-seed-a") == "3" and ready.inner_text(".live-base-cv") == "–"
    widget = loaded(ready, "smoothness")
    for field, seed in (("a", "3"), ("b", "4")):
        widget.locator(f".live-seed-{field}").fill(seed)
        widget.locator(f".live-seed-{field}").press("Tab")
    wait(ready, "(({live}) => live.rowOf(0) && live.rowOf(1))(document.querySelector('[data-live=smoothness]'))")
    for stop in ready.get_by_role("button", name="Stop").all():
        stop.click()
    numbers = walked(ready, STEPS[0])
    rows = {cells[0]: cells[1:] for cells in (row.inner_text().split() for row in widget.locator("tbody tr").all())}
    for row, strength in enumerate(("0.00", "1.00")):
        shown = [float(numbers[word][row]) for word in ("istd", "cv", "mean_step")]
        assert rows[strength][0] == str(STEPS[0]) and [float(value) for value in rows[strength][1:4]] == pytest.approx(shown, abs=0.0051)
    assert rows["0.00"][4:6] == ["0.00", "100"] and float(rows["1.00"][4]) > 0
    widget.locator(".live-strength").focus()
    ready.keyboard.press("ArrowLeft")
    wait(ready, f"document.querySelector('[data-live=smoothness]').live.frames(0.75, {STEPS[0]})[5]")  # the middle one comes first
    made = ready.evaluate("""async steps => {
        const {live} = document.querySelector('[data-live=smoothness]'), {live: walk} = document.querySelector('[data-live=walk]');
        const {request} = walk.frame(0.5, steps);
        return {noise: [...request.latents[0]], caption: request.prompts, image: [...live.frames(0.75, steps)[5][0]]};
    }""", STEPS[0])  # fmt: skip
    assert widget.locator(".live-curve text").all_text_contents()[-2:] == ["Base model", "Strength 0.75"]
    assert psnr(made["image"], expected(torch.tensor(made["noise"]).reshape(1, 4, 16, 16), made["caption"], 0.75, STEPS[0])) >= 40
    assert "DDIM" in widget.locator("caption").inner_text() and "guidance 3" in widget.locator("caption").inner_text()
    assert not site.complaints


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_loaded_widget_can_be_read_on_a_phone_in_both_modes(ready, theme):
    ready.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
    assert ready.evaluate(LOOK)["problems"] == []
    assert [finding for finding in findings(ready) if finding[0] in SERIOUS] == []


def test_a_wrong_seed_is_one_sentence_and_the_menu_offers_what_there_is(ready):
    widget = ready.locator("[data-live=walk]")
    before = widget.locator(".live-seed-a").input_value()
    for wrong in ("-1", "", "1.5", widget.locator(".live-seed-b").input_value()):
        widget.locator(".live-seed-a").fill(wrong)
        widget.locator(".live-seed-a").press("Tab")
        sentence = f"The seed is {wrong or 'empty'}, but must be a whole number from 0 to 999999"
        assert widget.locator(".live-status").inner_text().startswith(sentence) and widget.locator(".live-seed-a").input_value() == before
    widget.locator(".live-class").select_option("dog")
    assert widget.locator(".live-colour").is_disabled()
    widget.locator(".live-setting").select_option("lobby")
    assert widget.locator(".live-ground option").all_inner_texts() == ["tiles", "wood", "carpet"]
    wait(ready, "document.querySelector('.live-smooth').ariaLabel.includes('a photo of a dog on a wooden floor in a lobby')")


def test_a_walk_can_be_stopped_and_goes_on_when_the_slider_moves(ready):
    widget = ready.locator("[data-live=walk]")
    widget.get_by_role("button", name="Another pair").click()
    widget.get_by_role("button", name="Stop").click()
    assert widget.locator(".live-status").inner_text() == "Stopped. The walk goes on when the slider moves."
    ready.wait_for_timeout(700)  # longer than a slider takes to come to rest
    assert ready.evaluate("document.querySelector('[data-live=walk]').dataset.walk") == "0"
    widget.locator(".live-eta").focus()
    ready.keyboard.press("End")
    wait(ready, f"document.querySelector('[data-live=walk]').dataset.shown === '1 {FINE}'")


def test_an_unknown_word_is_named_and_the_worker_goes_on(ready):
    said = ready.evaluate("""async () => {
        const {ask} = await import('./_static/live/engine.js');
        const wish = prompts => ask('test', 0, null, {kind: 'text', prompts: [prompts]}).then(() => 'done', error => error.message);
        return [await wish('a photo of a unicorn'), await wish('a photo of a dog')];
    }""")
    assert said == ['the prompt has the word "unicorn", which the model has never read', "done"]


def resident(browser):
    """Megabytes of the browser's renderers."""
    processes = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    lines = [Path(f"/proc/{one['id']}/status").read_text() for one in processes if one["type"] == "renderer"]
    return sum(int(text.split("VmRSS:")[1].split()[0]) for text in lines) / 1000


def test_a_hundred_pictures_need_no_more_memory_and_no_network(ready, site):
    if not Path("/proc/self/status").is_file():
        pytest.skip("the memory of a process is read from /proc")
    pictures = """async ([from, count]) => {
        const engine = await import('./_static/live/engine.js'), {noise} = await import('./_static/live/mathematics.js');
        for (let k = from; k < from + count; k++) {
            const request = {kind: 'sample', latents: [noise(k, 1024)], prompts: 'a photo of a dog', scales: 1, steps: 1, guidance: 1};
            await engine.ask('test', 0, `test ${k}`, request);
        }
        return (await engine.memory()).heap;
    }"""
    ready.context.set_offline(True)
    before, used = ready.evaluate(pictures, [0, 10]), resident(site.browser)
    after, grown = ready.evaluate(pictures, [10, 100]), resident(site.browser) - used
    ready.context.set_offline(False)
    print(f"runtime {before / 1e6:.0f} MB, renderers {used:.0f} MB, grown by {grown:.0f} MB")
    assert after == before > 0 and grown < 20  # 5 MB of them are the pictures, which are kept
    assert not site.complaints


def test_the_page_answers_while_a_picture_is_made(ready):
    """On the page's own thread it would answer between two calls of a network only."""
    ticks, calls = ready.evaluate("""async () => {
        const {ask} = await import('./_static/live/engine.js'), {noise} = await import('./_static/live/mathematics.js');
        const latents = [0, 1, 2, 3].map(k => noise(k, 1024)), steps = 4;
        let ticks = 0;
        const timer = setInterval(() => { ticks++; }, 5);
        await ask('test', 0, null, {kind: 'sample', latents, prompts: 'a photo of a dog', scales: 1, steps});
        clearInterval(timer);
        return [ticks, steps + 1];
    }""")
    print(f"{ticks} ticks during {calls} calls")
    assert ticks > 4 * calls


def test_loading_can_be_cancelled_begun_again_and_a_reload_begins_anew(site):
    page = site.page(PHONE)
    page.route("**/unet.onnx", lambda route: None)  # never answered: there is time to cancel
    site.open(page, "index.html")
    button(page, "walk").click()
    page.wait_for_function("document.querySelector('progress')?.getAttribute('aria-valuetext')")
    page.keyboard.press("Enter")  # the button Cancel has the focus
    page.wait_for_function("document.querySelector('.live-status').textContent === 'Loading was cancelled.'")
    assert button(page, "walk").is_enabled() and not page.locator("progress").count()
    assert page.evaluate("document.activeElement.className") == "live-load"
    page.unroute("**/unet.onnx")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-live=walk][data-first]", timeout=LOADING)
    page.reload()
    assert button(page, "walk").is_enabled() and not page.locator("canvas").count()
    page.close()


def test_a_file_that_was_changed_is_refused(site):
    page = site.page(PHONE)
    page.route("**/unet.onnx", lambda route: route.fulfill(body="other"))
    site.open(page, "index.html")
    button(page, "walk").click()
    page.wait_for_function("document.querySelector('.live-status').textContent.startsWith('The model could not')", timeout=LOADING)
    sentence = "The model could not be loaded: model/unet.onnx is not the file that this book was built with."
    assert page.inner_text("[data-live=walk] .live-status") == sentence and button(page, "walk").is_enabled()
    page.close()


def test_a_browser_without_simd_or_a_page_without_scripts_is_told_in_one_sentence(site):
    page = site.page(PHONE)
    page.add_init_script("WebAssembly.validate = () => false")
    site.open(page, "index.html")
    button(page, "walk").click()
    page.wait_for_function("document.querySelector('.live-status').textContent.includes('lacks WebAssembly SIMD')")
    page.route("**/live.js", lambda route: route.abort())
    page.reload()
    button(page, "walk").click()
    page.wait_for_function("document.querySelector('.live-status').textContent.startsWith('The model needs a page')")
    page.close()
