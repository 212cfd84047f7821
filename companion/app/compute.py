"""What each tab computes, by smoothlib's functions alone: once with the base model, once with Smooth Diffusion."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from smoothlib.editing import METHODS
from smoothlib.editing.drag import drag
from smoothlib.editing.inversions import invert, source_branch
from smoothlib.editing.inverted import Inversion
from smoothlib.interpolation.real_images import real_image_interpolation
from smoothlib.interpolation.walk import latent_walk
from smoothlib.metrics.istd import step_distances
from smoothlib.metrics.reconstruction import PeakSignalNoiseRatio
from smoothlib.pixels import to_uint8
from smoothlib.sampling import Sampling, decode_latents, encode_prompts

from ..book.step_curve import step_curve
from .models import Models, Side
from .requests import Ask
from .work import Work

if TYPE_CHECKING:
    from smoothlib.editing.judges import Alignment, Perceptual

BATCH = 16  # frames in one call of the network
OWN_STAGES = {
    "sdedit": 1,
    "cycle_diffusion": 1,
    "disentangle": 3,
}  # series of steps that an edit goes through; others: inversion, then sampling


@dataclass(frozen=True)
class Outcome:
    """The pictures of one side, (F, H, W, 3) uint8, and sentences about them."""

    pictures: np.ndarray
    facts: tuple[str, ...] = ()
    steps: np.ndarray = field(default_factory=lambda: np.zeros(0))  # distances between adjacent frames


@dataclass(frozen=True)
class Result:
    """Both sides by key, and of walks their step curves as an SVG."""

    sides: dict[str, Outcome]
    curve: str = ""


def compute(ask: Ask, models: Models, work: Work) -> Result:
    """Do what was asked, one side after the other.

    Raises:
        Cancelled: the work was cancelled.
        ValueError, RuntimeError: smoothlib's sentence.
    """
    sides = {side.key: _COMPUTE[ask.kind](ask, models, side, work) for side in models.sides}
    return Result(sides, _curve(sides, models) if ask.kind == "walk" else "")


def _pixels(images: Tensor) -> np.ndarray:
    """(F, 3, H, W) in [-1, 1] -> (F, H, W, 3) uint8."""
    return to_uint8(images).permute(0, 2, 3, 1).numpy(force=True)


def _walk(ask: Ask, models: Models, side: Side, work: Work) -> Outcome:
    s, pipe = ask.settings, side.pipe
    sampling = Sampling(s.guidance_scale, s.num_inference_steps, batch_size=BATCH)
    first, second = (encode_prompts(pipe, [prompt]) for prompt in (s.first_prompt, s.second_prompt))
    shared = dict(second_embeds=second, frames=s.frames)
    guided = 1 if s.guidance_scale == 1 else 2
    frames = s.num_inference_steps * s.frames * guided  # latents that the frames take
    if ask.images:
        inverted, each = s.num_inference_steps * 2, 2 * (s.num_inner_steps + 2)  # both pictures up; a step of null-text inversion
        ends = [ask.images[name].to(pipe.device) for name in ("first", "second")]
        with work.side(side.title, pipe.unet, inverted + s.num_inference_steps * each + frames):
            progress = work.milestones(inverted, each)
            more = dict(num_inner_steps=s.num_inner_steps, progress=progress)
            walk, _ = real_image_interpolation(pipe, *ends, first, sampling, **shared, **more)
    else:
        start, end = (noise(pipe, models.size, seed) for seed in (s.first_seed, s.second_seed))
        with work.side(side.title, pipe.unet, frames):
            walk = latent_walk(pipe, start, end, first, sampling, **shared)
    steps = step_distances(walk)[0].numpy(force=True)
    varied = float(steps.std() / steps.mean()) if steps.mean() else 0.0
    facts = (f"steps of the picture: mean {steps.mean():.1f}, coefficient of variation {varied:.2f}",)
    return Outcome(_pixels(walk[0]), facts, steps)


def noise(pipe: "torch.nn.Module", size: int, seed: int) -> Tensor:
    """Unit Gaussian noise of a seed, (1, C, h, w), drawn on the CPU: the same on every machine, and for both sides."""
    side = size // pipe.vae_scale_factor
    shape = (1, pipe.vae.config.latent_channels, side, side)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _curve(sides: dict[str, Outcome], models: Models) -> str:
    distances = {side.title: sides[side.key].steps for side in models.sides}
    highest = max(float(values.max()) for values in distances.values()) or 1.0
    described = "; ".join(f"{title}: {', '.join(f'{value:.1f}' for value in values)}" for title, values in distances.items())
    return step_curve(distances, highest=highest, title="L2 distance to the frame before", description=f"Step distances. {described}")


def _reconstruct(ask: Ask, models: Models, side: Side, work: Work) -> Outcome:
    s, pipe = ask.settings, side.pipe
    image = ask.images["picture"].to(pipe.device)
    ways = 3 if s.inversion == "null_text" else 2  # up, the embeddings, down
    with work.side(side.title, pipe.unet):
        progress = work.stages(ways)
        inversion = Inversion(s.inversion, num_inner_steps=s.num_inner_steps)
        sampling = dict(guidance_scale=s.guidance_scale, num_inference_steps=s.num_inference_steps)
        inverted = invert(pipe, image, [s.prompt], inversion, **sampling, progress=progress)
        z = inverted.pivots[0]
        for z, _ in zip(source_branch(pipe, inverted), progress(range(s.num_inference_steps)), strict=False):  # noqa: B007
            pass
    found = decode_latents(pipe, z)
    psnr = PeakSignalNoiseRatio()
    psnr.update(found.cpu(), image.cpu())
    return Outcome(_pixels(found), (f"PSNR to the picture: {float(psnr.compute()):.2f} dB",))


def _edit(ask: Ask, models: Models, side: Side, work: Work) -> Outcome:
    s, pipe, edit = ask.settings, side.pipe, ask.edit
    more = dict(zip(("alignment", "perceptual"), judges(models.device), strict=True)) if edit.method == "disentangle" else {}
    stages = OWN_STAGES.get(edit.method) or {"null_text": 3, "direct": 3}.get(edit.inversion.kind, 2)
    with work.side(side.title, pipe.unet):
        found = METHODS[edit.method].edit(
            pipe,
            ask.images["picture"].to(pipe.device),
            [s.source_prompt],
            [s.target_prompt],
            inversion=edit.inversion,
            settings=edit.settings,
            generator=[torch.Generator().manual_seed(s.seed)],
            progress=work.stages(stages),
            **more,
        )
    return Outcome(_pixels(found.images), (f"{found.evaluations:.0f} evaluations of the network",))


@lru_cache(maxsize=1)
def judges(device: str) -> "tuple[Alignment, Perceptual]":
    """What Disentangle is optimised against: the packaged scene encoder and LPIPS, whatever the pipeline."""
    from ..studies.editing.scores import EditJudges

    return EditJudges("packaged", device, 1).losses()


def _drag(ask: Ask, models: Models, side: Side, work: Work) -> Outcome:
    pipe, settings, lora = side.pipe, ask.drag, ask.lora
    before = lora.steps * lora.noises + settings.steps_up  # latents until the optimisation begins
    updates = settings.iterations + 1
    image, points = ask.images["picture"].to(pipe.device), ask.points

    def report(done: int, left: float) -> None:
        work.reached(before + done + 1, f"update {done} of {settings.iterations}, {left:.1f} pixels left")

    with work.side(side.title, pipe.unet, before + updates + 2 * settings.steps_up):
        found = drag(
            pipe,
            image,
            [ask.settings.prompt],
            points.handles,
            points.targets,
            masks=points.masks,
            settings=settings,
            lora=lora,
            generator=[torch.Generator().manual_seed(ask.settings.seed)],
            report=report,
        )
    before_pixels, after = float(found.distances[0, 0]), float(found.distances[-1, 0])
    fact = f"mean distance to the targets, by its own tracking: {before_pixels:.1f} pixels before, {after:.1f} after"
    return Outcome(_pixels(found.images), (fact, f"{int(found.iterations[0])} updates"))


_COMPUTE: dict[str, Callable[[Ask, Models, Side, Work], Outcome]] = {
    "walk": _walk, "reconstruct": _reconstruct, "edit": _edit, "drag": _drag
}  # fmt: skip
