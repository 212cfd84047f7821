"""Two pictures' channels side by side, with derivatives that keep the layout in memory.

PyTorch's second derivative of `cat` fills pictures of zeros in another layout than the network's, which every layer after it has to undo.
"""

import torch
from torch import Tensor

from .last import last_derivative


def joined(first: Tensor, second: Tensor) -> Tensor:
    """(B, C, H, W) and (B, D, H, W) as (B, C + D, H, W), twice differentiable.

    Example:
        >>> import torch
        >>> from smoothlib.second_order.joining import joined
        >>> joined(torch.zeros(1, 2, 3, 3), torch.ones(1, 4, 3, 3)).shape
        torch.Size([1, 6, 3, 3])
    """
    dtype = torch.promote_types(first.dtype, second.dtype)
    return Join.apply(first.to(dtype), second.to(dtype))


class Join(torch.autograd.Function):
    """The first derivative is `Split`."""

    @staticmethod
    def forward(ctx, first, second):
        ctx.channels = first.shape[1]
        return torch.cat([first, second], 1)

    @staticmethod
    def backward(ctx, gradient):
        return Split.apply(gradient, ctx.channels)


class Split(torch.autograd.Function):
    """The parts of a picture's channels, each in the layout of the whole."""

    @staticmethod
    def forward(ctx, gradient, channels):
        layout = torch.channels_last if gradient.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        return tuple(part.contiguous(memory_format=layout) for part in gradient.split([channels, gradient.shape[1] - channels], 1))

    @staticmethod
    @last_derivative
    def backward(ctx, first, second):
        return torch.cat([first, second], 1), None
