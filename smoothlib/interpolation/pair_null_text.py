"""Null-text inversion of many pairs of images at once (Eq. 20): one null embedding per step and pair, shared by its two images."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..denoiser import call_network, network_of
from ..diffusion import ddim_scheduler, set_timesteps
from ..inversion import NullTextInversion, Progress
from ..null_text import GuidedStep, check_loss, frozen, optimise
from ..sampling import encode_prompts

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

LEARNING_RATE, TOLERANCE, TOLERANCE_GROWTH = 1e-2, 1e-5, 2e-5  # as published


@dataclass(frozen=True)
class PairStep:
    """A guided step of B pairs as a function of their null embeddings, for `null_text.optimise`: the loss of a pair is its images' sum."""

    images: GuidedStep  # of 2B images: all first ones, then all second ones
    z: Tensor  # (B, ...): how many pairs there are, and where they are

    def __call__(self, null_embeds: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([pairs, len(self.z) + pairs])
        z_next, loss = self.images(torch.cat([null_embeds, null_embeds]), both)
        return z_next, loss.unflatten(0, (2, -1)).sum(0)


def pair_null_text_inversion(
    pipe: "StableDiffusionPipeline",
    pivots: Tensor,
    prompt_embeds: Tensor,
    *,
    guidance_scale: float,
    num_inner_steps: int = 10,
    progress: Progress = iter,
) -> NullTextInversion:
    """`null_text_inversion(..., shared=True)` of each of B pairs, all in one batch: pairs are independent, and stop by themselves.

    Args:
        pivots: (T + 1, 2B, 4, h, w) from `ddim_invert`: all first images, then all second ones.
        prompt_embeds: (2B, L, D), of the images.
        guidance_scale, num_inner_steps: as for `null_text_inversion`, with which they are to be checked (`check_null_text`).

    Returns:
        null_embeds (T, B, L, D), losses (T, 2B) of the images, inner_steps (T, B), latents (2B, 4, h, w).

    Raises:
        RuntimeError: a loss is not finite; names the step and the pair.
    """
    steps, pairs, scheduler, network = len(pivots) - 1, pivots.shape[1] // 2, ddim_scheduler(pipe), network_of(pipe)
    timesteps = set_timesteps(scheduler, steps, pivots.device)
    cond_embeds, every = prompt_embeds.to(pivots), torch.arange(2 * pairs, device=pivots.device)
    nulls = [encode_prompts(pipe, [""]).to(pivots) for _ in range(pairs)]
    found, losses, inner_steps, z = [], [], [], pivots[-1]
    with frozen(network), torch.autocast(z.device.type, enabled=False):
        for i in progress(range(steps)):
            with torch.no_grad():
                e_cond = call_network(network, z, timesteps[i], cond_embeds, {})
            images = GuidedStep(network, scheduler, timesteps[i], z, e_cond, pivots[-2 - i], guidance_scale, {})
            lr, threshold, where = LEARNING_RATE * (1 - min(i, 99) / 100), TOLERANCE + TOLERANCE_GROWTH * i, f"step {i} of {steps}"
            taken = optimise(PairStep(images, z[:pairs]), nulls, num_inner_steps, lr, threshold, where)
            with torch.no_grad():
                z, loss = images(torch.cat([*nulls, *nulls]), every)
            check_loss(loss, range(2 * pairs), where)
            found.append(torch.cat(nulls).detach())
            losses.append(loss)
            inner_steps.append(torch.tensor(taken))
    return NullTextInversion(torch.stack(found), torch.stack(losses), torch.stack(inner_steps), z)
