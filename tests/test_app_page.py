"""The local app in headless Chromium, by really doing it on the embedded model: upload, click, paint, run, read back, cancel, close."""

import io
import re
import time
import zipfile

import numpy as np
import pytest
from browsing import DESKTOP, LOOK, PHONE, headless
from PIL import Image
from serving import Served, opened

from companion.app.models import load_models
from companion.app.server import App
from companion.data.load import load_scenes

QUICK = {"walk": {"num_inference_steps": 2, "frames": 4}, "reconstruct": {"num_inference_steps": 2}, "edit": {"num_inference_steps": 3}}
QUICK |= {"drag": {"num_inference_steps": 4, "iterations": 2, "lora_steps": 1}}
LONG = {"num_inference_steps": 200, "frames": 33}
RUN_MS = 240_000  # on a busy machine


@pytest.fixture(scope="module")
def browser():
    with headless() as browser:
        yield browser


@pytest.fixture(scope="module")
def served(browser):
    served = Served(lambda: App(load_models()))
    yield served
    served.close()


@pytest.fixture
def page(browser, served):
    page, complaints = opened(browser, served, DESKTOP)
    yield page
    page.context.close()
    assert not complaints, complaints


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A picture as a person has it: larger than the model's, not square."""
    file = tmp_path_factory.mktemp("pictures") / "scene.png"
    Image.fromarray(load_scenes("test").images[5]).resize((200, 160)).save(file)
    return file


def tab(page, name):
    page.get_by_role("tab", name=name.capitalize()).click()
    panel = page.locator(f"#{name}")
    panel.wait_for()
    return panel


def fill(panel, **values):
    for name, value in values.items():
        panel.locator(f"[name={name}]").fill(str(value))


def run(panel):
    panel.get_by_role("button", name="Run").click()
    panel.locator(".state", has_text="Done.").wait_for(timeout=RUN_MS)
    return panel.locator(".sides")


def downloaded(page, panel):
    """The archive's pictures by name."""
    with page.expect_download() as found:
        panel.get_by_role("link", name="Download").click()
    with open(found.value.path(), "rb") as file, zipfile.ZipFile(io.BytesIO(file.read())) as archive:
        assert "settings.json" in archive.namelist()
        return {name: np.asarray(Image.open(archive.open(name))) for name in archive.namelist() if name.endswith(".png")}


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_a_walk_between_prompts_has_a_slider_and_a_curve(page):
    panel = tab(page, "walk")
    fill(panel, **QUICK["walk"])
    sides = run(panel)
    assert sides.locator("figure").count() == 2 and sides.locator("img:visible").count() == 2
    slider = panel.get_by_role("slider", name="Frame")
    before = sides.locator("img:visible").first.get_attribute("alt")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "Frame 2 of 4"
    assert sides.locator("img:visible").first.get_attribute("alt") != before
    assert panel.locator(".curve svg [data-frame]").count() == 2 * 3
    assert panel.locator(".curve .legend").all_inner_texts() == [" Base model", " Smooth Diffusion"]
    assert "coefficient of variation" in sides.inner_text()
    pictures = downloaded(page, panel)
    assert len(pictures) == 8 and all(one.shape == (64, 64, 3) for one in pictures.values())
    assert not np.array_equal(pictures["base-01.png"], pictures["smooth-01.png"])
    assert not np.array_equal(pictures["base-01.png"], pictures["base-04.png"])


def test_two_uploaded_pictures_are_walked_between(page, scene):
    panel = tab(page, "walk")
    panel.get_by_label("two pictures").check()
    fill(panel, **QUICK["walk"], num_inner_steps=1)
    panel.get_by_role("button", name="Run").click()
    panel.locator(".refused", has_text="first is empty, but must be a picture").wait_for()
    for name in ("First", "Second"):
        panel.get_by_label(f"{name} picture").set_input_files(scene)
        panel.locator(f"img[alt='{name} picture: scene.png']").wait_for()
    assert run(panel).locator("img").count() == 8


def test_an_uploaded_picture_is_reconstructed(page, scene):
    panel = tab(page, "reconstruct")
    panel.get_by_label("Picture").set_input_files(scene)
    panel.locator("img[alt='Picture: scene.png']").wait_for()
    fill(panel, num_inference_steps=20, guidance_scale=1)
    panel.locator("[name=inversion]").select_option("ddim")
    found = re.findall(r"PSNR to the picture: (\d+\.\d+) dB", run(panel).inner_text())
    assert len(found) == 2 and all(float(value) > 15 for value in found), found


def test_what_is_no_picture_is_refused(page, tmp_path):
    panel = tab(page, "reconstruct")
    wrong = tmp_path / "notes.png"
    wrong.write_text("not a picture")
    large = tmp_path / "large.png"
    large.write_bytes(bytes(10_000_001))
    panel.get_by_label("Picture").set_input_files(large)
    panel.locator(".refused", has_text="large.png has 10.0 MB, but must have at most 10 MB.").wait_for()
    panel.get_by_label("Picture").set_input_files(wrong)
    panel.locator(".refused", has_text="notes.png cannot be read, but must be a picture in PNG").wait_for()
    panel.get_by_role("button", name="Run").click()
    panel.locator(".refused", has_text="Parameter picture is empty, but must be a picture").wait_for()


def test_an_example_is_edited_by_a_chosen_method(page):
    panel = tab(page, "edit")
    panel.locator(".examples button").first.click()
    panel.locator(".picture img").wait_for()
    source, target = (panel.locator(f"[name={name}]").input_value() for name in ("source_prompt", "target_prompt"))
    assert source and target and source != target
    panel.locator("[name=method]").select_option("cycle_diffusion")
    assert panel.locator("[name=inversion]").is_hidden() and panel.locator("[name=strength]").input_value() == "0.8"
    fill(panel, **QUICK["edit"])
    run(panel)
    pictures = downloaded(page, panel)
    assert set(pictures) == {"base.png", "smooth.png"}
    panel.locator("[name=method]").select_option("prompt_to_prompt")
    assert "Smaller values change the picture more" in panel.locator("#strength-note").inner_text()
    panel.locator("[name=method]").select_option("prompt_switch")
    assert panel.locator("[name=inversion]").is_visible()
    fill(panel, strength=7)
    panel.get_by_role("button", name="Run").click()
    panel.locator(".refused", has_text="ratio").wait_for()


def test_points_are_clicked_pulled_and_painted_and_dragged(page, scene):
    panel = tab(page, "drag")
    panel.get_by_label("Picture").first.set_input_files(scene)
    board = panel.locator("canvas")
    board.wait_for()
    box = board.bounding_box()
    cell = box["width"] / 64
    board.click(position={"x": 20 * cell, "y": 30 * cell})
    assert "click where" in panel.locator("#points").inner_text()
    board.click(position={"x": 30 * cell, "y": 30 * cell})
    page.mouse.move(box["x"] + 40 * cell, box["y"] + 40 * cell)
    page.mouse.down()
    page.mouse.move(box["x"] + 44 * cell, box["y"] + 36 * cell, steps=3)
    page.mouse.up()
    points = panel.locator("#points li").all_inner_texts()
    assert len(points) == 2
    found = [[float(number) for number in re.findall(r"\d+\.\d", line)] for line in points]
    np.testing.assert_allclose(found, [[20, 30, 30, 30], [40, 40, 44, 36]], atol=0.3)
    panel.get_by_role("radio", name="paint").check()
    page.mouse.move(box["x"] + 12 * cell, box["y"] + 30 * cell)
    page.mouse.down()
    page.mouse.move(box["x"] + 20 * cell, box["y"] + 30 * cell, steps=4)
    page.mouse.up()
    fill(panel, **QUICK["drag"])
    panel.get_by_role("button", name="Run").click()
    panel.locator(".refused", has_text="must lie in the mask").wait_for()
    panel.get_by_role("button", name="Clear mask").click()
    assert "pixels before" in run(panel).inner_text()
    assert set(downloaded(page, panel)) == {"base.png", "smooth.png"}


def test_points_are_set_by_keys_alone(page):
    panel = tab(page, "drag")
    panel.locator(".examples button").first.press("Enter")
    panel.locator("canvas").wait_for()
    assert panel.locator("#points li").count()
    panel.get_by_role("button", name="Clear points").press("Enter")
    assert not panel.locator("#points li").count()
    panel.locator("canvas").focus()
    for key in ("Enter", "Shift+ArrowRight", "ArrowUp", "Enter", "ArrowDown", "Enter", "Backspace"):
        page.keyboard.press(key)
    assert panel.locator("#points li").all_inner_texts() == ["(32.0, 32.0) to (40.0, 31.0)"]


def test_points_are_set_by_a_finger_on_a_phone(browser, served):
    page, complaints = opened(browser, served, PHONE, has_touch=True)
    panel = tab(page, "drag")
    panel.locator(".examples button").first.tap()
    board = panel.locator("canvas")
    board.wait_for()
    panel.get_by_role("button", name="Clear points").tap()
    for x, y in ((40, 50), (90, 60)):
        board.tap(position={"x": x, "y": y})
    assert panel.locator("#points li").count() == 1 and " to (" in panel.locator("#points").inner_text()
    page.context.close()
    assert not complaints


def test_tabs_answer_to_arrow_keys(page):
    page.get_by_role("tab", name="Walk").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#drag").is_visible() and page.locator("#walk").is_hidden()
    page.keyboard.press("ArrowRight")
    assert page.locator("#walk").is_visible() and page.evaluate("document.activeElement.id") == "tab-walk"


def start_long(page):
    panel = tab(page, "walk")
    fill(panel, **LONG)
    panel.get_by_role("button", name="Run").click()
    panel.locator(".state", has_text="%").wait_for(timeout=RUN_MS)
    return panel


def test_work_is_cancelled_and_the_page_can_be_used_again(page, served):
    panel = start_long(page)
    assert panel.locator("progress").is_visible() and panel.get_by_role("button", name="Run").is_disabled()
    panel.get_by_role("button", name="Cancel").click()
    panel.locator(".state", has_text="Cancelled.").wait_for()
    assert panel.locator("progress").is_hidden()
    wait_until(lambda: len(served.app.line) == 0)
    fill(panel, **QUICK["walk"])
    run(panel)


def test_reloading_and_closing_stop_the_work_and_drop_what_was_brought(browser, served):
    page, _ = opened(browser, served, DESKTOP)
    start_long(page)
    (old,) = served.app.sessions.values()
    page.reload()
    page.wait_for_selector("body[data-ready=yes]")
    wait_until(lambda: len(served.app.line) == 0)
    assert list(served.app.sessions.values()) != [old] and not old.pictures and not old.files
    start_long(page)
    page.context.close()
    wait_until(lambda: len(served.app.line) == 0 and not served.app.sessions)


def test_a_second_person_waits(browser, served, page):
    panel = start_long(page)
    other, complaints = opened(browser, served, DESKTOP)
    second = tab(other, "walk")
    fill(second, **QUICK["walk"])
    second.get_by_role("button", name="Run").click()
    second.locator(".state", has_text="Waiting: 1 ahead.").wait_for()
    panel.get_by_role("button", name="Cancel").click()
    second.locator(".state", has_text="Done.").wait_for(timeout=RUN_MS)
    other.context.close()
    assert not complaints


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_tab_can_be_read(browser, served, viewport, scheme):
    page, complaints = opened(browser, served, viewport, scheme)
    problems = []
    for name in ("walk", "reconstruct", "edit", "drag"):
        panel = tab(page, name)
        if name != "walk":
            panel.locator(".examples button").first.click()
            panel.locator(".picture img").wait_for()
        seen = page.evaluate(LOOK)
        assert seen["texts"]
        problems += [f"{name}: {problem}" for problem in seen["problems"]]
    panel = tab(page, "walk")
    fill(panel, **QUICK["walk"])
    run(panel)
    seen = page.evaluate(LOOK)
    problems += seen["problems"]
    assert seen["images"] >= 8 and not problems and not complaints, "\n".join([*problems, *complaints])
    page.context.close()
