"""From a real image to a latent that reproduces it: DDIM inversion (Eq. 4) and null-text inversion (Eq. 19, 20).

Both take latents z0 (`sampling.encode_images`) and work on a batch of images at once; storage and progress display are the caller's.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .denoiser import Added, call_network, network_of, predict_noise
from .diffusion import check_finite, check_number, ddim_inverse_scheduler, ddim_scheduler, set_timesteps
from .embeddings import check_embeds
from .null_text import GuidedStep, check_loss, frozen, optimise
from .sampling import check_latents, encode_prompts

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

Progress = Callable[[Iterable[int]], Iterable[int]]  # e.g. tqdm: wraps the list of step indices


@torch.no_grad()
def ddim_invert(
    pipe: "StableDiffusionPipeline",
    z0: Tensor,
    prompt_embeds: Tensor,
    *,
    num_inference_steps: int = 50,
    guidance_scale: float = 1.0,
    null_embeds: Tensor | None = None,
    progress: Progress = iter,
    added: Added | None = None,
    null_added: Added | None = None,
) -> Tensor:
    """DDIM inversion (Eq. 4): the pivots z*_0, ..., z*_T that DDIM sampling would pass through, in reverse.

    Eq. 4 evaluates the noise at t. Like the authors' code this evaluates it at the upper end of each step, t + 1, the timestep at which the
    sampling step back down evaluates it too; the remaining error is that it is evaluated at z*_t instead of z*_{t+1}. Where the network
    gives v or the sample, its output is converted with the level that it was asked at: one denoiser has one inversion, whatever it gives.

    Args:
        z0: latents of the images, (B, 4, h, w).
        prompt_embeds: the images' prompts, (B or 1, L, D).
        num_inference_steps: T.
        guidance_scale: w of Eq. 5; the paper and null-text inversion invert at 1 (no null embedding).
        null_embeds: (B or 1, L, D) for w != 1; None for the plain empty prompt.
        progress: wraps the iterable of step indices, e.g. `tqdm`.
        added, null_added: what the network takes beside the prompt and the empty prompt, one row per image, see `denoiser`.

    Returns:
        Pivots, (T + 1, B, 4, h, w): index 0 is z0, index T the inverted noise.

    Raises:
        ValueError: bad arguments, or a scheduler without DDIM's kind of noise schedule, such as flow matching's.
        RuntimeError: the latents are no longer finite after a step; names it.

    Example:
        >>> import torch
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib import ddim_invert, encode_prompts
        >>> pipe = load_pipeline("mini")
        >>> z0 = torch.randn(1, 4, 16, 16)  # of an image: encode_images(pipe, images)
        >>> pivots = ddim_invert(pipe, z0, encode_prompts(pipe, ["a photo of a red sofa"]), num_inference_steps=2)
        >>> pivots.shape, torch.equal(pivots[0], z0)
        (torch.Size([3, 1, 4, 16, 16]), True)
    """
    check_number("guidance_scale", guidance_scale)
    check_finite("z0", z0)
    scheduler, network = ddim_inverse_scheduler(pipe), network_of(pipe)
    timesteps = set_timesteps(scheduler, num_inference_steps, network.device)  # ascending
    if null_embeds is None and guidance_scale != 1:
        null_embeds = encode_prompts(pipe, [""])
    z = z0.to(network.device, network.dtype)
    cond = _one_per_image("prompt_embeds", prompt_embeds, z)
    null = None if guidance_scale == 1 else _one_per_image("null_embeds", null_embeds, z)
    pivots = [z]
    for i in progress(range(num_inference_steps)):
        e = predict_noise(network, z, timesteps[i], cond, null, guidance_scale, added, null_added)
        z = scheduler.step(e, timesteps[i], z, return_dict=False)[0]
        check_latents(z, f"step {i} of {num_inference_steps}")
        pivots.append(z)
    return torch.stack(pivots)


@dataclass(frozen=True)
class NullTextInversion:
    """What null-text inversion found; index 0 along T is the noisiest step, as in sampling."""

    null_embeds: Tensor  # (T, B, L, D), or (T, 1, L, D) when shared
    losses: Tensor  # (T, B) float: mean (z_{t-1} - z*_{t-1})^2 that the stored embedding reaches
    inner_steps: Tensor  # (T, B) int: optimiser steps taken
    latents: Tensor  # (B, 4, h, w): where the steps with the embeddings found end; sampling with `null_embeds` gives them again


def null_text_inversion(
    pipe: "StableDiffusionPipeline",
    pivots: Tensor,
    prompt_embeds: Tensor,
    *,
    guidance_scale: float,
    num_inner_steps: int = 10,
    lr: float = 1e-2,
    tolerance: float = 1e-5,
    tolerance_growth: float = 2e-5,
    shared: bool = False,
    progress: Progress = iter,
    added: Added | None = None,
    null_added: Added | None = None,
) -> NullTextInversion:
    """Null-text inversion (Eq. 19; Mokady et al. 2023): one null embedding per step that keeps guided sampling on the pivots.

    Starting at z_T = z*_T with the plain null embedding, at step i = 0, ..., T - 1 (from noise down) minimise over the null embedding
    `mean (DDIM(z_t, e_null + w (e_cond - e_null)) - z*_{t-1})^2`, from the previous step's optimum on, with a fresh Adam of learning rate
    `lr (1 - i/100)`; stop an image after the update whose loss was below `tolerance + tolerance_growth i`; then advance z_t with what was
    found. Beyond 100 steps, which the released schedule does not foresee, the learning rate stays at step 99's `lr / 100` instead of
    turning negative.

    Images are independent: each has its own loss and its own stop, and an image that has stopped leaves the batch that is evaluated. The
    result equals that of one image at a time. `shared=True` finds a single null embedding per step for the whole batch (Eq. 20): loss and
    threshold are then those of the sum over images, as for the interpolation between two real images.

    Args:
        pivots: (T + 1, B, 4, h, w) from `ddim_invert` with the same prompts at guidance 1; T is taken from it.
        prompt_embeds: (B or 1, L, D).
        guidance_scale: w of Eq. 5, not 1 (where the null embedding has no effect).
        num_inner_steps: most Adam steps per sampling step; published: 10.
        lr: learning rate of Adam at the first step; published: 0.01. One step with 0.1 is a cheap approximation (`beyond_null_text`).
        progress: wraps the iterable of step indices, e.g. `tqdm`.
        added, null_added: as for `ddim_invert`; `null_added` None: as `added`.

    Raises:
        ValueError: bad arguments, or a network in half precision (the losses lie below its resolution).
        RuntimeError: a loss is not finite; names the step and the image.

    Example:
        >>> import torch
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib import ddim_invert, encode_prompts, null_text_inversion, sample
        >>> pipe = load_pipeline("mini")
        >>> prompt = encode_prompts(pipe, ["a photo of a red sofa"])
        >>> pivots = ddim_invert(pipe, torch.randn(1, 4, 16, 16), prompt, num_inference_steps=2)
        >>> found = null_text_inversion(pipe, pivots, prompt, guidance_scale=3, num_inner_steps=1)
        >>> settings = dict(guidance_scale=3, num_inference_steps=2, inverted=True)
        >>> z0 = sample(pipe, pivots[-1], prompt, null_embeds=found.null_embeds, **settings)
        >>> torch.allclose(z0, found.latents, atol=1e-4)
        True
    """
    if pivots.ndim != 5 or len(pivots) < 2:
        raise ValueError(f"pivots must have shape (T + 1, B, 4, h, w) with T >= 1, not {tuple(pivots.shape)}")
    check_null_text(pipe, guidance_scale=guidance_scale, num_inner_steps=num_inner_steps, lr=lr)
    check_number("tolerance", tolerance)
    check_number("tolerance_growth", tolerance_growth)
    network = network_of(pipe)
    pivots = pivots.to(network.device, network.dtype)
    num_inference_steps, batch_size = len(pivots) - 1, pivots.shape[1]
    scheduler = ddim_scheduler(pipe)
    timesteps = set_timesteps(scheduler, num_inference_steps, network.device)
    cond_embeds = _one_per_image("prompt_embeds", prompt_embeds, pivots[0])
    plain = encode_prompts(pipe, [""]).to(pivots)
    nulls = [plain.clone() for _ in range(1 if shared else batch_size)]  # each (1, L, D): separate leaves, so that one can stop alone
    found, losses, inner_steps = [], [], []
    z = pivots[-1]
    null_added = added if null_added is None else null_added
    with frozen(network), torch.autocast(z.device.type, enabled=False):
        for i in progress(range(num_inference_steps)):
            t, target = timesteps[i], pivots[-2 - i]
            with torch.no_grad():
                e_cond = call_network(network, z, t, cond_embeds, added)
            step = GuidedStep(network, scheduler, t, z, e_cond, target, guidance_scale, null_added or {})
            lr_i, threshold = lr * (1 - min(i, 99) / 100), tolerance + tolerance_growth * i
            taken = optimise(step, nulls, num_inner_steps, lr_i, threshold, where=f"step {i} of {num_inference_steps}")
            with torch.no_grad():
                z, loss = step(torch.cat(nulls).expand(batch_size, -1, -1), torch.arange(batch_size))
            check_loss(loss, range(batch_size), f"step {i} of {num_inference_steps}")
            found.append(torch.cat(nulls).detach())
            losses.append(loss)
            inner_steps.append(torch.tensor(taken).expand(batch_size))
    return NullTextInversion(torch.stack(found), torch.stack(losses), torch.stack(inner_steps), z)


def _one_per_image(name: str, embeds: Tensor, z: Tensor) -> Tensor:
    """`embeds`, (B or 1, L, D), as (B, L, D) on z's device in z's dtype."""
    if embeds.ndim != 3:
        raise ValueError(f"{name} must have shape (B or 1, L, D), not {tuple(embeds.shape)}")
    check_embeds(name, embeds, 1, len(z))
    return embeds.to(z).expand(len(z), -1, -1)


def check_null_text(pipe: "StableDiffusionPipeline", *, guidance_scale: float, num_inner_steps: int, lr: float = 1e-2) -> None:
    """Raise as `null_text_inversion` would: for callers that have something expensive to do before it."""
    check_number("guidance_scale", guidance_scale)
    if guidance_scale == 1:
        raise ValueError("guidance_scale must differ from 1 for null-text inversion: at 1 the null embedding has no effect")
    if num_inner_steps < 1:
        raise ValueError(f"num_inner_steps must be at least 1, not {num_inner_steps}")
    if not 0 < lr < math.inf:
        raise ValueError(f"lr must be positive and finite, not {lr}")
    if (dtype := network_of(pipe).dtype) not in (torch.float32, torch.float64):
        raise ValueError(f"pipe must be in float32 for null-text inversion, not {dtype}: load it with dtype=torch.float32")
