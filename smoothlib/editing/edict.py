"""EDICT (Wallace, Gokul & Naik 2023): two coupled chains whose steps can be undone without any approximation.

A step of DDIM is x_{t-1} = a_t x_t + b_t eps(x_t, t). The coupled step takes the noise estimate of one chain from the other:

    x <- a_t x + b_t eps(y, t),   y <- a_t y + b_t eps(x, t),   x <- p x + (1 - p) y,   y <- p y + (1 - p) x

Each line changes one chain by a function of the other, so that it has an exact inverse, whatever the network. Which chain goes first
changes from step to step. The mixing with p < 1 keeps the two together on the way down; on the way up its inverse drives them apart, by
1 / p^2 per step, which is why rounding counts: in float64 the way back ends within 1e-9 of the start.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..diffusion import check_number
from ..sampling import Embeds, check_latents, embeds_at, encode_images, encode_prompts
from .chains import Step, ddim_steps, predict_branches
from .edited import Edited, counted, finish
from .inputs import Generators, check_edit, check_generator, check_kind, check_steps_and_guidance
from .inversions import Inversion, Inverted, Progress

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

Pair = tuple[Tensor, Tensor]  # the two chains' latents, each (B, 4, h, w)


@dataclass(frozen=True)
class EDICT:
    """Settings, with the published defaults.

    `mixing` p in (0, 1]: 1 leaves the chains unmixed. `strength` s in [0, 1]: the chains run T s steps, rounded down;
    without any, the autoencoder's copy comes back.

    Raises:
        ValueError: a setting is out of its range.
    """

    num_inference_steps: int = 50
    guidance_scale: float = 3.0  # on the way up with the source prompt and on the way down with the target prompt
    mixing: float = 0.93
    strength: float = 0.8

    def __post_init__(self) -> None:
        check_steps_and_guidance(self)
        check_number("mixing", self.mixing, 0, 1)
        if self.mixing == 0:
            raise ValueError("mixing is 0, but must be above 0: it is divided by on the way up")
        check_number("strength", self.strength, 0, 1)


@dataclass(frozen=True)
class CoupledChain:
    """The coupled steps of one batch: up from the image, down from the noise.

    `steps` are those to run, the noisiest first. Prompt embeddings may have any form of `smoothlib.sampling`, index 0 for the first of
    `steps` on both ways; the null embeddings are (B, L, D).
    """

    unet: torch.nn.Module
    steps: list[Step]
    null_embeds: Tensor
    guidance_scale: float
    mixing: float

    def up(self, pair: Pair, prompt_embeds: Embeds, progress: Progress = iter) -> Pair:
        """The exact inverse of `down` with the same prompts."""
        p, indices = self.mixing, range(len(self.steps))
        x, y = pair
        for done in progress(indices):
            i = indices[-1 - done]
            y = (y - (1 - p) * x) / p
            x = (x - (1 - p) * y) / p
            pair = [x, y]
            for k in self._order(i)[::-1]:
                a, b_eps = self._affine(i, pair[1 - k], prompt_embeds)
                pair[k] = (pair[k] - b_eps) / a
            x, y = pair
            check_latents(x, f"step {done} of {len(indices)} of the inversion")
        return x, y

    def down(self, pair: Pair, prompt_embeds: Embeds, progress: Progress = iter) -> Pair:
        """From the noise to two estimates of z0, which are equal where `up` came from one image with the same prompts."""
        p = self.mixing
        x, y = pair
        for i in progress(range(len(self.steps))):
            pair = [x, y]
            for k in self._order(i):
                a, b_eps = self._affine(i, pair[1 - k], prompt_embeds)
                pair[k] = a * pair[k] + b_eps
            x = p * pair[0] + (1 - p) * pair[1]
            y = p * pair[1] + (1 - p) * x
            check_latents(x, f"step {i} of {len(self.steps)}")
        return x, y

    def _order(self, i: int) -> tuple[int, int]:
        """Which chain changes first. The steps that are left on the way down decide, whatever the strength was."""
        return (0, 1) if (len(self.steps) - i) % 2 == 0 else (1, 0)

    def _affine(self, i: int, asked: Tensor, prompt_embeds: Embeds) -> tuple[Tensor, Tensor]:
        """a_t and b_t eps(asked, t)."""
        step = self.steps[i]
        embeds = embeds_at(prompt_embeds, i, len(asked))
        (output,) = predict_branches(self.unet, step.t, [(asked, embeds, self.guidance_scale)], self.null_embeds)
        a = (step.alpha_bar_below / step.alpha_bar).sqrt()
        b = (1 - step.alpha_bar_below).sqrt() - a * (1 - step.alpha_bar).sqrt()
        return a, b * step.noise(output, asked)


@torch.no_grad()
def edit(
    pipe: "StableDiffusionPipeline",
    images: Tensor,
    source_prompts: list[str],
    target_prompts: list[str],
    *,
    inversion: Inversion | Inverted,
    settings: EDICT,
    generator: Generators = None,
    progress: Progress = iter,
) -> Edited:
    """Take both chains from the image up to `strength` under the source prompt, and down under the target prompt.

    The steps above `strength` would be undone exactly: the edit is the prompt switch of Eq. 15 at r = `strength` with this inversion.
    A step evaluates the network twice per chain where guidance is used, so that up and down make eight evaluations per step and image.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        source_prompts, target_prompts: one prompt per image each.
        inversion: Inversion("own") or Inversion("edict"), which are one.
        generator: not used; nothing is random.
        progress: wraps the two iterables of step indices, e.g. `tqdm`: the way up, the way down.

    Returns:
        The first chain's images and latents.

    Raises:
        ValueError: bad input; before the network is evaluated.
        RuntimeError: the latents are no longer finite after a step; names it.

    Example:
        >>> import torch
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib.editing.edict import EDICT, edit
        >>> from smoothlib.editing.inversions import Inversion
        >>> pipe, images = load_pipeline("mini"), torch.zeros(1, 3, 64, 64)
        >>> arguments = dict(inversion=Inversion("own"), settings=EDICT(num_inference_steps=5))
        >>> edited = edit(pipe, images, ["a red sofa"], ["a blue sofa"], **arguments)
        >>> edited.images.shape, edited.evaluations
        (torch.Size([1, 3, 64, 64]), 32.0)
    """
    check_edit(pipe, images, source_prompts, target_prompts)
    check_kind("edict", inversion, ("own", "edict"))
    check_generator(generator, len(images))
    steps = ddim_steps(pipe, settings.num_inference_steps, share=settings.strength)
    z0 = encode_images(pipe, images).to(pipe.unet.device, pipe.unet.dtype)
    source, target = (encode_prompts(pipe, prompts).to(z0) for prompts in (source_prompts, target_prompts))
    null = encode_prompts(pipe, [""]).to(z0).expand_as(source)
    chain = CoupledChain(pipe.unet, steps, null, settings.guidance_scale, settings.mixing)
    with counted(pipe.unet) as counter:
        noise = chain.up((z0, z0), source, progress)
        x, _ = chain.down(noise, target, progress)
    return finish(pipe, x, counter)
