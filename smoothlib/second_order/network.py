"""A UNet whose layers have the second derivatives of this package, in place: what it computes stays what it was."""

from collections.abc import Callable

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
    for name, module in unet.named_modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm) and any(p.requires_grad for p in module.parameters()):
            raise ValueError(f"network trains {name}, but its norms must be frozen for fused second derivatives")
        forward = FORWARDS[type(module)](module) if type(module) in FORWARDS else None
        if forward:
            module.forward = forward
            count += 1
    if not count:
        raise ValueError(f"network is {type(unet).__name__}, but must have layers to fuse, such as attention")
    usual = unet.forward

    def forward(*arguments, **named):
        with _Joining():
            return usual(*arguments, **named)

    unet.forward = forward
    return count


class _Joining(TorchFunctionMode):
    """`torch.cat` of two pictures' channels, which diffusers' blocks call for the skip connections, by `joined`."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.cat and len(args[0]) == 2 and args[0][0].ndim == 4 and (kwargs or {}).get("dim", args[1:]) in (1, (1,)):
            return joined(*args[0])
        return func(*args, **(kwargs or {}))


def _normalised(norm: nn.GroupNorm, x: Tensor, silu: bool = False) -> Tensor:
    return group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps, silu)


def _group_norm(norm: nn.GroupNorm) -> Callable | None:
    return (lambda x: _normalised(norm, x)) if norm.affine else None


def _layer_norm(norm: nn.LayerNorm) -> Callable | None:
    plain = norm.elementwise_affine and norm.bias is not None and len(norm.normalized_shape) == 1
    return (lambda x: layer_norm(x, norm.weight, norm.bias, norm.eps)) if plain else None


def _convolution(layer: nn.Conv2d) -> Callable | None:
    if any(p.requires_grad for p in layer.parameters()) or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return None
    settings = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return lambda x: convolution(x, layer.weight, layer.bias, settings)


def _gate(layer: GEGLU) -> Callable:
    return lambda x, *arguments, **named: gated(layer.proj(x))


def _residual_block(block: ResnetBlock2D) -> Callable | None:
    """Norm and SiLU as one function, and no copy into another layout before the shortcut."""
    plain = block.time_embedding_norm == "default" and not (block.upsample or block.downsample or block.skip_time_act)
    if not (plain and isinstance(block.nonlinearity, nn.SiLU) and block.output_scale_factor == 1 and block.dropout.p == 0):
        return None

    def forward(x: Tensor, temb: Tensor | None = None, *arguments, **named) -> Tensor:
        hidden = block.conv1(_normalised(block.norm1, x, silu=True))
        if block.time_emb_proj is not None:
            hidden = hidden + block.time_emb_proj(block.nonlinearity(temb))[:, :, None, None]
        hidden = block.conv2(_normalised(block.norm2, hidden, silu=True))
        return hidden + (x if block.conv_shortcut is None else block.conv_shortcut(x))

    return forward


def _transformer(transformer: Transformer2DModel) -> None:
    """The tokens go back into a picture as they lie in memory; the forward itself stays."""
    if not transformer.is_input_continuous or transformer.use_linear_projection:
        return

    def back(hidden_states: Tensor, residual: Tensor, batch_size: int, height: int, width: int, inner_dim: int) -> Tensor:
        return residual + transformer.proj_out(hidden_states.view(batch_size, height, width, inner_dim).permute(0, 3, 1, 2))

    transformer._get_output_for_continuous_inputs = back


def _attention(layer: Attention) -> None:
    plain = layer.spatial_norm is None and layer.group_norm is None and layer.norm_q is None and layer.norm_k is None
    if plain and not layer.norm_cross and not layer.residual_connection and layer.rescale_output_factor == 1:
        layer.set_processor(SecondOrderProcessor())


class SecondOrderProcessor:
    """Attention of (B, N, C) hidden states, to themselves or to (B, M, C') others."""

    def __call__(self, layer: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, attention_mask=None, **named):
        if attention_mask is not None:
            raise ValueError("attention_mask is given, but must be None for fused second derivatives")
        others = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            x.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for x in (layer.to_q(hidden_states), layer.to_k(others), layer.to_v(others))
        )
        return layer.to_out[0](attention(query, key, value).transpose(1, 2).flatten(2))


def _lora_linear(layer: LoraLinear) -> Callable:
    """W x + b + scaling B A x with the sum inside of the last product; what else PEFT can do is left to it."""
    usual = layer.forward

    def forward(x: Tensor, *arguments, **named) -> Tensor:
        active = layer.active_adapters
        plain = len(active) == 1 and active[0] in layer.lora_A and active[0] not in layer.lora_variant and not arguments and not named
        if not plain or layer.disable_adapters or layer.merged or not isinstance(layer.lora_dropout[active[0]], nn.Identity):
            return usual(x, *arguments, **named)
        down, up = layer.lora_A[active[0]].weight, layer.lora_B[active[0]].weight
        base = layer.base_layer(x)
        inner = nn.functional.linear(x.flatten(0, -2).to(base.dtype), down)
        return torch.addmm(base.flatten(0, -2), inner, up.t(), alpha=layer.scaling[active[0]]).view(base.shape)

    return forward


FORWARDS: dict[type, Callable] = {
    ResnetBlock2D: _residual_block,
    Transformer2DModel: _transformer,
    nn.Conv2d: _convolution,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    GEGLU: _gate,
    Attention: _attention,
    LoraLinear: _lora_linear,
}
