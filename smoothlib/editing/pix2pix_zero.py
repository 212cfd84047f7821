"""Pix2Pix-Zero (Parmar et al. 2023): shift the prompt's embedding along a direction, hold the picture by its cross-attention maps.

Two chains run from one noise. The source chain shows its cross-attention maps M_t. The edited chain takes, before each step of DDIM, one
step of gradient descent on its latent towards them,

    x_t <- x_t - lr * grad_x sum_layers mean_heads sum (M_t(x_t, edited) - M_t)^2,

and then denoises under the edited prompt, embedding(source) + direction, with the source prompt as the negative prompt. The direction is
the mean embedding of sentences about the target minus that of sentences about the source.

Details follow the published code: with guidance, both copies of x_t that enter the network (with the negative prompt and with the edited
one) are moved, each by its own gradient, their losses averaged; the chain goes on from the negative prompt's copy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..denoiser import call_network
from ..diffusion import check_number
from ..null_text import frozen
from ..sampling import check_latents, encode_images, encode_prompts
from .attention import Site, attention_hooks, sites
from .chains import Step, ddim_steps
from .edited import Edited, counted, finish
from .inputs import Generators, check_edit, check_generator, check_kind, check_prompts, check_steps_and_guidance
from .inversions import Inversion, Inverted, Progress, inverted_for
from .regularised import check_regularised, regularised_inversion

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

KINDS = ("own", "ddim", "fixed_point")
Sentences = Sequence[Sequence[str]] | None


@dataclass(frozen=True)
class Pix2PixZero:
    """Settings, with the published defaults; the last four belong to the method's own inversion (`regularised_inversion`).

    Raises:
        ValueError: a setting is out of its range.
    """

    num_inference_steps: int = 50
    guidance_scale: float = 5.0
    cross_attention_guidance: float = 0.1  # learning rate of the descent on x_t; 0 leaves it out
    lambda_auto_corr: float = 20.0
    lambda_kl: float = 20.0
    num_reg_steps: int = 5
    num_auto_corr_rolls: int = 5

    def __post_init__(self) -> None:
        check_steps_and_guidance(self)
        check_number("cross_attention_guidance", self.cross_attention_guidance, 0)
        check_number("lambda_auto_corr", self.lambda_auto_corr, 0)
        check_number("lambda_kl", self.lambda_kl, 0)
        for name in ("num_reg_steps", "num_auto_corr_rolls"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"{name} is {value!r}, but must be a whole number of at least 0")


def edit(
    pipe: "StableDiffusionPipeline",
    images: Tensor,
    source_prompts: list[str],
    target_prompts: list[str],
    *,
    inversion: Inversion | Inverted,
    settings: Pix2PixZero,
    source_sentences: Sentences = None,
    target_sentences: Sentences = None,
    generator: Generators = None,
    progress: Progress = iter,
) -> Edited:
    """Invert, then denoise under the shifted prompt while the cross-attention maps are held to the source's.

    The source chain runs beside the edited one, so that only one step's maps are kept. Its negative prompt is its own prompt, so that
    guidance changes nothing in it and one evaluation is enough. With the inversion, a step takes six evaluations per image: one up, one for
    the source's maps, two for the gradient, two for the edited noise. At guidance 1 the last two are one each.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        source_prompts, target_prompts: one prompt per image each.
        inversion: Inversion("own"), the regularised inversion; or "ddim" or "fixed_point", of which only the noise is used, as the
            negative prompt leaves no place for null embeddings.
        source_sentences, target_sentences: for each image a list of sentences about what it shows and about what it is to show, whose mean
            embeddings give the direction; None for the prompts alone, which makes the edited embedding the target prompt's.
        generator: draws the rolls of the auto-correlation, image after image; or one generator per image.
        progress: wraps the two iterables of step indices, e.g. `tqdm`: the inversion and the edit.

    Raises:
        ValueError: bad input; before the network is evaluated.
        RuntimeError: the latents are no longer finite after a step; names it.

    Example:
        >>> import torch
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib.editing.inversions import Inversion
        >>> from smoothlib.editing.pix2pix_zero import Pix2PixZero, edit
        >>> pipe, images = load_pipeline("mini"), torch.zeros(1, 3, 64, 64)
        >>> settings = Pix2PixZero(num_inference_steps=2, guidance_scale=3)
        >>> arguments = dict(inversion=Inversion("own"), settings=settings, generator=torch.Generator().manual_seed(0))
        >>> edited = edit(pipe, images, ["a red sofa"], ["a blue sofa"], **arguments)
        >>> edited.images.shape, edited.evaluations
        (torch.Size([1, 3, 64, 64]), 12.0)
    """
    check_edit(pipe, images, source_prompts, target_prompts)
    check_kind("pix2pix_zero", inversion, KINDS)
    check_generator(generator, len(images))
    if isinstance(inversion, Inversion) and inversion.kind == "own":
        check_regularised(pipe, images, settings, generator)
    check_sentences(pipe, source_sentences, target_sentences, len(images))
    cross = [site for site in sites(pipe.unet) if site.kind == "cross"]
    steps = ddim_steps(pipe, settings.num_inference_steps)
    with counted(pipe.unet) as counter, frozen(pipe.unet):
        source = encode_prompts(pipe, source_prompts)
        if isinstance(inversion, Inversion) and inversion.kind == "own":
            z = regularised_inversion(pipe, encode_images(pipe, images), source, settings, generator, progress)
        else:
            shared = dict(guidance_scale=settings.guidance_scale, num_inference_steps=settings.num_inference_steps)
            z = inverted_for(pipe, images, source_prompts, inversion, progress=progress, **shared).pivots[-1].to(source)
        sentences = (source_sentences or [[prompt] for prompt in source_prompts], target_sentences or [[p] for p in target_prompts])
        chains = _Chains(pipe.unet, cross, source, source + direction(pipe, *sentences), settings)
        x_source = x = z
        for i in progress(range(len(steps))):
            x_source, x = chains.step(steps[i], x_source, x)
            check_latents(x, f"step {i} of {len(steps)}")
    return finish(pipe, x, counter)


def direction(pipe: "StableDiffusionPipeline", source: Sequence[Sequence[str]], target: Sequence[Sequence[str]]) -> Tensor:
    """mean(target embeddings) - mean(source embeddings) of each image's sentences, (B, L, D)."""
    means = [torch.stack([encode_prompts(pipe, list(sentences)).mean(dim=0) for sentences in lists]) for lists in (source, target)]
    return means[1] - means[0]


@dataclass(frozen=True)
class _Chains:
    """The source chain and the edited chain, one step at a time; latents (B, 4, h, w), embeddings (B, L, D)."""

    unet: torch.nn.Module
    cross: list[Site]
    source: Tensor
    edited: Tensor
    settings: Pix2PixZero

    @torch.no_grad()
    def step(self, step: Step, x_source: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both chains one step down."""
        maps, guidance_scale = {}, self.settings.guidance_scale

        def keep(site: Site, attention_map: Tensor) -> Tensor:
            maps[site] = attention_map
            return attention_map

        with attention_hooks(self.cross, change_map=keep):
            output = call_network(self.unet, x_source, step.t, self.source)
        embeds = self.edited if guidance_scale == 1 else torch.cat([self.source, self.edited])
        copies = len(embeds) // len(x)
        moved = self._towards(maps, step.t, x.repeat(copies, 1, 1, 1), embeds, copies)
        outputs = call_network(self.unet, moved, step.t, embeds).chunk(copies)
        guided = outputs[0] if copies == 1 else outputs[0] + guidance_scale * (outputs[1] - outputs[0])
        return step.mean(output, x_source), step.mean(guided, moved[: len(x)])

    def _towards(self, maps: dict[Site, Tensor], t: Tensor, x: Tensor, embeds: Tensor, copies: int) -> Tensor:
        """x (copies * B, 4, h, w) after one step of gradient descent.

        The loss is a sum over images, each with the mean over its copies and heads: no image's gradient depends on another.
        """
        if self.settings.cross_attention_guidance == 0:
            return x
        losses = []

        def compare(site: Site, attention_map: Tensor) -> Tensor:
            difference = attention_map - maps[site].repeat(copies, 1, 1, 1)  # (copies * B, heads, queries, keys)
            losses.append(difference.square().sum() / (copies * attention_map.shape[1]))
            return attention_map

        with torch.enable_grad(), attention_hooks(self.cross, change_map=compare):
            x = x.detach().requires_grad_()
            call_network(self.unet, x, t, embeds)
            (gradient,) = torch.autograd.grad(torch.stack(losses).sum(), x)
        return x.detach() - self.settings.cross_attention_guidance * gradient


def check_sentences(pipe: "StableDiffusionPipeline", source_sentences: Sentences, target_sentences: Sentences, batch_size: int) -> None:
    """ValueError unless each is None or has, for each image, a list of at least one sentence that the text encoder can read to its end."""
    for name, sentences in (("source_sentences", source_sentences), ("target_sentences", target_sentences)):
        if sentences is None:
            continue
        if isinstance(sentences, str) or len(sentences) != batch_size:
            given = repr(sentences) if isinstance(sentences, str) else f"{len(sentences)} lists"
            raise ValueError(f"{name} is {given}, but must be {batch_size} lists of sentences, one per image")
        for i, of_image in enumerate(sentences):
            if isinstance(of_image, str) or not of_image:
                raise ValueError(f"{name} is {of_image!r} for image {i}, but must be a list of at least one sentence")
            check_prompts(pipe, name, of_image, len(of_image))
