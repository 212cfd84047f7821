"""Prints, as JSON, how far the kernels for a GPU, run by Triton's interpreter on the CPU, are from the formulas written out.

A process of its own: the interpreter must be asked for before Triton is imported.
"""

import json
import os

os.environ["TRITON_INTERPRET"] = "1"

import torch

from smoothlib.second_order import attention, attention_kernel, gates, norm_kernel, norms


def distance(found, wanted) -> float:
    """Relative to the values that are wanted."""
    return ((found.float() - wanted.float()).norm() / wanted.float().norm()).item()


def of_attention(queries: int, keys: int, channels: int, moves_key: bool, moves_value: bool) -> float:
    """The largest distance of the four gradients, in float16."""
    sizes = (queries, keys, keys, queries, queries, keys, keys)
    query, key, value, gradient, q, k, v = (torch.randn(2, size, 2, channels).half().transpose(1, 2) for size in sizes)
    k, v, scale = k if moves_key else None, v if moves_value else None, channels**-0.5
    out, lse = attention._in_parts(attention._forward, scale, query, key, value)
    arguments = (query, key, value, gradient, out, lse, q, k, v)
    wanted = attention._in_parts(attention._second, scale, *(None if x is None else x.float() for x in arguments))
    return max(map(distance, attention_kernel.second_derivative(*arguments, scale), wanted))


def of_norm(shape: tuple[int, ...], groups: int, silu: bool) -> float:
    """The largest distance of y, the means, dx and the two gradients."""
    x, gradient, v = (torch.randn(shape) + 0.5 for _ in range(3))
    weight, bias = torch.randn(2, shape[1])
    first = (weight, bias, groups, 1e-5, silu, torch.float32)
    wanted, found = norms._forward(x, *first), norm_kernel.forward(x, *first)
    known = (x, weight, bias, *wanted[1:], groups, silu)
    wanted = [*wanted, norms._backward(gradient, *known), *norms._second(v, gradient, *known)]
    found = [*found, norm_kernel.backward(gradient, *known), *norm_kernel.second(v, gradient, *known)]
    return max(map(distance, found, wanted))


def of_group_norm(shape: tuple[int, ...], groups: int, offset: float) -> float:
    """The distance of y from PyTorch's in float64, of values far from zero, through the function that layers call."""
    x, (weight, bias) = torch.randn(shape) + offset, torch.randn(2, shape[1])
    fits, norm_kernel.fits = norm_kernel.fits, lambda x: True
    found = norms.group_norm(x, groups, weight, bias)
    norm_kernel.fits = fits
    return distance(found, torch.nn.functional.group_norm(x.double(), groups, weight.double(), bias.double()))


def of_gate() -> float:
    """The largest distance of y, dx and the two gradients."""

    def computed() -> list[torch.Tensor]:
        inputs = x.clone().requires_grad_(), gradient.clone().requires_grad_()
        y = gates.gated(inputs[0])
        (dx,) = torch.autograd.grad(y, *inputs, create_graph=True)
        return [y, dx, *torch.autograd.grad(dx, inputs, v)]

    x, gradient, v = torch.randn(3, 80), torch.randn(3, 40), torch.randn(3, 80)
    wanted = computed()
    gates._by_kernel = lambda x: True
    return max(map(distance, computed(), wanted))


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    norm_kernel.PIXELS, norm_kernel.CHANNELS, norm_kernel.TILES = 4, 16, 3  # several tiles of small pictures
    found = {
        "attention": of_attention(70, 33, 40, True, True),
        "attention, constant keys": of_attention(33, 70, 8, False, False),
        "attention, wide heads": of_attention(20, 20, 80, True, False),
        "group norm": of_norm((2, 20, 5, 7), 2, False),
        "group norm, SiLU": of_norm((2, 20, 5, 7), 2, True),
        "group norm of rows": of_group_norm((6, 20), 5, 0.5),
        "group norm, far from zero": 0.1 * of_group_norm((2, 20, 5, 7), 2, 100.0),  # the mean is rounded to 4e-6 of it
        "layer norm": of_norm((6, 20), 1, False),
        "gate": of_gate(),
    }
    print(json.dumps(found))
