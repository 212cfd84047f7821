"""The live widget Nudge in a real browser: by pointer, finger and keys."""

import pytest
import torch
from live_quick import faults, says, shows
from live_site import PHONE, STEPS, live_site, loaded, wait

WIDEST = 30  # degrees from the pad's middle to its rim
FINE = STEPS[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with live_site(tmp_path_factory.mktemp("site"), "nudge") as site:
        yield site


@pytest.fixture(scope="module")
def page(site):
    return site.open(site.page(PHONE, has_touch=True), "index.html")


@pytest.fixture(scope="module")
def nudge(page):
    widget = loaded(page, "nudge")
    shows(page, "nudge", f"0,0 {FINE}")
    return widget


def test_equal_nudges_are_equal_angles_and_what_is_shown_is_how_far_the_pictures_moved(page, nudge):
    nudge.locator(".live-pad").scroll_into_view_if_needed()
    box = nudge.locator(".live-pad").bounding_box()
    unit = box["width"] / 240 * 108
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 0.6 * unit, middle[1] - 0.8 * unit, steps=4)
    page.mouse.up()
    shows(page, "nudge", f"6,8 {FINE}")
    says(page, nudge, "Nudged by 30°")
    made = page.evaluate("""async steps => {
        const {live} = document.querySelector('[data-live=nudge]'), {nudged} = await import('./_static/live/nudges.js');
        const noises = [[0, 0], [1, 0], [0, 1], [0.6, 0.8], [-0.3, 0.4]].map(place => [...nudged(live.axes(), place)]);
        const pictures = [];
        for (const place of [[0, 0], [0.6, 0.8]]) pictures.push((await live.picture(place, steps)).images.map(image => [...image]));
        return {noises, pictures};
    }""", FINE)  # fmt: skip
    centre, *others = torch.tensor(made["noises"], dtype=torch.float64)
    assert torch.stack([noise.norm() / centre.norm() for noise in others]) == pytest.approx(1, abs=1e-5)
    angles = [float(torch.rad2deg(torch.arccos(noise @ centre / centre.norm() ** 2))) for noise in others]
    assert angles == pytest.approx([WIDEST, WIDEST, WIDEST, WIDEST / 2], abs=1e-3)
    here, there = torch.tensor(made["pictures"], dtype=torch.float64)
    for row, name in enumerate(("base", "smooth")):
        moved = float(((there - here) / 2)[row].norm())
        assert moved > 0.5 and nudge.locator(f".live-{name}-moved").inner_text() == f"moved by {moved:.2f}"


def test_arrow_keys_move_the_nudge_and_the_rim_ends_it(page, nudge):
    pad = nudge.locator(".live-pad")
    pad.focus()
    page.keyboard.press("Home")
    shows(page, "nudge", f"0,0 {FINE}")
    for key in ("ArrowLeft", "ArrowLeft", "ArrowDown"):
        page.keyboard.press(key)
    assert pad.get_attribute("aria-valuetext") == "7 degrees from the centre, -2 to the right, -1 up"
    assert float(pad.get_attribute("aria-valuenow")) == pytest.approx(WIDEST * 5**0.5 / 10, abs=0.05)
    shows(page, "nudge", f"-2,-1 {FINE}")
    for _ in range(20):
        page.keyboard.press("ArrowUp")
    assert pad.get_attribute("aria-valuetext").endswith("-2 to the right, 9 up")  # (-2, 10) lies outside
    assert pad.evaluate("e => getComputedStyle(e).outlineStyle") != "none"


def test_a_finger_points_too(page, nudge):
    pad = nudge.locator(".live-pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2 + 0.5 * box["width"] * 0.9, box["y"] + box["height"] / 2)
    shows(page, "nudge", f"10,0 {FINE}")
    assert pad.evaluate("e => getComputedStyle(e).touchAction") == "none"  # a page that scrolls under the finger could not be used


def test_going_round_can_be_stopped_and_ends_with_its_numbers(page, nudge):
    nudge.get_by_role("button", name="Go round").click()
    nudge.get_by_role("button", name="Stop").click()
    says(page, nudge, "Stopped.")
    assert nudge.locator(".live-base-cv").inner_text() == "–"
    nudge.get_by_role("button", name="Go round").click()
    says(page, nudge, "8 equal nudges of 30°")
    frames = page.evaluate("""async steps => {
        const {live} = document.querySelector('[data-live=nudge]');
        const frames = [(await live.picture([0, 0], steps)).images.map(image => [...image])];
        for (let k = 0; k < 8; k++) {
            const place = [Math.cos(Math.PI * k / 4), Math.sin(Math.PI * k / 4)];
            frames.push((await live.picture(place, steps)).images.map(image => [...image]));
        }
        return frames;
    }""", FINE)  # fmt: skip
    frames = torch.tensor(frames)
    distances = ((frames[1:] - frames[:1]) / 2).norm(dim=2).double().numpy()  # (8, 2)
    for row, name in enumerate(("base", "smooth")):
        assert float(nudge.locator(f".live-{name}-mean").inner_text()) == pytest.approx(distances[:, row].mean(), abs=0.0051)
        assert float(nudge.locator(f".live-{name}-cv").inner_text()) == pytest.approx(
            distances[:, row].std() / distances[:, row].mean(), abs=0.00051
        )
    assert nudge.locator(".live-distances .live-point").count() >= 16
    assert (
        nudge.locator("caption").inner_text().startswith(f"Live, on this device: DDIM, {FINE} steps, guidance 3, weights in half precision")
    )


def test_another_seed_begins_anew_and_a_wrong_one_is_one_sentence(page, nudge):
    before = nudge.locator(".live-smooth").evaluate("e => e.toDataURL()")
    nudge.locator(".live-seed").fill("1.5")
    nudge.locator(".live-seed").press("Tab")
    assert nudge.locator(".live-status").inner_text() == "The seed is 1.5, but must be a whole number from 0 to 999999."
    nudge.get_by_role("button", name="Another picture").click()
    assert nudge.locator(".live-seed").input_value() == "2" and nudge.locator(".live-base-cv").inner_text() == "–"
    canvas = nudge.locator(".live-smooth").element_handle()
    wait(page, "([e, was]) => e.toDataURL() !== was", [canvas, before])


def test_it_fits_a_phone_and_axe_the_console_and_the_network_have_nothing_to_say(site, page, nudge):
    assert not faults(site, page)
