"""GEGLU's gate, a gelu(b) of two halves (a, b), with first and second derivatives in closed form, each in one pass of the data.

gelu(b) = b Phi(b), gelu' = Phi + b phi, gelu'' = (2 - b^2) phi, of the normal distribution. For a gradient g and a cotangent (p, q) of
(g gelu(b), g a gelu'(b)), the gradients are

    of g:  p gelu(b) + q a gelu'(b),     of a:  q g gelu'(b),     of b:  p g gelu'(b) + q g a gelu''(b).
"""

import math

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # no GPU build of PyTorch: written out everywhere
    triton = None

from .last import last_derivative

TILE = 1024


def gated(x: Tensor) -> Tensor:
    """a gelu(b) of the halves of x (..., 2 F), (..., F); twice differentiable.

    Example:
        >>> import torch
        >>> from smoothlib.second_order.gates import gated
        >>> x = torch.randn(3, 8)
        >>> torch.allclose(gated(x), x[:, :4] * torch.nn.functional.gelu(x[:, 4:]), atol=1e-6)
        True
    """
    return Gate.apply(x.contiguous())


def _by_kernel(x: Tensor) -> bool:
    return triton is not None and x.is_cuda and x.dtype != torch.float64


class Gate(torch.autograd.Function):
    """The first derivative is `GateBackward`."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        if _by_kernel(x):
            y = x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
            _launch(_forward, y, x, y)
            return y
        a, _b, value, _, _ = _halves(x)
        return (a * value).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return GateBackward.apply(gradient.contiguous(), *ctx.saved_tensors)


class GateBackward(torch.autograd.Function):
    """dx as a function of g and x."""

    @staticmethod
    def forward(ctx, gradient, x):
        ctx.save_for_backward(gradient, x)
        if _by_kernel(x):
            found = torch.empty_like(x)
            _launch(_backward, gradient, x, gradient, found)
            return found
        a, _b, value, slope, _ = _halves(x)
        return torch.cat([gradient * value, gradient * a * slope], -1).to(x.dtype)

    @staticmethod
    @last_derivative
    def backward(ctx, cotangent):
        gradient, x = ctx.saved_tensors
        cotangent = cotangent.contiguous()
        if _by_kernel(x):
            of_gradient, of_x = torch.empty_like(gradient), torch.empty_like(x)
            _launch(_second, gradient, x, gradient, cotangent, of_gradient, of_x)
            return of_gradient, of_x
        a, _b, value, slope, curve = _halves(x)
        p, q = cotangent.chunk(2, -1)
        of_x = torch.cat([q * gradient * slope, gradient * (p * slope + q * a * curve)], -1)
        return (p * value + q * a * slope).to(gradient.dtype), of_x.to(x.dtype)


def _halves(x: Tensor) -> tuple[Tensor, ...]:
    """a, b, gelu(b), gelu'(b) and gelu''(b), in float32 or better."""
    a, b = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, -1)
    below, density = (1 + torch.erf(b / math.sqrt(2))) / 2, torch.exp(-b.square() / 2) / math.sqrt(2 * math.pi)
    return a, b, b * below, below + b * density, (2 - b.square()) * density


def _launch(kernel, values: Tensor, *tensors: Tensor) -> None:
    """`values` (..., F) is looped over."""
    kernel[(triton.cdiv(values.numel(), TILE),)](*tensors, values.numel(), values.shape[-1], TILE=TILE)


if triton is not None:

    @triton.jit
    def _read(X, size, width, TILE: tl.constexpr):
        """Places of the values, of their a and b in x, what is kept, a, b, Phi(b) and phi(b)."""
        i = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
        kept = i < size
        first = i + i // width * width
        a = tl.load(X + first, mask=kept, other=0.0).to(tl.float32)
        b = tl.load(X + first + width, mask=kept, other=0.0).to(tl.float32)
        below = (1 + tl.erf(b * 0.7071067811865476)) * 0.5
        return i, first, kept, a, b, below, tl.exp(-b * b * 0.5) * 0.3989422804014327

    @triton.jit
    def _forward(X, Y, size, width, TILE: tl.constexpr):
        i, _first, kept, a, b, below, _density = _read(X, size, width, TILE)
        tl.store(Y + i, (a * b * below).to(Y.dtype.element_ty), mask=kept)

    @triton.jit
    def _backward(X, G, FOUND, size, width, TILE: tl.constexpr):
        i, first, kept, a, b, below, density = _read(X, size, width, TILE)
        g = tl.load(G + i, mask=kept, other=0.0).to(tl.float32)
        tl.store(FOUND + first, (g * b * below).to(FOUND.dtype.element_ty), mask=kept)
        tl.store(FOUND + first + width, (g * a * (below + b * density)).to(FOUND.dtype.element_ty), mask=kept)

    @triton.jit
    def _second(X, G, V, OF_G, OF_X, size, width, TILE: tl.constexpr):
        i, first, kept, a, b, below, density = _read(X, size, width, TILE)
        g = tl.load(G + i, mask=kept, other=0.0).to(tl.float32)
        p = tl.load(V + first, mask=kept, other=0.0).to(tl.float32)
        q = tl.load(V + first + width, mask=kept, other=0.0).to(tl.float32)
        slope = below + b * density
        tl.store(OF_G + i, (p * b * below + q * a * slope).to(OF_G.dtype.element_ty), mask=kept)
        tl.store(OF_X + first, (q * g * slope).to(OF_X.dtype.element_ty), mask=kept)
        of_b = g * (p * slope + q * a * (2 - b * b) * density)
        tl.store(OF_X + first + width, of_b.to(OF_X.dtype.element_ty), mask=kept)
