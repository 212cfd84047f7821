"""The paper's text edit (Eq. 15): sample from the inverted noise with the source prompt first and the target prompt after.

The source's null embeddings stay in every step; at guidance w the network gives e_null + w (e_prompt - e_null), and only e_prompt changes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import sampling
from ..diffusion import check_number
from ..sampling import encode_prompts, sample_steps, share_of_steps
from .edited import Edited, counted, finish
from .inputs import Generators, check_edit, check_generator, check_kind, check_steps_and_guidance
from .inversions import inverted_for
from .inverted import SHARED_KINDS, Inversion, Inverted

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


@dataclass(frozen=True)
class PromptSwitch:
    """Settings; the paper takes ratios from .6 to .9.

    Raises:
        ValueError: a setting out of its range.
    """

    ratio: float = 0.8  # r of Eq. 15, from 0 (the reconstruction) to 1 (the target prompt in every step)
    guidance_scale: float = 7.5
    num_inference_steps: int = 50

    def __post_init__(self) -> None:
        check_number("ratio", self.ratio, 0, 1)
        check_steps_and_guidance(self)


@torch.no_grad()
def edit(
    pipe: "StableDiffusionPipeline",
    images: Tensor,
    source_prompts: list[str],
    target_prompts: list[str],
    *,
    inversion: Inversion | Inverted,
    settings: PromptSwitch,
    generator: Generators = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Edited:
    """Switch the prompt at t = T r (Eq. 15): the source prompt while t > T r, the target prompt once t <= T r, counting t = T, ..., 1.

    T r is rounded down to whole steps (`smoothlib.sampling.share_of_steps`). With direct inversion the steps under the source prompt are
    its source branch, which passes through the pivots by definition: they are taken from the pivots and cost no evaluation; the steps
    under the target prompt get no offset.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        source_prompts, target_prompts: B strings each; equal ones give the reconstruction.
        inversion: "ddim", "null_text", "direct" or "fixed_point", or what was inverted before for these images, prompts and settings.
        generator: nothing is random here; it is accepted as by every method.
        progress: wraps the iterables of step indices, the inversion's and then the sampling's.

    Raises:
        ValueError: bad input; before the network is evaluated.
        RuntimeError: the latents are no longer finite after a step; names it.

    Example:
        >>> import torch
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib.editing.inversions import Inversion
        >>> from smoothlib.editing.prompt_switch import PromptSwitch, edit
        >>> pipe, images = load_pipeline("mini"), torch.zeros(1, 3, 64, 64)
        >>> settings = PromptSwitch(ratio=0.5, guidance_scale=3, num_inference_steps=2)
        >>> edited = edit(pipe, images, ["a red sofa"], ["a green sofa"], inversion=Inversion("ddim"), settings=settings)
        >>> edited.images.shape, edited.evaluations  # 2 steps up, 2 guided steps down
        (torch.Size([1, 3, 64, 64]), 6.0)
    """
    check_edit(pipe, images, source_prompts, target_prompts)
    check_kind("prompt_switch", inversion, SHARED_KINDS)
    check_generator(generator, len(images))
    shared = dict(guidance_scale=settings.guidance_scale, num_inference_steps=settings.num_inference_steps)
    steps = settings.num_inference_steps
    with counted(pipe.unet) as counter:
        inverted = inverted_for(pipe, images, source_prompts, inversion, progress=progress, **shared)
        target = encode_prompts(pipe, target_prompts)
        switch = sampling.prompt_switch(inverted.prompt_embeds, target, ratio=settings.ratio, num_inference_steps=steps)
        first = 0 if inverted.offsets is None else steps - share_of_steps(settings.ratio, steps)
        z = inverted.pivots[steps - first].to(pipe.unet.device, pipe.unet.dtype)
        if first < steps:
            arguments = dict(null_embeds=inverted.null_embeds, first_step=first, inverted=True, **shared)
            latents = sample_steps(pipe, z, switch, **arguments)
            for _ in progress(range(first, steps)):
                z = next(latents)
    return finish(pipe, z, counter)
