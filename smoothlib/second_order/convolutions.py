"""A convolution with constant weights: linear, so that its second derivative is the convolution again.

PyTorch's own second derivative also computes a gradient of the weights that nobody asked for, which takes longer than all the rest; and its
first keeps the input, which constant weights do not need.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .last import last_derivative

Settings = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]  # stride, padding, dilation, groups


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, settings: Settings) -> Tensor:
    """`conv2d` of x (B, C, H, W), twice differentiable in x; `weight` and `bias` are constants.

    Example:
        >>> import torch
        >>> from smoothlib.second_order.convolutions import convolution
        >>> x, weight = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3)
        >>> wanted = torch.nn.functional.conv2d(x, weight, padding=1)
        >>> torch.allclose(convolution(x, weight, None, ((1, 1), (1, 1), (1, 1), 1)), wanted)
        True
    """
    if torch.is_autocast_enabled(x.device.type):
        half = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(half), weight.to(half), None if bias is None else bias.to(half)
    return Convolution.apply(x, weight.detach(), None if bias is None else bias.detach(), settings)


class Convolution(torch.autograd.Function):
    """The first derivative is `ConvolutionBackward`."""

    @staticmethod
    def forward(ctx, x, weight, bias, settings):
        ctx.save_for_backward(weight)
        ctx.settings, ctx.shape = settings, x.shape
        return F.conv2d(x, weight, bias, *settings)

    @staticmethod
    def backward(ctx, gradient):
        return ConvolutionBackward.apply(gradient, *ctx.saved_tensors, ctx.shape, ctx.settings), None, None, None


class ConvolutionBackward(torch.autograd.Function):
    """dx as a function of g; nothing else of it depends on x."""

    @staticmethod
    def forward(ctx, gradient, weight, shape, settings):
        ctx.save_for_backward(weight)
        ctx.settings = settings
        stride, padding, dilation, groups = settings
        x = gradient.new_empty(1).expand(shape)  # for its shape alone
        where = (stride, padding, dilation, False, (0, 0), groups, (True, False, False))
        return torch.ops.aten.convolution_backward(gradient, x, weight, None, *where)[0]

    @staticmethod
    @last_derivative
    def backward(ctx, cotangent):
        return F.conv2d(cotangent, *ctx.saved_tensors, None, *ctx.settings), None, None, None
