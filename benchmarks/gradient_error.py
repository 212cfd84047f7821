"""Error of the regularizer's gradient: every way to it against double backward in float64, on real training samples.

    python -m benchmarks.gradient_error               # the embedded model with a fresh LoRA and with `smooth`, 48 samples, batches of 16
    python -m benchmarks.gradient_error > benchmarks/gradient_error.md      # the table of the book's page on the method: six minutes

"Error" is the relative L2 distance of the gradient of L_reg in the trained weights, over all samples and in the worst batch; the target `a`
is the mean of r. The step `auto` is chosen on the first batch and used in all, as in a training. "As before" marks the steps that were the
defaults until the step was measured. Prints a table in Markdown.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from companion.base.config import OneSentenceParser
from companion.base.machine import machine
from smoothlib.regularizer.gradients import FORMER_DIFFERENCES
from smoothlib.regularizer.variation import StepwiseVariation
from smoothlib.second_order.network import fuse_second_order

from .real_samples import Samples, in_float64, lora_unet, real_samples, trained_parameters

STATES = {"fresh LoRA": dict(rank=8), "trained `smooth`": dict(adapter="smooth")}
FORMER_HALF_PRECISION = 0.05
# arguments of StepwiseVariation
FLOAT32 = [
    dict(gradient="double_backward"),
    dict(gradient="forward_mode"),
    *(dict(gradient="central", difference=h) for h in (FORMER_DIFFERENCES["central"], 0.003, 0.001, 0.0003, 0.0001, "auto")),
    *(dict(gradient="one_sided", difference=h) for h in (FORMER_DIFFERENCES["one_sided"], 0.001, 0.0003, 0.0001, "auto")),
]
BFLOAT16 = [
    dict(gradient="double_backward"),
    dict(gradient="forward_mode"),
    *(dict(gradient="central", difference=h) for h in (0.001, "auto")),
    *(dict(gradient="central", difference=h, difference_precision="network") for h in (FORMER_HALF_PRECISION, 0.01, 0.003, "auto")),
]
# float16 has no room for differences; "fused": `smoothlib.second_order`'s layers
KINDS = {
    "float32": FLOAT32,
    "bfloat16": BFLOAT16,
    "float16": [dict(gradient="double_backward")],
    "float16, fused": [dict(gradient="double_backward")],
}
HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float16, fused": torch.float16}
LOSS_SCALE = 4096.0  # of float16


@dataclass(frozen=True)
class Found:
    """Gradient of each batch's sum of (r - a)^2, flat in float64; r of all samples; seconds per batch; the step and its estimated error."""

    batches: list[Tensor]
    r: Tensor
    seconds: float
    difference: float | None
    estimate: float  # 0 where nothing was measured

    @property
    def whole(self) -> Tensor:
        """Of all samples."""
        return torch.stack(self.batches).sum(0)


def error(found: Tensor, wanted: Tensor) -> float:
    """Relative L2 distance."""
    return ((found - wanted).norm() / wanted.norm()).item()


@contextlib.contextmanager
def precision(half: torch.dtype | None) -> Iterator[None]:
    """Autocast to a half precision, or not."""
    with torch.autocast("cpu", half or torch.bfloat16, enabled=half is not None):
        yield


def with_means(options: Mapping[str, Any], r: Tensor | None, time: Tensor) -> StepwiseVariation:
    """The regularizer in evaluation mode: a is the mean of `r`, in each of its intervals of time; without r, 0."""
    regularizer = StepwiseVariation(**options).eval()
    if r is not None:
        bins = (time * len(regularizer.running_mean)).long()
        for k in bins.unique().tolist():
            regularizer.running_mean[k] = r[bins == k].mean()
        regularizer.started.fill_(True)
    return regularizer


def gradient_of(
    options: Mapping[str, Any],
    unet: nn.Module,
    samples: Samples,
    r: Tensor | None,
    *,
    batch: int = 16,
    half: torch.dtype | None = None,
    guidance_scale: float = 1.0,
) -> Found:
    """The gradient of L_reg in what `unet` trains, by the way that `options` of `StepwiseVariation` name; `r` gives the target."""
    parameters, gradients, found_r = trained_parameters(unet), [], []
    kernel = options["gradient"] in ("double_backward", "forward_mode")
    regularizer = with_means(options, r, samples.timesteps / 1000)
    started, measuring = time.perf_counter(), 0.0
    for part in samples.batches(batch):
        arguments = (
            part.denoiser(unet, guidance_scale),
            part.eps,
            (1 - part.alpha_bar).sqrt(),
            part.timesteps / 1000,
            part.direction_noise,
            parameters,
        )
        with sdpa_kernel(SDPBackend.MATH) if kernel else contextlib.nullcontext():
            if options.get("difference", "auto") == "auto" and not gradients:
                kept, begun = regularizer.running_mean.clone(), time.perf_counter()
                with precision(half):
                    regularizer.train()(*arguments)
                regularizer.eval().running_mean.copy_(kept)
                measuring = time.perf_counter() - begun
            with precision(half):
                variation = regularizer(*arguments)
            scale = LOSS_SCALE if half == torch.float16 else 1.0
            flat = torch.autograd.grad(scale * variation.loss * len(part), parameters, allow_unused=True)
        whole = torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(parameters, flat, strict=True)])
        gradients.append(whole.double() / scale)
        found_r.append(variation.r)
    seconds = (time.perf_counter() - started - measuring) / len(gradients)
    choice = regularizer.step_choice
    return Found(gradients, torch.cat(found_r), seconds, choice.step, choice.error.item())


def row(state: str, kind: str, options: Mapping[str, Any], found: Found, wanted: Found) -> str:
    """A line of the table."""
    step = options.get("difference", "")
    half = kind in HALVES
    former = (FORMER_HALF_PRECISION if half else FORMER_DIFFERENCES.get(options["gradient"])) == step
    step = f"auto: {found.difference:g} (estimate {100 * found.estimate:.2g} %)" if step == "auto" else f"{step}{' (as before)' * former}"
    if half and "difference" in options:
        kind += f", differences {'bfloat16' if options.get('difference_precision') == 'network' else 'float32'}"
    worst = max(error(a, b) for a, b in zip(found.batches, wanted.batches, strict=True))
    cosine = torch.nn.functional.cosine_similarity(found.whole, wanted.whole, dim=0).item()
    errors = f"{100 * error(found.whole, wanted.whole):.2g} % | {100 * worst:.2g} % | {cosine:.5f}"
    return f"| {state} | {kind} | `{options['gradient']}` | {step} | {errors} | {found.seconds:.2f} |"


def main() -> None:
    """Command line."""
    parser = OneSentenceParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0, help="of the choice of scenes, timesteps, noises and directions")
    parser.add_argument("--states", nargs="*", choices=list(STATES), default=list(STATES), metavar="STATE", help=", ".join(STATES))
    options = parser.parse_args()
    if options.batch < 1:
        parser.error(f"--batch must be at least 1, got {options.batch}")
    try:
        samples = real_samples(options.samples, options.seed)
    except ValueError as problem:
        parser.error(f"--{problem}")
    host = machine()
    print(f"{host['name']}, {host['threads']} threads; {options.samples} samples of seed {options.seed}, batches of {options.batch}\n")
    print("| Model | Precision | `gradient` | `difference` | Error | Worst batch | Cosine | Seconds a batch |")
    print("|---|---|---|---|---|---|---|---|")
    for state in options.states:
        unet = lora_unet(**STATES[state])
        exact = dict(gradient="double_backward")
        r = gradient_of(exact, unet, samples, None, batch=options.batch).r
        wanted = gradient_of(exact, in_float64(unet), samples.double(), r, batch=options.batch)
        for kind, ways in KINDS.items():
            network = unet
            if "fused" in kind:
                network = lora_unet(**STATES[state])
                fuse_second_order(network)
            for way in ways:
                found = gradient_of(way, network, samples, r, batch=options.batch, half=HALVES.get(kind))
                print(row(state, kind, way, found, wanted), flush=True)


if __name__ == "__main__":
    main()
