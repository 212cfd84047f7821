"""Prompt-to-Prompt (Hertz et al. 2023): the target picture is sampled with attention maps of the source picture.

Source and target start from the same noise and go through the network together. In the first steps the target's cross-attention looks
where the source's looks (replaced word by word, or refined where the target has new words, or re-weighted), and its coarse self-attention
is the source's. Where the two prompts agree, the picture keeps its layout.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from ..diffusion import check_number, ddim_scheduler, set_timesteps
from ..sampling import check_latents, embeds_at, encode_prompts, predict_noise, share_of_steps
from .attention import Site, attention_hooks
from .edited import Edited, counted, finish
from .inputs import Generators, check_edit, check_generator, check_kind, check_steps_and_guidance
from .inversions import inverted_for
from .inverted import SHARED_KINDS, Inversion, Inverted
from .layers import all_cross, coarse_cross, coarse_self
from .local_blend import LocalBlend
from .token_alignment import Alignment, align_prompts, find_tokens

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

KINDS = ("auto", "replace", "refine")


@dataclass(frozen=True)
class PromptToPrompt:
    """Settings, with the authors' as defaults; shares of steps count from the first, rounded down to whole steps.

    Raises:
        ValueError: a setting out of its range.
    """

    cross_replace: float = 0.8  # share of the steps, from 0 to 1, in which the target's cross-attention is the source's
    self_replace: float = 0.5  # the same for self-attention on coarse grids
    kind: Literal["auto", "replace", "refine"] = "auto"  # how tokens are aligned, see `token_alignment`
    equalizer: Mapping[str, float] | tuple[tuple[str, float], ...] = ()  # word of every target -> what its maps are multiplied with
    blend_words: Literal["changed"] | tuple[str, ...] | None = None  # local blend: around the words that differ, or these; None: without
    blend_threshold: float = 0.3  # of the largest value of the words' map, from 0 to 1
    blend_start: float = 0.2  # share of the steps that pass before the first blend
    self_side: float | None = None  # coarse: side of the grid / side of the latent; None as published, see `layers` (1/4 in SD 1.5)
    guidance_scale: float = 7.5
    num_inference_steps: int = 50

    def __post_init__(self) -> None:
        for name in ("cross_replace", "self_replace", "blend_threshold", "blend_start"):
            check_number(name, getattr(self, name), 0, 1)
        if self.self_side is not None:
            check_number("self_side", self.self_side, 0, 1)
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}, but must be one of {', '.join(KINDS)}")
        pairs = tuple(self.equalizer.items()) if isinstance(self.equalizer, Mapping) else tuple(self.equalizer)
        for word, weight in pairs:
            check_number(f"equalizer of {word!r}", weight)
        object.__setattr__(self, "equalizer", pairs)
        if isinstance(self.blend_words, str) and self.blend_words != "changed":
            raise ValueError(f"blend_words is {self.blend_words!r}, but must be 'changed', a tuple of words or None")
        if self.blend_words is not None and not self.blend_words:
            raise ValueError(f"blend_words is {self.blend_words!r}, but must have at least one word, or be None for no local blend")
        check_steps_and_guidance(self)


@torch.no_grad()
def edit(
    pipe: "StableDiffusionPipeline",
    images: Tensor,
    source_prompts: list[str],
    target_prompts: list[str],
    *,
    inversion: Inversion | Inverted,
    settings: PromptToPrompt,
    generator: Generators = None,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Edited:
    """Sample source and target from the inverted noise, the target with the source's attention maps (Sec. 4).

    The inversion's null embeddings serve both branches; direct inversion's offsets bring the source branch alone back to its pivots. Only
    the half of the batch that has the prompts is changed, not that with the null embeddings, as in the authors' code. Once nothing is taken
    from the source any more, its branch is not evaluated: with both shares at 0 and no blend this is `sample` with the target prompt.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        source_prompts, target_prompts: B strings each; equal ones give the reconstruction.
        inversion: "ddim", "null_text", "direct" or "fixed_point", or what was inverted before for these images, prompts and settings.
        generator: nothing is random here; it is accepted as by every method.
        progress: wraps the iterables of step indices, the inversion's and then the sampling's.

    Raises:
        ValueError: bad input, also a word of `equalizer` that a target prompt lacks or a word of `blend_words` that both prompts of a
            pair lack; before the network is evaluated.
        RuntimeError: the latents are no longer finite after a step; names it.

    Example:
        >>> import torch
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib.editing.inversions import Inversion
        >>> from smoothlib.editing.prompt_to_prompt import PromptToPrompt, edit
        >>> pipe, images = load_pipeline("mini"), torch.zeros(1, 3, 64, 64)
        >>> settings = PromptToPrompt(cross_replace=1, guidance_scale=3, num_inference_steps=2)
        >>> edited = edit(pipe, images, ["a red sofa"], ["a green sofa"], inversion=Inversion("ddim"), settings=settings)
        >>> edited.images.shape, edited.evaluations  # 2 steps up, 2 guided steps down of two branches
        (torch.Size([1, 3, 64, 64]), 10.0)
    """
    check_edit(pipe, images, source_prompts, target_prompts)
    check_kind("prompt_to_prompt", inversion, SHARED_KINDS)
    check_generator(generator, len(images))
    alignments = [align_prompts(pipe.tokenizer, a, b, settings.kind) for a, b in zip(source_prompts, target_prompts, strict=True)]
    control = _Control(pipe.unet, settings, alignments, _equalizer(pipe.tokenizer, target_prompts, settings))
    control.blend = _local_blend(pipe, source_prompts, target_prompts, settings, alignments)
    shared = dict(guidance_scale=settings.guidance_scale, num_inference_steps=settings.num_inference_steps)
    with counted(pipe.unet) as counter:
        inverted = inverted_for(pipe, images, source_prompts, inversion, progress=progress, **shared)
        with control.hooked():
            z = _sample(pipe, inverted, encode_prompts(pipe, target_prompts), control, progress)
    return finish(pipe, z, counter)


def _sample(pipe: "StableDiffusionPipeline", inverted: Inverted, target: Tensor, control: "_Control", progress: Callable) -> Tensor:
    """The edited z0, (B, 4, h, w)."""
    scheduler, w, steps = ddim_scheduler(pipe), control.settings.guidance_scale, inverted.num_inference_steps
    timesteps = set_timesteps(scheduler, steps, pipe.unet.device)
    z_source = z = inverted.pivots[-1].to(pipe.unet.device, pipe.unet.dtype)
    null = encode_prompts(pipe, [""]) if inverted.null_embeds is None and w != 1 else inverted.null_embeds
    for i in progress(range(steps)):
        control.step = i
        both = i < control.source_steps
        x, cond = (torch.cat([z_source, z]), torch.cat([inverted.prompt_embeds.to(target), target])) if both else (z, target)
        e_null = None if w == 1 else embeds_at(null, i, len(z)).to(x).repeat(len(x) // len(z), 1, 1)
        e = predict_noise(pipe.unet, x, timesteps[i], cond.to(x), e_null, w)
        x = scheduler.step(e, timesteps[i], x, return_dict=False)[0]
        check_latents(x, f"step {i} of {steps}")
        z = x[-len(z) :]
        if both:
            # the step plus its offset is the pivot; taken as such, no rounding is carried into the next step, where guidance amplifies it
            z_source = x[: len(z)] if inverted.offsets is None else inverted.pivots[steps - 1 - i].to(x)
            z = z if control.blend is None else control.blend(i, z_source, z)
    return z


class _Control:
    """What the hooks do in each step. Of the network's batch the last B rows are the target's and the B before them the source's."""

    def __init__(self, unet: nn.Module, settings: PromptToPrompt, alignments: list[Alignment], weight: Tensor) -> None:
        device, dtype = unet.device, unet.dtype
        self.settings, self.batch_size, self.step = settings, len(alignments), 0
        self.matrix = torch.stack([one.matrix for one in alignments])[:, None].to(device, dtype)  # (B, 1, L, L)
        self.shared = torch.stack([one.shared for one in alignments])[:, None, None].to(device, dtype)  # (B, 1, 1, L)
        self.weight = weight[:, None, None].to(device, dtype)  # (B, 1, 1, L)
        self.cross_steps, self.self_steps = (
            share_of_steps(share, settings.num_inference_steps) for share in (settings.cross_replace, settings.self_replace)
        )
        self.cross_sites, self.self_sites = all_cross(unet), coarse_self(unet, settings.self_side)
        self.blend: LocalBlend | None = None

    @property
    def source_steps(self) -> int:
        """In how many steps the source branch is needed."""
        return self.settings.num_inference_steps if self.blend is not None else max(self.cross_steps, self.self_steps)

    @contextmanager
    def hooked(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(attention_hooks(self.cross_sites, change_map=self.change_map, active=self.cross_active))
            stack.enter_context(attention_hooks(self.self_sites, change=self.change, active=lambda site: self.step < self.self_steps))
            yield

    def cross_active(self, site: Site) -> bool:
        return self.step < self.cross_steps or (self.blend is not None and self.blend.reads(site))

    def change(self, site: Site, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The source's map for the target's values: the map is a function of queries and keys alone."""
        return self._copied(q), self._copied(k), v

    def _copied(self, tokens: Tensor) -> Tensor:
        size = self.batch_size
        return torch.cat([tokens[:-size], tokens[-2 * size : -size]])

    def change_map(self, site: Site, p: Tensor) -> Tensor:
        if self.step < self.cross_steps:
            source, target = p[-2 * self.batch_size :].chunk(2)  # (B, heads, N, L)
            new = (source @ self.matrix) * self.shared + target * (1 - self.shared)
            p = torch.cat([p[: -self.batch_size], new * self.weight])
        if self.blend is not None:
            self.blend.read(site, *p[-2 * self.batch_size :].chunk(2))
        return p


def _equalizer(tokenizer: object, target_prompts: list[str], settings: PromptToPrompt) -> Tensor:
    """(B, L): what the map of each target token is multiplied with, 1 where nothing is said."""
    weights = torch.ones(len(target_prompts), tokenizer.model_max_length)
    for word, weight in settings.equalizer:
        for b, prompt in enumerate(target_prompts):
            tokens = find_tokens(tokenizer, prompt, word)
            if not tokens:
                raise ValueError(f"equalizer has the word {word!r}, but must have words of every target prompt, which {prompt!r} lacks")
            weights[b, tokens] = weight
    return weights


def _local_blend(
    pipe: "StableDiffusionPipeline", source_prompts: list[str], target_prompts: list[str], settings: PromptToPrompt, found: list[Alignment]
) -> LocalBlend | None:
    if settings.blend_words is None:
        return None
    source, target = (torch.stack([getattr(one, name) for one in found]) for name in ("changed_source", "changed_target"))
    if settings.blend_words != "changed":
        source, target = torch.zeros_like(source), torch.zeros_like(target)
        for b, (prompt, other) in enumerate(zip(source_prompts, target_prompts, strict=True)):
            for word in settings.blend_words:
                here, there = (find_tokens(pipe.tokenizer, text, word) for text in (prompt, other))
                if not here and not there:
                    raise ValueError(f"blend_words has {word!r}, but must have words of the prompts, which {prompt!r} and {other!r} lack")
                source[b, here] = target[b, there] = 1
    start = share_of_steps(settings.blend_start, settings.num_inference_steps)
    return LocalBlend(coarse_cross(pipe.unet), source.to(pipe.unet.device), target.to(pipe.unet.device), settings.blend_threshold, start)
