"""Layer norm of rows (B, C) with its derivatives for a GPU: a Triton program a row; the formulas are `norms`'."""

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # no GPU build of PyTorch: `norm_kernel.fits` says so
    triton = None

LARGEST = 8192
FORWARD, BACKWARD, SECOND = 0, 1, 2

if triton is not None:

    @triton.jit
    def _row(X, G, V, W, B, MEAN, RSTD, OUT, OF_X, width, eps, WHAT: tl.constexpr, BC: tl.constexpr):
        """A row of a layer norm: y, dx, or the gradients of g and x."""
        row = tl.program_id(0).to(tl.int64)
        c = tl.arange(0, BC)
        inside = c < width
        gamma = tl.load(W + c, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(X + row * width + c, mask=inside, other=0.0).to(tl.float32)
        if WHAT == 0:
            mean = tl.sum(x) / width
            centred = tl.where(inside, x - mean, 0.0)
            rstd = 1 / tl.sqrt(tl.sum(centred * centred) / width + eps)
            y = gamma * centred * rstd + tl.load(B + c, mask=inside, other=0.0).to(tl.float32)
            tl.store(OUT + row * width + c, y.to(OUT.dtype.element_ty), mask=inside)
            tl.store(MEAN + row, mean)
            tl.store(RSTD + row, rstd)
        else:
            rstd = tl.load(RSTD + row)
            normal = (x - tl.load(MEAN + row)) * rstd
            h = gamma * tl.load(G + row * width + c, mask=inside, other=0.0).to(tl.float32)
            mean_h, b = tl.sum(h) / width, tl.sum(h * normal) / width
            if WHAT == 1:
                tl.store(OUT + row * width + c, (rstd * (h - mean_h - normal * b)).to(OUT.dtype.element_ty), mask=inside)
            else:
                v = tl.load(V + row * width + c, mask=inside, other=0.0).to(tl.float32)
                mean_v, a = tl.sum(v) / width, tl.sum(v * normal) / width
                twice = tl.sum(v * h) / width - mean_v * mean_h - 3 * a * b  # c - 2 a b
                of_x = -rstd * rstd * (b * (v - mean_v) + a * (h - mean_h) + twice * normal)
                q = rstd * (v - mean_v - normal * a)
                tl.store(OUT + row * width + c, (gamma * q).to(OUT.dtype.element_ty), mask=inside)
                tl.store(OF_X + row * width + c, of_x.to(OF_X.dtype.element_ty), mask=inside)


def _launch(what: int, x, gradient, v, weight, bias, mean, rstd, out, of_x, eps=0.0) -> None:
    columns = triton.next_power_of_2(x.shape[1])
    warps = min(8, max(1, columns // 512))
    _row[(len(x),)](x, gradient, v, weight, bias, mean, rstd, out, of_x, x.shape[1], eps, WHAT=what, BC=columns, num_warps=warps)


def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """y, and the mean and reciprocal deviation of each row."""
    x = x.contiguous()
    y, mean, rstd = torch.empty_like(x, dtype=dtype), *torch.empty(2, len(x), device=x.device)
    _launch(FORWARD, x, x, x, weight, bias, mean, rstd, y, y, eps)
    return y, mean, rstd


def backward(gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """dx."""
    x, gradient = x.contiguous(), gradient.contiguous()
    found = torch.empty_like(x)
    _launch(BACKWARD, x, gradient, x, weight, bias, mean, rstd, found, found)
    return found


def second(v: Tensor, gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of g and x."""
    v, x, gradient = v.contiguous(), x.contiguous(), gradient.contiguous()
    of_gradient, of_x = torch.empty_like(gradient), torch.empty_like(x)
    _launch(SECOND, x, gradient, v, weight, bias, mean, rstd, of_gradient, of_x)
    return of_gradient, of_x
