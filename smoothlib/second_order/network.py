"""A UNet whose layers have the second derivatives of this package, in place: what it computes stays what it was."""

from collections.abc import Callable
from functools import partial

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor,
    AttnProcessor2_0,
    SlicedAttnProcessor,
    XFormersAttnProcessor,
)
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
    Whether a layer has a form that can be fused is asked at every call: one that is trained, watched by a hook or given another processor
    later computes as it would have otherwise.

    Raises:
        ValueError: norms are trained, a layer has a forward of its own already, as offloading gives it, or `unet` has none of these layers.

    Example:
        >>> from smoothlib.second_order.network import fuse_second_order
        >>> fuse_second_order(unet.requires_grad_(False))  # doctest: +SKIP
        306
    """
    found = []
    for path, module in unet.named_modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm) and any(p.requires_grad for p in module.parameters()):
            raise ValueError(f"network trains {path}, but its norms must be frozen for fused second derivatives")
        if module is not unet and type(module) in LAYERS:
            found.append((module, _layer, LAYERS[type(module)][2], path))
    if not (count := sum(LAYERS[type(module)][0](module) for module, *_ in found)):
        raise ValueError(f"network is {type(unet).__name__}, but must have layers to fuse, such as attention")
    found.append((unet, _unet, "forward", "the whole"))
    for module, method, name, path in found:
        if (own := vars(module).get(name)) is not None and getattr(own, "func", None) is not method:
            raise ValueError(f"network has a {name} put around {path}, as offloading does, but must be fused before that")
    for module, method, name, _ in found:
        # of the module's own, in a form that deep copies and pickles bind to the copy
        setattr(module, name, partial(method, module))
    return count


def _layer(module: nn.Module, *arguments, **named):
    """The fused method where the layer has the form for it, otherwise that of its class."""
    fits, method, name = LAYERS[type(module)]
    return (method if fits(module) else getattr(type(module), name))(module, *arguments, **named)


def _unet(unet: UNet2DConditionModel, *arguments, **named):
    with _Joining():
        return type(unet).forward(unet, *arguments, **named)


class _Joining(TorchFunctionMode):
    """`torch.cat` of two pictures' channels, which diffusers' blocks call for the skip connections, by `joined`."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.cat and args and len(args[0]) == 2 and args[0][0].ndim == 4 and (kwargs or {}).get("dim", args[1:]) in (1, (1,)):
            return joined(*args[0])
        return func(*args, **(kwargs or {}))


def _normalised(norm: nn.GroupNorm, x: Tensor, silu: bool = False) -> Tensor:
    return group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps, silu)


def _layer_norm(self: nn.LayerNorm, x: Tensor) -> Tensor:
    return layer_norm(x, self.weight, self.bias, self.eps)


def _is_plain_group_norm(norm: nn.GroupNorm) -> bool:
    return norm.affine and _are_constant(norm.weight, norm.bias)


def _is_plain_layer_norm(layer: nn.LayerNorm) -> bool:
    plain = layer.elementwise_affine and layer.bias is not None and len(layer.normalized_shape) == 1
    return plain and _are_constant(layer.weight, layer.bias)


def _are_constant(*parameters: Tensor | None) -> bool:
    return not any(p is not None and p.requires_grad for p in parameters)


def _are_watched(*modules: nn.Module) -> bool:
    """Whether a hook waits for calls of these modules, which are not called where the layer around them is fused."""
    return any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks for m in modules)


def _convolution(self: nn.Conv2d, x: Tensor) -> Tensor:
    return convolution(x, self.weight, self.bias, (self.stride, self.padding, self.dilation, self.groups))


def _is_constant(layer: nn.Conv2d) -> bool:
    padded = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return padded and _are_constant(layer.weight, layer.bias)


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
    plain = plain and isinstance(block.nonlinearity, nn.SiLU) and block.output_scale_factor == 1 and block.dropout.p == 0
    norms = (block.norm1, block.norm2)
    return plain and all(map(_is_plain_group_norm, norms)) and not _are_watched(*norms, block.nonlinearity, block.dropout)


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
    plain = all(part is None for part in extra) and not layer.residual_connection and layer.rescale_output_factor == 1
    # an IP-adapter's processor, for one, computes something else
    plain = plain and type(layer.processor) in PROCESSORS and layer.to_out[1].p == 0
    return plain and layer.scale_qk and not _are_watched(layer.to_out[1])


def _lora_linear(self: LoraLinear, x: Tensor, *arguments, **named) -> Tensor:
    """W x + b + scaling B A x with the sum inside of the last product; what else PEFT can do is left to it."""
    if arguments or named or not (x.dtype == self.lora_A[self.active_adapters[0]].weight.dtype or torch.is_autocast_enabled(x.device.type)):
        return type(self).forward(self, x, *arguments, **named)
    (active,) = self.active_adapters
    base = self.base_layer(x)
    inner = nn.functional.linear(x.flatten(0, -2).to(base.dtype), self.lora_A[active].weight)
    return torch.addmm(base.flatten(0, -2), inner, self.lora_B[active].weight.t(), alpha=self.scaling[active]).view(base.shape)


def _is_simply_added(layer: LoraLinear) -> bool:
    if len(layer.active_adapters) != 1 or layer.disable_adapters or layer.merged:
        return False
    (active,) = layer.active_adapters
    if active not in layer.lora_A or active in layer.lora_variant:
        return False
    down, up = layer.lora_A[active], layer.lora_B[active]
    return isinstance(layer.lora_dropout[active], nn.Identity) and down.bias is None and up.bias is None and not _are_watched(down, up)


PROCESSORS = (AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor, XFormersAttnProcessor)  # ways to compute the same
# kind of a layer -> whether one is of the form that is fused, what it gets, and as which method
LAYERS: dict[type, tuple[Callable[[nn.Module], bool], Callable, str]] = {
    ResnetBlock2D: (_is_plain_block, _residual_block, "forward"),
    Transformer2DModel: (_has_tokens_of_pictures, _picture_of_tokens, "_get_output_for_continuous_inputs"),
    nn.Conv2d: (_is_constant, _convolution, "forward"),
    nn.GroupNorm: (_is_plain_group_norm, _normalised, "forward"),
    nn.LayerNorm: (_is_plain_layer_norm, _layer_norm, "forward"),
    GEGLU: (lambda layer: True, _gate, "forward"),
    Attention: (_is_plain_attention, _attention, "forward"),
    LoraLinear: (_is_simply_added, _lora_linear, "forward"),
}
