"""What every editing method asks of its input. Each check raises one sentence before the denoising network is evaluated."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import sampling
from ..diffusion import check_number, ddim_scheduler
from ..sampling import encode_images, encode_prompts
from .inverted import Inversion, Inverted

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

Generators = torch.Generator | Sequence[torch.Generator] | None
CONVENTIONS = ("steps_offset", "set_alpha_to_one", "clip_sample", "thresholding")  # of DDIM, on which inversion and sampling must agree
SAME_LATENTS = 1e-2  # latents have a spread near 1; one image encoded alone or in a batch differs by about 1e-5, two images by about 1


def check_images(pipe: "StableDiffusionPipeline", images: Tensor) -> None:
    """ValueError unless `images` is (B, 3, H, W) in [-1, 1], finite, of sizes that the autoencoder can divide."""
    if not isinstance(images, Tensor):
        raise ValueError(f"images is a {type(images).__name__}, but must be a tensor (B, 3, H, W) of floats in [-1, 1]")
    sampling.check_images(pipe, images)


def check_prompts(pipe: "StableDiffusionPipeline", name: str, prompts: Sequence[str], batch_size: int) -> None:
    """ValueError unless there is one prompt per image and the text encoder can read each to its end.

    diffusers cuts a longer prompt off. An edit would then follow another text than the one that it was given.
    """
    if isinstance(prompts, str) or not isinstance(prompts, Sequence) or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError(f"{name} is {prompts!r}, but must be a list of strings, one per image")
    if len(prompts) != batch_size:
        raise ValueError(f"{name} has {len(prompts)} prompts, but must have {batch_size}, one per image")
    most = pipe.tokenizer.model_max_length
    for i, tokens in enumerate(pipe.tokenizer(list(prompts), padding=False, truncation=False, verbose=False).input_ids):
        if len(tokens) > most:
            raise ValueError(f"{name} has {len(tokens)} tokens in prompt {i}, but at most {most} are read, start and end included")


def check_scheduler(pipe: "StableDiffusionPipeline") -> None:
    """ValueError unless the pipeline samples with DDIM and the conventions of `ddim_scheduler`, whose steps inversion reverses."""
    from diffusers import DDIMScheduler

    needed, there = ddim_scheduler(pipe).config, pipe.scheduler.config
    remedy = "pipe.scheduler = DDIMScheduler.from_config(smoothlib.diffusion.ddim_scheduler(pipe).config)"
    if not isinstance(pipe.scheduler, DDIMScheduler):
        raise ValueError(f"scheduler is {type(pipe.scheduler).__name__}, but must be DDIM's for an edit: {remedy}")
    for name in CONVENTIONS:
        if there[name] != needed[name]:
            raise ValueError(f"scheduler has {name} {there[name]}, but must have {needed[name]} for an edit: {remedy}")


def check_steps_and_guidance(settings: Any) -> None:
    """What all settings have: `num_inference_steps`, a whole number of at least 1, and a finite `guidance_scale`."""
    steps = settings.num_inference_steps
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"num_inference_steps is {steps!r}, but must be a whole number of at least 1")
    check_number("guidance_scale", settings.guidance_scale)


def check_kind(method: str, inversion: Inversion | Inverted, takes: Sequence[str]) -> None:
    """ValueError unless the method can start from an inversion of this kind."""
    if not isinstance(inversion, Inversion | Inverted):
        raise ValueError(f"inversion is of the type {type(inversion).__name__}, but must be an Inversion or an Inverted")
    kind = inversion.kind if isinstance(inversion, Inversion) else inversion.inversion.kind
    if kind not in takes:
        raise ValueError(f"inversion is of the kind {kind!r}, but must be {' or '.join(map(repr, takes))} for {method}")


def check_edit(pipe: "StableDiffusionPipeline", images: Tensor, source_prompts: Sequence[str], target_prompts: Sequence[str]) -> None:
    """The checks of images, of both lists of prompts, and of the scheduler. Equal prompts are allowed: they give the reconstruction."""
    check_scheduler(pipe)
    check_images(pipe, images)
    check_prompts(pipe, "source_prompts", source_prompts, len(images))
    check_prompts(pipe, "target_prompts", target_prompts, len(images))


def check_inverted(
    pipe: "StableDiffusionPipeline",
    inverted: Inverted,
    images: Tensor,
    source_prompts: Sequence[str],
    *,
    guidance_scale: float,
    num_inference_steps: int,
) -> None:
    """ValueError where `inverted` was made for another batch, other images or prompts, other steps or another guidance.

    That it was made with the same model and adapter is the caller's to see to.
    """
    wanted = "but must belong to this edit"
    if inverted.num_inference_steps != num_inference_steps:
        raise ValueError(f"inverted has {inverted.num_inference_steps} steps, {wanted}, which has {num_inference_steps}")
    if inverted.pivots.shape[1] != len(images):
        raise ValueError(f"inverted holds {inverted.pivots.shape[1]} images, {wanted}, which has {len(images)}")
    bound = inverted.null_embeds is not None or inverted.offsets is not None
    if bound and inverted.guidance_scale != guidance_scale:
        raise ValueError(f"inverted was made for guidance_scale {inverted.guidance_scale:g}, {wanted}, which has {guidance_scale:g}")
    z0, embeds = encode_images(pipe, images), encode_prompts(pipe, list(source_prompts))
    for name, new, old in (("image", z0, inverted.pivots[0]), ("source prompt", embeds, inverted.prompt_embeds)):
        if new.shape != old.shape:
            raise ValueError(f"inverted was made for another size of {name}, {wanted}")
        distance = (new - old.to(new)).abs().flatten(1).amax(1)
        if (distance > SAME_LATENTS).any():
            raise ValueError(f"inverted was made for another {name} at index {int(distance.argmax())}, {wanted}")


def check_generator(generator: Generators, batch_size: int) -> None:
    """ValueError unless `generator` is None, one generator, or one per image."""
    if generator is None or isinstance(generator, torch.Generator):
        return
    if not isinstance(generator, Sequence) or not all(isinstance(one, torch.Generator) for one in generator):
        raise ValueError(f"generator is a {type(generator).__name__}, but must be a torch.Generator or a list of them, one per image")
    if len(generator) != batch_size:
        raise ValueError(f"generator has {len(generator)} generators, but must have {batch_size}, one per image")


def image_noise(generator: Generators, like: Tensor) -> Tensor:
    """Unit Gaussian noise for a batch (B, ...), each image's drawn by itself: from its own generator, or in turn from the one given.

    Drawn on the generator's device (the CPU's without one), then moved: a seed gives the same noise on every machine.
    """
    generators = list(generator) if isinstance(generator, Sequence) else [generator] * len(like)
    drawn = [torch.randn(like.shape[1:], generator=one, device=one.device if one else "cpu", dtype=like.dtype) for one in generators]
    return torch.stack([noise.to(like.device) for noise in drawn])
