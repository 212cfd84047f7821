"""The way `paired`: L_base and the differences of L_reg from the same two evaluations, which are one batch."""

import pytest
import torch
from tiny import noise, sd_scheduler, tiny_unet

from smoothlib.regularizer.length import step_variation
from smoothlib.regularizer.variation import StepwiseVariation, unit_directions
from smoothlib.training_loss import regularized_loss

EMBEDS = noise(3, 16, 16, seed=5)


def loss_and_gradient(gradient, dtype=torch.float64, difference=1e-3, **options):
    """Eq. 14 of three samples on the tiny UNet, its gradient in the attention's weights, and the rows of each call of the network."""
    torch.manual_seed(0)
    unet, calls = tiny_unet().to(dtype), []
    unet.register_forward_pre_hook(lambda module, arguments: calls.append(len(arguments[0])))
    trained = [p for name, p in unet.requires_grad_(False).named_parameters() if "to_q" in name or "to_v" in name]
    for parameter in trained:
        parameter.requires_grad_(True)
    regularizer = StepwiseVariation(gradient=gradient, difference=difference).to(dtype).eval()
    regularizer.running_mean.fill_(0.1)
    shape = (3, 4, 8, 8)
    draws = {"eps": noise(*shape, seed=2, dtype=dtype), "direction_noise": noise(*shape, seed=3, dtype=dtype)}
    draws["timesteps"] = torch.tensor([80, 500, 900])
    if "regularized_guidance" in options:
        options["null_embeds"] = noise(1, 16, 16, seed=6, dtype=dtype)
    arguments = (unet, noise(*shape, seed=1, dtype=dtype), EMBEDS.to(dtype), sd_scheduler(), regularizer)
    with regularizer.attention_kernel():
        found = regularized_loss(*arguments, draws=draws, **options)
        found.loss.backward()
    return found, torch.cat([p.grad.flatten() for p in trained]), calls


@pytest.mark.parametrize(
    "options",
    [{}, {"regularized_share": 0.5}, {"regularized_guidance": 3.0}, {"regularization": 0.0}, {"min_snr_gamma": 5.0}],
    ids=lambda options: ", ".join(options) or "as in the paper",
)
def test_the_gradient_of_both_losses_is_the_exact_one(options):
    exact, wanted, _ = loss_and_gradient("double_backward", **options)
    found, gradient, _ = loss_and_gradient("paired", **options)
    torch.testing.assert_close(found.loss, exact.loss)
    torch.testing.assert_close(found.base, exact.base, rtol=1e-14, atol=0)  # L_base is that at eps, its gradient that of the pair
    assert 0 < (gradient - wanted).norm() < 1e-5 * wanted.norm()


def test_its_error_falls_with_the_square_of_the_step():
    _, wanted, _ = loss_and_gradient("double_backward")
    errors = [(loss_and_gradient("paired", difference=h)[1] - wanted).norm() for h in (0.1, 0.01)]
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.2)


def test_it_calls_the_network_twice_and_central_three_times():
    *_, calls = loss_and_gradient("paired")
    assert calls == [3, 6]
    *_, calls = loss_and_gradient("central")
    assert calls == [3, 3, 3]


def test_a_denoiser_that_takes_no_copies_is_called_for_each_point():
    gain, seen = torch.tensor([1.5], requires_grad=True), []

    def denoise(eps):
        seen.append(len(eps))
        return torch.sin(gain * eps), None

    eps, directions = noise(2, 6, dtype=torch.float64), unit_directions(noise(2, 6, seed=1, dtype=torch.float64))
    found = {}
    for way in ("double_backward", "paired"):
        r, output = step_variation(denoise, eps, directions, torch.ones(2), gradient=way, difference=1e-4)
        (found[way],) = torch.autograd.grad(r.sum(), gain)
        assert output is None
    torch.testing.assert_close(found["paired"], found["double_backward"])
    assert seen == [2, 2, 2, 2]


def test_under_autocast_the_pair_leaves_it_or_stays():
    kinds = []

    class Layer(torch.nn.Linear):
        def forward(self, x):
            found = super().forward(x)
            kinds.append(found.dtype)
            return found

    layer = Layer(6, 6)
    for precision in ("float32", "network"):
        with torch.autocast("cpu", torch.bfloat16):
            denoise = lambda eps: (layer(eps),) * 2  # noqa: E731
            ways = dict(gradient="paired", difference_precision=precision)
            r, output = step_variation(denoise, noise(2, 6), unit_directions(noise(2, 6, seed=1)), torch.ones(2), **ways)
        (r.sum() + output.sum()).backward()
    assert kinds == [torch.bfloat16, torch.float32, torch.float32] + [torch.bfloat16] * 3
