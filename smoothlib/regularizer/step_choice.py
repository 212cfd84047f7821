"""The step of the difference quotients, chosen by measurement: no fixed one fits every network, precision and stage of a training.

With G(h) the gradient of L_reg by differences of step h, truncation makes G(h) err by an amount that falls with h and rounding by one that
falls with 1 / h. Neither is known, but G(h) - G(h / 3) shows both: a step that agrees with its longer and with its shorter neighbour has
little of either. The gradients themselves are compared, in the parameters that are trained. Cheaper signs mislead: D . J u, whose exact
value r is known, errs ten to thirty times less than the gradient, and J u as a whole agrees best at steps up to ten times too long.

Truncation differs between images by orders of magnitude, rounding hardly does. So a batch without one of the hard images takes too long a
step for the others; where the gradients agree well at still shorter steps, the shortest of these is taken.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .gradients import (
    STENCILS,
    Denoiser,
    autocast_of_differences,
    check_precision,
    default_difference,
    per_sample,
    projected_gradient,
    weighted_direction,
    wide,
)

LADDER = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00003, 0.00001)
SLACK, AGREEMENT = 3.0, 0.02  # a shorter step may have so many times the least doubt, and so much of it


def nearest_rung(difference: float) -> int:
    """Index of the step of `LADDER` next to `difference`, its ends left out: a chosen step has two neighbours."""
    return min(range(1, len(LADDER) - 1), key=lambda k: abs(math.log(LADDER[k] / difference)))


def choose_rung(gradient_at: Callable[[float], Tensor], start: int, device: torch.device | str = "cpu") -> tuple[int, float]:
    """Index of the step of `LADDER` whose gradient agrees with those of its two neighbours, and the relative error by their agreement.

    Doubt is the sum of a step's relative distances to both neighbours. The search goes from `start` to the least doubt, then on to shorter
    steps while their doubt is at most `SLACK` times as large and at most `AGREEMENT`. The error is the smaller distance: a neighbour's own
    error is part of it, so that for these samples it is rather too large. With several processes the squared norms are summed over them,
    and all choose the same step.

    Args:
        gradient_at: step (root mean square) -> the gradient, flat.
        start: index in [1, len(LADDER) - 2].
        device: where the processes exchange numbers.
    """
    gradient_at = cache(gradient_at)

    @cache
    def apart(k: int) -> float:
        """Relative distance of the gradients at the steps k and k + 1."""
        longer, shorter = gradient_at(LADDER[k]), gradient_at(LADDER[k + 1])
        norms = torch.stack([(longer - shorter).double().square().sum(), shorter.double().square().sum()])
        if dist.is_available() and dist.is_initialized():
            norms = norms.float().to(device)
            dist.all_reduce(norms)
        change, size = norms.tolist()
        distance = (change / size) ** 0.5 if change and size else float(change > 0)
        return distance if distance < float("inf") else float("inf")  # NaN: not a step to be chosen

    def doubt(k: int) -> float:
        return apart(k - 1) + apart(k)

    best, before = start, None
    while best != before:
        before = best
        best = min((k for k in (before, before - 1, before + 1) if 0 < k < len(LADDER) - 1), key=doubt)  # of equal ones, the first
    allowed = min(SLACK * doubt(best), AGREEMENT)
    while best + 2 < len(LADDER) and doubt(best + 1) <= allowed:
        best += 1
    return best, min(apart(best - 1), apart(best))


def measured_rung(
    denoise: Denoiser,
    eps: Tensor,
    direction: Tensor,
    weight: Tensor,
    outer: Callable[[Tensor], Tensor],
    *,
    gradient: str,
    precision: str,
    parameters: Sequence[Tensor],
    start: int,
) -> tuple[int, float]:
    """`choose_rung` for a batch's gradient of L_reg; arguments as for `step_variation`.

    One graph is held at a time. The gradients at five or six steps are kept on the CPU; each costs the evaluations of `STENCILS`.

    Args:
        outer: r (B,) -> r - a, the samples' weights in the gradient of L_reg (up to a factor).
        start: the rung that the search starts from.
    """
    eps = eps.detach()
    weighted = weighted_direction(direction, weight, eps)
    leaf = eps.clone().requires_grad_()
    with torch.enable_grad():
        (product,) = torch.autograd.grad((wide(denoise(leaf)[0]) * weighted).sum(), leaf)
    norm = wide(product).flatten(1).norm(dim=1)
    u = (wide(product) / per_sample(norm.clamp_min(torch.finfo(norm.dtype).tiny), eps)).to(eps.dtype)
    shares = outer(norm)
    shares = shares if shares.any() else torch.ones_like(shares)  # a mean that starts at the only r
    autocast = autocast_of_differences(precision, eps)

    def at(distance: float) -> Tensor:
        found = projected_gradient(denoise, eps + distance * u, weighted, shares, parameters, autocast)
        flat = [wide(torch.zeros_like(p) if g is None else g).flatten().cpu() for p, g in zip(parameters, found, strict=True)]
        return torch.cat(flat)

    here = at(0.0) if 0 in STENCILS[gradient] else None

    def gradient_at(difference: float) -> Tensor:
        h = difference * eps[0].numel() ** 0.5
        return sum(coefficient / h * (at(k * h) if k else here) for k, coefficient in STENCILS[gradient].items())

    return choose_rung(gradient_at, start, eps.device)


class StepChoice(nn.Module):
    """The step of the differences during a training: fixed, or ("auto") chosen on the first batch and on every `every`-th after it.

    What it knows is in buffers, so that a resumed training goes on with the same steps and measures at the same batches.
    """

    def __init__(self, difference: float | str, every: int):
        super().__init__()
        self.difference, self.every = difference, every
        self.register_buffer("batches", torch.tensor(0))
        self.register_buffer("rung", torch.tensor(-1))  # index in `LADDER`; -1: not measured
        self.register_buffer("error", torch.tensor(0.0))

    @property
    def step(self) -> float | None:
        """The step in use; None where none has been chosen yet."""
        if self.difference != "auto":
            return self.difference
        return LADDER[self.rung] if self.rung >= 0 else None

    def numbers(self) -> dict[str, Tensor]:
        """For the log: the chosen step and the relative error of its gradient as measured, where there is one."""
        if self.difference != "auto" or self.rung < 0:
            return {}
        return {"difference": torch.tensor(self.step), "difference_error": self.error}

    def measure(self, denoise: Denoiser, eps: Tensor, direction: Tensor, weight: Tensor, outer: Callable[[Tensor], Tensor], **ways) -> None:
        """Count a batch and choose the step on it where that is due; arguments as for `measured_rung`."""
        due = self.batches % self.every == 0
        self.batches += 1
        if due and self.difference == "auto" and ways["gradient"] in STENCILS and ways["parameters"]:
            check_precision(ways["gradient"], ways["precision"], eps)
            start = int(self.rung) if self.rung >= 0 else nearest_rung(default_difference(ways["gradient"], ways["precision"], eps))
            rung, error = measured_rung(denoise, eps, direction, weight, outer, start=start, **ways)
            self.rung.fill_(rung)
            self.error.fill_(error)
