"""Which layers the published methods touch, said by place so that the same rule chooses in a UNet of another size.

The methods were published for Stable Diffusion 1.x: four blocks a side on grids of 64, 32, 16 and 8, attention in all but the coarsest down
and up block, three layers in each up block. Each `Choice` gives the layers that were published there and the rule that finds them again;
`layer_table(unet)` shows what the rules choose in a given UNet.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from .attention import Site, sites


def coarse_factor(unet: nn.Module) -> int:
    """Latent's side / grid's side in the coarsest down or up block with attention: 4 in Stable Diffusion, 2 in the embedded model."""
    return max(site.factor for site in sites(unet) if site.block != "mid")


def all_cross(unet: nn.Module) -> list[Site]:
    """Every cross-attention."""
    return [site for site in sites(unet) if site.kind == "cross"]


def coarse_self(unet: nn.Module, side: float | None = None) -> list[Site]:
    """Self-attentions whose grid's side is at most `side` times the latent's; None: as the coarsest block with attention, or coarser."""
    limit = 1 / coarse_factor(unet) if side is None else side
    return [site for site in sites(unet) if site.kind == "self" and 1 / site.factor <= limit]


def coarse_cross(unet: nn.Module) -> list[Site]:
    """Cross-attentions of the coarsest down and up blocks with attention: all on one grid."""
    factor = coarse_factor(unet)
    return [site for site in sites(unet) if site.kind == "cross" and site.block != "mid" and site.factor == factor]


def first_attended_up(unet: nn.Module) -> int:
    """Index of the first up block with attention."""
    return min(site.index for site in sites(unet) if site.block == "up")


def decoder_resnet(unet: nn.Module) -> nn.Module:
    """The second residual block of the first up block with attention."""
    return unet.up_blocks[first_attended_up(unet)].resnets[1]


def decoder_self(unet: nn.Module) -> list[Site]:
    """Self-attentions of the up blocks from the layer of `decoder_resnet` on."""
    start = (first_attended_up(unet), 1)
    return [site for site in sites(unet) if site.kind == "self" and site.block == "up" and (site.index, site.layer) >= start]


def fine_self(unet: nn.Module) -> list[Site]:
    """Self-attentions of the up blocks after the first with attention."""
    first = first_attended_up(unet)
    return [site for site in sites(unet) if site.kind == "self" and site.block == "up" and site.index > first]


def drag_features(unet: nn.Module) -> nn.Module:
    """The last up block but one."""
    return unet.up_blocks[-2]


@dataclass(frozen=True)
class Choice:
    """One published choice of layers."""

    method: str
    use: str  # what is done there
    rule: str  # the place in words
    published: str  # in Stable Diffusion 1.5
    select: Callable[[nn.Module], Sequence[Site] | nn.Module]


CHOICES = (
    Choice("Prompt-to-Prompt", "cross-attention maps", "every cross-attention", "all cross-attentions", all_cross),
    Choice(
        "Prompt-to-Prompt",
        "self-attention maps",
        "grids as coarse as the coarsest down block with attention, or coarser",
        "down_blocks[2], mid_block, up_blocks[1]",  # at most 16 x 16 queries
        coarse_self,
    ),
    Choice(
        "Prompt-to-Prompt",
        "maps of the local blend",
        "cross-attention of the coarsest down and up blocks with attention",
        "down_blocks[2], up_blocks[1]",  # those on the grid of 16 x 16
        coarse_cross,
    ),
    Choice(
        "Plug-and-Play",
        "features",
        "second residual block of the first up block with attention",
        "up_blocks[1].resnets[1]",
        decoder_resnet,
    ),
    Choice(
        "Plug-and-Play",
        "queries and keys",
        "self-attention of the up blocks from that layer on",
        "up_blocks[1].attentions[1], up_blocks[1].attentions[2], up_blocks[2], up_blocks[3]",
        decoder_self,
    ),
    Choice("Pix2Pix-Zero", "cross-attention maps", "every cross-attention", "all cross-attentions", all_cross),
    Choice("DragDiffusion", "features", "the last up block but one", "up_blocks[2]", drag_features),
    Choice(
        "DragDiffusion",
        "keys and values",
        "self-attention of the up blocks after the first with attention",
        "up_blocks[2], up_blocks[3]",  # from the eleventh of 16 self-attentions on
        fine_self,
    ),
)


def layer_table(unet: nn.Module) -> list[dict[str, str]]:
    """The choices as rows: method, use, rule, published (in Stable Diffusion 1.5), and here (in `unet`).

    Example:
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib.editing.layers import layer_table
        >>> row = layer_table(load_pipeline("mini").unet)[1]
        >>> row["published"], row["here"]
        ('down_blocks[2], mid_block, up_blocks[1]', 'down_blocks[1], mid_block, up_blocks[1]')
    """
    rows = []
    for choice in CHOICES:
        row = {name: getattr(choice, name) for name in ("method", "use", "rule", "published")}
        rows.append(row | {"here": _names(unet, choice.select(unet))})
    return rows


def _names(unet: nn.Module, chosen: Sequence[Site] | nn.Module) -> str:
    """Blocks of which all layers are chosen by the block's name, others layer by layer."""
    if isinstance(chosen, nn.Module):
        return next(_indexed(name) for name, module in unet.named_modules() if module is chosen)
    layers = {_layer(site) for site in chosen}
    if len(layers) == len({_layer(site) for site in sites(unet)}) and len(chosen) == len(layers):
        return f"all {chosen[0].kind}-attentions"
    whole = {(site.block, site.index) for site in chosen} - {_layer(site)[:2] for site in sites(unet) if _layer(site) not in layers}
    names: Iterable[str] = (
        _block(site) if (site.block, site.index) in whole else f"{_block(site)}.attentions[{site.layer}]" for site in chosen
    )
    return ", ".join(dict.fromkeys(names))


def _layer(site: Site) -> tuple[str, int, int]:
    return site.block, site.index, site.layer


def _block(site: Site) -> str:
    return "mid_block" if site.block == "mid" else f"{site.block}_blocks[{site.index}]"


def _indexed(name: str) -> str:
    """ "up_blocks.1.resnets.1" as Python writes it."""
    return "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in name.split(".")).removeprefix(".")
