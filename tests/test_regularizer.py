"""Step-wise Variation Regularization: closed forms, a full Jacobian, finite differences, agreement of its ways, the released formula."""

import math

import pytest
import torch
from tiny import gradients, noise, sd_scheduler
from torch import nn

from smoothlib.predictions import predict_x0, predict_x0_flow
from smoothlib.regularizer.gradients import GRADIENTS
from smoothlib.regularizer.length import step_variation
from smoothlib.regularizer.variation import StepwiseVariation, sqrt_dimension_directions, unit_directions

ALPHA_BAR = sd_scheduler().alphas_cumprod


def ideal(prediction_type, alpha_bar):
    """x0_hat(eps) of the ideal denoiser of unit-Gaussian data: E[x0 | x_t] = sqrt(alpha_bar) x_t, through each prediction type."""
    a, s = alpha_bar.sqrt().view(-1, 1), (1 - alpha_bar).sqrt().view(-1, 1)
    outputs = {"epsilon": lambda x: s * x, "v_prediction": lambda x: 0 * x, "sample": lambda x: a * x}
    z0 = noise(len(alpha_bar), 24, seed=4)

    def denoise(eps):
        x_t = a * z0 + s * eps
        output = outputs[prediction_type](x_t)
        return predict_x0(output, x_t, alpha_bar, prediction_type), output

    return denoise


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_linear_gaussian_denoiser_has_its_closed_form(prediction_type, gradient):
    alpha_bar = ALPHA_BAR[[20, 459, 700, 990]]
    s = (1 - alpha_bar).sqrt()
    r, _ = step_variation(ideal(prediction_type, alpha_bar), noise(4, 24), unit_directions(noise(4, 24, seed=1)), s, gradient=gradient)
    torch.testing.assert_close(r.detach(), (1 - alpha_bar) * alpha_bar.sqrt(), rtol=1e-4, atol=1e-6)


def test_the_closed_form_of_stable_diffusions_schedule_is_the_known_curve():
    curve = (1 - ALPHA_BAR) * ALPHA_BAR.sqrt()
    assert curve.argmax() == 459 and curve.max().item() == pytest.approx(0.385, abs=5e-4)
    assert curve.mean().item() == pytest.approx(0.233, abs=5e-4)


def test_flow_matching_has_its_closed_form():
    sigma = torch.tensor([0.1, 0.5, 0.9])
    s, z0 = sigma.view(-1, 1), noise(3, 24, seed=4)

    def denoise(eps):  # velocity E[eps - x0 | x_t] of unit-Gaussian data
        x_t = (1 - s) * z0 + s * eps
        velocity = (2 * s - 1) / ((1 - s) ** 2 + s**2) * x_t
        return predict_x0_flow(velocity, x_t, sigma), velocity

    r, _ = step_variation(denoise, noise(3, 24), unit_directions(noise(3, 24, seed=1)), sigma)
    torch.testing.assert_close(r.detach(), sigma**2 * (1 - sigma) / ((1 - sigma) ** 2 + sigma**2))


@pytest.mark.parametrize(("weighting", "exponent"), [("multiply", 1), ("none", 0), ("divide", -1)])
def test_weightings_scale_r_by_a_power_of_the_noise_level(weighting, exponent):
    alpha_bar = ALPHA_BAR[[100, 500]]
    s = (1 - alpha_bar).sqrt()
    found = StepwiseVariation(weighting=weighting)(
        ideal("sample", alpha_bar), noise(2, 24), s, torch.tensor([0.1, 0.5]), noise(2, 24, seed=1)
    )
    torch.testing.assert_close(found.r, s**exponent * s * alpha_bar.sqrt(), rtol=1e-4, atol=1e-6)


class Small(nn.Module):
    """eps (B, 5) -> x0_hat (B, 5), smooth and nonlinear, in double precision."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 7, dtype=torch.float64), nn.Linear(7, 5, dtype=torch.float64)
        for seed, parameter in enumerate(self.parameters()):
            parameter.data = noise(*parameter.shape, seed=seed, dtype=torch.float64) / 2

    def forward(self, eps):
        x = self.second(torch.tanh(self.first(eps)))
        return x, x


def small_case():
    eps, direction = noise(3, 5, seed=8, dtype=torch.float64), unit_directions(noise(3, 5, seed=9, dtype=torch.float64))
    return Small(), eps, direction, torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64)


def test_r_and_its_gradient_equal_those_of_the_full_jacobian():
    network, eps, direction, weight = small_case()
    jacobians = [torch.autograd.functional.jacobian(lambda e: network(e)[0], e, create_graph=True) for e in eps]
    by_hand = torch.stack([w * (j.T @ d).norm() for j, d, w in zip(jacobians, direction, weight, strict=True)])
    r, _ = step_variation(network, eps, direction, weight, gradient="double_backward")
    # r is kept in single precision
    torch.testing.assert_close(r.double(), by_hand, rtol=1e-6, atol=1e-7)
    wanted = gradients((by_hand - 0.2).square().mean(), list(network.parameters())[:3])
    found = gradients((r.double() - 0.2).square().mean(), list(network.parameters())[:3])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_every_way_agrees_with_finite_differences_of_the_penalty(gradient):
    network, eps, direction, weight = small_case()

    def penalty():
        r, _ = step_variation(network, eps, direction, weight, gradient=gradient, difference=1e-3)
        return (r - 0.2).square().mean()

    analytic = torch.autograd.grad(penalty(), network.first.weight)[0]
    step, change = 1e-3, torch.zeros_like(analytic)
    change[2, 3] = step
    values = []
    for sign in (1, -1):
        network.first.weight.data += sign * change
        values.append(penalty().item())
        network.first.weight.data -= sign * change
    assert analytic[2, 3].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=5e-3, abs=2e-5)


@pytest.mark.parametrize("gradient", ["central", "one_sided"])
def test_deferred_differences_lose_no_digits_of_a_float64_network(gradient):
    """Both ends of a difference have the same w D: rounded at one end alone, it would err by 6e-8 / h."""
    network, eps, direction, weight = small_case()
    parameters = list(network.parameters())[:3]
    single = dict(direction=direction.float(), weight=weight.float(), parameters=parameters)
    wanted, found = (
        gradients(step_variation(network, eps, gradient=way, difference=1e-6, **single)[0].square().sum(), parameters)
        for way in ("double_backward", gradient)
    )
    assert (found - wanted).norm() < 1e-5 * wanted.norm()


def test_official_mode_is_the_released_formula_with_the_mean_in_the_graph():
    network, eps, _, s = small_case()
    direction_noise = noise(3, 5, seed=9)
    regularizer = StepwiseVariation(mode="official")
    found = regularizer(network, eps, s, torch.zeros(3), direction_noise)
    leaf = eps.clone().requires_grad_()
    (g,) = torch.autograd.grad((network(leaf)[0] * direction_noise / math.sqrt(5) * s[:, None]).sum(), leaf, create_graph=True)
    r = g.norm(dim=1)
    a = 0 + 0.01 * (r.mean() - 0)
    loss = (r - a).square().mean()
    torch.testing.assert_close(found.loss.double(), loss, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(regularizer.running_mean[0].double(), a.detach(), rtol=1e-5, atol=1e-8)
    parameters = list(network.parameters())[:3]
    torch.testing.assert_close(gradients(found.loss, parameters), gradients(loss, parameters), rtol=1e-5, atol=1e-8)
    without = gradients((r - a.detach()).square().mean(), parameters)
    assert not torch.allclose(gradients(loss, parameters), without, rtol=1e-3, atol=0)


def test_paper_mode_starts_at_the_first_mean_then_moves_by_a_hundredth_and_holds_still_in_evaluation():
    network, eps, _, s = small_case()
    regularizer = StepwiseVariation()
    first = regularizer(network, eps, s, torch.zeros(3), noise(3, 5, seed=9))
    assert regularizer.running_mean.item() == pytest.approx(first.r.mean().item())
    torch.testing.assert_close(first.loss.detach(), (first.r - first.r.mean()).square().mean())
    second = regularizer(network, 2 * eps, s, torch.zeros(3), noise(3, 5, seed=10))
    moved = first.r.mean() + 0.01 * (second.r.mean() - first.r.mean())
    torch.testing.assert_close(regularizer.running_mean[0], moved)
    regularizer.eval()(network, 3 * eps, s, torch.zeros(3), noise(3, 5, seed=11))
    torch.testing.assert_close(regularizer.running_mean[0], moved)
    restored = StepwiseVariation()
    restored.load_state_dict(regularizer.state_dict())
    assert torch.equal(restored.running_mean, regularizer.running_mean) and restored.started.all()


def test_bins_of_time_have_means_of_their_own():
    network, eps, _, s = small_case()
    regularizer = StepwiseVariation(timestep_bins=4)
    found = regularizer(network, eps, s, torch.tensor([0.05, 0.1, 0.999]), noise(3, 5, seed=9))
    wanted = torch.stack([found.r[:2].mean(), torch.tensor(0.0), torch.tensor(0.0), found.r[2]])
    torch.testing.assert_close(regularizer.running_mean, wanted)
    assert regularizer.started.tolist() == [True, False, False, True]


def test_directions_have_unit_length_exactly_or_in_expectation():
    draws = noise(2000, 4, 4, 4)
    torch.testing.assert_close(unit_directions(draws).flatten(1).norm(dim=1), torch.ones(2000))
    released = sqrt_dimension_directions(draws).flatten(1).norm(dim=1)
    assert released.square().mean().item() == pytest.approx(1, abs=0.02) and released.std() > 0.05


def test_a_network_that_ignores_its_input_has_no_variation_and_no_nan():
    layer = nn.Linear(5, 5)
    with torch.no_grad():
        layer.weight.zero_()
    for gradient in GRADIENTS:
        r, _ = step_variation(
            lambda e: (layer(e),) * 2, noise(2, 5), unit_directions(noise(2, 5, seed=1)), torch.ones(2), gradient=gradient
        )
        assert torch.equal(r.detach(), torch.zeros(2)) and gradients(r.sum(), [layer.weight]).isfinite().all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(mode="released"), "mode must be one of paper, official, got 'released'"),
        (dict(weighting="square"), "weighting must be one of multiply, none, divide, got 'square'"),
        (dict(gradient="reverse"), "gradient must be one of double_backward, central, one_sided, forward_mode, paired, got 'reverse'"),
        (dict(difference=0), "difference must be auto or a positive number, got 0"),
        (dict(difference="small"), "difference must be auto or a positive number, got 'small'"),
        (dict(difference=float("nan")), "difference must be auto or a positive number, got nan"),
        (dict(difference_precision="half"), "difference_precision must be one of float32, network, got 'half'"),
        (dict(difference_every=0), "difference_every must be at least 1, got 0"),
        (dict(decay=0), r"decay must lie in \(0, 1\], got 0"),
        (dict(timestep_bins=0), "timestep_bins must be at least 1, got 0"),
    ],
)
def test_bad_options_are_named(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        StepwiseVariation(**options)
