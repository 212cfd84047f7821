"""The second derivative of attention in tiles, for a GPU: three Triton kernels; the formulas are `attention`'s.

`rows` finds O' and the sums mu, alpha and sum_j P C of each query; `queries` the gradient of Q; `keys` those of K and V. Products are
of half precision with sums in float32.
"""

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # no GPU build of PyTorch: `fits` says so
    triton = None

LARGEST = 128  # channels of a head
# of each kernel by padded channels: queries and keys of a tile, warps, stages; the fastest of six on an H100
BLOCKS = {
    64: dict(rows=(128, 64, 8, 2), queries=(64, 64, 4, 1), keys=(64, 64, 4, 1)),
    128: dict(rows=(64, 32, 4, 2), queries=(64, 64, 4, 1), keys=(64, 32, 4, 2)),
}


def fits(query: Tensor) -> bool:
    """Whether there are kernels for heads of this size."""
    return triton is not None and query.shape[-1] <= LARGEST


if triton is not None:

    @triton.jit
    def _load(start, rows, size, channels, stride, D: tl.constexpr):
        columns = tl.arange(0, D)
        kept = (rows[:, None] < size) & (columns[None, :] < channels)
        return tl.load(start + rows[:, None] * stride + columns[None, :], mask=kept, other=0.0)

    @triton.jit
    def _store(start, values, rows, size, channels, stride, D: tl.constexpr):
        columns = tl.arange(0, D)
        kept = (rows[:, None] < size) & (columns[None, :] < channels)
        tl.store(start + rows[:, None] * stride + columns[None, :], values.to(start.dtype.element_ty), mask=kept)

    @triton.jit
    def _tile(query, key, value, gradient, q, k, v, lse, scale, keys, M, MOVES_KEY: tl.constexpr, MOVES_VALUE: tl.constexpr):
        """P, S', A and B of a tile of queries and keys."""
        scores = tl.dot(query, tl.trans(key)) * scale
        weights = tl.where(keys[None, :] < M, tl.exp(scores - lse[:, None]), 0.0)
        change = tl.dot(q, tl.trans(key))
        a = tl.dot(gradient, tl.trans(value))
        b = a * 0.0
        if MOVES_KEY:
            change += tl.dot(query, tl.trans(k))
        if MOVES_VALUE:
            b = tl.dot(gradient, tl.trans(v))
        return weights, change * scale, a, b

    @triton.jit
    def rows(
        Q, K, V, G, Qd, Kd, Vd, LSE, ALPHA, OUT, TANGENT, MU, MEAN, N, M, channels, heads, stride, scale,
        BN: tl.constexpr, BM: tl.constexpr, D: tl.constexpr, MOVES_KEY: tl.constexpr, MOVES_VALUE: tl.constexpr,
    ):  # fmt: skip
        z = tl.program_id(1).to(tl.int64)
        of_q, of_k = z // heads * N * stride + z % heads * channels, z // heads * M * stride + z % heads * channels
        i = tl.program_id(0) * BN + tl.arange(0, BN)
        query = _load(Q + of_q, i, N, channels, stride, D)
        gradient = _load(G + of_q, i, N, channels, stride, D)
        q = _load(Qd + of_q, i, N, channels, stride, D)
        lse = tl.load(LSE + z * N + i, mask=i < N, other=0.0)
        out = _load(OUT + of_q, i, N, channels, stride, D)
        alpha = tl.sum(gradient.to(tl.float32) * out.to(tl.float32), 1)
        mu = tl.zeros([BN], tl.float32)
        first = tl.zeros([BN], tl.float32)
        tangent = tl.zeros([BN, D], tl.float32)
        for start in range(0, M, BM):
            j = start + tl.arange(0, BM)
            key = _load(K + of_k, j, M, channels, stride, D)
            value = _load(V + of_k, j, M, channels, stride, D)
            k, v = key, value
            if MOVES_KEY:
                k = _load(Kd + of_k, j, M, channels, stride, D)
            if MOVES_VALUE:
                v = _load(Vd + of_k, j, M, channels, stride, D)
            weights, change, a, b = _tile(query, key, value, gradient, q, k, v, lse, scale, j, M, MOVES_KEY, MOVES_VALUE)
            weighted = weights * change
            mu += tl.sum(weighted, 1)
            first += tl.sum(weighted * a + weights * b, 1)
            tangent += tl.dot(weighted.to(value.dtype), value)
            if MOVES_VALUE:
                tangent += tl.dot(weights.to(v.dtype), v)
        _store(TANGENT + of_q, tangent - mu[:, None] * out, i, N, channels, stride, D)
        tl.store(ALPHA + z * N + i, alpha, mask=i < N)
        tl.store(MU + z * N + i, mu, mask=i < N)
        tl.store(MEAN + z * N + i, first - 2 * mu * alpha, mask=i < N)

    @triton.jit
    def queries(
        Q, K, V, G, Qd, Kd, Vd, LSE, ALPHA, MU, MEAN, FOUND, N, M, channels, heads, stride, scale,
        BN: tl.constexpr, BM: tl.constexpr, D: tl.constexpr, MOVES_KEY: tl.constexpr, MOVES_VALUE: tl.constexpr,
    ):  # fmt: skip
        z = tl.program_id(1).to(tl.int64)
        of_q, of_k = z // heads * N * stride + z % heads * channels, z // heads * M * stride + z % heads * channels
        i = tl.program_id(0) * BN + tl.arange(0, BN)
        query = _load(Q + of_q, i, N, channels, stride, D)
        gradient = _load(G + of_q, i, N, channels, stride, D)
        q = _load(Qd + of_q, i, N, channels, stride, D)
        lse = tl.load(LSE + z * N + i, mask=i < N, other=0.0)
        alpha = tl.load(ALPHA + z * N + i, mask=i < N, other=0.0)
        mu = tl.load(MU + z * N + i, mask=i < N, other=0.0)
        mean = tl.load(MEAN + z * N + i, mask=i < N, other=0.0)
        found = tl.zeros([BN, D], tl.float32)
        for start in range(0, M, BM):
            j = start + tl.arange(0, BM)
            key = _load(K + of_k, j, M, channels, stride, D)
            value = _load(V + of_k, j, M, channels, stride, D)
            k, v = key, value
            if MOVES_KEY:
                k = _load(Kd + of_k, j, M, channels, stride, D)
            if MOVES_VALUE:
                v = _load(Vd + of_k, j, M, channels, stride, D)
            weights, change, a, b = _tile(query, key, value, gradient, q, k, v, lse, scale, j, M, MOVES_KEY, MOVES_VALUE)
            centred = a - alpha[:, None]
            of_scores = weights * (change * centred - mu[:, None] * a + b - mean[:, None])
            found += tl.dot(of_scores.to(key.dtype), key)
            if MOVES_KEY:
                found += tl.dot((weights * centred).to(k.dtype), k)
        _store(FOUND + of_q, found * scale, i, N, channels, stride, D)

    @triton.jit
    def keys(
        Q, K, V, G, Qd, Kd, Vd, LSE, ALPHA, MU, MEAN, OF_KEY, OF_VALUE, N, M, channels, heads, stride, scale,
        BN: tl.constexpr, BM: tl.constexpr, D: tl.constexpr, MOVES_KEY: tl.constexpr, MOVES_VALUE: tl.constexpr,
    ):  # fmt: skip
        z = tl.program_id(1).to(tl.int64)
        of_q, of_k = z // heads * N * stride + z % heads * channels, z // heads * M * stride + z % heads * channels
        j = tl.program_id(0) * BM + tl.arange(0, BM)
        key = _load(K + of_k, j, M, channels, stride, D)
        value = _load(V + of_k, j, M, channels, stride, D)
        k, v = key, value
        if MOVES_KEY:
            k = _load(Kd + of_k, j, M, channels, stride, D)
        if MOVES_VALUE:
            v = _load(Vd + of_k, j, M, channels, stride, D)
        of_key = tl.zeros([BM, D], tl.float32)
        of_value = tl.zeros([BM, D], tl.float32)
        for start in range(0, N, BN):
            i = start + tl.arange(0, BN)
            query = _load(Q + of_q, i, N, channels, stride, D)
            gradient = _load(G + of_q, i, N, channels, stride, D)
            q = _load(Qd + of_q, i, N, channels, stride, D)
            lse = tl.load(LSE + z * N + i, mask=i < N, other=float("inf"))  # no weight beyond the last query
            alpha = tl.load(ALPHA + z * N + i, mask=i < N, other=0.0)
            mu = tl.load(MU + z * N + i, mask=i < N, other=0.0)
            mean = tl.load(MEAN + z * N + i, mask=i < N, other=0.0)
            # all tiles transposed, keys by queries: what is multiplied then lies as the products need it
            weights = tl.exp(tl.dot(key, tl.trans(query)) * scale - lse[None, :])
            change = tl.dot(key, tl.trans(q))
            a = tl.dot(value, tl.trans(gradient))
            b = a * 0.0
            if MOVES_KEY:
                change += tl.dot(k, tl.trans(query))
            if MOVES_VALUE:
                b = tl.dot(v, tl.trans(gradient))
            change *= scale
            centred = a - alpha[None, :]
            of_scores = weights * (change * centred - mu[None, :] * a + b - mean[None, :])
            of_key += tl.dot(of_scores.to(query.dtype), query)
            of_key += tl.dot((weights * centred).to(q.dtype), q)
            of_value += tl.dot((weights * (change - mu[None, :])).to(gradient.dtype), gradient)
        _store(OF_KEY + of_k, of_key * scale, j, M, channels, stride, D)
        _store(OF_VALUE + of_k, of_value, j, M, channels, stride, D)


def second_derivative(
    query: Tensor, key: Tensor, value: Tensor, gradient: Tensor, out: Tensor, lse: Tensor,
    q: Tensor | None, k: Tensor | None, v: Tensor | None, scale: float, wanted: tuple[bool, ...] = (True,) * 4,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Gradients of Q, K, V, G, all (B, heads, N or M, d); those of Q, K, V are left out where not `wanted`."""
    count, heads, size, channels = query.shape
    q = torch.zeros_like(query) if q is None else q
    query, key, value, gradient, out, q = (_laid_out(x, query.dtype) for x in (query, key, value, gradient, out, q))
    moves = dict(MOVES_KEY=k is not None, MOVES_VALUE=v is not None)
    k, v = (before if x is None else _laid_out(x, query.dtype) for x, before in ((k, key), (v, value)))
    padded = max(16, triton.next_power_of_2(channels))
    lse = lse.contiguous()
    alpha, mu, mean = torch.empty(3, *lse.shape, device=lse.device)
    inputs = (query, key, value, gradient, q, k, v, lse, alpha)
    sizes = (size, key.shape[-2], channels, heads, heads * channels, scale)
    blocks = BLOCKS.get(padded, BLOCKS[64])

    def launch(kernel, name: str, *tensors: Tensor) -> None:
        of_queries, of_keys, warps, stages = blocks[name]
        tiles = triton.cdiv(key.shape[-2], of_keys) if name == "keys" else triton.cdiv(size, of_queries)
        settings = dict(BN=of_queries, BM=of_keys, D=padded, num_warps=warps, num_stages=stages)
        kernel[(tiles, count * heads)](*inputs, *tensors, *sizes, **settings, **moves)

    tangent, of_query, of_key, of_value = torch.empty_like(query), None, None, None
    launch(rows, "rows", out, tangent, mu, mean)
    if wanted[0]:
        of_query = torch.empty_like(query)
        launch(queries, "queries", mu, mean, of_query)
    if wanted[1] or wanted[2]:
        of_key, of_value = torch.empty_like(key), torch.empty_like(value)
        launch(keys, "keys", mu, mean, of_key, of_value)
    return of_query, of_key, of_value, tangent


def _laid_out(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, heads, N, d) as it lies in memory where it comes from linear layers: (B, N, heads, d)."""
    return x.to(dtype).transpose(1, 2).contiguous().transpose(1, 2)
