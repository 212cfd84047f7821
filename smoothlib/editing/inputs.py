"""What every editing method asks of its input. Each check raises one sentence before the denoising network is evaluated."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import sampling
from ..sampling import encode_images, encode_prompts
from .inverted import Inverted

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

Generators = torch.Generator | Sequence[torch.Generator] | None
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


def check_edit(pipe: "StableDiffusionPipeline", images: Tensor, source_prompts: Sequence[str], target_prompts: Sequence[str]) -> None:
    """The checks of images and of both lists of prompts. Equal prompts are allowed: the edit is then the reconstruction."""
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
        same = new.shape == old.shape and ((new - old.to(new)).abs().flatten(1).amax(1) <= SAME_LATENTS)
        if same is False:
            raise ValueError(f"inverted was made for another size of {name}, {wanted}")
        if not same.all():
            raise ValueError(f"inverted was made for another {name} at index {int((~same).nonzero()[0])}, {wanted}")


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
