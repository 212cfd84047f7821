"""From images to the noise that an edit starts from: four inversions with one signature.

- "ddim": the pivots of Eq. 4, evaluated as `smoothlib.inversion.ddim_invert` does.
- "null_text": the same pivots, and a null embedding per step that keeps guided sampling on them (Eq. 19).
- "direct": the same pivots, and per step the difference between the pivot and where a guided step from the pivot above it ends (Ju et al.
  2023, "PnP Inversion"). It is added to the source branch alone; the branch with the target prompt is left as it is.
- "fixed_point": pivots whose noise is evaluated at the latent that the step leads to, found by iterating z <- f(z_t, eps(z, t + 1)). Where
  the iteration converges, sampling at the same guidance takes the same way back.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..diffusion import check_number, ddim_inverse_scheduler, ddim_scheduler, noise_schedule, predict_eps, set_timesteps
from ..inversion import check_null_text, ddim_invert, null_text_inversion
from ..sampling import check_latents, encode_images, encode_prompts, predict_noise, sample_steps
from .edited import counted
from .inputs import check_edit, check_inverted, check_kind
from .inverted import SHARED_KINDS, Inversion, Inverted

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["Inversion", "Inverted", "invert", "inverted_for", "source_branch"]

Progress = Callable[[Iterable[int]], Iterable[int]]  # e.g. tqdm: wraps the list of step indices


@torch.no_grad()
def invert(
    pipe: "StableDiffusionPipeline",
    images: Tensor,
    source_prompts: list[str],
    inversion: Inversion,
    *,
    guidance_scale: float,
    num_inference_steps: int,
    progress: Progress = iter,
) -> Inverted:
    """Invert images, each with its own prompt.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        source_prompts: B prompts that describe the images; "" is allowed.
        inversion: which inversion, and its settings.
        guidance_scale: w of Eq. 5 in the sampling that follows.
        num_inference_steps: T.
        progress: wraps the iterables of step indices, e.g. `tqdm`; null-text and direct inversion have two, the way up and the way down.

    Raises:
        ValueError: bad input, or an inversion that is not made here; before any work.
        RuntimeError: the latents are no longer finite after a step; names it.

    Example:
        >>> import torch
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib.editing.inversions import Inversion, invert
        >>> pipe, images = load_pipeline("mini"), torch.zeros(1, 3, 64, 64)
        >>> inverted = invert(pipe, images, ["a photo of a red sofa"], Inversion("direct"), guidance_scale=3, num_inference_steps=2)
        >>> inverted.pivots.shape, inverted.offsets.shape, inverted.evaluations
        (torch.Size([3, 1, 4, 16, 16]), torch.Size([2, 1, 4, 16, 16]), 6.0)
    """
    check_edit(pipe, images, source_prompts, source_prompts)
    check_inversion(pipe, inversion, guidance_scale=guidance_scale, num_inference_steps=num_inference_steps)
    z0, prompt_embeds = encode_images(pipe, images), encode_prompts(pipe, source_prompts)
    null_embeds = offsets = None
    with counted(pipe.unet) as counter:
        if inversion.kind == "fixed_point":
            pivots = fixed_point_invert(pipe, z0, prompt_embeds, inversion, num_inference_steps=num_inference_steps, progress=progress)
        else:
            arguments = dict(num_inference_steps=num_inference_steps, guidance_scale=inversion.inversion_guidance_scale, progress=progress)
            pivots = ddim_invert(pipe, z0, prompt_embeds, **arguments)
        if inversion.kind == "null_text":
            settings = dict(num_inner_steps=inversion.num_inner_steps, lr=inversion.lr, progress=progress)
            null_embeds = null_text_inversion(pipe, pivots, prompt_embeds, guidance_scale=guidance_scale, **settings).null_embeds
        if inversion.kind == "direct":
            offsets = source_offsets(pipe, pivots, prompt_embeds, guidance_scale=guidance_scale, progress=progress)
    evaluations = counter.per_image(len(images))
    return Inverted(inversion, pivots, prompt_embeds, null_embeds, offsets, evaluations, guidance_scale, num_inference_steps)


def inverted_for(
    pipe: "StableDiffusionPipeline",
    images: Tensor,
    source_prompts: list[str],
    inversion: Inversion | Inverted,
    *,
    guidance_scale: float,
    num_inference_steps: int,
    progress: Progress = iter,
) -> Inverted:
    """What a method starts from: an `Inverted` that was made before, if it belongs to these images and settings, or a new one.

    Raises:
        ValueError: bad input, or an `Inverted` of other images, prompts or settings; before the network is evaluated.
    """
    settings = dict(guidance_scale=guidance_scale, num_inference_steps=num_inference_steps)
    if isinstance(inversion, Inverted):
        check_edit(pipe, images, source_prompts, source_prompts)
        check_inverted(pipe, inversion, images, source_prompts, **settings)
        return inversion
    return invert(pipe, images, source_prompts, inversion, **settings, progress=progress)


def check_inversion(pipe: "StableDiffusionPipeline", inversion: Inversion, *, guidance_scale: float, num_inference_steps: int) -> None:
    """ValueError unless `invert` can make this inversion with these settings."""
    check_kind("invert", inversion, SHARED_KINDS)
    check_number("guidance_scale", guidance_scale)
    set_timesteps(ddim_scheduler(pipe), num_inference_steps)
    if inversion.kind == "null_text":
        check_null_text(pipe, guidance_scale=guidance_scale, num_inner_steps=inversion.num_inner_steps, lr=inversion.lr)


def fixed_point_invert(
    pipe: "StableDiffusionPipeline",
    z0: Tensor,
    prompt_embeds: Tensor,
    inversion: Inversion,
    *,
    num_inference_steps: int,
    progress: Progress = iter,
) -> Tensor:
    """Pivots (T + 1, B, 4, h, w) with z*_{t+1} = f(z*_t, eps(z*_{t+1}, t + 1)), each found by `inversion.num_iterations` substitutions.

    The first substitution evaluates the noise at z*_t: one alone is `ddim_invert`.
    """
    guidance_scale = inversion.inversion_guidance_scale
    predicted = pipe.scheduler.config.prediction_type
    # what the network gives is converted to noise here, with the latent that it was asked about, not with the step's lower end
    scheduler = ddim_inverse_scheduler({**noise_schedule(pipe), "prediction_type": "epsilon"})
    timesteps = set_timesteps(scheduler, num_inference_steps, pipe.unet.device)  # ascending
    null = None if guidance_scale == 1 else encode_prompts(pipe, [""]).to(z0).expand(len(z0), -1, -1)
    pivots = [z0]
    for i in progress(range(num_inference_steps)):
        t, z = timesteps[i], pivots[-1]
        for _ in range(inversion.num_iterations):
            output = predict_noise(pipe.unet, z, t, prompt_embeds, null, guidance_scale)
            eps = predict_eps(output, z, scheduler.alphas_cumprod[int(t)], predicted)
            z = scheduler.step(eps, t, pivots[-1], return_dict=False)[0]
        check_latents(z, f"step {i} of {num_inference_steps}")
        pivots.append(z)
    return torch.stack(pivots)


def source_offsets(
    pipe: "StableDiffusionPipeline", pivots: Tensor, prompt_embeds: Tensor, *, guidance_scale: float, progress: Progress = iter
) -> Tensor:
    """(T, B, 4, h, w), index 0 the noisiest: z*_{t-1} - DDIM(z*_t, eps(z*_t, t)) with guidance, what direct inversion gives back."""
    scheduler = ddim_scheduler(pipe)
    timesteps = set_timesteps(scheduler, len(pivots) - 1, pipe.unet.device)
    null = None if guidance_scale == 1 else encode_prompts(pipe, [""]).to(pivots).expand(pivots.shape[1], -1, -1)
    offsets = []
    for i in progress(range(len(pivots) - 1)):
        z = pivots[-1 - i]
        eps = predict_noise(pipe.unet, z, timesteps[i], prompt_embeds, null, guidance_scale)
        offsets.append(pivots[-2 - i] - scheduler.step(eps, timesteps[i], z, return_dict=False)[0])
    return torch.stack(offsets)


@torch.no_grad()
def source_branch(pipe: "StableDiffusionPipeline", inverted: Inverted) -> Iterator[Tensor]:
    """The way back down under the source prompts: yields z_{T-1}, ..., z_0, each (B, 4, h, w). The last is the reconstruction.

    Null embeddings and offsets are applied where the inversion has them: null-text inversion returns to where its optimisation ended,
    direct inversion passes through the pivots.
    """
    settings = dict(guidance_scale=inverted.guidance_scale, num_inference_steps=inverted.num_inference_steps, inverted=True)
    if inverted.offsets is None:
        yield from sample_steps(pipe, inverted.pivots[-1], inverted.prompt_embeds, null_embeds=inverted.null_embeds, **settings)
        return
    for i, offset in enumerate(inverted.offsets):
        z = inverted.pivots[-1 - i]  # where the step before has ended, without its rounding, which guided steps would amplify
        steps = sample_steps(pipe, z, inverted.prompt_embeds, null_embeds=inverted.null_embeds, first_step=i, **settings)
        step = next(steps)
        yield step + offset.to(step)
