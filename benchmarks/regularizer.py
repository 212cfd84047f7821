"""Cost of the regularizer: time and peak memory of one LoRA training step, plain, as the authors do it, and in each of our ways.

    python -m benchmarks.regularizer                                      # the embedded UNet, batch 16, 16 x 16 latents
    python -m benchmarks.regularizer --unet sd15 --batch 1 --latents 32   # Stable Diffusion 1.5's UNet with random weights

Every way runs in a process of its own, so that its peak memory is its own; the ways take turns, `--rounds` times, so that a slow moment of
the machine hits all. Memory is the peak above what is resident before the step (weights and libraries). Prints medians and ratios.
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

from smoothlib import mini
from smoothlib.diffusion import predict_x0
from smoothlib.models import LORA_TARGET_MODULES
from smoothlib.provenance import machine
from smoothlib.regularizer import StepwiseVariation

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
    "ours, central": Way(dict(gradient="central")),
    "ours, one-sided": Way(dict(gradient="one_sided")),
    "ours, forward mode": Way(dict(gradient="forward_mode")),
    "ours, one-sided, 1/4 batch": Way(dict(gradient="one_sided"), share=0.25),
    "ours, one-sided, every 4th": Way(dict(gradient="one_sided"), every=4),
}


def build_unet(kind: str, checkpointing: bool) -> UNet2DConditionModel:
    """The embedded UNet or Stable Diffusion 1.5's (diffusers' default configuration), random weights, LoRA of rank 8."""
    torch.manual_seed(0)
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


def training_step(unet: UNet2DConditionModel, way: Way, batch: int, latents: int, index: int, device: str) -> None:
    """Forward and backward of Eq. 14 for one batch of random latents; the optimiser, equal for all, is left out."""
    generator = torch.Generator().manual_seed(index)
    shape, scheduler = (batch, 4, latents, latents), mini.build_scheduler()
    z0, eps, directions = (torch.randn(shape, generator=generator).to(device) for _ in range(3))
    context = torch.randn(batch, 77 if unet.config.cross_attention_dim == 768 else 24, unet.config.cross_attention_dim, generator=generator)
    t = torch.randint(1000, (batch,), generator=generator)
    alpha_bar, context = scheduler.alphas_cumprod[t].to(device), context.to(device)
    t = t.to(device)

    def denoise(eps, part=slice(None)):
        x_t = scheduler.add_noise(z0[part], eps, t[part])
        output = unet(x_t, t[part], context[part]).sample
        return predict_x0(output, x_t, alpha_bar[part]), output

    if way.regularizer is None or index % way.every:
        (denoise(eps)[1] - eps).square().mean().backward()
        return
    regularizer = training_step.regularizer
    n = math.ceil(way.share * batch)
    part, rest = slice(0, n), slice(n, None)
    with regularizer.attention_kernel():
        trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
        arguments = (eps[part], (1 - alpha_bar[part]).sqrt(), t[part] / 1000, directions[part], trained)
        found = regularizer(lambda e: denoise(e, part), *arguments)
        output = found.output if n == batch else torch.cat([found.output, denoise(eps[rest], rest)[1]])
        ((output - eps).square().mean() + way.every * found.loss).backward()


def _kilobytes(field: str) -> float:
    if not STATUS.exists():  # no Linux: times alone
        return math.nan
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(field))


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Seconds per step (mean over whole periods after a warm-up) and peak memory above the resident weights, in this process."""
    way, device = WAYS[options.way], "cuda" if torch.cuda.is_available() else "cpu"
    unet = build_unet(options.unet, options.checkpointing).to(device)
    training_step.regularizer = StepwiseVariation(**way.regularizer).to(device) if way.regularizer else None
    arguments = (unet, way, options.batch, options.latents)
    if device == "cuda":
        resident = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):  # read-only in some containers: then the peak is that of building the network too
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        resident = _kilobytes("VmRSS") * 1024
    training_step(*arguments, 0, device)  # warm-up; the first step of a period is the one with L_reg
    if device == "cuda":
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - resident
    else:
        peak = _kilobytes("VmHWM") * 1024 - resident
    steps = way.every * options.steps
    started = time.perf_counter()
    for index in range(steps):
        training_step(*arguments, index, device)
    if device == "cuda":
        torch.cuda.synchronize()
    return {"seconds": (time.perf_counter() - started) / steps, "gib": peak / 2**30}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unet", choices=("mini", "sd15"), default="mini")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--latents", type=int, default=16, help="height and width of the latents")
    parser.add_argument("--steps", type=int, default=3, help="timed steps (periods) in each process")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing in every way")
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), default=list(WAYS), metavar="WAY")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options)))
        return
    host = machine()
    note = ", gradient checkpointing" if options.checkpointing else ""
    print(f"{host['name']}, {host['threads']} threads; UNet {options.unet}, batch {options.batch}, latents {options.latents}{note}")
    found: dict[str, list[dict]] = {way: [] for way in options.ways}
    for _ in range(options.rounds):
        for way in options.ways:
            flags = [f"--{name}={getattr(options, name)}" for name in ("unet", "batch", "latents", "steps")]
            flags += ["--checkpointing"] if options.checkpointing else []
            child = subprocess.run(
                [sys.executable, "-m", "benchmarks.regularizer", "--way", way, *flags], stdout=subprocess.PIPE, text=True
            )
            if child.returncode == 0:
                found[way].append(json.loads(child.stdout.splitlines()[-1]))
            else:
                print(f"{way}: failed (exit {child.returncode}; -9 is out of memory)")
    medians = {way: {key: statistics.median(r[key] for r in runs) for key in runs[0]} for way, runs in found.items() if runs}
    plain, authors = medians.get("plain LoRA"), medians.get("authors' (double backward)")
    print(f"{'':30s} {'s/step':>8s} {'/ plain':>8s} {'GiB':>7s}   {'authors / this: time':>20s} {'memory':>7s}")
    for way, value in medians.items():
        versus_plain = f"{value['seconds'] / plain['seconds']:8.2f}" if plain else " " * 8
        versus_authors = f"{authors['seconds'] / value['seconds']:20.2f} {authors['gib'] / max(value['gib'], 1e-9):7.2f}" if authors else ""
        print(f"{way:30s} {value['seconds']:8.3f} {versus_plain} {value['gib']:7.2f}   {versus_authors}")


if __name__ == "__main__":
    main()
