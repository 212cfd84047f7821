"""Null-text inversion in batches against the published loop, one image at a time: images a second, and what the pictures lose.

    python -m benchmarks.null_text                                       # the embedded model on the CPU
    python -m benchmarks.null_text --device cuda --model FOLDER          # any pipeline; random weights (`make sd15-rehearsal`) do for time

The published loop (Mokady et al. 2023) is written out in `published`; it finds the same embeddings as the library does for one image (see
tests/test_null_text_benchmark.py). Both stop an image at the published threshold, which grows with the steps; `--every-step` takes all
inner steps, because a random network never meets the threshold, or meets it at once. "PSNR" is that of the decoded pictures to the
images, "to published" that of a way's pictures to the published loop's, both in dB. `--write FILE` keeps the table, such as
benchmarks/null_text.md, which the book shows.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from companion.base.config import OneSentenceParser
from companion.base.machine import machine
from companion.data import load as datasets
from companion.weights import pipelines as models
from smoothlib.diffusion import ddim_scheduler, set_timesteps
from smoothlib.execution import compile_blocks, in_half_precision
from smoothlib.inversion import ddim_invert, null_text_inversion
from smoothlib.sampling import decode_latents, encode_images, encode_prompts, sample

from .training_cost import shown

TOLERANCE, GROWTH = 1e-5, 2e-5  # published


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
        settings = (self.steps, self.inner_steps, self.guidance_scale, self.tolerance, self.growth)
        return Task(self.images[rows], self.captions[rows], *settings)


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


def invert(pipe, task: Task, batch: int, way: Callable) -> tuple[float, int, Tensor]:
    """Seconds for all images in batches, encoding and DDIM inversion included; the optimiser's steps; the pictures that come back."""
    device, seconds, taken, pictures = pipe.unet.device, 0.0, 0, []
    for start in range(0, len(task.images), batch):
        part = task[start : start + batch]
        started = time.perf_counter()
        embeds = encode_prompts(pipe, part.captions)
        pivots = ddim_invert(pipe, encode_images(pipe, part.images), embeds, num_inference_steps=task.steps)
        nulls, count = way(pipe, pivots, embeds, part)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds, taken = seconds + time.perf_counter() - started, taken + count
        settings = dict(guidance_scale=task.guidance_scale, num_inference_steps=task.steps, inverted=True)
        pictures.append(decode_latents(pipe, sample(pipe, pivots[-1], embeds, null_embeds=nulls, **settings)).cpu())
    return seconds, taken, torch.cat(pictures)


def psnr(found: Tensor, wanted: Tensor) -> float:
    """Mean over the images, range 2, in dB."""
    return (10 * torch.log10(4 / (found - wanted).square().mean(dim=(1, 2, 3)))).mean().item()


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; ends with a sentence where it cannot be."""
    parser = OneSentenceParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--batch", type=int, help="images at once in our ways; all by default")
    parser.add_argument("--steps", type=int, default=10, help="of sampling; the paper's are 50")
    parser.add_argument("--inner-steps", type=int, default=10)
    parser.add_argument("--every-step", action="store_true", help="no image stops early")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled way out")
    parser.add_argument("--write", type=Path, metavar="FILE", help="keep the table")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device is cuda, but PyTorch finds no GPU here")
    options.batch = options.images if options.batch is None else options.batch
    for name in ("images", "batch", "steps", "inner_steps", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    return options


def main() -> None:
    """Command line."""
    options = parse()
    pipe = models.load_pipeline(options.model, device=options.device)
    pipe.unet.requires_grad_(False)
    items = datasets.load_items(limit=options.images)
    side = models.image_size(options.model)
    images = torch.nn.functional.interpolate(torch.stack([item.image for item in items]), size=(side, side), mode="bilinear").clamp(-1, 1)
    never = {"tolerance": 0.0, "growth": 0.0} if options.every_step else {}
    guidance_scale = models.default_guidance_scale(options.model)
    task = Task(images, [item.caption for item in items], options.steps, options.inner_steps, guidance_scale, **never)
    half, several = in_half_precision(pipe), f"batch {options.batch}"
    ways = {
        "published loop, one image at a time": (pipe, 1, published),
        "ours, one image at a time": (pipe, 1, ours),
        f"ours, {several}": (pipe, options.batch, ours),
        f"ours, {several}, bfloat16": (half, options.batch, ours),
    }
    host = machine(options.device)
    lines = [f"{host['name']}, {host['threads']} threads; {options.model}, {len(images)} images of {side} px, {options.steps} steps"]
    lines[0] += f" of at most {options.inner_steps} inner ones, guidance {guidance_scale:g}{', none stops early' * options.every_step}"
    print(lines[0], flush=True)
    best = run(ways, task, options.repeats)
    if not options.no_compile:  # last: the blocks are compiled in place, for both pipelines
        compile_blocks(pipe.unet)
        compiled = {
            f"ours, {several}, compiled": (pipe, options.batch, ours),
            f"ours, {several}, bfloat16, compiled": (half, options.batch, ours),
        }
        for one, batch, way in compiled.values():
            invert(one, task, batch, way)
        best |= run(compiled, task, options.repeats)
    lines += ["", *table(best, images)]
    print("\n".join(lines[1:]))
    if options.write:
        options.write.write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(ways: dict, task: Task, repeats: int) -> dict[str, tuple[float, int, Tensor]]:
    """The fastest of `repeats` of each way; they take turns, so that a slow moment hits all."""
    best: dict[str, tuple[float, int, Tensor]] = {}
    for _ in range(repeats):
        for name, (pipe, batch, way) in ways.items():
            found = invert(pipe, task, batch, way)
            best[name] = min(best.get(name, found), found, key=lambda one: one[0])
    return best


def table(best: dict[str, tuple[float, int, Tensor]], images: Tensor) -> list[str]:
    """Lines of Markdown; the first way is what the others are compared with."""
    first, _, theirs = next(iter(best.values()))
    lines = ["| way | images a second | / published | optimiser steps | PSNR | to published |", "|---|---|---|---|---|---|"]
    for name, (seconds, taken, pictures) in best.items():
        apart = psnr(pictures, theirs)
        apart = f"{apart:.1f}" if math.isfinite(apart) else "-"
        ratio = f"{first / seconds:.2f}"
        lines.append(f"| {name} | {shown(len(images) / seconds)} | {ratio} | {taken} | {psnr(pictures, images):.2f} | {apart} |")
    return lines


if __name__ == "__main__":
    main()
