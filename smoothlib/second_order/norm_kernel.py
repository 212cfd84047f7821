"""Group and layer norm with their derivatives for a GPU: a Triton program a group, in tiles, or a row; the formulas are `norms`'."""

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # no GPU build of PyTorch: `fits` says so
    triton = None

TILE, LARGEST_ROW = 4096, 8192


def fits(x: Tensor) -> bool:
    """Whether the kernels take this tensor: on a GPU, (B, C, H, W) in one of the two layouts, or rows (B, C)."""
    if triton is None or not x.is_cuda or x.dtype == torch.float64:
        return False
    return (x.ndim == 2 and x.shape[1] <= LARGEST_ROW) or x.ndim == 4


if triton is not None:

    @triton.jit
    def _slope(z, SILU: tl.constexpr):
        """f'."""
        if SILU:
            s = tl.sigmoid(z)
            slope = s * (1 + z * (1 - s))
        else:
            slope = z * 0 + 1
        return slope

    @triton.jit
    def _curve(z, SILU: tl.constexpr):
        """f''."""
        if SILU:
            s = tl.sigmoid(z)
            curve = s * (1 - s) * (2 + z * (1 - 2 * s))
        else:
            curve = z * 0
        return curve

    @triton.jit
    def _forward(
        X, W, B, Y, MEAN, RSTD, pixels, width, groups, sb, sc, sp, eps,
        BP: tl.constexpr, BC: tl.constexpr, SILU: tl.constexpr,
    ):  # fmt: skip
        z = tl.program_id(0)
        group = z % groups
        start = (z // groups).to(tl.int64) * sb + group * width * sc
        columns = tl.arange(0, BC)
        inside = columns < width
        gamma = tl.load(W + group * width + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
        beta = tl.load(B + group * width + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
        count = pixels * width
        total = tl.zeros([BP, BC], tl.float32)
        for first in range(0, pixels, BP):
            p = first + tl.arange(0, BP)
            kept = (p[:, None] < pixels) & inside[None, :]
            total += tl.load(X + start + p[:, None] * sp + columns[None, :] * sc, mask=kept, other=0.0).to(tl.float32)
        mean = tl.sum(total) / count
        total = tl.zeros([BP, BC], tl.float32)
        for first in range(0, pixels, BP):
            p = first + tl.arange(0, BP)
            kept = (p[:, None] < pixels) & inside[None, :]
            x = tl.load(X + start + p[:, None] * sp + columns[None, :] * sc, mask=kept, other=0.0).to(tl.float32)
            total += tl.where(kept, (x - mean) * (x - mean), 0.0)
        rstd = 1 / tl.sqrt(tl.sum(total) / count + eps)
        for first in range(0, pixels, BP):
            p = first + tl.arange(0, BP)
            kept = (p[:, None] < pixels) & inside[None, :]
            at = start + p[:, None] * sp + columns[None, :] * sc
            y = gamma * (tl.load(X + at, mask=kept, other=0.0).to(tl.float32) - mean) * rstd + beta
            if SILU:
                y = y * tl.sigmoid(y)
            tl.store(Y + at, y.to(Y.dtype.element_ty), mask=kept)
        tl.store(MEAN + z, mean)
        tl.store(RSTD + z, rstd)

    @triton.jit
    def _backward(
        G, X, W, B, MEAN, RSTD, FOUND, pixels, width, groups, sb, sc, sp,
        BP: tl.constexpr, BC: tl.constexpr, SILU: tl.constexpr,
    ):  # fmt: skip
        z = tl.program_id(0)
        group = z % groups
        start = (z // groups).to(tl.int64) * sb + group * width * sc
        columns = tl.arange(0, BC)
        inside = columns < width
        gamma = tl.load(W + group * width + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
        beta = tl.load(B + group * width + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
        mean, rstd = tl.load(MEAN + z), tl.load(RSTD + z)
        count = pixels * width
        sum_h, sum_hx = tl.zeros([BP, BC], tl.float32), tl.zeros([BP, BC], tl.float32)
        for first in range(0, pixels, BP):
            p = first + tl.arange(0, BP)
            kept = (p[:, None] < pixels) & inside[None, :]
            at = start + p[:, None] * sp + columns[None, :] * sc
            normal = (tl.load(X + at, mask=kept, other=0.0).to(tl.float32) - mean) * rstd
            g = tl.load(G + at, mask=kept, other=0.0).to(tl.float32)
            h = gamma * g * _slope(gamma * normal + beta, SILU)
            sum_h += h
            sum_hx += h * normal
        mean_h, b = tl.sum(sum_h) / count, tl.sum(sum_hx) / count
        for first in range(0, pixels, BP):
            p = first + tl.arange(0, BP)
            kept = (p[:, None] < pixels) & inside[None, :]
            at = start + p[:, None] * sp + columns[None, :] * sc
            normal = (tl.load(X + at, mask=kept, other=0.0).to(tl.float32) - mean) * rstd
            g = tl.load(G + at, mask=kept, other=0.0).to(tl.float32)
            h = gamma * g * _slope(gamma * normal + beta, SILU)
            tl.store(FOUND + at, (rstd * (h - mean_h - normal * b)).to(FOUND.dtype.element_ty), mask=kept)

    @triton.jit
    def _second(
        V, G, X, W, B, MEAN, RSTD, OF_G, OF_X, pixels, width, groups, sb, sc, sp,
        BP: tl.constexpr, BC: tl.constexpr, SILU: tl.constexpr,
    ):  # fmt: skip
        z = tl.program_id(0)
        group = z % groups
        start = (z // groups).to(tl.int64) * sb + group * width * sc
        columns = tl.arange(0, BC)
        inside = columns < width
        gamma = tl.load(W + group * width + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
        beta = tl.load(B + group * width + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
        mean, rstd = tl.load(MEAN + z), tl.load(RSTD + z)
        count = pixels * width
        sum_v, sum_vx = tl.zeros([BP, BC], tl.float32), tl.zeros([BP, BC], tl.float32)
        sum_h, sum_hx = tl.zeros([BP, BC], tl.float32), tl.zeros([BP, BC], tl.float32)
        sum_vh = tl.zeros([BP, BC], tl.float32)
        for first in range(0, pixels, BP):
            p = first + tl.arange(0, BP)
            kept = (p[:, None] < pixels) & inside[None, :]
            at = start + p[:, None] * sp + columns[None, :] * sc
            normal = (tl.load(X + at, mask=kept, other=0.0).to(tl.float32) - mean) * rstd
            g = tl.load(G + at, mask=kept, other=0.0).to(tl.float32)
            v = tl.load(V + at, mask=kept, other=0.0).to(tl.float32)
            h = gamma * g * _slope(gamma * normal + beta, SILU)
            sum_v += v
            sum_vx += v * normal
            sum_h += h
            sum_hx += h * normal
            sum_vh += v * h
        mean_v, a = tl.sum(sum_v) / count, tl.sum(sum_vx) / count
        mean_h, b = tl.sum(sum_h) / count, tl.sum(sum_hx) / count
        c = tl.sum(sum_vh) / count - mean_v * mean_h - a * b
        mean_e, mean_ex = 0.0, 0.0
        if SILU:
            sum_e, sum_ex = tl.zeros([BP, BC], tl.float32), tl.zeros([BP, BC], tl.float32)
            for first in range(0, pixels, BP):
                p = first + tl.arange(0, BP)
                kept = (p[:, None] < pixels) & inside[None, :]
                at = start + p[:, None] * sp + columns[None, :] * sc
                normal = (tl.load(X + at, mask=kept, other=0.0).to(tl.float32) - mean) * rstd
                g = tl.load(G + at, mask=kept, other=0.0).to(tl.float32)
                v = tl.load(V + at, mask=kept, other=0.0).to(tl.float32)
                e = gamma * gamma * g * _curve(gamma * normal + beta, SILU) * rstd * (v - mean_v - normal * a)
                sum_e += e
                sum_ex += e * normal
            mean_e, mean_ex = tl.sum(sum_e) / count, tl.sum(sum_ex) / count
        for first in range(0, pixels, BP):
            p = first + tl.arange(0, BP)
            kept = (p[:, None] < pixels) & inside[None, :]
            at = start + p[:, None] * sp + columns[None, :] * sc
            normal = (tl.load(X + at, mask=kept, other=0.0).to(tl.float32) - mean) * rstd
            g = tl.load(G + at, mask=kept, other=0.0).to(tl.float32)
            v = tl.load(V + at, mask=kept, other=0.0).to(tl.float32)
            slope = _slope(gamma * normal + beta, SILU)
            h = gamma * g * slope
            q = rstd * (v - mean_v - normal * a)
            of_x = -rstd * (b * (v - mean_v) + a * (h - mean_h) - 2 * a * b * normal + c * normal)
            if SILU:
                e = gamma * gamma * g * _curve(gamma * normal + beta, SILU) * q
                of_x += e - mean_e - normal * mean_ex
            tl.store(OF_G + at, (gamma * slope * q).to(OF_G.dtype.element_ty), mask=kept)
            tl.store(OF_X + at, (rstd * of_x).to(OF_X.dtype.element_ty), mask=kept)


def _settings(x: Tensor, groups: int, silu: bool) -> tuple[tuple, dict]:
    """Sizes and strides of a tensor in one of the two layouts, and the tile."""
    width, channels = x.shape[1] // groups, x.shape[1]
    columns = triton.next_power_of_2(width)
    if x.ndim == 2:  # rows
        return (1, width, groups, channels, 1, 0), dict(BP=1, BC=columns, SILU=silu, num_warps=4 if columns <= 2048 else 8)
    pixels = x.shape[2] * x.shape[3]
    last = _layout(x) == torch.channels_last
    strides = (pixels * channels, 1, channels) if last else (pixels * channels, pixels, 1)
    rows = max(1, min(TILE // columns, triton.next_power_of_2(pixels)))
    return (pixels, width, groups, *strides), dict(BP=rows, BC=columns, SILU=silu, num_warps=8)


def _layout(x: Tensor) -> torch.memory_format:
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def forward(x, weight, bias, groups, eps, silu, dtype):
    """y, and the mean and reciprocal deviation of each group."""
    x = x.contiguous(memory_format=_layout(x))
    sizes, settings = _settings(x, groups, silu)
    y = torch.empty_like(x, dtype=dtype)
    mean, rstd = torch.empty(2, len(x) * groups, device=x.device)
    _forward[(len(x) * groups,)](x, weight, bias, y, mean, rstd, *sizes, eps, **settings)
    return y, mean, rstd


def backward(gradient, x, weight, bias, mean, rstd, groups, silu):
    """dx."""
    layout = _layout(x)
    x, gradient = x.contiguous(memory_format=layout), gradient.contiguous(memory_format=layout)
    sizes, settings = _settings(x, groups, silu)
    found = torch.empty_like(x)
    _backward[(len(x) * groups,)](gradient, x, weight, bias, mean, rstd, found, *sizes, **settings)
    return found


def second(v, gradient, x, weight, bias, mean, rstd, groups, silu):
    """Gradients of g and x."""
    layout = _layout(x)
    v, x, gradient = (value.contiguous(memory_format=layout) for value in (v, x, gradient))
    sizes, settings = _settings(x, groups, silu)
    of_gradient, of_x = torch.empty_like(gradient), torch.empty_like(x)
    _second[(len(x) * groups,)](v, gradient, x, weight, bias, mean, rstd, of_gradient, of_x, *sizes, **settings)
    return of_gradient, of_x
