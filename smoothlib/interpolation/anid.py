"""ANID, image interpolation through partial noise (Wang & Golland 2023; the baseline of Fig. 3), on the pipeline's own prompts.

Both images get the same noise up to a level of the schedule, the noisy latents are mixed by slerp, and the mixes are denoised with
guidance. The end frames are the images themselves, through the autoencoder. Of the original, the optional parts are left out: textual
inversion of the prompts, pose guidance, the choice among candidates by CLIP, and the re-mixing of frames that were already refined.

Levels count sampling steps: at level .5 of 200 steps the noise is that at which step 100 starts, and the last 100 steps are run. (The
released code starts denoising one step below the level of its noise.)
"""

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..diffusion import check_finite, sampling_scheduler, set_timesteps, slerp, warn_of_signal
from ..sampling import Sampling
from .real_images import encode_pairs
from .walk import decode_frames, frame_embeds, mixing_ratios, sample_frames

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

PUBLISHED_STEPS = 200  # sampling steps of Wang & Golland


def anid(
    pipe: "StableDiffusionPipeline",
    first: Tensor,
    second: Tensor,
    prompt_embeds: Tensor,
    noise: Tensor,
    sampling: Sampling,
    *,
    second_embeds: Tensor | None = None,
    frames: int = 11,
    level: float = 0.5,
    denoise_ends: bool = False,
) -> Tensor:
    """One-level ANID: every frame is a slerp at one and the same noise level. Any number of frames, as in Fig. 3 (11, at 50 or 200 steps).

    Args:
        first, second: images, (B, 3, H, W) in [-1, 1].
        prompt_embeds, second_embeds: (B or 1, L, D): the pair's prompt, or the two images' prompts, mixed linearly over the frames.
        noise: unit Gaussian noise, (B, 4, h, w), given to both images of a pair.
        sampling: guidance, steps (`PUBLISHED_STEPS` or fewer) and batch; null embeddings per pair.
        level: share of the schedule to which noise is added, in (0, 1]; Wang & Golland use .25 to .5.
        denoise_ends: noise and denoise the end frames as well, which then differ from the images, in the way that all other frames do.

    Returns:
        Images, (B, F, 3, H, W) in [-1, 1].
    """
    ratios = mixing_ratios(frames)
    if not 0 < level <= 1:
        raise ValueError(f"level must be in (0, 1], not {level}")
    num_inference_steps = sampling.num_inference_steps
    steps = max(1, round(level * num_inference_steps))
    (noise_level,) = _alpha_bars(pipe, num_inference_steps, [steps])
    z_first, z_second = encode_pairs(pipe, first, second)
    _check_noise(noise, z_first.shape)
    x_first, x_second = (add_noise(z, noise.to(z), 1.0, noise_level) for z in (z_first, z_second))
    x = slerp(x_first, x_second, ratios).transpose(0, 1)  # (B, F, 4, h, w)
    embeds = frame_embeds(prompt_embeds, second_embeds, ratios, len(first))  # (B, F, L, D)
    inner = slice(None) if denoise_ends else slice(1, -1)
    if frames > 2 or denoise_ends:
        x[:, inner] = sample_frames(pipe, x[:, inner], embeds[:, inner], sampling, first_step=num_inference_steps - steps)
    if not denoise_ends:
        x[:, 0], x[:, -1] = z_first, z_second
    return decode_frames(pipe, x, sampling.batch_size)


def anid_coarse_to_fine(
    pipe: "StableDiffusionPipeline",
    first: Tensor,
    second: Tensor,
    prompt_embeds: Tensor,
    noises: Tensor,
    sampling: Sampling,
    *,
    second_embeds: Tensor | None = None,
    frames: int = 17,
    levels: tuple[float, float] = (0.25, 0.5),
) -> Tensor:
    """ANID as published: from the noisiest level down, put the slerp of every two neighbours between them, denoise all to the next level.

    With 2^n + 1 frames there are n levels, evenly spaced. The images' latents at the levels form a forward diffusion (Eq. 2): noise is
    added from each level to the next, the same to both images.

    Args:
        first, second, prompt_embeds, sampling, second_embeds: as for `anid`.
        noises: unit Gaussian noises, (n, B, 4, h, w): what takes both images to the lowest level, then from each level to the next.
        frames: 2^n + 1: 3, 5, 9, 17, ...
        levels: lowest and highest level as shares of the schedule; after the lowest all frames are denoised to the end.

    Returns:
        Images, (B, F, 3, H, W) in [-1, 1]; the end frames are the VAE's reconstructions.
    """
    ratios = mixing_ratios(frames)
    num_inference_steps = sampling.num_inference_steps
    steps = level_steps(frames, num_inference_steps, levels)
    alpha_bars = _alpha_bars(pipe, num_inference_steps, steps)
    z_first, z_second = encode_pairs(pipe, first, second)
    _check_noise(noises, (len(steps), *z_first.shape))
    embeds = frame_embeds(prompt_embeds, second_embeds, ratios, len(first))  # (B, F, L, D)
    ends = torch.stack([z_first, z_second], dim=1)  # (B, 2, 4, h, w)
    ends_at = [ends]  # at no noise, then at each level
    for noise, (before, after) in zip(noises, pairwise([1.0, *alpha_bars]), strict=True):
        ends_at.append(add_noise(ends_at[-1], noise.to(ends)[:, None], before, after))
    x = ends.new_empty(len(first), frames, *ends.shape[2:])
    for k in range(len(steps), 0, -1):
        gap = 2 ** (k - 1)
        x[:, [0, -1]] = ends_at[k]
        lower, upper = x[:, : -2 * gap : 2 * gap], x[:, 2 * gap :: 2 * gap]  # (B, m, 4, h, w): left and right neighbours of the new
        x[:, gap :: 2 * gap] = slerp(lower.flatten(0, 1), upper.flatten(0, 1), 0.5).unflatten(0, lower.shape[:2])
        inner = slice(gap, -1, gap)
        x[:, inner] = sample_frames(
            pipe,
            x[:, inner],
            embeds[:, inner],
            sampling,
            first_step=num_inference_steps - steps[k - 1],
            last_step=num_inference_steps - (steps[k - 2] if k > 1 else 0),
        )
    x[:, [0, -1]] = ends
    return decode_frames(pipe, x, sampling.batch_size)


def level_steps(frames: int, num_inference_steps: int, levels: tuple[float, float] = (0.25, 0.5)) -> list[int]:
    """Sampling steps left to run at each of the n noise levels for 2^n + 1 `frames`, from the lowest level to the highest."""
    num_levels = (frames - 1).bit_length() - 1
    if frames != 2**num_levels + 1 or num_levels < 1:
        raise ValueError(f"frames must be 2^n + 1 (3, 5, 9, 17, ...) for the coarse-to-fine form, not {frames}")
    low, high = levels
    if not 0 < low <= high <= 1:
        raise ValueError(f"levels must be (lowest, highest) in (0, 1], not {levels}")
    shares = torch.linspace(low, high, num_levels, dtype=torch.float64) if num_levels > 1 else torch.tensor([high])
    steps = [round(share * num_inference_steps) for share in shares.tolist()]
    if steps[0] < 1 or any(b <= a for a, b in pairwise(steps)):
        raise ValueError(f"num_inference_steps must be larger for {num_levels} different levels in {levels}, not {num_inference_steps}")
    return steps


def add_noise(x: Tensor, noise: Tensor, alpha_bar_from: float, alpha_bar_to: float) -> Tensor:
    """Forward diffusion between two levels (Eq. 2): sqrt(r) x + sqrt(1 - r) noise, r = alpha_bar_to / alpha_bar_from; from 1: a clean x."""
    ratio = alpha_bar_to / alpha_bar_from
    return ratio**0.5 * x + (1 - ratio) ** 0.5 * noise


def _alpha_bars(pipe: "StableDiffusionPipeline", num_inference_steps: int, steps_left: list[int]) -> list[float]:
    """alpha_bar at which the last `n` of the sampling steps start, for each n of `steps_left`."""
    scheduler = sampling_scheduler(pipe)
    timesteps = set_timesteps(scheduler, num_inference_steps)
    if float(scheduler.init_noise_sigma) != 1:
        kind = type(scheduler).__name__
        raise ValueError(f"scheduler is {kind}, but must keep latents at unit variance for ANID, as DDIMScheduler does")
    warn_of_signal(scheduler, num_inference_steps)
    return [float(scheduler.alphas_cumprod[timesteps[num_inference_steps - left]]) for left in steps_left]


def _check_noise(noise: Tensor, shape: tuple[int, ...]) -> None:
    if noise.shape != shape:
        raise ValueError(f"noise must have shape {tuple(shape)}, not {tuple(noise.shape)}")
    check_finite("noise", noise)
