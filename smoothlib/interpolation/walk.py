"""Walks between two latents (Sec. 4.2, A.3), and what every interpolation needs: mixing ratios, prompts and samples of all frames.

A walk is F images, mixing ratio eta = 0, 1/(F-1), ..., 1. All frames of all walks are sampled as one batch (in chunks of `batch_size`
images), so that the time is the network's and the decoder's. Whether a walk is Stable Diffusion Walk or Smooth Diffusion's is decided by
the adapter that the pipeline carries. Real images are walked between in `real_images`; Wang & Golland's method is in `anid`.

A walk has one prompt, or two: `second_embeds` is then the second end's, and frames use the linear mix (1 - eta) xi_a + eta xi_b.
"""

from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..diffusion import check_finite, slerp
from ..embeddings import Embeds, check_embeds
from ..sampling import Sampling, check_batch_size, decode_latents, encode_prompts, sample_steps

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


def latent_walk(
    pipe: "StableDiffusionPipeline",
    start: Tensor,
    end: Tensor,
    prompt_embeds: Tensor,
    sampling: Sampling,
    *,
    second_embeds: Tensor | None = None,
    frames: int = 11,
    inverted: bool = False,
) -> Tensor:
    """Walk between two noises (Eq. 18): images from slerp(start, end, eta), eta = 0, .1, ..., 1 at 11 frames.

    The end frames are the plain samples of `start` and `end`.

    Args:
        start, end: x_T of the walks' ends, (B, 4, h, w): Gaussian noises, or latents of inverted images.
        prompt_embeds: one prompt per walk, (B or 1, L, D).
        sampling: guidance, steps and batch; null embeddings per walk, the same for all of its frames.
        second_embeds: prompts of the end frames where they differ, (B or 1, L, D); those between are mixed linearly.
        inverted: `start` and `end` are latents of inverted images, see `sampling.sample_steps`.

    Returns:
        Images, (B, F, 3, H, W) in [-1, 1].

    Example:
        >>> import torch
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib import Sampling, encode_prompts, latent_walk
        >>> pipe = load_pipeline("mini")
        >>> start, end, prompt = torch.randn(1, 4, 16, 16), torch.randn(1, 4, 16, 16), encode_prompts(pipe, ["a photo of a red sofa"])
        >>> latent_walk(pipe, start, end, prompt, Sampling(guidance_scale=3, num_inference_steps=2), frames=3).shape
        torch.Size([1, 3, 3, 64, 64])
    """
    ratios = mixing_ratios(frames)
    _check_latents(start, end)
    latents = slerp(start, end, ratios).transpose(0, 1)  # (B, F, 4, h, w)
    z0 = sample_frames(pipe, latents, frame_embeds(prompt_embeds, second_embeds, ratios, len(start)), sampling, inverted=inverted)
    return decode_frames(pipe, z0, sampling.batch_size)


def mixing_ratios(frames: int) -> Tensor:
    """eta of each frame, (F,) float64: 0, 1/(F-1), ..., 1."""
    if not isinstance(frames, int) or frames < 2:
        raise ValueError(f"frames must be an integer of at least 2, not {frames!r}")
    return torch.linspace(0, 1, frames, dtype=torch.float64)


def frame_embeds(prompt_embeds: Tensor, second_embeds: Tensor | None, ratios: Tensor, num_walks: int) -> Tensor:
    """Prompt embeddings of each frame, (B, F, L, D): one prompt throughout, or two mixed linearly by `ratios` (F,)."""
    for name, embeds in (("prompt_embeds", prompt_embeds), ("second_embeds", second_embeds)):
        if embeds is not None and embeds.ndim != 3:
            raise ValueError(f"{name} must have shape ({num_walks} or 1, L, D), not {tuple(embeds.shape)}")
        check_embeds(name, embeds, 1, num_walks)
    first = prompt_embeds.expand(num_walks, -1, -1)[:, None]  # (B, 1, L, D)
    if second_embeds is None:
        return first.expand(-1, len(ratios), -1, -1)
    eta = ratios.to(first)[:, None, None]  # (F, 1, 1)
    return (1 - eta) * first + eta * second_embeds.expand(num_walks, -1, -1)[:, None]


def sample_frames(
    pipe: "StableDiffusionPipeline",
    latents: Tensor,
    prompt_embeds: Tensor,
    sampling: Sampling,
    *,
    first_step: int = 0,
    last_step: int | None = None,
    inverted: bool = False,
) -> Tensor:
    """Denoise the frames of all walks, (B, F, 4, h, w), with an embedding for each, (B, F, L, D): walks and frames form one batch.

    Runs the sampling steps `first_step`, ..., `last_step - 1` (None: to the end). `sampling` and `inverted` are as in
    `latent_walk`.
    """
    num_walks, num_frames = latents.shape[:2]
    num_inference_steps, null_embeds = sampling.num_inference_steps, sampling.null_embeds
    last_step = num_inference_steps if last_step is None else last_step
    if null_embeds is None and sampling.guidance_scale != 1:
        null_embeds = encode_prompts(pipe, [""])  # once, not for every chunk
    check_embeds("null_embeds", null_embeds, num_inference_steps, num_walks)
    x, cond = latents.flatten(0, 1), prompt_embeds.flatten(0, 1)
    walk_of = torch.arange(num_walks).repeat_interleave(num_frames)
    done = []
    for rows in _chunks(len(x), sampling.batch_size):
        z = x[rows]
        steps = sample_steps(
            pipe,
            z,
            cond[rows],
            null_embeds=None if null_embeds is None else _of_walks(null_embeds, walk_of[rows]),
            guidance_scale=sampling.guidance_scale,
            num_inference_steps=num_inference_steps,
            first_step=first_step,
            inverted=inverted,
        )
        for z in islice(steps, last_step - first_step):  # noqa: B007 - only the last is kept
            pass
        done.append(z)
    return torch.cat(done).unflatten(0, (num_walks, num_frames))


def decode_frames(pipe: "StableDiffusionPipeline", z0: Tensor, batch_size: int | None = None) -> Tensor:
    """Images (B, F, 3, H, W) in [-1, 1] from latents (B, F, 4, h, w), decoded `batch_size` at a time."""
    flat = z0.flatten(0, 1)
    return torch.cat([decode_latents(pipe, flat[rows]) for rows in _chunks(len(flat), batch_size)]).unflatten(0, z0.shape[:2])


def _chunks(count: int, batch_size: int | None) -> list[slice]:
    check_batch_size(batch_size)
    size = batch_size or count
    return [slice(start, start + size) for start in range(0, count, size)]


def _of_walks(embeds: Embeds, walks: Tensor) -> Embeds:
    """Per-walk embeddings, in any form, as those of single frames that belong to `walks` (N,)."""
    if callable(embeds):
        return lambda i: _of_walks(embeds(i), walks)
    return embeds if embeds.shape[-3] == 1 else embeds.index_select(-3, walks.to(embeds.device))


def _check_latents(start: Tensor, end: Tensor) -> None:
    if start.shape != end.shape or start.ndim != 4:
        raise ValueError(f"start and end must have one shape (B, 4, h, w), not {tuple(start.shape)} and {tuple(end.shape)}")
    check_finite("start", start)
    check_finite("end", end)
