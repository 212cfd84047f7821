r"""softmax(s Q K^T) V with a second derivative that never holds an N x N matrix of a whole batch.

PyTorch's fused attention can be differentiated once. What `double_backward` needs is the derivative of its backward pass: with G the
gradient of the output, P = softmax(S), S = s Q K^T, and q, k, v the cotangents of dQ, dK, dV, it is that of <G, O'>, where

    S' = s (q K^T + Q k^T),    P' = P (S' - mu),    mu = sum_j P S',    O' = P' V + P v

is the derivative of the output along (q, k, v). With A = G V^T, B = G v^T, alpha = sum_j P A, C = S' (A - alpha) - mu A + B,

    dS' = P (A - alpha),   dS = P (C - sum_j P C),
    Q gets s (dS K + dS' k),   K gets s (dS^T Q + dS'^T q),   V gets P'^T G,   G gets O'.

On a GPU in half precision, the first derivative is PyTorch's own fused kernel and the second one `attention_kernel`'s, which recompute P
in tiles from the saved logarithm of its sum. Elsewhere both are written out, some heads at a time.
"""

import torch
from torch import Tensor

from . import attention_kernel
from .last import last_derivative

ENTRIES = 2**25  # of all matrices that are held at once where they are written out
ATEN = torch.ops.aten
CUDNN_FROM = (9, 0)  # compute capability: on Hopper cuDNN takes half of FlashAttention 2's time


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """softmax(scale Q K^T) V of (B, heads, N, d), (B, heads, M, d) and (B, heads, M, d), twice differentiable in all three.

    Args:
        scale: 1 / sqrt(d) if None.

    Example:
        >>> import torch
        >>> from smoothlib.second_order.attention import attention
        >>> q, k, v = torch.randn(3, 1, 2, 5, 8)
        >>> torch.allclose(attention(q, k, v), torch.nn.functional.scaled_dot_product_attention(q, k, v), atol=1e-5)
        True
    """
    if torch.is_autocast_enabled(query.device.type):
        half = torch.get_autocast_dtype(query.device.type)
        query, key, value = (x.to(half) for x in (query, key, value))
    return Attention.apply(query, key, value, query.shape[-1] ** -0.5 if scale is None else scale)


def _fused(query: Tensor) -> bool:
    """Whether PyTorch's fused kernels take these: on a GPU from Ampere on."""
    half = query.is_cuda and query.dtype in (torch.float16, torch.bfloat16)
    return half and query.shape[-1] % 8 == 0 and query.shape[-1] <= 256 and torch.cuda.get_device_capability(query.device) >= (8, 0)


def _fused_forward(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple:
    """The output, the logarithm of the sum of each query's weights, and what the backward pass is to be told."""
    by_cudnn = torch.cuda.get_device_capability(query.device) >= CUDNN_FROM and query.shape[-1] <= 128 and query.shape[-1] % 8 == 0
    if by_cudnn:
        found = ATEN._scaled_dot_product_cudnn_attention(query, key, value, None, True, 0.0, False, False, scale=scale)
    else:
        found = ATEN._scaled_dot_product_flash_attention(query, key, value, scale=scale)
    return *found[:2], by_cudnn, *found[2:8]


def _fused_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, rest: list, scale: float
) -> tuple:
    by_cudnn, first, second, max_q, max_k, seed, offset = rest
    if by_cudnn:
        more = (seed, offset, None, first, second, max_q, max_k, 0.0, False)
        return ATEN._scaled_dot_product_cudnn_attention_backward(gradient, query, key, value, out, lse, *more, scale=scale)
    more = (first, second, max_q, max_k, 0.0, False, seed, offset)
    return ATEN._scaled_dot_product_flash_attention_backward(gradient, query, key, value, out, lse, *more, scale=scale)


class Attention(torch.autograd.Function):
    """The first derivative is `AttentionBackward`."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        if _fused(query):
            out, lse, *ctx.rest = _fused_forward(query, key, value, scale)
        else:
            out, lse = _in_parts(_forward, scale, query, key, value)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):
        query, key, value, out, lse = ctx.saved_tensors
        rest = getattr(ctx, "rest", None)
        return *AttentionBackward.apply(query, key, value, gradient, out.detach(), lse, ctx.scale, rest), None


class AttentionBackward(torch.autograd.Function):
    """dQ, dK, dV as functions of Q, K, V and G; `out` and `lse` are what they are of Q, K, V, and have no derivative of their own."""

    @staticmethod
    def forward(ctx, query, key, value, gradient, out, lse, scale, rest):
        ctx.set_materialize_grads(False)
        gradient = gradient.to(query.dtype)
        if _fused(query):
            found = _fused_backward(gradient, query, key, value, out, lse, rest, scale)
        else:
            found = _in_parts(_backward, scale, query, key, value, gradient, out, lse)
        ctx.save_for_backward(query, key, value, gradient, out, lse)
        ctx.scale = scale
        return tuple(found)

    @staticmethod
    @last_derivative
    def backward(ctx, q: Tensor | None, k: Tensor | None, v: Tensor | None):
        query, key, value, gradient, out, lse = ctx.saved_tensors
        if q is None and k is None and v is None:
            return (None,) * 8
        arguments = (query, key, value, gradient, out, lse.view(query.shape[:-1]), q, k, v)
        if _fused(query) and attention_kernel.fits(query):
            wanted = ctx.needs_input_grad[:4]
            return *attention_kernel.second_derivative(*arguments, ctx.scale, wanted), None, None, None, None
        return *_in_parts(_second, ctx.scale, *arguments), None, None, None, None


def _in_parts(compute, scale: float, query: Tensor, key: Tensor, *others: Tensor | None) -> tuple[Tensor, ...]:
    """`compute` on some heads of some samples at a time, all as (Z, N, d); its results as (B, heads, ...)."""
    flat = [None if x is None else x.flatten(0, 1) for x in (query, key, *others)]
    size = max(1, ENTRIES // (query.shape[-2] * key.shape[-2]))
    with torch.autocast(query.device.type, enabled=False):  # which would round what is to be in float32
        parts = [compute(scale, *(None if x is None else x[i : i + size] for x in flat)) for i in range(0, len(flat[0]), size)]
    return tuple(torch.cat(found).unflatten(0, query.shape[:2]) for found in zip(*parts, strict=True))


def _wide(*tensors: Tensor | None) -> list[Tensor | None]:
    """In float32 or better."""
    return [None if x is None else x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors]


def _weights(scale: float, query: Tensor, key: Tensor, lse: Tensor) -> Tensor:
    return (scale * query @ key.mT - lse.unsqueeze(-1).to(query.dtype)).exp()


def _forward(scale: float, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    query, key, value = _wide(*inputs)
    scores = scale * query @ key.mT
    lse = scores.logsumexp(-1)
    return ((scores - lse.unsqueeze(-1)).exp() @ value).to(inputs[0].dtype), lse


def _backward(scale: float, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value, gradient, _, lse = _wide(*inputs)
    weights, a = _weights(scale, query, key, lse), gradient @ value.mT
    # not <G, O>: what rounded O by would not cancel where all values have much in common
    scores = scale * weights * (a - (weights * a).sum(-1, keepdim=True))
    return tuple(x.to(inputs[0].dtype) for x in (scores @ key, scores.mT @ query, weights.mT @ gradient))


def _second(scale: float, *inputs: Tensor | None) -> tuple[Tensor, ...]:
    """Gradients of Q, K, V, G, named as in the module."""
    query, key, value, gradient, _, lse, q, k, v = _wide(*inputs)
    weights = _weights(scale, query, key, lse)
    change = torch.zeros_like(weights)  # S'
    for left, right in ((q, key), (query, k)):
        if left is not None and right is not None:
            change += scale * left @ right.mT
    mu = (weights * change).sum(-1, keepdim=True)
    moved = weights * (change - mu)  # P'
    tangent = moved @ value if v is None else moved @ value + weights @ v  # O'
    a = gradient @ value.mT
    alpha = (weights * a).sum(-1, keepdim=True)
    c = change * (a - alpha) - mu * a
    if v is not None:
        c += gradient @ v.mT
    of_change, of_scores = weights * (a - alpha), weights * (c - (weights * c).sum(-1, keepdim=True))
    of_query, of_key = of_scores @ key, of_scores.mT @ query
    if k is not None:
        of_query += of_change @ k
    if q is not None:
        of_key += of_change.mT @ q
    return tuple(x.to(inputs[0].dtype) for x in (scale * of_query, scale * of_key, moved.mT @ gradient, tangent))
