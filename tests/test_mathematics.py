"""What the claims that are checked as mathematics come to, where Paper versus code does not compute it."""

import pytest
import torch

from companion.weights.pipelines import load_pipeline
from smoothlib.diffusion import slerp


def test_the_last_latent_is_nearly_the_noise():
    """x_T = sqrt(alpha_bar_T) x_0 + sqrt(1 - alpha_bar_T) eps with Stable Diffusion's scaled-linear schedule."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    last = (1 - betas).prod()
    assert last.sqrt().item() == pytest.approx(0.068, abs=5e-4) and (1 - last).sqrt().item() == pytest.approx(0.998, abs=5e-4)
    torch.testing.assert_close(load_pipeline("mini").scheduler.alphas_cumprod[-1].double(), last, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("stretch", "equal"), [(1.0, True), (3.0, False)])
def test_the_steps_of_a_walk_are_equal_only_between_noises_of_one_length(stretch, equal):
    a, b = torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    walk = slerp(a / a.norm(), stretch * b / b.norm(), torch.linspace(0, 1, 11, dtype=torch.float64))[:, 0]
    lengths = walk.diff(dim=0).norm(dim=1)
    assert ((lengths.max() - lengths.min()) / lengths.mean() < 1e-9).item() == equal


def test_the_gradient_of_eq_10_needs_a_direction_held_constant_not_an_independent_one():
    weight = torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    eps = torch.randn(5, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)

    def denoise(noise):
        return torch.tanh(weight @ noise)

    dependent = eps / eps.norm()  # as far from independent as a direction can be
    product = torch.autograd.functional.jacobian(denoise, eps.detach()).T @ dependent.detach()
    (held,) = torch.autograd.grad(denoise(eps) @ dependent.detach(), eps)
    (moving,) = torch.autograd.grad(denoise(eps) @ dependent, eps)
    torch.testing.assert_close(held, product)
    assert (moving - product).norm() > 0.1 * product.norm()
