"""Local blend (Prompt-to-Prompt's released code): outside the places that chosen words look at, the edit keeps the source's latents."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from .attention import Site


class LocalBlend:
    """Collects cross-attention maps and blends latents with the mask that they make.

    The mask of a prompt: the maps of its words on one coarse grid, averaged over places, heads and the steps so far, 3 x 3 max-pooled,
    brought to the latent's size, divided by their largest value, above a threshold. The blend takes the source's and the target's mask
    together.

    Args:
        places: the cross-attentions to read, all on one grid.
        source_words, target_words: (B, L), 1 at the tokens of the words; a row of 0 alone has an empty mask.
        threshold: of the largest value, from 0 to 1.
        start: index of the first step after which latents are blended.

    Example:
        >>> import torch
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib.editing.layers import coarse_cross
        >>> from smoothlib.editing.local_blend import LocalBlend
        >>> places, words = coarse_cross(load_pipeline("mini").unet), torch.zeros(1, 24)
        >>> words[0, 2] = 1
        >>> blend = LocalBlend(places, words, words, threshold=0.3, start=0)
        >>> maps = torch.zeros(1, 4, 64, 24)  # (B, heads, 8 x 8 queries, tokens)
        >>> maps[:, :, 0, 2] = 1  # the word looks at the upper left corner
        >>> blend.read(places[0], maps, maps)
        >>> blend(0, torch.zeros(1, 4, 16, 16), torch.ones(1, 4, 16, 16))[0, 0, :, 0].tolist()[:6]
        [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    """

    def __init__(self, places: Iterable[Site], source_words: Tensor, target_words: Tensor, threshold: float, start: int) -> None:
        self.modules = {id(site.module): site for site in places}
        self.words = torch.cat([source_words, target_words])  # (2B, L)
        self.threshold, self.start = threshold, start
        self.sum: Tensor | None = None  # (2B, N)

    def reads(self, site: Site) -> bool:
        return id(site.module) in self.modules

    def read(self, site: Site, source: Tensor, target: Tensor) -> None:
        """Add the maps (B, heads, N, L) of one place in one step, if it is one of those read."""
        if not self.reads(site):
            return
        maps = torch.cat([source, target]).mean(1)  # (2B, N, L)
        new = (maps @ self.words[:, :, None].to(maps)).squeeze(-1)
        self.sum = new if self.sum is None else self.sum + new

    def mask(self, height: int, width: int) -> Tensor:
        """(B, 1, h, w) of 0 and 1: where the edit may differ from the source."""
        site = next(iter(self.modules.values()))
        maps = self.sum.unflatten(1, site.grid(height, width))[:, None]  # (2B, 1, H, W)
        maps = F.interpolate(F.max_pool2d(maps, 3, stride=1, padding=1), size=(height, width))
        largest = maps.amax(dim=(2, 3), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
        source, target = (maps / largest > self.threshold).chunk(2)
        return (source | target).to(maps.dtype)

    def __call__(self, step: int, z_source: Tensor, z: Tensor) -> Tensor:
        """The target's latents (B, 4, h, w) after step `step`, the source's outside the mask."""
        return z if step < self.start else z_source + self.mask(*z.shape[-2:]) * (z - z_source)
