"""SDEdit (Meng et al. 2022): noise the image to a level between, then denoise it with the target prompt.

Stable Diffusion's image-to-image pipeline, with the autoencoder's mode in place of a sample of its posterior.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..diffusion import check_number, ddim_scheduler, set_timesteps
from ..sampling import encode_images, encode_prompts, sample_steps, share_of_steps
from .edited import Edited, counted, finish
from .inputs import Generators, check_edit, check_generator, check_kind, check_steps_and_guidance, image_noise
from .inverted import Inversion, Inverted

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


@dataclass(frozen=True)
class SDEdit:
    """Settings, with the paper's comparison as defaults.

    Raises:
        ValueError: a setting out of its range.
    """

    strength: float = 0.8  # share of the steps that are taken, from 0 (the autoencoder's copy) to 1
    guidance_scale: float = 7.5
    num_inference_steps: int = 50

    def __post_init__(self) -> None:
        check_number("strength", self.strength, 0, 1)
        check_steps_and_guidance(self)


@torch.no_grad()
def edit(
    pipe: "StableDiffusionPipeline",
    images: Tensor,
    source_prompts: list[str],
    target_prompts: list[str],
    *,
    inversion: Inversion | Inverted,
    settings: SDEdit,
    generator: Generators = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Edited:
    """x_t = sqrt(alpha_bar_t) z0 + s_t eps at the first of the last T x strength timesteps, then DDIM with the target prompt.

    Equals `StableDiffusionImg2ImgPipeline` from the same z0 and noise, but for the count of steps: T x strength is rounded down here after
    floating-point noise is removed (`smoothlib.sampling.share_of_steps`), there with it (.58 of 50 gives 28 steps there and 29 here).

    Args:
        images: (B, 3, H, W) in [-1, 1].
        source_prompts: checked and not used.
        target_prompts: B strings.
        inversion: `Inversion("own")`: the noise is drawn, nothing is inverted.
        generator: makes the noise. A list has one generator per image, and then an image's result does not depend on the batch.
        progress: wraps the iterable of step indices.

    Raises:
        ValueError: bad input; before the network is evaluated.
        RuntimeError: the latents are no longer finite after a step; names it.

    Example:
        >>> import torch
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib.editing.inversions import Inversion
        >>> from smoothlib.editing.sdedit import SDEdit, edit
        >>> pipe, images = load_pipeline("mini"), torch.zeros(1, 3, 64, 64)
        >>> settings = SDEdit(strength=0.5, guidance_scale=3, num_inference_steps=4)
        >>> arguments = dict(inversion=Inversion("own"), settings=settings, generator=torch.Generator().manual_seed(0))
        >>> edited = edit(pipe, images, ["a red sofa"], ["a green sofa"], **arguments)
        >>> edited.images.shape, edited.evaluations  # 2 guided steps
        (torch.Size([1, 3, 64, 64]), 4.0)
    """
    check_edit(pipe, images, source_prompts, target_prompts)
    check_kind("sdedit", inversion, ("own",))
    check_generator(generator, len(images))
    scheduler, steps = ddim_scheduler(pipe), settings.num_inference_steps
    timesteps = set_timesteps(scheduler, steps, pipe.unet.device)
    first = steps - share_of_steps(settings.strength, steps)
    z = encode_images(pipe, images).to(pipe.unet.dtype)
    with counted(pipe.unet) as counter:
        if first < steps:
            z = scheduler.add_noise(z, image_noise(generator, z), timesteps[first : first + 1])
            arguments = dict(guidance_scale=settings.guidance_scale, num_inference_steps=steps, first_step=first, inverted=True)
            latents = sample_steps(pipe, z, encode_prompts(pipe, target_prompts), **arguments)
            for _ in progress(range(first, steps)):
                z = next(latents)
    return finish(pipe, z, counter)
