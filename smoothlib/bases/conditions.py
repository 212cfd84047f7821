"""What a network takes beside the prompt, carried in further rows of the prompt's own embedding.

Stable Diffusion XL takes a pooled text and sizes, Stable Diffusion 3 and FLUX a pooled text. As rows behind the tokens they go wherever the
embedding goes: guidance gives each prompt its own, a walk between two prompts mixes them too, an inversion keeps them.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


def pack(embeds: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
    """`embeds` (B, L, D) with the conditions, each (B, n), in rows of D values behind its tokens: (B, L + R, D), zeros at the end.

    Example:
        >>> import torch
        >>> from smoothlib.bases.conditions import pack, unpack
        >>> packed = pack(torch.zeros(1, 5, 4), {"pooled": torch.ones(1, 6)})
        >>> packed.shape, unpack(packed, {"pooled": 6})[1]["pooled"].shape
        (torch.Size([1, 7, 4]), torch.Size([1, 6]))
    """
    flat = torch.cat([value.to(embeds) for value in conditions.values()], dim=1)  # (B, n of all)
    width = embeds.shape[-1]
    padded = torch.nn.functional.pad(flat, (0, -flat.shape[1] % width))
    return torch.cat([embeds, padded.unflatten(1, (-1, width))], dim=1)


def unpack(packed: Tensor, sizes: Mapping[str, int]) -> tuple[Tensor, dict[str, Tensor]]:
    """The embeddings (B, L, D) and the conditions, each (B, n), of what `pack` gave; `sizes` are the n of all, in order.

    The conditions are detached: null-text inversion and whatever else optimises an embedding changes tokens alone.
    """
    rows = -(-sum(sizes.values()) // packed.shape[-1])
    embeds, flat = packed[:, : packed.shape[1] - rows], packed[:, packed.shape[1] - rows :].detach().flatten(1)
    return embeds, dict(zip(sizes, flat[:, : sum(sizes.values())].split(list(sizes.values()), dim=1), strict=True))
