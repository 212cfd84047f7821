"""Cost of the regularizer: time, memory and error of one LoRA training step, plain, as the authors do it, and in each of our ways.

    python -m benchmarks.regularizer --device cuda --price 2.50           # Stable Diffusion 1.5's UNet at 512 pixels on a GPU, all ways
    python -m benchmarks.regularizer                                      # the embedded UNet on the CPU, batch 16, 16 x 16 latents
    python -m benchmarks.regularizer --samples real                       # its trained weights on training images with their captions
    python -m benchmarks.regularizer --unet slim --latents 32 --batch 2   # Stable Diffusion 1.5's layout with few channels

Every way runs in a process of its own, so that its peak memory is its own; the ways take turns, `--rounds` times, so that a slow moment of
the machine hits all. Memory is the peak above what is resident before the step (weights and libraries). Prints a table in Markdown, medians
and ratios; `--write FILE` keeps it, such as benchmarks/regularizer.md, which the book shows. "passes" are the samples that went forward and
backward through the network, in units of the batch, counted as they ran; those of a second derivative are not in them.

The steps of the differences are fixed in what is timed, except in "a step that measures", of which a training has one in a hundred. The
error is that of the gradient of L_reg, by a measured step (`auto`), against double backward in float32 without TF32, on two samples with
the weights that are there: `python -m benchmarks.gradient_error` has it for trained weights. "fast" is channels last with compiled blocks
and, in bfloat16, rounded frozen weights.
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
from torch import Tensor

from companion.base.config import OneSentenceParser
from companion.base.machine import machine
from companion.world import mini
from smoothlib.execution import compile_blocks, round_frozen_weights
from smoothlib.lora import LORA_TARGET_MODULES
from smoothlib.regularizer.gradients import DIFFERENCES
from smoothlib.regularizer.variation import StepwiseVariation

from .real_samples import Samples, lora_unet, real_samples, trained_parameters
from .training_cost import table

CENTRAL, ONE_SIDED, PAIRED = (dict(gradient=way, difference=DIFFERENCES[way]) for way in ("central", "one_sided", "paired"))
MEASURES = dict(difference="auto", difference_every=1)
STATUS = Path("/proc/self/status")
PRECISIONS = ("float32", "tf32", "bf16")
ON_A_GPU = dict(unet="sd15", batch=12, latents=64, precision="tf32")
ELSEWHERE = dict(unet="mini", batch=16, latents=16, precision="float32")
SLIM = dict(block_out_channels=(32, 64, 128, 128), norm_num_groups=8)  # the same blocks, a hundredth of the weights


@dataclass(frozen=True)
class Way:
    """A kind of training step: arguments of `StepwiseVariation` (None: plain), the share of the batch and of the steps that have L_reg."""

    regularizer: dict | None
    share: float = 1.0
    every: int = 1
    fast: bool = False

    @property
    def gradient(self) -> str:
        """The regularizer's way; "" where there is none."""
        return "" if self.regularizer is None else self.regularizer.get("gradient", "double_backward")


WAYS = {
    "plain LoRA": Way(None),
    "plain LoRA, fast": Way(None, fast=True),
    "authors' (double backward)": Way(dict(mode="official")),
    "ours, double backward": Way(dict(gradient="double_backward")),
    "ours, central": Way(CENTRAL),
    "ours, central, a step that measures": Way(CENTRAL | MEASURES),
    "ours, one-sided": Way(ONE_SIDED),
    "ours, one-sided, a step that measures": Way(ONE_SIDED | MEASURES),
    "ours, forward mode": Way(dict(gradient="forward_mode")),
    "ours, paired": Way(PAIRED),
    "ours, central, fast": Way(CENTRAL, fast=True),
    "ours, one-sided, fast": Way(ONE_SIDED, fast=True),
    "ours, paired, fast": Way(PAIRED, fast=True),
    "ours, one-sided, 1/4 batch": Way(ONE_SIDED, share=0.25),
    "ours, one-sided, every 4th": Way(ONE_SIDED, every=4),
    "ours, paired, every 4th, fast": Way(PAIRED, every=4, fast=True),
}


def build_unet(kind: str, checkpointing: bool, trained: bool = False) -> UNet2DConditionModel:
    """The embedded UNet, `trained` or not, Stable Diffusion 1.5's (diffusers' default configuration, random weights) or a slim one of its
    layout, with a LoRA of rank 8."""
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
            unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8, **(SLIM if kind == "slim" else {}))
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


class Passes:
    """Counts calls of a network and the samples that go forward and backward through it."""

    def __init__(self, unet: UNet2DConditionModel):
        self.calls, self.forward, self.backward = 0, 0, 0
        self.handle = unet.register_forward_hook(self._seen)

    def _seen(self, module, arguments, found) -> None:
        output = found[0] if isinstance(found, tuple) else found.sample
        self.calls, self.forward = self.calls + 1, self.forward + len(output)
        if output.requires_grad:
            output.register_hook(lambda gradient: self._back(len(gradient)))

    def _back(self, count: int) -> None:
        self.backward += count


def regularized(unet: UNet2DConditionModel, regularizer: StepwiseVariation, part: Samples):
    """What the regularizer finds on these samples; the backward pass belongs inside its `attention_kernel`, too."""
    noise_level, time_ = (1 - part.alpha_bar).sqrt(), part.timesteps / 1000
    return regularizer(part.denoiser(unet), part.eps, noise_level, time_, part.direction_noise, trained_parameters(unet))


def training_step(
    unet: UNet2DConditionModel, way: Way, regularizer: StepwiseVariation | None, samples: Samples, index: int, half: bool = False
) -> None:
    """Forward and backward of Eq. 14 for one batch; the optimiser, equal for all, is left out. `half`: under autocast to bfloat16."""
    n = math.ceil(way.share * len(samples))
    part, rest = samples[:n], samples[n:]
    autocast = torch.autocast(samples.z0.device.type, torch.bfloat16, enabled=half)
    if regularizer is None or index % way.every:
        with autocast:
            loss = (samples.denoiser(unet)(samples.eps)[1] - samples.eps).square().mean()
        loss.backward()
        return
    with regularizer.attention_kernel():
        with autocast:
            found = regularized(unet, regularizer, part)
            output = torch.cat([found.output, rest.denoiser(unet)(rest.eps)[1]]) if len(rest) else found.output
            loss = (output - samples.eps).square().mean() + way.every * found.loss
        loss.backward()


def gradient_of_penalty(unet: UNet2DConditionModel, regularizer: StepwiseVariation, samples: Samples, half: bool = False) -> Tensor:
    """The gradient of mean r^2 in what is trained, flat, on the CPU."""
    regularizer.eval()
    with regularizer.attention_kernel():
        with torch.autocast(samples.z0.device.type, torch.bfloat16, enabled=half):
            loss = regularized(unet, regularizer, samples).loss
        found = torch.autograd.grad(loss, trained_parameters(unet), allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten().cpu() for p, g in zip(trained_parameters(unet), found, strict=True)]
    )


def options_of(way: Way, precision: str) -> dict:
    """Arguments of `StepwiseVariation`, with rounded frozen weights all of the step in bfloat16."""
    return dict(way.regularizer) | ({"difference_precision": "network"} if way.fast and precision == "bf16" else {})


def allow_tf32(allowed: bool) -> None:
    """Whether a GPU may round the factors of its products in float32 to 10 bits."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def make_fast(unet: UNet2DConditionModel, precision: str, backend: str) -> None:
    """What the ways that are called "fast" do to the network."""
    if precision == "bf16":
        round_frozen_weights(unet, torch.bfloat16)
    unet.to(memory_format=torch.channels_last)
    compile_blocks(unet, backend)


def _kilobytes(field: str) -> float:
    if not STATUS.exists():  # no Linux: times alone
        return math.nan
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(field))


def _peak(device: str, start: bool = False) -> float:
    """Bytes: what is resident now (`start`, from here the peak counts), or the peak since."""
    if device == "cuda":
        torch.cuda.synchronize()
        if start:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() if start else torch.cuda.max_memory_allocated()
    if start:
        with contextlib.suppress(OSError):  # read-only in some containers: then the peak is that of building the network too
            Path("/proc/self/clear_refs").write_text("5")
    return _kilobytes("VmRSS" if start else "VmHWM") * 1024


def gradient_error(options: argparse.Namespace, way: Way, unet: UNet2DConditionModel, samples: Samples) -> float:
    """Of this way's gradient, by a step that it measures, against double backward in float32: relative L2 distance.

    Comes last: the memory that it takes would hide that of the step.
    """
    device, half = options.device, options.precision == "bf16"
    ways = {"difference_precision": "network"} if way.fast and half else {}
    regularizer = StepwiseVariation(gradient=way.gradient, **ways).to(device)
    with torch.autocast(device, torch.bfloat16, enabled=half), regularizer.attention_kernel():
        regularized(unet, regularizer, samples)  # chooses the step
    regularizer.running_mean.zero_()
    found = gradient_of_penalty(unet, regularizer, samples, half)
    allow_tf32(False)
    # the same seed, before weights were rounded and blocks compiled
    plain = build_unet(options.unet, False, options.samples == "real").to(device)
    exact = gradient_of_penalty(plain, StepwiseVariation(gradient="double_backward").to(device), samples)
    return ((found - exact).norm() / exact.norm()).item()


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Seconds a sample (mean over whole periods after a warm-up), peak memory above the resident weights, passes and calls of a step, and
    with `options.check` the error of the gradient of L_reg; in this process."""
    way, device, half = WAYS[options.way], options.device, options.precision == "bf16"
    batch = min(options.batch, options.authors_batch) if way.gradient == "double_backward" else options.batch
    unet = build_unet(options.unet, options.checkpointing, options.samples == "real").to(device)
    samples = (real_samples(batch) if options.samples == "real" else noise_samples(unet, batch, options.latents)).to(device)
    allow_tf32(options.precision == "tf32")
    if way.fast:
        make_fast(unet, options.precision, options.backend)
    regularizer = StepwiseVariation(**options_of(way, options.precision)).to(device) if way.regularizer else None
    arguments, passes = (unet, way, regularizer, samples), Passes(unet)
    resident = _peak(device, start=True)
    for index in range(way.every):  # warm-up: a whole period
        training_step(*arguments, index, half)
    counts = {name: getattr(passes, name) / way.every for name in ("calls", "forward", "backward")}
    passes.handle.remove()
    if way.fast:  # what compiling took is not the step's
        resident = _peak(device, start=True)
        training_step(*arguments, 0, half)
    peak = _peak(device) - resident
    steps = way.every * options.steps
    started = time.perf_counter()
    for index in range(steps):
        training_step(*arguments, index, half)
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / steps / batch
    error = gradient_error(options, way, unet, samples[:2]) if options.check and way.regularizer else math.nan
    counts = {"calls": counts["calls"], "forward": counts["forward"] / batch, "backward": counts["backward"] / batch}
    return {"seconds": seconds, "gib": peak / 2**30, "batch": batch, "error": error, **counts}


def possible(way: Way, options: argparse.Namespace) -> bool:
    """Whether a way goes with the precision and with gradient checkpointing."""
    half, refused = options.precision == "bf16", {"forward_mode"} if options.checkpointing else set()
    return way.gradient not in (refused | {"one_sided", "forward_mode"} if half else refused)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; ends with a sentence where it cannot be."""
    parser = OneSentenceParser(description=__doc__.splitlines()[0], formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where; cuda also means sd15 at 512 pixels, unless told"
    )
    parser.add_argument("--unet", choices=("mini", "slim", "sd15"))
    parser.add_argument("--samples", choices=("noise", "real"), default="noise", help="real: training images, captions and weights")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--authors-batch", type=int, default=3, help="the most for double backward: 4 fill 80 GB; times are per sample")
    parser.add_argument("--latents", type=int, help="height and width of the latents, a multiple of 8")
    parser.add_argument("--precision", choices=PRECISIONS, help="tf32 by default on a GPU: the only one there that errs by about a percent")
    parser.add_argument("--backend", default="inductor", help="torch.compile's")
    parser.add_argument("--steps", type=int, default=3, help="timed steps (periods) in each process")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing in every way")
    parser.add_argument("--price", type=float, help="of an hour of this machine, in euros: adds what the paper's training costs")
    parser.add_argument("--write", type=Path, metavar="FILE", help="keep what is printed")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), metavar="WAY", help="all that the precision allows")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device is cuda, but PyTorch finds no GPU here")
    options.device = ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    for name, value in (ON_A_GPU if options.device == "cuda" and options.samples == "noise" else ELSEWHERE).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    for name in ("batch", "authors_batch", "latents", "steps", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    if options.latents % 8:
        parser.error(f"--latents must be a multiple of 8, got {options.latents}")
    if options.price is not None and not 0 < options.price < math.inf:
        parser.error(f"--price must be above 0, got {options.price}")
    if options.samples == "real" and (options.unet, options.latents) != ("mini", 16):
        parser.error(f"--samples real needs --unet mini and --latents 16, got {options.unet} and {options.latents}")
    options.ways = options.ways or [name for name, way in WAYS.items() if possible(way, options)]
    return options


def child_command(options: argparse.Namespace, way: str, check: bool) -> list[str]:
    """What measures one way in a process of its own."""
    names = ("device", "unet", "samples", "batch", "authors_batch", "latents", "precision", "backend", "steps")
    flags = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in names]
    flags += [flag for flag, wanted in (("--checkpointing", options.checkpointing), ("--check", check)) if wanted]
    return [sys.executable, "-m", "benchmarks.regularizer", "--way", way, *flags]


def main() -> None:
    """Command line."""
    options = parse()
    if options.way:
        print(json.dumps(measure(options)))
        return
    host = machine(options.device)
    note = ", gradient checkpointing" if options.checkpointing else ""
    what = f"UNet {options.unet}, {options.samples}, latents {options.latents}, {options.precision}{note}"
    lines = [f"{host['name']}, {host['threads']} threads, PyTorch {torch.__version__}; {what}"]
    print(lines[0], flush=True)
    found: dict[str, list[dict]] = {way: [] for way in options.ways}
    failed = {}
    for number in range(options.rounds):
        for way in options.ways:
            child = subprocess.run(child_command(options, way, check=number == 0), stdout=subprocess.PIPE, text=True)
            if child.returncode == 0:
                found[way].append(json.loads(child.stdout.splitlines()[-1]))
            else:
                failed[way] = child.returncode
    medians = {}
    for way, runs in ((way, runs) for way, runs in found.items() if runs):
        medians[way] = runs[0] | {key: statistics.median(run[key] for run in runs) for key in ("seconds", "gib")}
    lines += ["", *table(medians, plain="plain LoRA", authors="authors' (double backward)", price=options.price)]
    print("\n".join(lines[1:]))
    if options.write:
        options.write.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if failed:
        sys.exit("; ".join(f"{way} failed with exit code {code}" for way, code in failed.items()) + " (-9 is out of memory).")


if __name__ == "__main__":
    main()
