r"""Group norm, alone or with SiLU behind it, and layer norm: first and second derivatives in closed form, each in one pass of the data.

With x^ = (x - mean) / sigma over a group, y = f(gamma x^ + beta), h = gamma g f'(.) for a gradient g of y, and
P w = w - mean(w) - x^ mean(w x^),

    dx = P h / sigma.

For a cotangent v of dx, with a = mean(v x^), b = mean(h x^), c = mean(v h) - mean(v) mean(h) - a b and q = P v / sigma, the gradients are

    of g:  gamma f'(.) q,        of x:  P(e - (b v + a h) / sigma) / sigma - c x^ / sigma^2,    e = gamma^2 g f''(.) q.

All sums are in float32 or better. The results have the type that autocast asks for, which is that of the layer that reads them.
"""

import torch
from torch import Tensor

from . import norm_kernel
from .last import last_derivative


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5, silu: bool = False) -> Tensor:
    """Group norm of (B, C, ...), then SiLU if asked for; twice differentiable in x. `weight` and `bias` (C,) are constants.

    Example:
        >>> import torch
        >>> from smoothlib.second_order.norms import group_norm
        >>> x, weight, bias = torch.randn(2, 4, 3, 3), torch.ones(4), torch.zeros(4)
        >>> torch.allclose(group_norm(x, 2, weight, bias), torch.nn.functional.group_norm(x, 2), atol=1e-5)
        True
    """
    pictures = x if x.ndim == 4 else x.reshape(*x.shape[:2], -1, 1)  # rows (B, C) would be those of a layer norm
    return Norm.apply(pictures, weight.detach(), bias.detach(), groups, eps, silu, _result_type(x)).reshape(x.shape)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Layer norm of (..., C) over its last dimension; twice differentiable in x. `weight` and `bias` (C,) are constants."""
    rows = x.reshape(-1, x.shape[-1])
    return Norm.apply(rows, weight.detach(), bias.detach(), 1, eps, False, _result_type(x)).reshape(x.shape)


def _result_type(x: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype


class Norm(torch.autograd.Function):
    """x (B, C, ...), a mean for each of `groups` parts of C. The first derivative is `NormBackward`."""

    @staticmethod
    def forward(ctx, x, weight, bias, groups, eps, silu, dtype):
        compute = norm_kernel.forward if norm_kernel.fits(x) else _forward
        y, mean, rstd = compute(x, weight, bias, groups, eps, silu, dtype)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.settings = groups, silu
        return y

    @staticmethod
    def backward(ctx, gradient):
        return NormBackward.apply(gradient, *ctx.saved_tensors, *ctx.settings), *[None] * 6


class NormBackward(torch.autograd.Function):
    """dx as a function of g and x."""

    @staticmethod
    def forward(ctx, gradient, x, weight, bias, mean, rstd, groups, silu):
        ctx.save_for_backward(gradient, x, weight, bias, mean, rstd)
        ctx.settings = groups, silu
        compute = norm_kernel.backward if norm_kernel.fits(x) else _backward
        return compute(gradient, x, weight, bias, mean, rstd, groups, silu)

    @staticmethod
    @last_derivative
    def backward(ctx, v):
        compute = norm_kernel.second if norm_kernel.fits(v) else _second
        return *compute(v, *ctx.saved_tensors, *ctx.settings), *[None] * 6


def _parts(groups: int, *tensors: Tensor) -> list[Tensor]:
    """(B, C, ...) or (C,) as (B or 1, groups, C / groups, rest), in float32 or better."""
    wide = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors)
    return [(x[None, :, None] if x.ndim == 1 else x.reshape(*x.shape[:2], -1)).unflatten(1, (groups, -1)) for x in wide]


def _mean(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3), keepdim=True)


def _activation(z: Tensor, silu: bool) -> tuple[Tensor, Tensor, Tensor]:
    """f, f' and f''."""
    if not silu:
        return z, torch.ones_like(z), torch.zeros_like(z)
    s = z.sigmoid()
    return z * s, s * (1 + z * (1 - s)), s * (1 - s) * (2 + z * (1 - 2 * s))


def _forward(x, weight, bias, groups, eps, silu, dtype):
    parts, gamma, beta = _parts(groups, x, weight, bias)
    mean = _mean(parts)
    rstd = (_mean((parts - mean).square()) + eps).rsqrt()
    y = _activation(gamma * (parts - mean) * rstd + beta, silu)[0]
    return y.reshape(x.shape).to(dtype), mean.flatten(), rstd.flatten()


def _backward(gradient, x, weight, bias, mean, rstd, groups, silu):
    parts, g, gamma, beta = _parts(groups, x, gradient, weight, bias)
    mean, rstd = (value.view(-1, groups, 1, 1) for value in (mean, rstd))
    normal = (parts - mean) * rstd
    h = gamma * g * _activation(gamma * normal + beta, silu)[1]
    return (rstd * (h - _mean(h) - normal * _mean(h * normal))).reshape(x.shape).to(x.dtype)


def _second(v, gradient, x, weight, bias, mean, rstd, groups, silu):
    parts, g, v_parts, gamma, beta = _parts(groups, x, gradient, v, weight, bias)
    mean, rstd = (value.view(-1, groups, 1, 1) for value in (mean, rstd))
    normal = (parts - mean) * rstd
    _, slope, curve = _activation(gamma * normal + beta, silu)
    h = gamma * g * slope

    def projected(w: Tensor) -> Tensor:
        return w - _mean(w) - normal * _mean(w * normal)

    a, b = _mean(v_parts * normal), _mean(h * normal)
    c = _mean(v_parts * h) - _mean(v_parts) * _mean(h) - a * b
    q = rstd * projected(v_parts)
    e = gamma.square() * g * curve * q
    of_x = rstd * projected(e - rstd * (b * v_parts + a * h)) - rstd.square() * c * normal
    return (gamma * slope * q).reshape(x.shape).to(gradient.dtype), of_x.reshape(x.shape).to(x.dtype)
