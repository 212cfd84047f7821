"""The ways to the gradient of ||J^T D|| that need no second derivative: of D . J u, with u = J^T D / ||J^T D|| held fixed.

J = d x0_hat / d eps of a denoiser, and J u is a directional derivative: a difference of values along u, or forward-mode differentiation.
The value of J u is not needed, only its gradient. If `parameters` is given, the evaluations beside eps are therefore deferred to the
backward pass, after the first graph has been freed. A step then takes no more time and barely more memory than an ordinary one.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

GRADIENTS = ("double_backward", "central", "one_sided", "forward_mode", "paired")
# Root mean square of a step, in units of eps' standard deviation. On 48 training images of the embedded model these err by .1 % (central)
# and .4 to 1.2 % (one-sided) in float32, by 12 to 13 % (central) in bfloat16: `python -m benchmarks.gradient_error`
DIFFERENCES = {"central": 0.001, "one_sided": 0.0003, "paired": 0.001}
HALF_PRECISION_DIFFERENCE = 0.01
FORMER_DIFFERENCES = {"central": 0.01, "one_sided": 0.003}  # what settings without `difference` meant before it could be "auto"
# step in units of h -> coefficient
STENCILS = {"central": {1: 0.5, -1: -0.5}, "one_sided": {1: 1.0, 0: -1.0}, "paired": {1: 0.5, -1: -0.5}}
PRECISIONS = ("float32", "network")  # of the evaluations beside eps, where autocast makes the network's forward half precision

WAITING: ContextVar[list | None] = ContextVar("WAITING", default=None)  # see `postponed`

# eps (B, ...) -> x0_hat (B, ...) and whatever else the caller wants from the same forward
Denoiser = Callable[[Tensor], tuple[Tensor, Tensor]]


def check_gradient(gradient: str, difference: float | str | None, precision: str = "float32", auto: bool = False) -> None:
    """Raise ValueError for an unknown `gradient` or `precision`, or a `difference` that is no positive number (nor "auto" or None)."""
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}, got {gradient!r}")
    if precision not in PRECISIONS:
        raise ValueError(f"difference_precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if difference == "auto" if auto else difference is None:
        return
    number = isinstance(difference, (int, float)) and not isinstance(difference, bool)
    if not (number and math.isfinite(difference) and difference > 0):
        raise ValueError(f"difference must be {'auto or ' if auto else ''}a positive number, got {difference!r}")


def in_half_precision(eps: Tensor) -> bool:
    """Whether the network computes in half precision, by autocast or because eps has it."""
    return torch.is_autocast_enabled(eps.device.type) or torch.finfo(eps.dtype).bits < 32


def product_scale(eps: Tensor) -> float:
    """What to multiply the values of J^T D by while autograd carries them: a power of two, so that nothing else is rounded otherwise.

    D has unit length, and so J^T D has values of about 1 / sqrt(dimension). In float16, whose numbers end at 6e-8 and lose digits below
    6e-5, the network's inner derivatives, each a fraction of that, would be rounded to nothing. bfloat16 and float32 have room enough: 1.
    """
    kind = eps.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else eps.dtype
    return 2.0 ** round(math.log2(eps[0].numel()) / 2) if dtype == torch.float16 else 1.0


def check_precision(gradient: str, precision: str, eps: Tensor) -> None:
    """Raise ValueError where `gradient` has no use in the precision that the network computes in."""
    if gradient == "one_sided" and in_half_precision(eps):
        raise ValueError(
            "gradient must be central, paired, double_backward or forward_mode in half precision, got one_sided: it drowns in rounding"
        )
    if gradient == "forward_mode" and precision == "network" and torch.is_autocast_enabled(eps.device.type):
        raise ValueError("difference_precision must be float32 for forward_mode under autocast, got 'network': dual numbers do not pass it")


def default_difference(gradient: str, precision: str, eps: Tensor) -> float:
    """Root mean square of a step for the precision that the differences are computed in; 1 where `gradient` takes no step."""
    half = torch.finfo(eps.dtype).bits < 32 or (precision == "network" and in_half_precision(eps))
    return HALF_PRECISION_DIFFERENCE if half and gradient in ("central", "paired") else DIFFERENCES.get(gradient, 1.0)


def autocast_of_differences(precision: str, eps: Tensor) -> dict:
    """Arguments of `torch.autocast` for the evaluations beside eps: switched off for `float32`, the caller's for `network`."""
    kind = eps.device.type
    enabled = torch.is_autocast_enabled(kind) and precision == "network"
    return dict(device_type=kind, dtype=torch.get_autocast_dtype(kind), enabled=enabled)


def wide(x: Tensor) -> Tensor:
    """Float32 or better: sums over thousands of values need more digits than half precision has."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """(B,) as (B, 1, ...) with the dimensions of `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def weighted_direction(direction: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
    """w D (B, ...) in the precision of eps or better, the same numbers for every evaluation."""
    return direction.to(torch.promote_types(wide(eps).dtype, direction.dtype)) * per_sample(weight.detach(), eps)


def directional_derivative(
    denoise: Denoiser, eps: Tensor, x0_hat: Tensor, u: Tensor, gradient: str, h: float, precision: str = "float32"
) -> Tensor:
    """J u (B, ...) at eps by the difference of `STENCILS`, or by forward mode; `x0_hat` is the value at eps."""
    with torch.autocast(**autocast_of_differences(precision, eps)):
        if gradient in STENCILS:
            values = {k: denoise(eps + k * h * u)[0] if k else x0_hat for k in STENCILS[gradient]}
            return sum(coefficient * wide(values[k]) for k, coefficient in STENCILS[gradient].items()) / h
        # torch.func's dual numbers: those of torch.autograd.forward_ad cannot be differentiated through softmax (pytorch issue 162350)
        with _LayerNormFromItsParts():
            return torch.func.jvp(lambda e: denoise(e)[0], (eps,), (u,))[1]


def paired_evaluations(denoise: Denoiser, eps: Tensor, u: Tensor, h: float, precision: str = "float32") -> tuple[Tensor, Tensor | None]:
    """J u (B, ...) by the central difference, and the mean of the denoiser's second outputs at eps + h u and eps - h u (None: no output).

    That mean is the output at eps but for O(h^2), in its gradient too. Both points are one call of (2B, ...) where `denoise.takes_copies`
    is true: it then repeats what else it needs of a batch of B. Otherwise there are two calls.
    """
    points = (eps + h * u, eps - h * u)
    with torch.autocast(**autocast_of_differences(precision, eps)):
        if getattr(denoise, "takes_copies", False):
            (right, left), outputs = (found if found is None else found.chunk(2) for found in denoise(torch.cat(points)))
        else:
            (right, right_output), (left, left_output) = (denoise(point) for point in points)
            outputs = None if right_output is None else (right_output, left_output)
    mean = None if outputs is None else (wide(outputs[0]) + wide(outputs[1])) / 2
    return (wide(right) - wide(left)) / (2 * h), mean


class _LayerNormFromItsParts(TorchFunctionMode):
    """Layer norm by mean and variance: the fused one's forward-mode derivative has a wrong gradient (3 to 11 % off, PyTorch 2.14)."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return (_layer_norm if func is F.layer_norm else func)(*args, **(kwargs or {}))


def _layer_norm(
    x: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    dims = tuple(range(-len(normalized_shape), 0))
    centred = x - x.mean(dims, keepdim=True)
    normal = centred * (centred.square().mean(dims, keepdim=True) + eps).rsqrt()
    normal = normal if weight is None else normal * weight
    return normal if bias is None else normal + bias


def projected_gradient(
    denoise: Denoiser, eps: Tensor, weighted_direction: Tensor, outer: Tensor, parameters: Sequence[Tensor], autocast: dict
) -> Sequence[Tensor | None]:
    """Gradient of sum outer . (w D . x0_hat(eps)) in `parameters`: one forward and one backward."""
    with torch.enable_grad(), torch.autocast(**autocast):
        projected = (wide(denoise(eps)[0]) * weighted_direction).flatten(1).sum(1)
    with torch.autocast(eps.device.type, enabled=False):  # a backward pass would round its products as a forward does
        return torch.autograd.grad(projected, parameters, outer.to(projected.dtype), allow_unused=True)


@dataclass
class Later:
    """Evaluations at eps + k h u for the steps k of `stencil`, but 0, that wait for the backward pass; `u` is found in between."""

    denoise: Denoiser
    eps: Tensor
    stencil: dict[int, float]  # step k in units of h -> coefficient, times 1 / h
    h: float
    autocast: dict  # of these evaluations: the backward pass runs outside of the caller's
    u: Tensor | None = None
    weighted_direction: Tensor | None = None  # w D

    def gradients(self, parameters: Sequence[Tensor], outer: Tensor) -> list[Tensor | None]:
        """Of sum outer . (w D . J u) in `parameters`, without the share of step 0; one evaluation's graph at a time."""
        total: list[Tensor | None] = [None] * len(parameters)
        for k, coefficient in ((k, c) for k, c in self.stencil.items() if k):
            point, share = self.eps + k * self.h * self.u, outer * (coefficient / self.h)
            found = projected_gradient(self.denoise, point, self.weighted_direction, share, parameters, self.autocast)
            total = [new if old is None else old if new is None else old + new for old, new in zip(total, found, strict=True)]
        return total


class Beside(torch.autograd.Function):
    """A node of the graph for what `Later` holds: forward has no value yet, zeros (B,); backward gives the parameters their gradients."""

    @staticmethod
    def forward(ctx, later: Later, *parameters: Tensor) -> Tensor:
        ctx.later, ctx.parameters, ctx.waiting = later, parameters, WAITING.get()
        return wide(torch.zeros(len(later.eps), dtype=later.eps.dtype, device=later.eps.device))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, outer: Tensor):
        if ctx.waiting is None:
            return None, *ctx.later.gradients(ctx.parameters, outer)
        ctx.waiting.append((ctx.later, ctx.parameters, outer))
        return None, *[None] * len(ctx.parameters)


@contextmanager
def postponed() -> Iterator[None]:
    """What a backward pass in this context would evaluate at its end is evaluated after it, and added to the parameters' `grad`.

    For networks whose hooks know no evaluation within a backward pass, as those of `torch.distributed.fsdp.fully_shard`.
    """
    waiting: list[tuple[Later, Sequence[Tensor], Tensor]] = []
    before = WAITING.set(waiting)
    try:
        yield
    finally:
        WAITING.reset(before)
    for later, parameters, outer in waiting:
        for parameter, found in zip(parameters, later.gradients(parameters, outer), strict=True):
            if found is not None:
                parameter.grad = found if parameter.grad is None else parameter.grad + found
