"""The toy of the method page: its script's numbers against autograd, a general minimiser, and the variance itself."""

import math

import numpy as np
import pytest
import torch
from browsing import DESKTOP, PHONE, TIMEOUT, headless
from scipy.optimize import minimize

from companion.base.paths import ROOT

SCRIPT = (ROOT / "book" / "_static" / "smooth_toy.js").read_text(encoding="utf-8")
STYLE = (ROOT / "book" / "_static" / "smooth_toy.css").read_text(encoding="utf-8")
VARIANCES, MODE, SPREAD = np.array([1.6, 0.15]), 1.5, 0.12
SOLVED = """([kind, alpha, strength, points]) => {
  const found = SmoothToy.solve(kind, alpha, strength);
  return {gains: points.map(found.gainsAt), variation: found.variation, share: found.share, grid: SmoothToy.grid()};
}"""


@pytest.fixture(scope="module")
def page():
    text = (ROOT / "book" / "method.md").read_text(encoding="utf-8")
    figure = text[text.index('<div class="smooth-toy"') : text.index('<script src="../_static/smooth_toy.js">')]
    with headless() as browser:
        page = browser.new_page(viewport=DESKTOP)
        page.set_default_timeout(TIMEOUT)
        page.set_content(f"<html data-theme='light'><style>{STYLE}</style><body>{figure}<script>{SCRIPT}</script></body></html>")
        yield page


def solved(page, kind, alpha, strength, points=((0.0, 0.0),)):
    return page.evaluate(SOLVED, [kind, alpha, strength, [list(point) for point in points]])


def variance_of_r(gains, level):
    """Of r = s ||J D|| over unit vectors D in the plane, J = diag(gains), by a fine sum."""
    angle = np.linspace(0, 2 * np.pi, 4000, endpoint=False)
    return np.var(level * np.hypot(gains[0] * np.cos(angle), gains[1] * np.sin(angle)))


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("strength", [0.0, 0.3, 20.0])
def test_one_gaussian_minimises_the_loss_that_the_page_states(page, alpha, strength):
    level = math.sqrt(1 - alpha)
    total = alpha * VARIANCES + level**2

    def loss(gains):  # E (eps - w x_t)^2, mean over the two entries, of the linear denoiser with these gains, and the penalty
        w = (1 - np.asarray(gains) * math.sqrt(alpha) / level) / level
        return np.mean(1 - 2 * w * level + w**2 * total) + strength * level**2 * (gains[0] - gains[1]) ** 2 / 8

    wanted = minimize(loss, [0.5, 0.5], tol=1e-14).x
    assert solved(page, "gaussian", alpha, strength)["gains"][0] == pytest.approx(wanted.tolist(), rel=1e-4)


def test_the_penalty_is_the_variance_of_r_for_nearly_equal_gains():
    for gap in (0.02, 0.01):
        assert variance_of_r((1 + gap / 2, 1 - gap / 2), 0.7) == pytest.approx(0.7**2 * gap**2 / 8, rel=gap)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.9])
def test_two_modes_have_the_jacobian_of_the_posterior_mean(page, alpha):
    """The estimate by Tweedie's formula from the density of the noisy mixture, differentiated twice by autograd."""
    level, total = 1 - alpha, alpha * SPREAD + 1 - alpha

    def log_density(x):
        signs = torch.tensor([-1.0, 1.0], dtype=torch.float64)
        centres = torch.stack([signs * math.sqrt(alpha) * MODE, torch.zeros(2, dtype=torch.float64)], dim=1)
        return torch.logsumexp(-(x - centres).square().sum(1) / (2 * total), dim=0)

    points = [(0.0, 0.0), (0.4, 0.7), (-1.3, 0.2), (2.5, -1.0)]
    for point, gains in zip(points, solved(page, "modes", alpha, 0.0, points)["gains"], strict=True):
        hessian = torch.autograd.functional.hessian(log_density, torch.tensor(point, dtype=torch.float64))
        jacobian = math.sqrt(level) * (torch.eye(2, dtype=torch.float64) + level * hessian) / math.sqrt(alpha)
        torch.testing.assert_close(jacobian, torch.diag(torch.tensor(gains, dtype=torch.float64)), atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("strength", [0.5, 50.0])
def test_two_modes_minimise_within_their_family(page, strength):
    alpha = 0.5
    level, root, total = 1 - alpha, math.sqrt(alpha), alpha * SPREAD + 1 - alpha
    points = np.array(solved(page, "modes", alpha, 0.0)["grid"])
    gains = np.array(solved(page, "modes", alpha, 0.0, points.tolist())["gains"])
    density = sum(np.exp(-((points - [sign * root * MODE, 0]) ** 2).sum(1) / (2 * total)) for sign in (-1, 1))
    density /= density.sum()
    estimate = root * SPREAD / total * points
    estimate[:, 0] += level * MODE / total * np.tanh(root * MODE / total * points[:, 0])
    common = density @ gains.mean(1)

    def loss(share):
        mixed = (1 - share) * gains + share * common
        spread = density @ (mixed.mean(1) - density @ mixed.mean(1)) ** 2 + density @ (mixed[:, 0] - mixed[:, 1]) ** 2 / 8
        moved = share * (estimate - common / math.sqrt(level) * points)
        return alpha / level * (density @ (moved**2).mean(1)) + strength * level * spread

    wanted = minimize(lambda share: loss(share[0]), [0.5], tol=1e-12).x[0]
    found = solved(page, "modes", alpha, strength)
    assert found["share"] == pytest.approx(wanted, abs=1e-4) and 0 < wanted < 1


@pytest.mark.parametrize("kind", ["gaussian", "modes"])
def test_ellipses_become_circles_of_one_size_that_is_not_zero(page, kind):
    points = [(0.0, 0.0), (1.5, 0.8)]
    ideal, strong = (np.array(solved(page, kind, 0.5, strength, points)["gains"]) for strength in (0.0, 1e7))
    assert ideal[0, 0] / ideal[0, 1] > 2
    assert np.ptp(strong) < 1e-3 * strong.mean() and ideal.min() < strong.mean() < ideal.max()


def test_the_figure_answers_to_keyboard_and_pointer_in_both_widths(page):
    said = page.locator("[data-toy=said]")
    for viewport in (DESKTOP, PHONE):
        page.set_viewport_size(viewport)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        seen = [said.text_content()]
        page.locator(".smooth-toy svg").focus()
        page.keyboard.press("ArrowRight")
        seen.append(said.text_content())
        page.locator("[data-toy=strength]").focus()
        page.keyboard.press("ArrowRight")
        seen.append(said.text_content())
        box = page.locator(".smooth-toy svg").bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.3)
        page.mouse.down()
        page.mouse.up()
        seen.append(said.text_content())
        assert len(set(seen)) == 4, seen
    assert page.locator(".toy-ellipse").count() == 45
