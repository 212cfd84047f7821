"""Pix2Pix-Zero's own inversion: DDIM inversion whose noise estimates are made to look like white noise (Parmar et al. 2023, Sec. 3.1).

Edits of an inverted latent fail where it is no sample of the noise that the network was trained on. Before each step up, the estimate eps
is moved `num_reg_steps` times along the gradients of two losses, one value of each per image:

- auto-correlation: at each level of a pyramid (each averages 2 x 2 of the one before, down to a side of at most 8) and for each channel,
  the squared mean of the product of the map with itself, rolled by a random distance along the rows, and along the columns;
- KL: mean^2 + var - 1 - log var, over all values of an image: twice the divergence of a Gaussian from the unit Gaussian.
"""

from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..denoiser import call_network
from ..diffusion import ddim_inverse_scheduler, noise_schedule, predict_eps, set_timesteps
from ..sampling import check_latents
from .inputs import Generators
from .inversions import Progress

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

SMALLEST_SIDE = 8  # the pyramid ends with the first level that is no larger


class Regularisation(Protocol):
    """What the inversion reads of `Pix2PixZero`."""

    num_inference_steps: int
    lambda_auto_corr: float
    lambda_kl: float
    num_reg_steps: int
    num_auto_corr_rolls: int


@torch.no_grad()
def regularised_inversion(
    pipe: "StableDiffusionPipeline",
    z0: Tensor,
    prompt_embeds: Tensor,
    settings: Regularisation,
    generator: Generators = None,
    progress: Progress = iter,
) -> Tensor:
    """x_T (B, 4, h, w) from z0 with the images' prompts (B, L, D) at guidance 1, one evaluation per step.

    Where the network gives v or the sample, it is the noise that it means that is regularised. The steps along the KL's gradient are made
    for estimates whose variance is near 1; far from it they diverge, which is reported as latents that are not finite.
    """
    config = noise_schedule(pipe)
    predicted = config.get("prediction_type", "epsilon")
    scheduler = ddim_inverse_scheduler({**config, "prediction_type": "epsilon"})
    timesteps = set_timesteps(scheduler, settings.num_inference_steps, pipe.unet.device)  # ascending
    z = z0.to(pipe.unet.device, pipe.unet.dtype)
    sides = pyramid_sides(*z.shape[-2:])
    wanted = (settings.num_inference_steps, settings.num_reg_steps, settings.num_auto_corr_rolls, z.shape[1], len(sides))
    shifts = random_shifts(generator, len(z), wanted, sides).to(z.device) if settings.lambda_auto_corr else None
    for i in progress(range(settings.num_inference_steps)):
        output = call_network(pipe.unet, z, timesteps[i], prompt_embeds)
        eps = predict_eps(output, z, scheduler.alphas_cumprod[int(timesteps[i])], predicted)
        eps = regularise(eps, None if shifts is None else shifts[:, i], settings)
        z = scheduler.step(eps, timesteps[i], z, return_dict=False)[0]
        check_latents(z, f"step {i} of {settings.num_inference_steps} of the inversion")
    return z


def regularise(eps: Tensor, shifts: Tensor | None, settings: Regularisation) -> Tensor:
    """The estimate (B, 4, h, w) after the steps along both gradients; shifts (B, reg steps, rolls, 4, levels), None for KL alone."""
    for outer in range(settings.num_reg_steps):
        for roll in range(settings.num_auto_corr_rolls if shifts is not None else 0):
            rate = settings.lambda_auto_corr / settings.num_auto_corr_rolls
            eps = eps - rate * _gradient(lambda e, now=shifts[:, outer, roll]: auto_correlation(e, now), eps)
        if settings.lambda_kl:
            eps = eps - settings.lambda_kl * _gradient(kl_divergence, eps)
    return eps


def auto_correlation(noise: Tensor, shifts: Tensor) -> Tensor:
    """The loss of each image, (B,): noise (B, C, h, w), shifts (B, C, levels) in pixels of each level of the pyramid."""
    loss = noise.new_zeros(len(noise))
    for level in range(shifts.shape[-1]):
        if level:
            noise = F.avg_pool2d(noise, kernel_size=2)
        for dim in (2, 3):
            rolled = _rolled(noise, shifts[..., level], dim)
            loss = loss + (noise * rolled).mean(dim=(2, 3)).square().sum(dim=1)
    return loss


def kl_divergence(noise: Tensor) -> Tensor:
    """mean^2 + var - 1 - log var of each image, (B,); noise (B, C, h, w)."""
    values = noise.flatten(1)
    mean, var = values.mean(dim=1), values.var(dim=1)
    return var + mean.square() - 1 - torch.log(var + 1e-7)


def pyramid_sides(height: int, width: int) -> list[int]:
    """The shorter side of each level: 64, 32, 16, 8 for Stable Diffusion's latents."""
    sides = [min(height, width)]
    while height > SMALLEST_SIDE:
        height, width = height // 2, width // 2
        sides.append(min(height, width))
    return sides


def random_shifts(generator: Generators, batch_size: int, shape: tuple[int, ...], sides: list[int]) -> Tensor:
    """Distances (B, *shape), the last axis over levels: uniform in 1, ..., side / 2 - 1, drawn for each image by itself."""
    generators = list(generator) if isinstance(generator, list | tuple) else [generator] * batch_size
    uniform = torch.stack([torch.rand(shape, generator=one, device=one.device if one else "cpu").cpu() for one in generators])
    return 1 + (uniform * (torch.tensor(sides) // 2 - 1)).long()


def check_regularised(pipe: "StableDiffusionPipeline", images: Tensor, settings: Regularisation, generator: Generators) -> None:
    """ValueError where the auto-correlation has no generator, or the latents are too small to be rolled."""
    if not settings.lambda_auto_corr:
        return
    if generator is None:
        raise ValueError("generator is None, but must be given: the regularised inversion draws the rolls of its auto-correlation")
    height, width = (size // pipe.vae_scale_factor for size in images.shape[-2:])
    if min(pyramid_sides(height, width)) < 4:
        raise ValueError(f"images have latents of {height} x {width}, but must have at least 4 on each level of the pyramid")


def _rolled(noise: Tensor, shifts: Tensor, dim: int) -> Tensor:
    """torch.roll along dim 2 or 3 with a shift for each map: noise (B, C, h, w), shifts (B, C)."""
    size = noise.shape[dim]
    index = (torch.arange(size, device=noise.device) - shifts[..., None]) % size  # (B, C, size)
    index = index[..., None] if dim == 2 else index[:, :, None]
    return noise.gather(dim, index.expand_as(noise))


def _gradient(loss: object, noise: Tensor) -> Tensor:
    """d sum(loss) / d noise; the sum keeps images independent."""
    with torch.enable_grad():
        noise = noise.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(noise).sum(), noise)
    return gradient
