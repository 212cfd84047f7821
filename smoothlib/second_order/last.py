"""The derivative that is the last: a further one is refused, whatever it would be taken of.

PyTorch's `once_differentiable` looks at the cotangents alone. Where these are constants, as in a derivative of a sum, it lets a third
derivative through in which the saved tensors count as constants: a wrong number and no error.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor


class _NoFurther(torch.autograd.Function):
    """What comes first, as it is; its derivative raises."""

    @staticmethod
    def forward(ctx, found: Tensor, *depends_on: Tensor) -> Tensor:
        return found.view_as(found)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        raise RuntimeError("a third derivative is asked for, but layers with fused second derivatives have two")


def last_derivative(backward: Callable) -> Callable:
    """For `backward(ctx, *cotangents)` of an autograd function: computed without a graph, and an error where one of it is gone through."""

    @functools.wraps(backward)
    def wrapped(ctx, *cotangents):
        with torch.no_grad():
            found = backward(ctx, *cotangents)
        if not torch.is_grad_enabled():
            return found
        inputs = [x for x in (*cotangents, *ctx.saved_tensors) if isinstance(x, Tensor) and x.requires_grad]
        whole = found if isinstance(found, tuple) else (found,)
        guarded = tuple(_NoFurther.apply(x, *inputs) if isinstance(x, Tensor) and inputs else x for x in whole)
        return guarded if isinstance(found, tuple) else guarded[0]

    return wrapped
