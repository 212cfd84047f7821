"""Guided sampling from given noise (Eq. 3, 5), with per-step null embeddings and the prompt switch of Eq. 15.

The loop is `StableDiffusionPipeline.__call__` laid open: same scheduler, same guidance, every x_t yielded. Text embeddings, conditional
or null, may be given in the three forms of `embeddings`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .denoiser import Added, check_plain, network_of, predict_noise
from .diffusion import check_finite, check_number, sampling_scheduler, set_timesteps, warn_of_signal
from .embeddings import Embeds, check_embeds, embeds_at

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


@dataclass(frozen=True)
class Sampling:
    """How latents are sampled, as one value for what hands it through: walks, interpolations, studies.

    `sample` and `sample_steps` take the first three one by one, under diffusers' names.

    Args:
        guidance_scale: w of Eq. 5.
        num_inference_steps: T.
        null_embeds: null embeddings in any form of `embeddings`, of the empty prompt where None.
        batch_size: most images in one call of the network (which guidance doubles); None: all at once.

    Raises:
        ValueError: one of them is out of range.

    Example:
        >>> from smoothlib import Sampling
        >>> Sampling(7.5).num_inference_steps
        50
    """

    guidance_scale: float
    num_inference_steps: int = 50
    null_embeds: Embeds | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_number("guidance_scale", self.guidance_scale)
        if not isinstance(self.num_inference_steps, int) or self.num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be an integer from 1, not {self.num_inference_steps!r}")
        check_batch_size(self.batch_size)


def check_batch_size(batch_size: int | None) -> None:
    """ValueError unless `batch_size` is None or at least 1."""
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, or None for all at once, not {batch_size}")


@torch.no_grad()
def encode_prompts(pipe: "StableDiffusionPipeline", prompts: list[str]) -> Tensor:
    """Text embeddings xi of Eq. 5: (B, L, D) for B prompts; the empty prompt gives the plain null embedding.

    Example:
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib import encode_prompts
        >>> encode_prompts(load_pipeline("mini"), ["a photo of a red sofa", ""]).ndim
        3
    """
    if isinstance(prompts, str) or not prompts:
        raise ValueError(f"prompts must be a list of at least one prompt, not {prompts!r}")
    return pipe.encode_prompt(list(prompts), network_of(pipe).device, 1, False)[0]


@torch.no_grad()
def encode_images(pipe: "StableDiffusionPipeline", images: Tensor) -> Tensor:
    """z0 = E(x0) (Eq. 16): the posterior's mode times the VAE's scaling factor.

    Args:
        images: (B, 3, H, W) in [-1, 1]; H and W divisible by the VAE's downsampling factor f.

    Returns:
        (B, 4, H/f, W/f).

    Example:
        >>> import torch
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib import encode_images
        >>> encode_images(load_pipeline("mini"), torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 4, 16, 16])
    """
    check_images(pipe, images)
    images = images.to(pipe.vae.device, pipe.vae.dtype)
    return pipe.vae.encode(images).latent_dist.mode() * pipe.vae.config.scaling_factor


def check_images(pipe: "StableDiffusionPipeline", images: Tensor) -> None:
    """ValueError unless `encode_images` can take them; TypeError as for `denoiser.check_plain`."""
    check_plain(pipe)
    if images.ndim != 4 or images.shape[1] != 3 or not images.numel():
        raise ValueError(f"images must have shape (B, 3, H, W), not {tuple(images.shape)}")
    factor = pipe.vae_scale_factor
    if images.shape[2] % factor or images.shape[3] % factor:
        raise ValueError(f"images must have a height and width divisible by {factor}, not {tuple(images.shape[2:])}")
    if not images.is_floating_point() or not images.abs().max() <= 1 + 1e-3:  # NaN is not
        raise ValueError(f"images must be floating-point in [-1, 1], not {images.dtype} from {images.min():.4g} to {images.max():.4g}")


@torch.no_grad()
def decode_latents(pipe: "StableDiffusionPipeline", z: Tensor) -> Tensor:
    """x0 = D(z0) (Eq. 16): images (B, 3, H, W) in [-1, 1], float32, from latents (B, 4, h, w).

    Example:
        >>> import torch
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib import decode_latents
        >>> images = decode_latents(load_pipeline("mini"), torch.randn(2, 4, 16, 16))
        >>> images.shape, bool(images.abs().max() <= 1)
        (torch.Size([2, 3, 64, 64]), True)
    """
    check_plain(pipe)
    check_finite("z", z)
    z = z.to(pipe.vae.device, pipe.vae.dtype)
    return pipe.vae.decode(z / pipe.vae.config.scaling_factor, return_dict=False)[0].float().clamp(-1, 1)


def sample_steps(
    pipe: "StableDiffusionPipeline",
    latents: Tensor,
    prompt_embeds: Embeds,
    *,
    guidance_scale: float,
    null_embeds: Embeds | None = None,
    num_inference_steps: int = 50,
    first_step: int = 0,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    inverted: bool = False,
    added: Added | None = None,
    null_added: Added | None = None,
) -> Iterator[Tensor]:
    """Backward diffusion (Eq. 3) with the pipeline's scheduler: yields x_{T-1}, ..., x_0, each (B, 4, h, w).

    A DDIM step ends where the next begins, also under "linspace" and "trailing" spacing, where the pipeline's own call leaves gaps.

    Args:
        latents: x_T, unit Gaussian noise or an inverted latent, (B, 4, h, w); with `first_step` k > 0, the noisy latents after k steps.
        prompt_embeds: conditional embeddings in any form of `embeddings`.
        guidance_scale: w of Eq. 5; 1 means conditional only. (The pipeline itself also treats values below 1 as 1; this loop does not.)
        null_embeds: null embeddings in any form; None for the plain empty prompt.
        num_inference_steps: T.
        first_step: index of the first step to run.
        eta, generator: DDIM's stochasticity in [0, 1]; eta > 0 needs a generator.
        inverted: `latents` come from `ddim_invert` at the same T, so that they hold the signal that belongs to the first timestep. Noise
            does not; a warning says so where that is much.
        added, null_added: what the network takes beside the prompt and the empty prompt, one row per image, see `denoiser`.

    Raises:
        ValueError: bad arguments, or a scheduler without DDIM's kind of noise schedule, such as flow matching's; before the first step.
        RuntimeError: the latents are no longer finite after a step; names it.
    """
    scheduler, network = sampling_scheduler(pipe), network_of(pipe)
    timesteps = set_timesteps(scheduler, num_inference_steps, network.device)
    if not 0 <= first_step < num_inference_steps:
        raise ValueError(f"first_step must be from 0 to num_inference_steps - 1 = {num_inference_steps - 1}, not {first_step}")
    check_finite("latents", latents)
    check_number("guidance_scale", guidance_scale)
    check_number("eta", eta, 0, 1)
    if eta > 0 and generator is None:
        raise ValueError(f"generator must be given when eta > 0 (eta is {eta})")
    if null_embeds is None and guidance_scale != 1:
        null_embeds = encode_prompts(pipe, [""])
    for name, embeds in (("prompt_embeds", prompt_embeds), ("null_embeds", null_embeds)):
        check_embeds(name, embeds, num_inference_steps, len(latents))
    x = latents.to(network.device, network.dtype)
    if first_step == 0:
        if not inverted:
            warn_of_signal(scheduler, num_inference_steps)
        x = x * scheduler.init_noise_sigma
    elif hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first_step)
    step_arguments = pipe.prepare_extra_step_kwargs(generator, eta)

    @torch.no_grad()
    def steps(x: Tensor) -> Iterator[Tensor]:
        for i in range(first_step, num_inference_steps):
            t = timesteps[i]
            cond = embeds_at(prompt_embeds, i, len(x)).to(x)
            null = None if guidance_scale == 1 else embeds_at(null_embeds, i, len(x)).to(x)
            e = predict_noise(network, scheduler.scale_model_input(x, t), t, cond, null, guidance_scale, added, null_added)
            x = scheduler.step(e, t, x, **step_arguments, return_dict=False)[0]
            check_latents(x, f"step {i} of {num_inference_steps}")
            yield x

    return steps(x)


def sample(pipe: "StableDiffusionPipeline", latents: Tensor, prompt_embeds: Embeds, **arguments: Any) -> Tensor:
    """Backward diffusion to the end: z0, (B, 4, h, w). Takes the arguments of `sample_steps` and returns its last latent.

    Example:
        >>> import torch
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib import decode_latents, encode_prompts, sample
        >>> pipe = load_pipeline("mini")
        >>> prompt, noise = encode_prompts(pipe, ["a photo of a red sofa"]), torch.randn(1, 4, 16, 16)
        >>> z0 = sample(pipe, noise, prompt, guidance_scale=3, num_inference_steps=2)
        >>> decode_latents(pipe, z0).shape
        torch.Size([1, 3, 64, 64])
    """
    z = latents
    for z in sample_steps(pipe, latents, prompt_embeds, **arguments):  # noqa: B007 - only the last is kept
        pass
    return z


def share_of_steps(share: float, num_inference_steps: int) -> int:
    """How many whole steps are a share of T: rounded down, after the noise of floating point is removed (.7 of 50 is 35, not 34.99...)."""
    return math.floor(num_inference_steps * share + 1e-9)


def prompt_switch(source_embeds: Tensor, target_embeds: Tensor, *, ratio: float, num_inference_steps: int) -> Callable[[int], Tensor]:
    """Prompt switch (Eq. 15): the source prompt while t > T r, the target prompt once t <= T r, counting t = T, ..., 1.

    `ratio` is r in [0, 1]; T r steps use the target, counted by `share_of_steps`.
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio must be from 0 to 1, not {ratio}")
    source_steps = num_inference_steps - share_of_steps(ratio, num_inference_steps)
    return lambda i: source_embeds if i < source_steps else target_embeds


def check_latents(x: Tensor, where: str) -> None:
    """RuntimeError where latents (B, 4, h, w) that the network made are no longer finite; `where` names the step."""
    finite = x.isfinite()
    if not finite.all():
        bad = ", ".join(str(i) for i, sound in enumerate(finite.flatten(1).all(dim=1).tolist()) if not sound)
        raise RuntimeError(f"the latents are not finite after {where}, image {bad} of the batch")
