"""How large r of Eq. 9 is along diffusion time: what the regularizer makes alike, seen on a trained model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..denoiser import call_network, network_of
from ..predictions import predict_x0
from .variation import unit_directions

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


def variation_profile(
    pipe: "StableDiffusionPipeline", z0: Tensor, prompt_embeds: Tensor, timesteps: Sequence[int], *, seed: int = 0
) -> Tensor:
    """s_t ||J^T D||_2 of Eq. 10 (w = s_t, unit D) for each timestep and sample, (T, B).

    Args:
        z0: latents of images, (B, 4, h, w), scaled as the UNet sees them.
        prompt_embeds: (B, L, D).
        timesteps: training timesteps, each in [0, 999] for Stable Diffusion's schedule.
        seed: of eps and D, which are the same for every model and differ between timesteps.

    Raises:
        ValueError: a timestep is outside the scheduler's range.
    """
    alphas = pipe.scheduler.alphas_cumprod
    if wrong := [t for t in timesteps if not 0 <= t < len(alphas)]:
        raise ValueError(f"timesteps must lie in [0, {len(alphas) - 1}], got {wrong[0]}")
    network, prediction_type = network_of(pipe), pipe.scheduler.config.prediction_type
    z0, prompt_embeds = z0.to(network.device), prompt_embeds.to(network.device)
    rows = []
    for t in timesteps:
        generator = torch.Generator().manual_seed(seed * len(alphas) + t)
        eps, noise = (torch.randn(z0.shape, generator=generator).to(z0) for _ in range(2))
        step, alpha_bar = torch.full((len(z0),), t, device=network.device), alphas[t].to(z0).expand(len(z0))
        with torch.enable_grad():
            eps.requires_grad_()
            x_t = pipe.scheduler.add_noise(z0, eps, step)
            output = call_network(network, x_t, step, prompt_embeds)
            x0_hat = predict_x0(output, x_t, alpha_bar, prediction_type)
            (product,) = torch.autograd.grad((x0_hat * unit_directions(noise)).sum(), eps)  # J^T D, (B, 4, h, w)
        rows.append((1 - alphas[t]).sqrt().item() * product.flatten(1).norm(dim=1))
    return torch.stack(rows).cpu()
