"""Plug-and-Play (Tumanyan et al. 2023): the target picture is sampled with features and self-attention of the inverted source.

In every step the source is evaluated at its own stored latent of that noise level (a pivot of its inversion), together with the target.
Features of one residual block of the decoder carry the source's structure over, queries and keys of self-attention its layout.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..diffusion import check_number, ddim_scheduler, set_timesteps
from ..sampling import check_latents, embeds_at, encode_prompts, predict_noise, share_of_steps
from .attention import Site, attention_hooks, feature_hooks
from .edited import Edited, counted, finish
from .inputs import Generators, check_edit, check_generator, check_kind, check_prompts, check_steps_and_guidance
from .inversions import inverted_for
from .inverted import SHARED_KINDS, Inversion, Inverted
from .layers import decoder_resnet, decoder_self

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


@dataclass(frozen=True)
class PlugAndPlay:
    """Settings, with the authors' as defaults; shares of steps count from the first, rounded down to whole steps.

    Raises:
        ValueError: a setting out of its range.
    """

    feature_injection: float = 0.8  # share of the steps, from 0 to 1, that take the source's features
    attention_injection: float = 0.5  # share of the steps that take the source's queries and keys
    negative_prompt: str = ""  # in place of the empty prompt; the authors' example has "ugly, blurry, black, low res, unrealistic"
    guidance_scale: float = 7.5
    num_inference_steps: int = 50

    def __post_init__(self) -> None:
        check_number("feature_injection", self.feature_injection, 0, 1)
        check_number("attention_injection", self.attention_injection, 0, 1)
        if not isinstance(self.negative_prompt, str):
            raise ValueError(f"negative_prompt is {self.negative_prompt!r}, but must be a string")
        check_steps_and_guidance(self)


@torch.no_grad()
def edit(
    pipe: "StableDiffusionPipeline",
    images: Tensor,
    source_prompts: list[str],
    target_prompts: list[str],
    *,
    inversion: Inversion | Inverted,
    settings: PlugAndPlay,
    generator: Generators = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Edited:
    """Sample the target from the inverted noise, with the source's features and self-attention in the first steps (Sec. 4).

    Both guidance branches take what is injected. The features are those of a residual branch before the shortcut is added, as in the
    authors' code. After the last injection the source is not evaluated: with both shares at 0 this is `sample` with the target prompt.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        source_prompts: B strings; not used by `Inversion("own")`.
        target_prompts: B strings.
        inversion: `Inversion("own")` is the published DDIM inversion with the empty prompt, here with as many steps as sampling (the
            authors take 999); "ddim", "null_text", "direct" or "fixed_point" invert with the source prompts, and so does the source branch
            then; or what was inverted before for these images, with the source prompts or with empty ones. The source branch lies on the
            pivots by definition, so that offsets have no effect. Null embeddings are used where there is no negative prompt.
        generator: nothing is random here; it is accepted as by every method.
        progress: wraps the iterables of step indices, the inversion's and then the sampling's.

    Raises:
        ValueError: bad input; before the network is evaluated.
        RuntimeError: the latents are no longer finite after a step; names it.

    Example:
        >>> import torch
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib.editing.inversions import Inversion
        >>> from smoothlib.editing.plug_and_play import PlugAndPlay, edit
        >>> pipe, images = load_pipeline("mini"), torch.zeros(1, 3, 64, 64)
        >>> settings = PlugAndPlay(feature_injection=1, guidance_scale=3, num_inference_steps=2)
        >>> edited = edit(pipe, images, ["a red sofa"], ["a green sofa"], inversion=Inversion("own"), settings=settings)
        >>> edited.images.shape, edited.evaluations  # 2 steps up, 2 guided steps down with the source beside them
        (torch.Size([1, 3, 64, 64]), 8.0)
    """
    check_edit(pipe, images, source_prompts, target_prompts)
    check_kind("plug_and_play", inversion, (*SHARED_KINDS, "own"))
    check_generator(generator, len(images))
    check_prompts(pipe, "negative_prompt", [settings.negative_prompt], 1)
    shared = dict(guidance_scale=settings.guidance_scale, num_inference_steps=settings.num_inference_steps)
    inject = _Injection(pipe.unet, settings, len(images))
    if inversion == Inversion("own") or (isinstance(inversion, Inverted) and _has_empty_prompts(pipe, inversion)):
        source_prompts = [""] * len(images)
        inversion = Inversion("ddim") if isinstance(inversion, Inversion) else inversion
    with counted(pipe.unet) as counter:
        inverted = inverted_for(pipe, images, source_prompts, inversion, progress=progress, **shared)
        with inject.hooked():
            z = _sample(pipe, inverted, encode_prompts(pipe, target_prompts), inject, progress)
    return finish(pipe, z, counter)


def _has_empty_prompts(pipe: "StableDiffusionPipeline", inverted: Inverted) -> bool:
    empty = encode_prompts(pipe, [""])
    embeds = inverted.prompt_embeds.to(empty)
    return embeds.shape[1:] == empty.shape[1:] and torch.allclose(embeds, empty.expand_as(embeds), atol=1e-4)


def _sample(pipe: "StableDiffusionPipeline", inverted: Inverted, target: Tensor, inject: "_Injection", progress: Callable) -> Tensor:
    """The edited z0, (B, 4, h, w)."""
    scheduler, w, steps = ddim_scheduler(pipe), inject.settings.guidance_scale, inverted.num_inference_steps
    timesteps = set_timesteps(scheduler, steps, pipe.unet.device)
    pivots = inverted.pivots.to(pipe.unet.device, pipe.unet.dtype)
    negative = inject.settings.negative_prompt
    null = encode_prompts(pipe, [negative]) if negative or inverted.null_embeds is None else inverted.null_embeds
    z, source = pivots[-1], inverted.prompt_embeds.to(pivots)
    for i in progress(range(steps)):
        t, inject.step = timesteps[i], i
        e_null = embeds_at(null, i, len(z)).to(z)
        if i < inject.source_steps:
            parts = [(pivots[steps - i], source), *([(z, e_null)] if w != 1 else []), (z, target.to(z))]
            latents, embeds = (torch.cat(rows) for rows in zip(*parts, strict=True))
            _, *e = predict_noise(pipe.unet, latents, t, embeds).chunk(len(parts))  # one call, no guidance yet
            e = e[0] if w == 1 else e[0] + w * (e[1] - e[0])
        else:
            e = predict_noise(pipe.unet, z, t, target.to(z), e_null, w)
        z = scheduler.step(e, t, z, return_dict=False)[0]
        check_latents(z, f"step {i} of {steps}")
    return z


class _Injection:
    """What the hooks do in each step. The first B rows of the network's batch are the source's."""

    def __init__(self, unet: nn.Module, settings: PlugAndPlay, batch_size: int) -> None:
        self.settings, self.batch_size, self.step = settings, batch_size, 0
        self.modules, self.places = injected_modules(unet), decoder_self(unet)
        self.feature_steps, self.attention_steps = (
            share_of_steps(share, settings.num_inference_steps) for share in (settings.feature_injection, settings.attention_injection)
        )

    @property
    def source_steps(self) -> int:
        """In how many steps the source branch is needed."""
        return max(self.feature_steps, self.attention_steps)

    @contextmanager
    def hooked(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(feature_hooks(self.modules, self.features))
            hooks = attention_hooks(self.places, change=self.change, active=lambda site: self.step < self.attention_steps)
            stack.enter_context(hooks)
            yield

    def features(self, module: nn.Module, output: Tensor) -> Tensor | None:
        return self._injected(output) if self.step < self.feature_steps else None

    def change(self, site: Site, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._injected(q), self._injected(k), v

    def _injected(self, rows: Tensor) -> Tensor:
        """The source's rows in place of all."""
        return rows[: self.batch_size].repeat(len(rows) // self.batch_size, *[1] * (rows.ndim - 1))


def injected_modules(unet: nn.Module) -> list[nn.Module]:
    """Where features are injected: the last convolution of the residual block, whose output the block adds to its shortcut."""
    return [decoder_resnet(unet).conv2]
