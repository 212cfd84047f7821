"""One hook mechanism for every method that reads or changes attention or features inside the UNet.

Attentions are found by their place in the UNet (down, middle and up blocks, in the order in which they run) and never by the names of one
architecture. `attention_hooks` hands queries, keys and values, or the attention maps, of chosen places to a callable; `feature_hooks` does
so with the output of any module. Both put back what was there on every exit. All other attentions keep their processor, and so PyTorch's
fused attention. The projections to_q, to_k, to_v and to_out stay the model's own, whatever PEFT has put around them.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention

Kind = Literal["self", "cross"]
Block = Literal["down", "mid", "up"]
# Processors that compute plain attention, so that another way to compute it may take their place
PLAIN_PROCESSORS = ("AttnProcessor", "AttnProcessor2_0", "FusedAttnProcessor2_0", "SlicedAttnProcessor", "XFormersAttnProcessor")


@dataclass(frozen=True, eq=False)
class Site:
    """One attention of the UNet and its place."""

    module: "Attention"
    kind: Kind  # what the queries of the picture look at: the picture itself, or the prompt
    block: Block
    index: int  # of the block among the down or up blocks; 0 for the middle
    layer: int  # of the transformer in its block
    factor: int  # side of the latent / side of the grid of queries: 1, 2, 4, ...
    order: int  # among all sites, in the order in which they run

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the grid of queries for a latent of this height and width; their product is the number of queries.

        Example:
            >>> from companion.weights.pipelines import load_pipeline
            >>> from smoothlib.editing.attention import sites
            >>> sites(load_pipeline("mini").unet)[2].grid(16, 16)
            (8, 8)
        """
        return -(-height // self.factor), -(-width // self.factor)


Change = Callable[[Site, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
ChangeMap = Callable[[Site, Tensor], Tensor]


def sites(unet: nn.Module) -> list[Site]:
    """All attentions of a UNet in the order in which they run.

    Raises:
        ValueError: a network without down_blocks, mid_block and up_blocks, or without attention.

    Example:
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib.editing.attention import sites
        >>> [(site.kind, site.block, site.index, site.factor) for site in sites(load_pipeline("mini").unet)][:3]
        [('self', 'down', 0, 1), ('cross', 'down', 0, 1), ('self', 'down', 1, 2)]
    """
    from diffusers.models.attention_processor import Attention

    missing = [name for name in ("down_blocks", "mid_block", "up_blocks") if not hasattr(unet, name)]
    if missing:
        raise ValueError(f"unet is a {type(unet).__name__} without {missing[0]}, but must be a UNet of down, middle and up blocks")
    found: list[Site] = []
    for place, index, factor, block in _blocks(unet):
        for layer, transformer in enumerate(getattr(block, "attentions", None) or ()):
            for module in transformer.modules():  # in the order in which they are made: of each pair, self before cross
                if isinstance(module, Attention):
                    kind: Kind = "cross" if module.is_cross_attention else "self"
                    found.append(Site(module, kind, place, index, layer, factor, len(found)))
    if not found:
        raise ValueError(f"unet is a {type(unet).__name__} without attention, but must have some")
    return found


def _blocks(unet: nn.Module) -> Iterator[tuple[Block, int, int, nn.Module]]:
    """(place, index, factor, block): a block computes on a grid `factor` times coarser than the latent; its last layer changes the grid."""
    factor = 1
    for index, block in enumerate(unet.down_blocks):
        yield "down", index, factor, block
        factor *= 2 if getattr(block, "downsamplers", None) else 1
    if unet.mid_block is not None:
        yield "mid", 0, factor, unet.mid_block
    for index, block in enumerate(unet.up_blocks):
        yield "up", index, factor, block
        factor //= 2 if getattr(block, "upsamplers", None) else 1


@contextmanager
def attention_hooks(
    chosen: Iterable[Site],
    *,
    change: Change | None = None,
    change_map: ChangeMap | None = None,
    active: Callable[[Site], bool] | None = None,
) -> Iterator[None]:
    """Inside, the chosen attentions show what they compute with and use what they are given back.

    Args:
        chosen: places, from `sites`.
        change: (site, q, k, v) -> (q, k, v), each (B, heads, tokens, d) with d the size of a head. Return them as they are to read only.
            Give new tensors back: writing into those given would be lost in gradients, and may be seen elsewhere. Without `change_map` the
            attention itself is PyTorch's fused one. Keys and values may come back with another number of tokens than before.
        change_map: (site, map) -> map, (B, heads, queries, keys), rows that sum to 1, after `change`. Gradients flow through.
        active: asked before each attention; where it says False, the processor that was there computes this one, to the last bit.

    Raises:
        ValueError: nothing to call, a place that is hooked already, or an attention that is not the plain one of Stable Diffusion.

    Example:
        >>> import torch
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib import encode_prompts
        >>> from smoothlib.editing.attention import attention_hooks, sites
        >>> pipe, shapes = load_pipeline("mini"), []
        >>> def read(site, attention_map):
        ...     shapes.append(tuple(attention_map.shape))
        ...     return attention_map
        >>> cross = [site for site in sites(pipe.unet) if site.kind == "cross"]
        >>> with torch.no_grad(), attention_hooks(cross[:1], change_map=read):
        ...     _ = pipe.unet(torch.randn(1, 4, 16, 16), 500, encode_prompts(pipe, ["a red sofa"]))
        >>> shapes  # 16 * 16 queries of the picture, 24 tokens of the prompt
        [(1, 4, 256, 24)]
    """
    if change is None and change_map is None:
        raise ValueError("change and change_map are None, but one of them must be a callable")
    chosen = list(chosen)
    before = [site.module.processor for site in chosen]
    for site, processor in zip(chosen, before, strict=True):
        _check_plain(site, processor)
    if len({id(site.module) for site in chosen}) < len(chosen):
        raise ValueError("chosen has one attention twice, but must have each once")
    try:
        for site, processor in zip(chosen, before, strict=True):
            site.module.set_processor(_Hooked(site, processor, change, change_map, active))
        yield
    finally:
        for site, processor in zip(chosen, before, strict=True):
            site.module.set_processor(processor)


class _Hooked:
    """A processor for diffusers' `Attention`, of Stable Diffusion's plain kind."""

    def __init__(self, site: Site, before: Any, change: Change | None, change_map: ChangeMap | None, active: Callable | None) -> None:
        self.site, self.before, self.change, self.change_map, self.active = site, before, change, change_map, active

    def __call__(
        self,
        attn: "Attention",
        hidden_states: Tensor,  # (B, N, C)
        encoder_hidden_states: Tensor | None = None,  # (B, L, D)
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **arguments: Any,
    ) -> Tensor:
        if self.active is not None and not self.active(self.site):
            return self.before(attn, hidden_states, encoder_hidden_states, attention_mask, temb, **arguments)
        seen = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        batch_size = len(hidden_states)
        heads = (batch_size, -1, attn.heads)
        q, k, v = (  # (B, heads, tokens, d)
            tokens.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for tokens in (attn.to_q(hidden_states), attn.to_k(seen), attn.to_v(seen))
        )
        if self.change is not None:
            q, k, v = self.change(self.site, q, k, v)
        mask = attn.prepare_attention_mask(attention_mask, k.shape[2], batch_size)  # (B * heads, 1, keys) or None
        if self.change_map is None:
            mask = None if mask is None else mask.unflatten(0, heads[::2])
            out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            p = attn.get_attention_scores(q.flatten(0, 1), k.flatten(0, 1), mask).unflatten(0, heads[::2])
            out = self.change_map(self.site, p) @ v
        out = out.transpose(1, 2).flatten(2)  # (B, N, C)
        return attn.to_out[1](attn.to_out[0](out))


def _check_plain(site: Site, processor: Any) -> None:
    """ValueError unless what `processor` computes at `site` is what `_Hooked` computes where nothing is changed."""
    name = type(processor).__name__
    where = f"{site.kind} attention {site.layer} of {site.block} block {site.index}"
    if isinstance(processor, _Hooked):
        raise ValueError(f"{where} is hooked already, but one method at a time must hook it")
    if name not in PLAIN_PROCESSORS:
        raise ValueError(f"{where} has the processor {name}, but must have a plain one: {', '.join(PLAIN_PROCESSORS)}")
    attn = site.module
    parts = ("group_norm", "spatial_norm", "norm_q", "norm_k", "norm_cross", "added_kv_proj_dim")
    special = [part for part in parts if getattr(attn, part, None)]
    special += ["residual_connection"] if attn.residual_connection or attn.rescale_output_factor != 1 else []
    if special:
        raise ValueError(f"{where} has {special[0]}, but must be a plain attention, such as Stable Diffusion's")


@contextmanager
def feature_hooks(modules: Iterable[nn.Module], change: Callable[[nn.Module, Any], Any]) -> Iterator[None]:
    """Inside, `change(module, output)` sees what each module gives, and what it returns takes its place; None leaves it.

    Args:
        modules: any parts of the network: a residual block, its last convolution, a whole up block. Each is hooked once.

    Example:
        >>> import torch
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib import encode_prompts
        >>> from smoothlib.editing.attention import feature_hooks
        >>> pipe, shapes = load_pipeline("mini"), []
        >>> resnet = pipe.unet.up_blocks[1].resnets[1]
        >>> with torch.no_grad(), feature_hooks([resnet], lambda module, features: shapes.append(tuple(features.shape))):
        ...     _ = pipe.unet(torch.randn(1, 4, 16, 16), 500, encode_prompts(pipe, ["a red sofa"]))
        >>> shapes
        [(1, 96, 8, 8)]
    """
    handles: list[torch.utils.hooks.RemovableHandle] = []
    try:
        for module in dict.fromkeys(modules):
            handles.append(module.register_forward_hook(lambda module, inputs, output: change(module, output)))
        yield
    finally:
        for handle in handles:
            handle.remove()
