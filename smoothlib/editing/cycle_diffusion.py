"""CycleDiffusion (Wu & De la Torre 2023, "A Latent Space of Stochastic Diffusion Models"): the noises of one chain, replayed in another.

A chain of DDIM with eta > 0 from noise to the image is drawn at random under the source prompt's network,

    x_t = sqrt(ab_t) z0 + s_t eps,   x_{t-1} ~ q(x_{t-1} | x_t, z0),   x_0 = z0,

and each step's noise is read off, sigma_t n_t = x_{t-1} - mu(x_t; source). The edit starts from the same x_t and takes
x'_{t-1} = mu(x'_t; target) + sigma_t n_t. The same prompt at the same guidance scale gives the image back.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..diffusion import check_number
from ..sampling import check_latents, encode_images, encode_prompts
from .chains import check_generator_given, ddim_steps, predict_branches
from .edited import Edited, counted, finish
from .inputs import Generators, check_edit, check_generator, check_kind, check_steps_and_guidance, image_noise
from .inversions import Inversion, Inverted, Progress

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


@dataclass(frozen=True)
class CycleDiffusion:
    """Settings, with the published defaults.

    `strength` s in [0, 1]: the chain has T s steps, rounded down; with none, the autoencoder's copy comes back. `eta` in (0, 1] is DDIM's
    and says how random the chain is.

    Raises:
        ValueError: a setting is out of its range.
    """

    num_inference_steps: int = 50
    guidance_scale: float = 7.5  # of the target prompt
    source_guidance_scale: float = 1.0
    eta: float = 0.1
    strength: float = 0.8

    def __post_init__(self) -> None:
        check_steps_and_guidance(self)
        check_number("source_guidance_scale", self.source_guidance_scale)
        check_number("eta", self.eta, 0, 1)
        if self.eta == 0:
            raise ValueError("eta is 0, but must be above 0: without noise there is none to record")
        check_number("strength", self.strength, 0, 1)


@torch.no_grad()
def edit(
    pipe: "StableDiffusionPipeline",
    images: Tensor,
    source_prompts: list[str],
    target_prompts: list[str],
    *,
    inversion: Inversion | Inverted,
    settings: CycleDiffusion,
    generator: Generators = None,
    progress: Progress = iter,
) -> Edited:
    """Record the noises of each image's chain under its source prompt, and replay them under its target prompt.

    Both chains run side by side. A step takes three evaluations per image: one for the source at guidance 1, two for the target.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        source_prompts, target_prompts: one prompt per image each.
        inversion: Inversion("own"): the recorded noises are the inversion.
        generator: draws the chains, image after image; or one generator per image. A batch equals its images one at a time.
        progress: wraps the iterable of step indices, e.g. `tqdm`.

    Raises:
        ValueError: bad input; before the network is evaluated.
        RuntimeError: the latents are no longer finite after a step; names it.

    Example:
        >>> import torch
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib.editing.cycle_diffusion import CycleDiffusion, edit
        >>> from smoothlib.editing.inversions import Inversion
        >>> pipe, images = load_pipeline("mini"), torch.zeros(1, 3, 64, 64)
        >>> settings = CycleDiffusion(num_inference_steps=5, guidance_scale=3)
        >>> arguments = dict(inversion=Inversion("own"), settings=settings, generator=torch.Generator().manual_seed(0))
        >>> edited = edit(pipe, images, ["a red sofa"], ["a blue sofa"], **arguments)
        >>> edited.images.shape, edited.evaluations
        (torch.Size([1, 3, 64, 64]), 12.0)
    """
    check_edit(pipe, images, source_prompts, target_prompts)
    check_kind("cycle_diffusion", inversion, ("own",))
    check_generator_given(generator, "cycle_diffusion")
    check_generator(generator, len(images))
    steps = ddim_steps(pipe, settings.num_inference_steps, share=settings.strength, eta=settings.eta)
    z0 = encode_images(pipe, images).to(pipe.unet.device, pipe.unet.dtype)
    source, target = (encode_prompts(pipe, prompts).to(z0) for prompts in (source_prompts, target_prompts))
    null = encode_prompts(pipe, [""]).to(z0).expand_as(source)
    # (steps, B, 4, h, w): an image's noises are drawn in one go, the start's first; the last step needs none
    noises = image_noise(generator, z0[:, None].expand(-1, len(steps), -1, -1, -1)).transpose(0, 1)
    x_source = x = steps[0].noised(z0, noises[0]) if steps else z0
    with counted(pipe.unet) as counter:
        for i in progress(range(len(steps))):
            step, last = steps[i], i + 1 == len(steps)
            branches = [(x_source, source, settings.source_guidance_scale), (x, target, settings.guidance_scale)]
            source_output, output = predict_branches(pipe.unet, step.t, branches, null)
            below = z0 if last else step.from_clean(z0, step.noise_between(x_source, z0)) + step.sigma * noises[i + 1]
            # below - step.mean(source) is sigma_t n_t; summed up in this order, chains that agree stay equal to the last bit
            x, x_source = below + (step.mean(output, x) - step.mean(source_output, x_source)), below
            check_latents(x, f"step {i} of {len(steps)}")
    return finish(pipe, x, counter)
