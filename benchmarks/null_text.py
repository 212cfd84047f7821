"""Null-text inversion in batches against the published loop, one image at a time: images a second, and what the pictures lose.

    python -m benchmarks.null_text                                       # the embedded model on the CPU
    python -m benchmarks.null_text --device cuda --model random-sd15 --every-step --batch 32 16     # no weights are needed for time

The published loop (Mokady et al. 2023) is written out in `published`; it finds the same embeddings as the library does for one image (see
tests/test_cost_benchmarks.py). Both stop an image at the published threshold, which grows with the steps; `--every-step` takes all
inner steps, because a random network never meets the threshold, or meets it at once. Float32 is PyTorch's own: on a GPU, products of
matrices in full and convolutions in TensorFloat-32, for both. In bfloat16 the frozen weights are rounded once, as autocast would round them
at every use. The compiled ways compile what has a gradient, the inner steps; other calls of the network run as before.

What is timed is encoding, DDIM inversion and the optimisation, after a warm-up of each size of a batch. "PSNR" is that of the decoded
pictures to the images, "to published" that of a way's pictures to the published loop's, both in dB, and "latents" how far the latents of
those pictures are from the published loop's, relative to their size. `--write FILE` keeps the table, such as benchmarks/null_text.md.
"""

import argparse
import contextlib
import copy
import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from companion.base.config import OneSentenceParser
from companion.base.machine import machine
from companion.data import load as datasets
from smoothlib.diffusion import ddim_scheduler, set_timesteps
from smoothlib.execution import compile_blocks, in_half_precision, round_frozen_weights
from smoothlib.inversion import ddim_invert, null_text_inversion
from smoothlib.sampling import decode_latents, encode_images, encode_prompts, sample

from . import random_model
from .beside import HELP, beside
from .training_cost import shown

TOLERANCE, GROWTH = 1e-5, 2e-5  # published
AT_ONCE = 8  # pictures that are decoded together, outside of what is timed


@dataclass(frozen=True)
class Task:
    """What is inverted, and how: images (N, 3, H, W) in [-1, 1] with their captions."""

    images: Tensor
    captions: list[str]
    steps: int
    inner_steps: int
    guidance_scale: float
    tolerance: float = TOLERANCE
    growth: float = GROWTH

    def __getitem__(self, rows: slice) -> "Task":
        return replace(self, images=self.images[rows], captions=self.captions[rows])


@dataclass(frozen=True)
class Way:
    """A pipeline, how many images go at once, and the loop that finds their embeddings; how many images are timed (None: all)."""

    pipe: object
    batch: int
    loop: Callable
    images: int | None = None


@dataclass(frozen=True)
class Outcome:
    """Of a way's images: seconds for all of them, steps of the optimiser, the pictures that come back and their latents."""

    seconds: float
    taken: int
    pictures: Tensor
    latents: Tensor

    @property
    def per_image(self) -> float:
        """Seconds."""
        return self.seconds / len(self.pictures)


def published(pipe, pivots: Tensor, embeds: Tensor, task: Task) -> tuple[Tensor, int]:
    """Null embeddings (T, 1, L, D) of one image by the published loop, and the optimiser's steps in all.

    A step's prediction for the prompt is made once; at most `inner_steps` of Adam at a learning rate that falls by a hundredth of .01 each
    step; stop after the update whose loss lay below the threshold; then both predictions again, to go on.
    """
    scheduler, unet, w = ddim_scheduler(pipe), pipe.unet, task.guidance_scale
    null, z, found, taken = encode_prompts(pipe, [""]), pivots[-1], [], 0
    for i, t in enumerate(set_timesteps(scheduler, task.steps, pivots.device)):
        null = null.detach().clone().requires_grad_(True)
        optimizer = torch.optim.Adam([null], lr=1e-2 * (1 - min(i, 99) / 100))
        with torch.no_grad():
            e_cond = unet(z, t, embeds, return_dict=False)[0]
        for _ in range(task.inner_steps):
            e_null = unet(z, t, null, return_dict=False)[0]
            loss = (scheduler.step(e_null + w * (e_cond - e_null), t, z).prev_sample - pivots[-2 - i]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            taken += 1
            if loss.item() < task.tolerance + task.growth * i:
                break
        with torch.no_grad():
            e_null, e_cond = unet(torch.cat([z, z]), t, torch.cat([null, embeds]), return_dict=False)[0].chunk(2)
            z = scheduler.step(e_null + w * (e_cond - e_null), t, z).prev_sample
        found.append(null.detach())
    return torch.stack(found), taken


def ours(pipe, pivots: Tensor, embeds: Tensor, task: Task) -> tuple[Tensor, int]:
    """Null embeddings (T, B, L, D) by the library, and the optimiser's steps in all."""
    found = null_text_inversion(
        pipe,
        pivots,
        embeds,
        guidance_scale=task.guidance_scale,
        num_inner_steps=task.inner_steps,
        tolerance=task.tolerance,
        tolerance_growth=task.growth,
    )
    return found.null_embeds, int(found.inner_steps.sum())


def invert(way: Way, task: Task) -> Outcome:
    """All images of a way in batches; the seconds are those of encoding, DDIM inversion and the optimisation."""
    pipe, task, found = way.pipe, task[: way.images], []
    for start in range(0, len(task.images), way.batch):
        part = task[start : start + way.batch]
        _wait(pipe)
        started = time.perf_counter()
        embeds = encode_prompts(pipe, part.captions)
        pivots = ddim_invert(pipe, encode_images(pipe, part.images), embeds, num_inference_steps=task.steps)
        nulls, count = way.loop(pipe, pivots, embeds, part)
        _wait(pipe)
        seconds = time.perf_counter() - started
        settings = dict(guidance_scale=task.guidance_scale, num_inference_steps=task.steps, inverted=True)
        z0 = sample(pipe, pivots[-1], embeds, null_embeds=nulls, **settings)
        pictures = torch.cat([decode_latents(pipe, some).cpu() for some in z0.split(AT_ONCE)])
        found.append(Outcome(seconds, count, pictures, z0.cpu()))
    pictures, latents = (torch.cat([getattr(one, name) for one in found]) for name in ("pictures", "latents"))
    return Outcome(sum(one.seconds for one in found), sum(one.taken for one in found), pictures, latents)


def _wait(pipe) -> None:
    if pipe.unet.device.type == "cuda":
        torch.cuda.synchronize(pipe.unet.device)


def psnr(found: Tensor, wanted: Tensor) -> float:
    """Mean over the images, range 2, in dB."""
    return (10 * torch.log10(4 / (found - wanted).square().mean(dim=(1, 2, 3)))).mean().item()


def in_bfloat16(pipe):
    """A pipeline with a network of its own, whose frozen weights are rounded to bfloat16 and which computes in it."""
    other = copy.copy(pipe)
    object.__setattr__(other, "unet", copy.deepcopy(pipe.unet))  # past diffusers' own, which would note it in what both share
    half = in_half_precision(other)
    round_frozen_weights(half.unet.module, torch.bfloat16)
    return half


def compile_inner_steps(network: nn.Module, backend: str = "inductor", dynamic: bool | None = None) -> None:
    """Compile, in place, the blocks for calls with a gradient; to compile them for the few others as well takes as long again."""
    compile_blocks(network, backend, dynamic)
    forward = network.forward

    @functools.wraps(forward)
    def call(*arguments, **named):
        with contextlib.nullcontext() if torch.is_grad_enabled() else torch.compiler.set_stance("force_eager"):
            return forward(*arguments, **named)

    network.forward = call


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; ends with a sentence where it cannot be."""
    parser = OneSentenceParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mini", help=random_model.HELP)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--published-images", type=int, metavar="N", help="images for the ways of one at a time; all by default")
    parser.add_argument("--batch", type=int, nargs="+", help="images at once in our ways; all by default; the compiled ways take the last")
    parser.add_argument("--batches", type=int, metavar="N", help="batches of each of our ways; all by default")
    parser.add_argument("--float32-batches", type=int, nargs="*", metavar="BATCH", help="those of --batch in float32, too; all by default")
    parser.add_argument("--steps", type=int, default=10, help="of sampling; the paper's are 50")
    parser.add_argument("--inner-steps", type=int, default=10)
    parser.add_argument("--every-step", action="store_true", help="no image stops early")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--compile", choices=("none", "bfloat16", "all"), default="all", help="the compiled ways")
    parser.add_argument("--beside", type=Path, metavar="FILE", help=HELP)
    parser.add_argument("--write", type=Path, metavar="FILE", help="keep the table")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device is cuda, but PyTorch finds no GPU here")
    options.batch = options.batch or [options.images]
    options.published_images = options.images if options.published_images is None else options.published_images
    options.batches = options.images if options.batches is None else options.batches
    options.float32_batches = options.batch if options.float32_batches is None else options.float32_batches
    for name in ("images", "published_images", "batches", "steps", "inner_steps", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    for name, most in (("batch", options.images), ("published_images", options.images)):
        values = getattr(options, name)
        for value in values if isinstance(values, list) else [values]:
            if not 1 <= value <= most:
                parser.error(f"--{name.replace('_', '-')} must lie in [1, {most}], the images, got {value}")
    if unknown := [batch for batch in options.float32_batches if batch not in options.batch]:
        parser.error(f"--float32-batches must be of --batch, {' '.join(map(str, options.batch))}, got {unknown[0]}")
    return options


def uncompiled(pipe, half, options: argparse.Namespace) -> dict[str, Way]:
    """The ways by name, the published one first."""
    ways = {
        "published loop, one image at a time": Way(pipe, 1, published, options.published_images),
        "ours, one image at a time": Way(pipe, 1, ours, options.published_images),
    }
    for batch in options.batch:
        several = {f"ours, batch {batch}": pipe} if batch in options.float32_batches else {}
        several[f"ours, batch {batch}, bfloat16"] = half
        ways |= {name: Way(one, batch, ours, batch * options.batches) for name, one in several.items()}
    return ways


def compiled(pipe, half, options: argparse.Namespace) -> dict[str, Way]:
    """The ways whose networks are compiled, in place: nothing else can be run with them afterwards."""
    batch = options.batch[-1]
    chosen = {f"ours, batch {batch}, compiled": pipe} if options.compile == "all" else {}
    if options.compile != "none":
        chosen[f"ours, batch {batch}, bfloat16, channels last, compiled"] = half
        half.unet.module.to(memory_format=torch.channels_last)
    for one in chosen.values():
        # every batch has one size where no image leaves it
        compile_inner_steps(getattr(one.unet, "module", one.unet), dynamic=False if options.every_step else None)
    return {name: Way(one, batch, ours, batch * options.batches) for name, one in chosen.items()}


def warm_up(way: Way, task: Task, whole: bool) -> None:
    """What a first call costs is paid here, by few steps or by the `whole`, where a batch that images leave is compiled for its sizes."""
    invert(way, task if whole else replace(task, steps=min(2, task.steps), inner_steps=1))


def main() -> None:
    """Command line."""
    options = parse()
    with beside(options.beside) as alone:
        pipe = random_model.load(options.model, options.device)
        pipe.unet.requires_grad_(False)
        items, side = datasets.load_items(limit=options.images), random_model.image_size(pipe)
        images = torch.stack([item.image for item in items])
        images = torch.nn.functional.interpolate(images, size=(side, side), mode="bilinear").clamp(-1, 1)
        never = {"tolerance": 0.0, "growth": 0.0} if options.every_step else {}
        guidance_scale = random_model.guidance_scale(options.model)
        task = Task(images, [item.caption for item in items], options.steps, options.inner_steps, guidance_scale, **never)
        print(title(options, task), flush=True)
        best, half = {}, in_bfloat16(pipe)
        for ways in (uncompiled, compiled):
            measure(ways(pipe, half, options), task, options, best, alone, whole=ways is compiled and not options.every_step)
    print("\n".join(["", *table(best, images)]))


def title(options: argparse.Namespace, task: Task) -> str:
    """One line: where, and what."""
    host = machine(options.device)
    words = f"{host['name']}, {host['threads']} threads, PyTorch {torch.__version__}; {options.model}, images of {task.images.shape[-1]} px"
    words += f", {options.steps} steps of at most {options.inner_steps} inner ones, guidance {task.guidance_scale:g}"
    return words + ", none stops early" * options.every_step


def measure(ways: dict[str, Way], task: Task, options: argparse.Namespace, best: dict[str, Outcome], alone: Callable, whole: bool) -> None:
    """Add the fastest of `repeats` outcomes of each way to `best`, and keep the table; `whole` is `warm_up`'s."""
    for name, way in ways.items():
        started = time.perf_counter()
        warm_up(way, task, whole)
        print(f"{name}: warm after {time.perf_counter() - started:.1f} s", flush=True)
    with alone():
        for _ in range(options.repeats):  # they take turns, so that a slow moment hits all
            for name, way in ways.items():
                found = invert(way, task)
                best[name] = min(best.get(name, found), found, key=lambda one: one.seconds)
                print(f"{name}: {found.per_image:.3f} s an image", flush=True)
                if options.write:  # at once: whoever ends it early has what was measured
                    lines = [title(options, task), "", *table(best, task.images)]
                    options.write.write_text("\n".join(lines) + "\n", encoding="utf-8")


def table(best: dict[str, Outcome], images: Tensor) -> list[str]:
    """Lines of Markdown; the first way is what the others are compared with, on the images that both had."""
    first = next(iter(best.values()))
    head = ("way", "images", "images a second", "/ published", "optimiser steps", "PSNR", "to published", "latents")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, one in best.items():
        both, count = min(len(one.pictures), len(first.pictures)), len(one.pictures)
        apart = psnr(one.pictures[:both], first.pictures[:both])
        error = ((one.latents[:both] - first.latents[:both]).norm() / first.latents[:both].norm()).item()
        cells = [name, str(count), shown(1 / one.per_image), f"{first.per_image / one.per_image:.2f}", str(one.taken)]
        cells += [f"{psnr(one.pictures, images[:count]):.2f}"]
        cells += ["-", "-"] if one is first else [f"{apart:.1f}" if math.isfinite(apart) else "-", f"{100 * error:.2g} %"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
