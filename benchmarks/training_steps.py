"""The training steps that `benchmarks.regularizer` times, on a network with random weights: plain, the authors', and each of our ways."""

import argparse
import contextlib
import math
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor

from companion.world import mini
from smoothlib.execution import compile_blocks, round_frozen_weights
from smoothlib.lora import LORA_TARGET_MODULES
from smoothlib.regularizer.gradients import DIFFERENCES
from smoothlib.regularizer.variation import StepwiseVariation
from smoothlib.second_order.network import fuse_second_order

from .real_samples import Samples, lora_unet, real_samples, trained_parameters

CENTRAL, ONE_SIDED, PAIRED = (dict(gradient=way, difference=DIFFERENCES[way]) for way in ("central", "one_sided", "paired"))
EXACT = dict(gradient="double_backward")
MEASURES = dict(difference="auto", difference_every=1)
STATUS = Path("/proc/self/status")
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("float32", "tf32", *HALVES)
LOSS_SCALE = 65536.0  # of float16, where gradients of less than 1e-7 are zero; a training's falls where it is too much
CHECKED = 2  # samples that a gradient's error is measured on
SLIM = dict(block_out_channels=(32, 64, 128, 128), norm_num_groups=8)  # the same blocks, a hundredth of the weights


@dataclass(frozen=True)
class Way:
    """A kind of training step: arguments of `StepwiseVariation` (None: plain), the share of the batch and of the steps that have L_reg."""

    regularizer: dict | None
    share: float = 1.0
    every: int = 1
    fast: bool = False  # channels last, frozen weights in half precision, compiled blocks
    fused: bool = False  # channels last, frozen weights in half precision, fused second derivatives
    checkpointing: bool = False

    @property
    def gradient(self) -> str:
        """The regularizer's way; "" where there is none."""
        return "" if self.regularizer is None else self.regularizer.get("gradient", "double_backward")


WAYS = {
    "plain LoRA": Way(None),
    "plain LoRA, fast": Way(None, fast=True),
    "authors' (double backward)": Way(dict(mode="official")),
    "ours, double backward": Way(EXACT),
    "ours, central": Way(CENTRAL),
    "ours, central, a step that measures": Way(CENTRAL | MEASURES),
    "ours, one-sided": Way(ONE_SIDED),
    "ours, one-sided, a step that measures": Way(ONE_SIDED | MEASURES),
    "ours, forward mode": Way(dict(gradient="forward_mode")),
    "ours, paired": Way(PAIRED),
    "ours, central, fast": Way(CENTRAL, fast=True),
    "ours, one-sided, fast": Way(ONE_SIDED, fast=True),
    "ours, paired, fast": Way(PAIRED, fast=True),
    "plain LoRA, fused": Way(None, fused=True),
    "ours, fused double backward": Way(EXACT, fused=True),
    "ours, fused double backward, checkpointing": Way(EXACT, fused=True, checkpointing=True),
    "ours, fused double backward, every 4th": Way(EXACT, every=4, fused=True),
    "ours, one-sided, 1/4 batch": Way(ONE_SIDED, share=0.25),
    "ours, one-sided, every 4th": Way(ONE_SIDED, every=4),
    "ours, paired, every 4th, fast": Way(PAIRED, every=4, fast=True),
}


def build_unet(kind: str, checkpointing: bool = False, trained: bool = False, device: str = "cpu") -> UNet2DConditionModel:
    """The embedded UNet, `trained` or not, Stable Diffusion 1.5's (diffusers' default configuration, random weights) or a slim one of its
    layout, with a LoRA of rank 8."""
    torch.manual_seed(0)
    if trained:
        unet = lora_unet()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        return unet.to(device)
    if kind == "mini":
        unet = mini.build_unet()
    else:
        with torch.device("meta"):
            unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8, **(SLIM if kind == "slim" else {}))
        unet.to_empty(device=device)
        for parameter in unet.parameters():  # small random weights, norms near one
            torch.nn.init.normal_(parameter, 0.0 if parameter.ndim > 1 else 0.5, 0.02)
    unet.train().requires_grad_(False)
    unet.add_adapter(LoraConfig(r=8, lora_alpha=8, init_lora_weights="gaussian", target_modules=list(LORA_TARGET_MODULES)))
    if checkpointing:
        unet.enable_gradient_checkpointing()
    return unet.to(device)


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


def autocast_to(precision: str, device: torch.device) -> torch.autocast:
    """The context of a forward in this precision."""
    return torch.autocast(device.type, HALVES.get(precision, torch.bfloat16), enabled=precision in HALVES)


def training_step(
    unet: UNet2DConditionModel, way: Way, regularizer: StepwiseVariation | None, samples: Samples, index: int, precision: str = "float32"
) -> None:
    """Forward and backward of Eq. 14 for one batch; the optimiser, equal for all, is left out."""
    n = math.ceil(way.share * len(samples))
    part, rest = samples[:n], samples[n:]
    autocast, scale = autocast_to(precision, samples.z0.device), LOSS_SCALE if precision == "fp16" else 1.0
    if regularizer is None or index % way.every:
        with autocast:
            loss = (samples.denoiser(unet)(samples.eps)[1] - samples.eps).square().mean()
        (scale * loss).backward()
        return
    with regularizer.attention_kernel():
        with autocast:
            found = regularized(unet, regularizer, part)
            output = torch.cat([found.output, rest.denoiser(unet)(rest.eps)[1]]) if len(rest) else found.output
            loss = (output - samples.eps).square().mean() + way.every * found.loss
        (scale * loss).backward()


def gradient_of_penalty(unet: UNet2DConditionModel, regularizer: StepwiseVariation, samples: Samples, precision: str = "float32") -> Tensor:
    """The gradient of mean r^2 in what is trained, flat, on the CPU; in float16 by the largest loss scale that does not overflow."""
    regularizer.eval()
    scale = LOSS_SCALE if precision == "fp16" else 1.0
    with regularizer.attention_kernel():
        with autocast_to(precision, samples.z0.device):
            loss = regularized(unet, regularizer, samples).loss
        while True:
            found = torch.autograd.grad(scale * loss, trained_parameters(unet), allow_unused=True, retain_graph=True)
            flat = torch.cat(
                [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(trained_parameters(unet), found, strict=True)]
            )
            if flat.isfinite().all() or scale <= 1:
                return flat.cpu() / scale
            scale /= 16


def options_of(way: Way, precision: str) -> dict:
    """Arguments of `StepwiseVariation`, with rounded frozen weights all of the step in half precision."""
    rounded = way.fast and precision in HALVES and way.gradient != "double_backward"
    return dict(way.regularizer) | ({"difference_precision": "network"} if rounded else {})


def allow_tf32(allowed: bool) -> None:
    """Whether a GPU may round the factors of its products in float32 to 10 bits."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def make_fast(unet: UNet2DConditionModel, way: Way, precision: str, backend: str) -> None:
    """What the ways that are called "fast" and "fused" do to the network."""
    if not (way.fast or way.fused):
        return
    if precision in HALVES:
        round_frozen_weights(unet, HALVES[precision])
    unet.to(memory_format=torch.channels_last)
    if way.fast:
        compile_blocks(unet, backend)
    else:
        fuse_second_order(unet)


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


@cache
def exact_gradient(kind: str, real: bool, latents: int, device: str) -> Tensor:
    """The gradient of mean r^2 on `CHECKED` samples by PyTorch's double backward in float32, one sample at a time for its memory."""
    allow_tf32(False)
    unet = build_unet(kind, trained=real, device=device)
    samples = the_samples(unet, real, CHECKED, latents, device)
    regularizer = StepwiseVariation(**EXACT).to(device)
    return sum(gradient_of_penalty(unet, regularizer, part) for part in samples.batches(1)) / CHECKED


def gradient_error(options: argparse.Namespace, way: Way, unet: UNet2DConditionModel, samples: Samples) -> float:
    """Of this way's gradient, by a step that it measures, against `exact_gradient`: relative L2 distance.

    Comes last: the memory that it takes would hide that of the step.
    """
    ways = {"gradient": way.gradient, **{k: v for k, v in options_of(way, options.precision).items() if k == "difference_precision"}}
    regularizer = StepwiseVariation(**ways).to(options.device)
    if way.gradient in DIFFERENCES:
        with autocast_to(options.precision, samples.z0.device), regularizer.attention_kernel():
            regularized(unet, regularizer, samples)  # chooses the step
        regularizer.running_mean.zero_()
    found = gradient_of_penalty(unet, regularizer, samples, options.precision)
    exact = exact_gradient(options.unet, options.samples == "real", options.latents, options.device)
    return ((found - exact).norm() / exact.norm()).item()


def the_samples(unet: UNet2DConditionModel, real: bool, batch: int, latents: int, device: str) -> Samples:
    """Training images of the embedded model, or noise. The first samples of a larger batch are not those of a smaller one."""
    return (real_samples(batch) if real else noise_samples(unet, batch, latents)).to(device)


def batch_of(options: argparse.Namespace, way: Way) -> int:
    """Of a step; that of a double backward which is not fused must be small."""
    return min(options.batch, options.authors_batch) if way.gradient == "double_backward" and not way.fused else options.batch


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Seconds a sample (mean over whole periods after a warm-up), peak memory above the resident weights, passes and calls of a step, and
    with `options.check` the error of the gradient of L_reg; in this process."""
    way, device, real = WAYS[options.way], options.device, options.samples == "real"
    batch = batch_of(options, way)
    unet = build_unet(options.unet, options.checkpointing or way.checkpointing, real, device)
    samples = the_samples(unet, real, batch, options.latents, device)
    allow_tf32(options.precision == "tf32")
    make_fast(unet, way, options.precision, options.backend)
    regularizer = StepwiseVariation(**options_of(way, options.precision)).to(device) if way.regularizer else None
    arguments, passes = (unet, way, regularizer, samples), Passes(unet)
    resident = _peak(device, start=True)
    for index in range(way.every):  # warm-up: a whole period
        training_step(*arguments, index, options.precision)
    counts = {name: getattr(passes, name) / way.every for name in ("calls", "forward", "backward")}
    passes.handle.remove()
    if way.fast:  # what compiling took is not the step's
        resident = _peak(device, start=True)
        training_step(*arguments, 0, options.precision)
    peak = _peak(device) - resident
    steps = way.every * options.steps
    started = time.perf_counter()
    for index in range(steps):
        training_step(*arguments, index, options.precision)
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / steps / batch
    unet.zero_grad()
    del samples, arguments
    error = math.nan
    if options.check and way.regularizer:
        error = gradient_error(options, way, unet, the_samples(unet, real, CHECKED, options.latents, device))
    counts = {"calls": counts["calls"], "forward": counts["forward"] / batch, "backward": counts["backward"] / batch}
    return {"seconds": seconds, "gib": peak / 2**30, "batch": batch, "error": error, **counts}


def no_gradients(precision: str, checkpointing: bool) -> set[str]:
    """The regularizer's ways that do not run with the precision or with gradient checkpointing."""
    return ({"forward_mode"} if checkpointing else set()) | ({"one_sided"} if precision in HALVES else set())


def possible(way: Way, precision: str, checkpointing: bool) -> bool:
    """Whether a way goes well with the precision and with gradient checkpointing; in float16, differences drown in rounding."""
    refused = no_gradients(precision, checkpointing)
    refused |= {"bf16": {"forward_mode"}, "fp16": {"forward_mode", "central", "paired"}}.get(precision, set())
    return way.gradient not in refused and not (way.checkpointing and checkpointing)
