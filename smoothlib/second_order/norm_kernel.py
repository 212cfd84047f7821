"""Group and layer norm with their derivatives for a GPU, in Triton; the formulas are `norms`'.

Rows are `row_kernel`'s. Of pictures, whose channels lie side by side in memory (channels last), a group is a narrow strip: programs
take all channels of some pixels, so that every read is a wide one. `_partial` sums over the pixels of a tile what the means need,
`_finish` over tiles and channels of a group, and `_apply` computes the results from the means.
"""

import torch
from torch import Tensor

from . import row_kernel

try:
    import triton
    import triton.language as tl
except ImportError:  # no GPU build of PyTorch: `fits` says so
    triton = None

PIXELS, CHANNELS = 32, 128  # of a tile
TILES = 32  # of a program of `_partial`, at most
FORWARD, BACKWARD, SECOND, SECOND_SILU = 0, 1, 2, 3  # what is computed; SECOND_SILU: the second sums of a second derivative with SiLU


def fits(x: Tensor) -> bool:
    """Whether the kernels take this tensor: on a GPU, (B, C, H, W) or rows (B, C)."""
    if triton is None or not x.is_cuda or x.dtype == torch.float64:
        return False
    return (x.ndim == 2 and x.shape[1] <= row_kernel.LARGEST) or x.ndim == 4


# what only counts is not specialised on, or every picture's size would be compiled for
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
    def _curve(z):
        """f'' of SiLU."""
        s = tl.sigmoid(z)
        return s * (1 - s) * (2 + z * (1 - 2 * s))

    @triton.jit(do_not_specialize=["pixels", "groups", "width", "tiles"])
    def _partial(
        X, G, V, W, B, MEANS, SUMS, pixels, channels, groups, width, tiles,
        WHAT: tl.constexpr, KNOWN: tl.constexpr, FOUND: tl.constexpr, SILU: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
    ):  # fmt: skip
        """SUMS (chunk, FOUND, sample, channel): sums over the chunk's pixels. MEANS (KNOWN, sample, group): mean, 1 / sigma, ..."""
        sample, chunk = tl.program_id(0), tl.program_id(1)
        c = tl.program_id(2) * BC + tl.arange(0, BC)
        inside = c < channels
        of = sample * groups + c // width
        step = tl.num_programs(0) * groups
        gamma = tl.load(W + c, mask=inside, other=0.0).to(tl.float32)[None, :]
        beta = tl.load(B + c, mask=inside, other=0.0).to(tl.float32)[None, :]
        start = sample.to(tl.int64) * pixels * channels
        if WHAT == 0:
            shift = tl.load(X + start + c // width * width, mask=inside, other=0.0).to(tl.float32)[None, :]
        else:
            mean = tl.load(MEANS + of, mask=inside, other=0.0)[None, :]
            rstd = tl.load(MEANS + step + of, mask=inside, other=0.0)[None, :]
        if WHAT == 3:
            mean_v = tl.load(MEANS + 2 * step + of, mask=inside, other=0.0)[None, :]
            a = tl.load(MEANS + 3 * step + of, mask=inside, other=0.0)[None, :]
        sum_0, sum_1 = tl.zeros([BP, BC], tl.float32), tl.zeros([BP, BC], tl.float32)
        sum_2, sum_3 = tl.zeros([BP, BC], tl.float32), tl.zeros([BP, BC], tl.float32)
        sum_4 = tl.zeros([BP, BC], tl.float32)
        for tile in range(0, tiles):
            p = (chunk * tiles + tile) * BP + tl.arange(0, BP)
            kept = (p[:, None] < pixels) & inside[None, :]
            at = start + p[:, None] * channels + c[None, :]
            x = tl.load(X + at, mask=kept, other=0.0).to(tl.float32)
            if WHAT == 0:
                x = tl.where(kept, x - shift, 0.0)
                sum_0 += x
                sum_1 += x * x
            else:
                normal = (x - mean) * rstd
                g = tl.load(G + at, mask=kept, other=0.0).to(tl.float32)
                z = gamma * normal + beta
                if WHAT == 3:
                    v = tl.load(V + at, mask=kept, other=0.0).to(tl.float32)
                    e = gamma * gamma * g * _curve(z) * rstd * (v - mean_v - normal * a)
                    sum_0 += e
                    sum_1 += e * normal
                else:
                    h = gamma * g * _slope(z, SILU)
                    sum_0 += h
                    sum_1 += h * normal
                    if WHAT == 2:
                        v = tl.load(V + at, mask=kept, other=0.0).to(tl.float32)
                        sum_2 += v
                        sum_3 += v * normal
                        sum_4 += v * h
        place = SUMS + ((chunk * FOUND) * tl.num_programs(0) + sample) * channels + c
        step_sums = tl.num_programs(0) * channels
        tl.store(place, tl.sum(sum_0, 0), mask=inside)
        tl.store(place + step_sums, tl.sum(sum_1, 0), mask=inside)
        if WHAT == 2:
            tl.store(place + 2 * step_sums, tl.sum(sum_2, 0), mask=inside)
            tl.store(place + 3 * step_sums, tl.sum(sum_3, 0), mask=inside)
            tl.store(place + 4 * step_sums, tl.sum(sum_4, 0), mask=inside)

    @triton.jit(do_not_specialize=["chunks", "samples", "groups", "width", "count"])
    def _finish(SUMS, MEANS, chunks, samples, channels, groups, width, count, BW: tl.constexpr):
        """MEANS (FOUND, sample, group) of SUMS (chunk, FOUND, sample, channel)."""
        which, sample, group = tl.program_id(0), tl.program_id(1), tl.program_id(2)
        c = tl.arange(0, BW)
        total = tl.zeros([BW], tl.float32)
        found = tl.num_programs(0)
        for chunk in range(0, chunks):
            place = SUMS + ((chunk * found + which) * samples + sample) * channels + group * width + c
            total += tl.load(place, mask=c < width, other=0.0)
        tl.store(MEANS + (which * samples + sample) * groups + group, tl.sum(total) / count)

    @triton.jit(do_not_specialize=["pixels", "groups", "width"])
    def _apply(
        X, G, V, W, B, MEANS, OUT, OF_X, pixels, channels, groups, width,
        WHAT: tl.constexpr, SILU: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
    ):  # fmt: skip
        """The results of a tile. MEANS (_, sample, group): mean, 1 / sigma and, for derivatives, those of h, hx, v, vx, vh, e, ex."""
        sample = tl.program_id(0)
        c = tl.program_id(2) * BC + tl.arange(0, BC)
        inside = c < channels
        of, step = sample * groups + c // width, tl.num_programs(0) * groups
        gamma = tl.load(W + c, mask=inside, other=0.0).to(tl.float32)[None, :]
        beta = tl.load(B + c, mask=inside, other=0.0).to(tl.float32)[None, :]
        mean = tl.load(MEANS + of, mask=inside, other=0.0)[None, :]
        rstd = tl.load(MEANS + step + of, mask=inside, other=0.0)[None, :]
        p = tl.program_id(1) * BP + tl.arange(0, BP)
        kept = (p[:, None] < pixels) & inside[None, :]
        at = sample.to(tl.int64) * pixels * channels + p[:, None] * channels + c[None, :]
        normal = (tl.load(X + at, mask=kept, other=0.0).to(tl.float32) - mean) * rstd
        z = gamma * normal + beta
        if WHAT == 0:
            if SILU:
                z = z * tl.sigmoid(z)
            tl.store(OUT + at, z.to(OUT.dtype.element_ty), mask=kept)
        else:
            g = tl.load(G + at, mask=kept, other=0.0).to(tl.float32)
            slope = _slope(z, SILU)
            h = gamma * g * slope
            mean_h = tl.load(MEANS + 2 * step + of, mask=inside, other=0.0)[None, :]
            b = tl.load(MEANS + 3 * step + of, mask=inside, other=0.0)[None, :]
            if WHAT == 1:
                tl.store(OUT + at, (rstd * (h - mean_h - normal * b)).to(OUT.dtype.element_ty), mask=kept)
            else:
                v = tl.load(V + at, mask=kept, other=0.0).to(tl.float32)
                mean_v = tl.load(MEANS + 4 * step + of, mask=inside, other=0.0)[None, :]
                a = tl.load(MEANS + 5 * step + of, mask=inside, other=0.0)[None, :]
                mean_vh = tl.load(MEANS + 6 * step + of, mask=inside, other=0.0)[None, :]
                twice = mean_vh - mean_v * mean_h - 3 * a * b  # c - 2 a b
                q = rstd * (v - mean_v - normal * a)
                of_x = -rstd * (b * (v - mean_v) + a * (h - mean_h) + twice * normal)
                if SILU:
                    mean_e = tl.load(MEANS + 7 * step + of, mask=inside, other=0.0)[None, :]
                    mean_ex = tl.load(MEANS + 8 * step + of, mask=inside, other=0.0)[None, :]
                    of_x += gamma * gamma * g * _curve(z) * q - mean_e - normal * mean_ex
                tl.store(OUT + at, (gamma * slope * q).to(OUT.dtype.element_ty), mask=kept)
                tl.store(OF_X + at, (rstd * of_x).to(OF_X.dtype.element_ty), mask=kept)


def _last(x: Tensor) -> Tensor:
    """(B, C, H, W) with its channels side by side in memory."""
    return x.contiguous(memory_format=torch.channels_last)


def _sizes(x: Tensor, groups: int) -> tuple[int, int, int, int]:
    return x.shape[2] * x.shape[3], x.shape[1], groups, x.shape[1] // groups


def _means(what: int, found: int, x, gradient, v, weight, bias, means: Tensor, groups: int, silu: bool) -> Tensor:
    """(found, B, groups): means over the groups of what `_partial` sums."""
    pixels, channels, _, width = _sizes(x, groups)
    tiles = min(TILES, triton.cdiv(pixels, PIXELS))
    chunks, samples = triton.cdiv(pixels, PIXELS * tiles), len(x)
    sums = torch.empty(chunks, found, samples, channels, device=x.device)
    settings = dict(WHAT=what, KNOWN=len(means), FOUND=found, SILU=silu, BP=PIXELS, BC=CHANNELS, num_warps=4)
    grid = (samples, chunks, triton.cdiv(channels, CHANNELS))
    _partial[grid](x, gradient, v, weight, bias, means, sums, *_sizes(x, groups), tiles, **settings)
    result = torch.empty(found, samples, groups, device=x.device)
    columns = triton.next_power_of_2(width)
    _finish[(found, samples, groups)](sums, result, chunks, samples, channels, groups, width, pixels * width, BW=columns, num_warps=1)
    return result


def _results(what: int, x, gradient, v, weight, bias, means: Tensor, out: Tensor, of_x: Tensor, groups: int, silu: bool) -> None:
    pixels, channels, _, _ = _sizes(x, groups)
    grid = (len(x), triton.cdiv(pixels, PIXELS), triton.cdiv(channels, CHANNELS))
    settings = dict(WHAT=what, SILU=silu, BP=PIXELS, BC=CHANNELS, num_warps=4)
    _apply[grid](x, gradient, v, weight, bias, means, out, of_x, *_sizes(x, groups), **settings)


def forward(x, weight, bias, groups, eps, silu, dtype):
    """y, and the mean and reciprocal deviation of each group, flat."""
    if x.ndim == 2:
        return row_kernel.forward(x, weight, bias, eps, dtype)
    x = _last(x)
    y = torch.empty_like(x, dtype=dtype)
    # of values less the first of their group: squares of means far from zero would leave the variance no digits
    mean, square = _means(FORWARD, 2, x, x, x, weight, bias, x, groups, silu)
    rstd = (square.addcmul(mean, mean, value=-1).clamp_min(0) + eps).rsqrt()
    mean = mean + x[:, :: x.shape[1] // groups, 0, 0].float()
    _results(FORWARD, x, x, x, weight, bias, torch.stack([mean, rstd]), y, y, groups, silu)
    return y, mean.flatten(), rstd.flatten()


def backward(gradient, x, weight, bias, mean, rstd, groups, silu):
    """dx."""
    if x.ndim == 2:
        return row_kernel.backward(gradient, x, weight, bias, mean, rstd)
    x, gradient = _last(x), _last(gradient)
    found, known = torch.empty_like(x), torch.stack([mean, rstd]).view(2, -1, groups)
    known = torch.cat([known, _means(BACKWARD, 2, x, gradient, x, weight, bias, known, groups, silu)])
    _results(BACKWARD, x, gradient, x, weight, bias, known, found, found, groups, silu)
    return found


def second(v, gradient, x, weight, bias, mean, rstd, groups, silu):
    """Gradients of g and x."""
    if x.ndim == 2:
        return row_kernel.second(v, gradient, x, weight, bias, mean, rstd)
    v, x, gradient = _last(v), _last(x), _last(gradient)
    of_gradient, of_x = torch.empty_like(gradient), torch.empty_like(x)
    known = torch.stack([mean, rstd]).view(2, -1, groups)
    found = _means(SECOND, 5, x, gradient, v, weight, bias, known, groups, silu)
    more = []
    if silu:
        more = [_means(SECOND_SILU, 2, x, gradient, v, weight, bias, torch.cat([known, found[2:4]]), groups, silu)]
    _results(SECOND, x, gradient, v, weight, bias, torch.cat([known, found, *more]), of_gradient, of_x, groups, silu)
    return of_gradient, of_x
