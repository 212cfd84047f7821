"""Interpolation of real images (Sec. 4.2, A.4; Fig. 3, 7): through the inversion of both, and in the VAE's space.

In the paper both images of a pair share one prompt ("A church"), used for inversion (xi in Eq. 20) and for every frame; that is
`second_embeds=None`. Where the two images have prompts of their own, `second_embeds` is the second's: each image is inverted with its own,
and frames use the linear mix (1 - eta) xi_a + eta xi_b, so that the end frames keep the prompts that they were inverted with.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..inversion import Progress, check_null_text, ddim_invert
from ..sampling import Sampling, encode_images
from .pair_null_text import pair_null_text_inversion
from .walk import decode_frames, frame_embeds, latent_walk, mixing_ratios

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


def vae_interpolation(
    pipe: "StableDiffusionPipeline", first: Tensor, second: Tensor, *, frames: int = 11, batch_size: int | None = None
) -> Tensor:
    """VAE interpolation (Fig. 3): decoded linear mixes of the two images' latents; the end frames are the VAE's reconstructions.

    `first`, `second` (B, 3, H, W) in [-1, 1]; returns (B, F, 3, H, W) in [-1, 1].

    Example:
        >>> import torch
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib import vae_interpolation
        >>> black, white = -torch.ones(1, 3, 64, 64), torch.ones(1, 3, 64, 64)
        >>> vae_interpolation(load_pipeline("mini"), black, white, frames=3).shape
        torch.Size([1, 3, 3, 64, 64])
    """
    ratios = mixing_ratios(frames)
    z_first, z_second = encode_pairs(pipe, first, second)
    eta = ratios.to(z_first)[:, None, None, None]  # (F, 1, 1, 1)
    return decode_frames(pipe, (1 - eta) * z_first[:, None] + eta * z_second[:, None], batch_size)


@dataclass(frozen=True)
class InvertedPairs:
    """Pairs of real images as walks can use them: `latent_walk(pipe, p.start, p.end, ..., inverted=True)` with their null embeddings."""

    start: Tensor  # (B, 4, h, w): x_T of the first images
    end: Tensor  # (B, 4, h, w): x_T of the second images
    null_embeds: Tensor  # (T, B, L, D): one series per pair, shared by its two images (Eq. 20)
    losses: Tensor  # (T, B, 2): of the first and second image, as in `NullTextInversion`
    inner_steps: Tensor  # (T, B) int: optimiser steps taken for the pair


def invert_pairs(
    pipe: "StableDiffusionPipeline",
    first: Tensor,
    second: Tensor,
    prompt_embeds: Tensor,
    sampling: Sampling,
    *,
    second_embeds: Tensor | None = None,
    num_inner_steps: int = 10,
    progress: Progress = iter,
) -> InvertedPairs:
    """Inversion of pairs of real images with null embeddings shared within each pair (Eq. 4, 20).

    All images are DDIM-inverted as one batch at guidance 1; then null embeddings minimise the sum of each pair's two losses, all pairs at
    once. Arguments as for `real_image_interpolation`; `progress` wraps the step indices of null-text inversion.
    """
    if sampling.null_embeds is not None:
        raise ValueError("sampling has null_embeds, but must have none: the inversion finds them")
    check_null_text(pipe, guidance_scale=sampling.guidance_scale, num_inner_steps=num_inner_steps)  # before the inversion
    z0 = torch.cat(encode_pairs(pipe, first, second))  # (2B, 4, h, w)
    num_pairs = len(first)
    embeds = frame_embeds(prompt_embeds, second_embeds, mixing_ratios(2), num_pairs).transpose(0, 1).flatten(0, 1)  # (2B, L, D)
    pivots = ddim_invert(pipe, z0, embeds, num_inference_steps=sampling.num_inference_steps)  # (T + 1, 2B, 4, h, w)
    arguments = dict(guidance_scale=sampling.guidance_scale, num_inner_steps=num_inner_steps, progress=progress)
    found = pair_null_text_inversion(pipe, pivots, embeds, **arguments)
    return InvertedPairs(
        start=pivots[-1, :num_pairs],
        end=pivots[-1, num_pairs:],
        null_embeds=found.null_embeds,
        losses=found.losses.unflatten(1, (2, -1)).transpose(1, 2),
        inner_steps=found.inner_steps,
    )


def real_image_interpolation(
    pipe: "StableDiffusionPipeline",
    first: Tensor,
    second: Tensor,
    prompt_embeds: Tensor,
    sampling: Sampling,
    *,
    second_embeds: Tensor | None = None,
    frames: int = 11,
    num_inner_steps: int = 10,
    progress: Progress = iter,
) -> tuple[Tensor, InvertedPairs]:
    """Interpolation of real images (A.4): invert both with a shared series of null embeddings, slerp x_T, the same nulls for all frames.

    Args:
        first, second: images, (B, 3, H, W) in [-1, 1].
        prompt_embeds, second_embeds: (B or 1, L, D), see the module's docstring.
        sampling: guidance, not 1, steps and batch (of the frames; all images are inverted at once); no null embeddings.
        num_inner_steps: most optimiser steps per sampling step of null-text inversion.

    Returns:
        Images, (B, F, 3, H, W) in [-1, 1], and the inversion.

    Example:
        >>> import torch
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib import Sampling, encode_prompts, real_image_interpolation
        >>> pipe = load_pipeline("mini")
        >>> black, white, prompt = -torch.ones(1, 3, 64, 64), torch.ones(1, 3, 64, 64), encode_prompts(pipe, ["a photo"])
        >>> few = Sampling(guidance_scale=3, num_inference_steps=2)
        >>> walk, inversion = real_image_interpolation(pipe, black, white, prompt, few, frames=3, num_inner_steps=1)
        >>> walk.shape, inversion.start.shape
        (torch.Size([1, 3, 3, 64, 64]), torch.Size([1, 4, 16, 16]))
    """
    mixing_ratios(frames)  # checked before the inversion, which takes most of the time
    options = dict(second_embeds=second_embeds, num_inner_steps=num_inner_steps, progress=progress)
    inverted = invert_pairs(pipe, first, second, prompt_embeds, sampling, **options)
    sampling = replace(sampling, null_embeds=inverted.null_embeds)
    walk = latent_walk(
        pipe, inverted.start, inverted.end, prompt_embeds, sampling, second_embeds=second_embeds, frames=frames, inverted=True
    )
    return walk, inverted


def encode_pairs(pipe: "StableDiffusionPipeline", first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """z0 of the first and of the second images, each (B, 4, h, w), from images (B, 3, H, W) in [-1, 1]."""
    if first.shape != second.shape:
        raise ValueError(f"first and second must have one shape, not {tuple(first.shape)} and {tuple(second.shape)}")
    z_first, z_second = encode_images(pipe, torch.cat([first, second])).chunk(2)
    return z_first, z_second
