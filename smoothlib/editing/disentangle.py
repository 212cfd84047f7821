"""Disentanglement (Wu et al. 2023, "Uncovering the Disentanglement Capability in Text-to-Image Diffusion Models").

Each step i of an image's chain is denoised under a mixture of two embeddings, w_i embedding(source) + (1 - w_i) embedding(target), and what
is sought are the T numbers w_i of the image. Adam finds them through the whole chain, from the noise to the decoded image, against

    alignment(image; source -> target) + 0.05 perceptual(image, reconstruction).

The chain is held to the picture by residual noises: in the first two thirds of the steps, what the source chain lacks to arrive at its next
latent is added to the edited chain as well. Which latents those are is the inversion's affair, see `edit`.

Both judges are networks of the caller's, differentiable and given as functions; none is imported here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..diffusion import check_number
from ..inversion import ddim_invert
from ..null_text import frozen
from ..sampling import check_latents, encode_images, encode_prompts, share_of_steps
from .chains import Step, check_generator_given, ddim_steps, predict_branches
from .edited import Edited, counted, finish
from .inputs import Generators, check_edit, check_generator, check_kind, check_steps_and_guidance, image_noise
from .inversions import Inversion, Inverted, Progress, inverted_for
from .inverted import SHARED_KINDS
from .judges import Alignment, Perceptual, check_judges

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


@dataclass(frozen=True)
class Disentangle:
    """Settings, with the published defaults.

    At first w_i is 1 in the first T `source_share` steps and 0 after; residual noises are added in the first T `residual_share` steps.

    Raises:
        ValueError: a setting is out of its range.
    """

    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    epochs: int = 10
    lr: float = 0.05
    perceptual_weight: float = 0.05
    source_share: float = 0.4
    residual_share: float = 2 / 3

    def __post_init__(self) -> None:
        check_steps_and_guidance(self)
        if isinstance(self.epochs, bool) or not isinstance(self.epochs, int) or self.epochs < 0:
            raise ValueError(f"epochs is {self.epochs!r}, but must be a whole number of at least 0")
        check_number("lr", self.lr, 0)
        check_number("perceptual_weight", self.perceptual_weight, 0)
        check_number("source_share", self.source_share, 0, 1)
        check_number("residual_share", self.residual_share, 0, 1)


def edit(
    pipe: "StableDiffusionPipeline",
    images: Tensor,
    source_prompts: list[str],
    target_prompts: list[str],
    *,
    inversion: Inversion | Inverted,
    settings: Disentangle,
    alignment: Alignment,
    perceptual: Perceptual,
    generator: Generators = None,
    progress: Progress = iter,
) -> Edited:
    """Find each image's mixing weights through its whole chain, then sample with them.

    The published code saves the image of the last epoch's pass, which was made before the last update; here a pass of its own follows it.
    Each step is checkpointed, so that memory holds one step's activations; they are computed again on the way back. That repetition is
    counted: with guidance an epoch takes four evaluations per step and image. With T steps and its own inversion the edit takes 2 T up, 2 T
    for the source chain, 4 T per epoch and 2 T at the end.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        source_prompts, target_prompts: one prompt per image each.
        inversion: Inversion("own"), as published: noise from DDIM inversion with guidance, and a source chain whose next latents are the
            image noised at random to each level. Or any of "ddim", "null_text", "direct" and "fixed_point": the source chain's next
            latents are then the pivots.
        alignment: (images, source_prompts, target_prompts, reconstructions) -> (B,), a loss, such as `judges.directional_alignment`
            makes; images are (B, 3, H, W) in [-1, 1], and the reconstructions are what the source chain gives.
        perceptual: (images, reconstructions) -> (B,), a distance such as LPIPS.
        generator: draws the noises of Inversion("own"), image after image; or one generator per image.
        progress: wraps the iterables, e.g. `tqdm`: the inversion's steps, the source chain's, the epochs.

    Raises:
        ValueError: bad input, or a judge that gives no (B,) losses; before the denoising network is evaluated.
        RuntimeError: the latents or a loss are no longer finite; names the step or epoch and the image.

    Example:
        >>> import torch
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib.editing.disentangle import Disentangle, edit
        >>> from smoothlib.editing.inversions import Inversion
        >>> pipe, images = load_pipeline("mini"), torch.zeros(1, 3, 64, 64)
        >>> def redder(images, source_prompts, target_prompts, reconstructions):
        ...     return (reconstructions - images)[:, 0].mean(dim=(1, 2))
        >>> def distance(a, b):
        ...     return (a - b).abs().mean(dim=(1, 2, 3))
        >>> settings = Disentangle(num_inference_steps=2, guidance_scale=3, epochs=1)
        >>> arguments = dict(inversion=Inversion("ddim"), settings=settings, alignment=redder, perceptual=distance)
        >>> edited = edit(pipe, images, ["a green sofa"], ["a red sofa"], **arguments)
        >>> edited.images.shape, edited.evaluations
        (torch.Size([1, 3, 64, 64]), 18.0)
    """
    check_edit(pipe, images, source_prompts, target_prompts)
    check_kind("disentangle", inversion, ("own", *SHARED_KINDS))
    check_generator(generator, len(images))
    own = isinstance(inversion, Inversion) and inversion.kind == "own"
    if own:
        check_generator_given(generator, "disentangle's own inversion")
    check_judges(images.to(pipe.unet.device, pipe.unet.dtype), source_prompts, target_prompts, alignment, perceptual)
    steps = ddim_steps(pipe, settings.num_inference_steps)
    with counted(pipe.unet) as counter, frozen(pipe.unet), frozen(pipe.vae):
        if own:
            chain = _own_chain(pipe, images, source_prompts, steps, settings, generator, progress)
        else:
            shared = dict(guidance_scale=settings.guidance_scale, num_inference_steps=settings.num_inference_steps)
            found = inverted_for(pipe, images, source_prompts, inversion, progress=progress, **shared)
            chain = _pivot_chain(pipe, found, steps, settings)
        target = encode_prompts(pipe, target_prompts).to(chain.source)
        means, z_source = chain.record(settings, progress)
        with torch.no_grad():
            reconstructions = _decode(pipe, z_source)

        def loss_of(latents: Tensor) -> Tensor:
            decoded = checkpoint(_decode, pipe, latents, use_reentrant=False)
            aligned = alignment(decoded, source_prompts, target_prompts, reconstructions)
            return aligned + settings.perceptual_weight * perceptual(decoded, reconstructions)

        weights = optimise_weights(chain, target, means, loss_of, settings, progress)
        with torch.no_grad():
            z = chain.run(weights, target, means)
    return finish(pipe, z, counter)


@dataclass(frozen=True)
class _Chain:
    """An image's way down from x_T, and where the source chain is to pass; latents (B, 4, h, w), embeddings (B, L, D)."""

    unet: torch.nn.Module
    steps: list[Step]
    guidance_scale: float
    x: Tensor  # x_T
    passes: list[Tensor]  # T latents, those after each step
    source: Tensor
    nulls: Sequence[Tensor]  # T null embeddings

    def step(self, i: int, x: Tensor, embeds: Tensor) -> Tensor:
        """One guided step of DDIM."""
        (output,) = predict_branches(self.unet, self.steps[i].t, [(x, embeds, self.guidance_scale)], self.nulls[i])
        return self.steps[i].mean(output, x)

    @torch.no_grad()
    def record(self, settings: Disentangle, progress: Progress) -> tuple[list[Tensor], Tensor]:
        """Where the source chain's first steps end of themselves, T `residual_share` latents, and z0 at its end.

        The residual noises are what `passes` lack of the former.
        """
        means, x = [], self.x
        kept = share_of_steps(settings.residual_share, len(self.steps))
        for i in progress(range(len(self.steps))):
            x = self.step(i, x, self.source)
            if i < kept:
                means.append(x)
                x = self.passes[i]
            check_latents(x, f"step {i} of {len(self.steps)} of the source chain")
        return means, x

    def run(self, weights: Tensor, target: Tensor, means: list[Tensor]) -> Tensor:
        """z0 of the edited chain; weights (B, T) of the source's embedding. Gradients flow to the weights, step by checkpointed step."""
        x = self.x
        for i in range(len(self.steps)):
            mixed = torch.lerp(target, self.source, weights[:, i, None, None])  # exact for equal embeddings, and for weights 0 and 1
            x = checkpoint(self.step, i, x, mixed, use_reentrant=False) if torch.is_grad_enabled() else self.step(i, x, mixed)
            if i < len(means):  # plus the residual noise; summed up in this order, a chain that agrees with the source's stays equal to it
                x = self.passes[i] + (x - means[i])
            check_latents(x.detach(), f"step {i} of {len(self.steps)}")
        return x


def optimise_weights(
    chain: _Chain,
    target: Tensor,
    means: list[Tensor],
    loss_of: Callable[[Tensor], Tensor],
    settings: Disentangle,
    progress: Progress = iter,
) -> Tensor:
    """The mixing weights (B, T) after `settings.epochs` steps of Adam, whose elementwise arithmetic keeps images independent."""
    weights = target.new_zeros(len(target), len(chain.steps))
    weights[:, : share_of_steps(settings.source_share, len(chain.steps))] = 1
    weights.requires_grad_()
    optimizer = torch.optim.Adam([weights], lr=settings.lr)
    for epoch in progress(range(settings.epochs)):
        with torch.enable_grad():
            losses = loss_of(chain.run(weights, target, means))  # (B,)
            optimizer.zero_grad()
            losses.sum().backward()
        if not losses.isfinite().all():
            bad = ", ".join(str(b) for b, finite in enumerate(losses.isfinite().tolist()) if not finite)
            raise RuntimeError(f"disentanglement's loss is not finite at epoch {epoch} of {settings.epochs}, image {bad} of the batch")
        optimizer.step()
    return weights.detach()


def _own_chain(
    pipe: "StableDiffusionPipeline",
    images: Tensor,
    source_prompts: list[str],
    steps: list[Step],
    settings: Disentangle,
    generator: Generators,
    progress: Progress,
) -> _Chain:
    """The noise of DDIM inversion with guidance; after each step, the image noised at random to the level where the step ends."""
    z0, source = encode_images(pipe, images).to(pipe.unet.dtype), encode_prompts(pipe, source_prompts)
    arguments = dict(num_inference_steps=len(steps), guidance_scale=settings.guidance_scale, progress=progress)
    x = ddim_invert(pipe, z0, source, **arguments)[-1]
    noises = image_noise(generator, z0[:, None].expand(-1, len(steps), -1, -1, -1)).transpose(0, 1)
    passes = [below.noised(z0, noise) for below, noise in zip(steps[1:], noises, strict=False)]
    null = encode_prompts(pipe, [""]).expand_as(source)
    return _Chain(pipe.unet, steps, settings.guidance_scale, x, [*passes, z0], source, [null] * len(steps))


def _pivot_chain(pipe: "StableDiffusionPipeline", found: Inverted, steps: list[Step], settings: Disentangle) -> _Chain:
    """The noise and the pivots of an inversion made by `inversions.invert`, with its null embeddings if it has any."""
    pivots = found.pivots.to(pipe.unet.device, pipe.unet.dtype)
    null = encode_prompts(pipe, [""]).expand_as(found.prompt_embeds)
    nulls = [null] * len(steps) if found.null_embeds is None else list(found.null_embeds.to(null))
    return _Chain(pipe.unet, steps, settings.guidance_scale, pivots[-1], list(pivots.flip(0)[1:]), found.prompt_embeds.to(null), nulls)


def _decode(pipe: "StableDiffusionPipeline", latents: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1], with gradients where they are enabled."""
    latents = latents.to(pipe.vae.dtype)
    return pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0].clamp(-1, 1)
