"""Cost of the regularizer: time and peak memory of one LoRA training step, plain, as the authors do it, and in each of our ways.

    python -m benchmarks.regularizer                                      # the embedded UNet, batch 16, 16 x 16 latents
    python -m benchmarks.regularizer --samples real                       # its trained weights on training images with their captions
    python -m benchmarks.regularizer --unet sd15 --batch 1 --latents 32   # Stable Diffusion 1.5's UNet with random weights

Every way runs in a process of its own, so that its peak memory is its own; the ways take turns, `--rounds` times, so that a slow moment of
the machine hits all. Memory is the peak above what is resident before the step (weights and libraries). Prints medians and ratios.
The steps of the differences are fixed, except in "a step that measures", of which a training has one in a hundred. What the ways cost is
one half of the choice; `python -m benchmarks.gradient_error` has the other, how far their gradients err.
"""

import argparse
import contextlib
import json
import math
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig

from companion.base.config import OneSentenceParser
from companion.base.machine import machine
from companion.world import mini
from smoothlib.lora import LORA_TARGET_MODULES
from smoothlib.regularizer.gradients import DIFFERENCES
from smoothlib.regularizer.variation import StepwiseVariation

from .real_samples import Samples, lora_unet, real_samples, trained_parameters

CENTRAL, ONE_SIDED = (dict(gradient=way, difference=DIFFERENCES[way]) for way in ("central", "one_sided"))
MEASURES = dict(difference="auto", difference_every=1)
STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Way:
    """A kind of training step: arguments of `StepwiseVariation` (None: plain), the share of the batch and of the steps that have L_reg."""

    regularizer: dict | None
    share: float = 1.0
    every: int = 1


WAYS = {
    "plain LoRA": Way(None),
    "authors' (double backward)": Way(dict(mode="official")),
    "ours, double backward": Way(dict(gradient="double_backward")),
    "ours, central": Way(CENTRAL),
    "ours, central, a step that measures": Way(CENTRAL | MEASURES),
    "ours, one-sided": Way(ONE_SIDED),
    "ours, one-sided, a step that measures": Way(ONE_SIDED | MEASURES),
    "ours, forward mode": Way(dict(gradient="forward_mode")),
    "ours, one-sided, 1/4 batch": Way(ONE_SIDED, share=0.25),
    "ours, one-sided, every 4th": Way(ONE_SIDED, every=4),
}


def build_unet(kind: str, checkpointing: bool, trained: bool = False) -> UNet2DConditionModel:
    """The embedded UNet, `trained` or not, or Stable Diffusion 1.5's (diffusers' default configuration, random weights), LoRA of rank 8."""
    torch.manual_seed(0)
    if trained:
        unet = lora_unet()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        return unet
    if kind == "mini":
        unet = mini.build_unet()
    else:
        with torch.device("meta"):
            unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        unet.to_empty(device="cpu")
        for parameter in unet.parameters():  # small random weights, norms near one
            torch.nn.init.normal_(parameter, 0.0 if parameter.ndim > 1 else 0.5, 0.02)
    unet.train().requires_grad_(False)
    unet.add_adapter(LoraConfig(r=8, lora_alpha=8, init_lora_weights="gaussian", target_modules=list(LORA_TARGET_MODULES)))
    if checkpointing:
        unet.enable_gradient_checkpointing()
    return unet


def noise_samples(unet: UNet2DConditionModel, batch: int, latents: int) -> Samples:
    """Gaussian latents and contexts, which cost what real ones cost."""
    generator, scheduler = torch.Generator().manual_seed(0), mini.build_scheduler()
    z0, eps, directions = (torch.randn(batch, 4, latents, latents, generator=generator) for _ in range(3))
    width = unet.config.cross_attention_dim
    context = torch.randn(batch, 77 if width == 768 else 24, width, generator=generator)
    t = torch.randint(1000, (batch,), generator=generator)
    return Samples(z0, context, torch.zeros_like(context), t, scheduler.alphas_cumprod[t], eps, directions)


def training_step(unet: UNet2DConditionModel, way: Way, regularizer: StepwiseVariation | None, samples: Samples, index: int) -> None:
    """Forward and backward of Eq. 14 for one batch; the optimiser, equal for all, is left out."""
    n = math.ceil(way.share * len(samples))
    part, rest = samples[:n], samples[n:]
    if regularizer is None or index % way.every:
        (samples.denoiser(unet)(samples.eps)[1] - samples.eps).square().mean().backward()
        return
    with regularizer.attention_kernel():
        noise_level, time_ = (1 - part.alpha_bar).sqrt(), part.timesteps / 1000
        found = regularizer(part.denoiser(unet), part.eps, noise_level, time_, part.direction_noise, trained_parameters(unet))
        output = torch.cat([found.output, rest.denoiser(unet)(rest.eps)[1]]) if len(rest) else found.output
        ((output - samples.eps).square().mean() + way.every * found.loss).backward()


def _kilobytes(field: str) -> float:
    if not STATUS.exists():  # no Linux: times alone
        return math.nan
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(field))


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Seconds per step (mean over whole periods after a warm-up) and peak memory above the resident weights, in this process."""
    way, device = WAYS[options.way], "cuda" if torch.cuda.is_available() else "cpu"
    unet = build_unet(options.unet, options.checkpointing, options.samples == "real").to(device)
    samples = real_samples(options.batch) if options.samples == "real" else noise_samples(unet, options.batch, options.latents)
    regularizer = StepwiseVariation(**way.regularizer).to(device) if way.regularizer else None
    arguments = (unet, way, regularizer, samples.to(device))
    if device == "cuda":
        resident = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):  # read-only in some containers: then the peak is that of building the network too
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        resident = _kilobytes("VmRSS") * 1024
    training_step(*arguments, 0)  # warm-up; the first step of a period is the one with L_reg
    if device == "cuda":
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - resident
    else:
        peak = _kilobytes("VmHWM") * 1024 - resident
    steps = way.every * options.steps
    started = time.perf_counter()
    for index in range(steps):
        training_step(*arguments, index)
    if device == "cuda":
        torch.cuda.synchronize()
    return {"seconds": (time.perf_counter() - started) / steps, "gib": peak / 2**30}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; ends with a sentence where it cannot be."""
    parser = OneSentenceParser(description=__doc__.splitlines()[0], formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unet", choices=("mini", "sd15"), default="mini")
    parser.add_argument("--samples", choices=("noise", "real"), default="noise", help="real: training images, captions and weights")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--latents", type=int, default=16, help="height and width of the latents, a multiple of 8")
    parser.add_argument("--steps", type=int, default=3, help="timed steps (periods) in each process")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing in every way")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), metavar="WAY", help="all; forward mode has no checkpointing")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for name in ("batch", "latents", "steps", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    if options.latents % 8:
        parser.error(f"--latents must be a multiple of 8, got {options.latents}")
    if options.samples == "real" and (options.unet, options.latents) != ("mini", 16):
        parser.error(f"--samples real needs --unet mini and --latents 16, got {options.unet} and {options.latents}")
    options.ways = options.ways or [way for way in WAYS if not (options.checkpointing and way == "ours, forward mode")]
    return options


def main() -> None:
    """Command line."""
    options = parse()
    if options.way:
        print(json.dumps(measure(options)))
        return
    host = machine()
    note = ", gradient checkpointing" if options.checkpointing else ""
    what = f"UNet {options.unet}, {options.samples}, batch {options.batch}, latents {options.latents}{note}"
    print(f"{host['name']}, {host['threads']} threads; {what}")
    found: dict[str, list[dict]] = {way: [] for way in options.ways}
    failed = {}
    for _ in range(options.rounds):
        for way in options.ways:
            flags = [f"--{name}={getattr(options, name)}" for name in ("unet", "samples", "batch", "latents", "steps")]
            flags += ["--checkpointing"] if options.checkpointing else []
            command = [sys.executable, "-m", "benchmarks.regularizer", "--way", way, *flags]
            child = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if child.returncode == 0:
                found[way].append(json.loads(child.stdout.splitlines()[-1]))
            else:
                failed[way] = child.returncode
    medians = {way: {key: statistics.median(r[key] for r in runs) for key in runs[0]} for way, runs in found.items() if runs}
    plain, authors = medians.get("plain LoRA"), medians.get("authors' (double backward)")
    print(f"{'':38s} {'s/step':>8s} {'/ plain':>8s} {'GiB':>7s}   {'authors / this: time':>20s} {'memory':>7s}")
    for way, value in medians.items():
        versus_plain = f"{value['seconds'] / plain['seconds']:8.2f}" if plain else " " * 8
        versus_authors = f"{authors['seconds'] / value['seconds']:20.2f} {authors['gib'] / max(value['gib'], 1e-9):7.2f}" if authors else ""
        print(f"{way:38s} {value['seconds']:8.3f} {versus_plain} {value['gib']:7.2f}   {versus_authors}")
    if failed:
        sys.exit("; ".join(f"{way} failed with exit code {code}" for way, code in failed.items()) + " (-9 is out of memory).")


if __name__ == "__main__":
    main()
