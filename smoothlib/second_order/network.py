"""A UNet whose layers have the second derivatives of this package, in place: what it computes stays what it was."""

from collections.abc import Callable
from types import MethodType

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .attention import attention
from .convolutions import convolution
from .gates import gated
from .joining import joined
from .norms import group_norm, layer_norm


def fuse_second_order(unet: UNet2DConditionModel) -> int:
    """Give attention, norms, GEGLU, frozen convolutions and a LoRA's layers of `unet` forwards with fused first and second derivatives.

    `double_backward` then holds no N x N matrices. Modules, names, weights and hooks stay; norms are constants. The number of layers.

    Raises:
        ValueError: norms are trained, or `unet` has none of these layers.

    Example:
        >>> from smoothlib.second_order.network import fuse_second_order
        >>> fuse_second_order(unet.requires_grad_(False))  # doctest: +SKIP
        306
    """
    count = 0
    for path, module in unet.named_modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm) and any(p.requires_grad for p in module.parameters()):
            raise ValueError(f"network trains {path}, but its norms must be frozen for fused second derivatives")
        fits, method, name = LAYERS.get(type(module), (None, None, None))
        if fits and fits(module):
            _give(module, method, name)
            count += 1
    if not count:
        raise ValueError(f"network is {type(unet).__name__}, but must have layers to fuse, such as attention")
    _give(unet, _unet, "forward")
    return count


def _give(module: nn.Module, method: Callable, name: str) -> None:
    """A method of its own, bound to the module, so that a deep copy's is bound to the copy."""
    setattr(module, name, MethodType(method, module))


def _unet(self: UNet2DConditionModel, *arguments, **named):
    with _Joining():
        return type(self).forward(self, *arguments, **named)


class _Joining(TorchFunctionMode):
    """`torch.cat` of two pictures' channels, which diffusers' blocks call for the skip connections, by `joined`."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.cat and len(args[0]) == 2 and args[0][0].ndim == 4 and (kwargs or {}).get("dim", args[1:]) in (1, (1,)):
            return joined(*args[0])
        return func(*args, **(kwargs or {}))


def _normalised(norm: nn.GroupNorm, x: Tensor, silu: bool = False) -> Tensor:
    return group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps, silu)


def _layer_norm(self: nn.LayerNorm, x: Tensor) -> Tensor:
    return layer_norm(x, self.weight, self.bias, self.eps)


def _is_plain_layer_norm(layer: nn.LayerNorm) -> bool:
    return layer.elementwise_affine and layer.bias is not None and len(layer.normalized_shape) == 1


def _convolution(self: nn.Conv2d, x: Tensor) -> Tensor:
    return convolution(x, self.weight, self.bias, (self.stride, self.padding, self.dilation, self.groups))


def _is_constant(layer: nn.Conv2d) -> bool:
    padded = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return padded and not any(p.requires_grad for p in layer.parameters())


def _gate(self: GEGLU, x: Tensor, *arguments, **named) -> Tensor:
    return gated(self.proj(x))


def _residual_block(self: ResnetBlock2D, x: Tensor, temb: Tensor | None = None, *arguments, **named) -> Tensor:
    """Norm and SiLU as one function, and no copy into another layout before the shortcut."""
    hidden = self.conv1(_normalised(self.norm1, x, silu=True))
    if self.time_emb_proj is not None:
        hidden = hidden + self.time_emb_proj(self.nonlinearity(temb))[:, :, None, None]
    hidden = self.conv2(_normalised(self.norm2, hidden, silu=True))
    return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


def _is_plain_block(block: ResnetBlock2D) -> bool:
    plain = block.time_embedding_norm == "default" and not (block.upsample or block.downsample or block.skip_time_act)
    return plain and isinstance(block.nonlinearity, nn.SiLU) and block.output_scale_factor == 1 and block.dropout.p == 0


def _has_tokens_of_pictures(transformer: Transformer2DModel) -> bool:
    return transformer.is_input_continuous and not transformer.use_linear_projection


def _picture_of_tokens(
    self: Transformer2DModel, hidden_states: Tensor, residual: Tensor, batch_size: int, height: int, width: int, inner_dim: int
) -> Tensor:
    """Tokens go back into a picture as they lie in memory."""
    return residual + self.proj_out(hidden_states.view(batch_size, height, width, inner_dim).permute(0, 3, 1, 2))


def _attention(
    self: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, attention_mask: None = None, **named
) -> Tensor:
    """Of (B, N, C) hidden states to themselves, or to (B, M, C') others."""
    if attention_mask is not None:
        raise ValueError("attention_mask is given, but must be None for fused second derivatives")
    others = hidden_states if encoder_hidden_states is None else encoder_hidden_states
    query, key, value = (
        x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (self.to_q(hidden_states), self.to_k(others), self.to_v(others))
    )
    return self.to_out[0](attention(query, key, value).transpose(1, 2).flatten(2))


def _is_plain_attention(layer: Attention) -> bool:
    extra = (layer.spatial_norm, layer.group_norm, layer.norm_q, layer.norm_k, layer.norm_cross or None)
    return all(part is None for part in extra) and not layer.residual_connection and layer.rescale_output_factor == 1


def _lora_linear(self: LoraLinear, x: Tensor, *arguments, **named) -> Tensor:
    """W x + b + scaling B A x with the sum inside of the last product; what else PEFT can do is left to it."""
    active = self.active_adapters
    plain = len(active) == 1 and active[0] in self.lora_A and active[0] not in self.lora_variant and not arguments and not named
    if not plain or self.disable_adapters or self.merged or not isinstance(self.lora_dropout[active[0]], nn.Identity):
        return type(self).forward(self, x, *arguments, **named)
    down, up = self.lora_A[active[0]].weight, self.lora_B[active[0]].weight
    base = self.base_layer(x)
    inner = nn.functional.linear(x.flatten(0, -2).to(base.dtype), down)
    return torch.addmm(base.flatten(0, -2), inner, up.t(), alpha=self.scaling[active[0]]).view(base.shape)


# kind of a layer -> whether one is of the form that is fused, what it gets, and as which method
LAYERS: dict[type, tuple[Callable[[nn.Module], bool], Callable, str]] = {
    ResnetBlock2D: (_is_plain_block, _residual_block, "forward"),
    Transformer2DModel: (_has_tokens_of_pictures, _picture_of_tokens, "_get_output_for_continuous_inputs"),
    nn.Conv2d: (_is_constant, _convolution, "forward"),
    nn.GroupNorm: (lambda norm: norm.affine, _normalised, "forward"),
    nn.LayerNorm: (_is_plain_layer_norm, _layer_norm, "forward"),
    GEGLU: (lambda layer: True, _gate, "forward"),
    Attention: (_is_plain_attention, _attention, "forward"),
    LoraLinear: (lambda layer: True, _lora_linear, "forward"),
}
