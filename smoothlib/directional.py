"""The ways to the gradient of ||J^T D|| that need no second derivative: of D . J u, with u = J^T D / ||J^T D|| held fixed.

J = d x0_hat / d eps of a denoiser, and J u is a directional derivative: a difference of values along u, or forward-mode differentiation.
The value of J u is not needed, only its gradient. Told which parameters are trained, the differences therefore wait for the backward pass
and for the first graph to be freed: no more time, hardly more memory than a plain step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

GRADIENTS = ("double_backward", "central", "one_sided", "forward_mode")
DIFFERENCES = {"central": 0.01, "one_sided": 0.003}  # root mean square of a step, in units of eps' standard deviation
STENCILS = {"central": {1: 0.5, -1: -0.5}, "one_sided": {1: 1.0, 0: -1.0}}  # step in units of h -> coefficient
HALF_PRECISION_DIFFERENCE = 0.05  # central: a smaller step drowns in the rounding of bfloat16

# eps (B, ...) -> x0_hat (B, ...) and whatever else the caller wants from the same forward
Denoiser = Callable[[Tensor], tuple[Tensor, Tensor]]


def check_gradient(gradient: str, difference: float | None) -> None:
    """Raise ValueError where `gradient` is none of `GRADIENTS` or `difference` not positive (None: the default)."""
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}, got {gradient!r}")
    if difference is not None and not difference > 0:
        raise ValueError(f"difference must be positive, got {difference}")


def default_difference(gradient: str, eps: Tensor) -> float:
    """Root mean square of a step for the precision that the network computes in; 1 where `gradient` takes no step.

    Raises:
        ValueError: `one_sided` is asked for in half precision.
    """
    half = torch.is_autocast_enabled(eps.device.type) or torch.finfo(eps.dtype).bits < 32
    if half and gradient == "one_sided":
        raise ValueError(
            "gradient must be central, double_backward or forward_mode in half precision, got one_sided: it drowns in rounding"
        )
    return HALF_PRECISION_DIFFERENCE if half else DIFFERENCES.get(gradient, 1.0)


def wide(x: Tensor) -> Tensor:
    """Float32 or better: sums over thousands of values need more digits than half precision has."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def directional_derivative(denoise: Denoiser, eps: Tensor, x0_hat: Tensor, u: Tensor, gradient: str, h: float) -> Tensor:
    """J u (B, ...) at eps by the difference of `STENCILS`, or by forward mode; `x0_hat` is the value at eps."""
    if gradient in STENCILS:
        values = {k: denoise(eps + k * h * u)[0] if k else x0_hat for k in STENCILS[gradient]}
        return sum(coefficient * values[k] for k, coefficient in STENCILS[gradient].items()) / h
    # torch.func's dual numbers: those of torch.autograd.forward_ad cannot be differentiated through softmax (pytorch issue 162350)
    with _LayerNormFromItsParts():
        return torch.func.jvp(lambda e: denoise(e)[0], (eps,), (u,))[1]


class _LayerNormFromItsParts(TorchFunctionMode):
    """Layer norm by mean and variance: the fused one's forward-mode derivative has a wrong gradient (3 % off, PyTorch 2.14)."""

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


@dataclass
class Later:
    """Evaluations at eps + k h u for the steps k of `stencil`, but 0, that wait for the backward pass; `u` is found in between."""

    denoise: Denoiser
    eps: Tensor
    stencil: dict[int, float]  # step k in units of h -> coefficient, times 1 / h
    h: float
    u: Tensor | None = None
    weighted_direction: Tensor | None = None  # w D

    def __post_init__(self) -> None:
        kind = self.eps.device.type
        self.autocast = dict(device_type=kind, dtype=torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind))

    def gradients(self, parameters: Sequence[Tensor], outer: Tensor) -> list[Tensor | None]:
        """Of sum outer . (w D . J u) in `parameters`, without the share of step 0; one evaluation's graph at a time."""
        total: list[Tensor | None] = [None] * len(parameters)
        for k, coefficient in ((k, c) for k, c in self.stencil.items() if k):
            with torch.enable_grad(), torch.autocast(**self.autocast):
                x0_hat = self.denoise(self.eps + k * self.h * self.u)[0]
                projected = (wide(x0_hat) * self.weighted_direction).flatten(1).sum(1)
            found = torch.autograd.grad(projected, parameters, outer.to(projected.dtype) * (coefficient / self.h), allow_unused=True)
            total = [new if old is None else old if new is None else old + new for old, new in zip(total, found, strict=True)]
        return total


class Beside(torch.autograd.Function):
    """A node of the graph for what `Later` holds: forward has no value yet, zeros (B,); backward gives the parameters their gradients."""

    @staticmethod
    def forward(ctx, later: Later, *parameters: Tensor) -> Tensor:
        ctx.later, ctx.parameters = later, parameters
        return wide(torch.zeros(len(later.eps), dtype=later.eps.dtype, device=later.eps.device))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, outer: Tensor):
        return None, *ctx.later.gradients(ctx.parameters, outer)
