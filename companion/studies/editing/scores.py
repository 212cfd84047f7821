"""What is measured of an edited picture: distance to the true edit, what was left alone, and whether it is what was asked.

`METRICS` names what a record keeps. A metric that is not defined for a pair (an outside where the edit is everywhere) has no value there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from smoothlib.metrics import edits

from ...data.edit_items import EditItem, stacked_masks
from ...judges.dual_encoder import load_scene_encoder
from ...judges.networks import lpips_network

METRICS = {  # name -> column: the heading, which values are better, decimals
    "lpips": {"label": "LPIPS to the truth", "direction": "down", "decimals": 4},
    "psnr": {"label": "PSNR to the truth (dB)", "direction": "up", "decimals": 2},
    "ssim": {"label": "SSIM to the truth", "direction": "up", "decimals": 3},
    "lpips_inside": {"label": "LPIPS to the truth, inside", "direction": "down", "decimals": 4},
    "lpips_outside": {"label": "LPIPS to the source, outside", "direction": "down", "decimals": 4},
    "mse_outside": {"label": "MSE to the source, outside", "direction": "down", "decimals": 4},
    "psnr_outside": {"label": "PSNR to the source, outside (dB)", "direction": "up", "decimals": 2},
    "followed": {"label": "Followed", "direction": "up", "decimals": 3},
    "attribute": {"label": "Attribute", "direction": "up", "decimals": 3},
    "alignment": {"label": "Alignment", "direction": "up", "decimals": 2},
    "directional_alignment": {"label": "Directional alignment", "direction": "up", "decimals": 3},
}
CONVENTIONS = {name: text for name, text in edits.CONVENTIONS.items() if name in METRICS} | {
    "followed": "1 where the scene encoder places the picture nearer to the target's caption than to the source's, else 0",
    "attribute": "1 where the judges find the asked attribute, else 0",
    "alignment": "100 times the cosine of the picture's and the target caption's embeddings by the scene encoder",
}


class EditScores:
    """The measures of a batch of edited pictures, by networks on one device."""

    def __init__(self, device: torch.device | str, cell: int) -> None:
        self.device, self.cell = device, cell
        self.lpips = lpips_network().to(device)
        self.lpips_map = edits.spatial_lpips(self.lpips)
        self.encoder = load_scene_encoder().to(device)

    @torch.no_grad()
    def __call__(self, images: Tensor, pairs: Sequence[EditItem]) -> list[dict[str, float]]:
        """By metric the value of each picture (B, 3, H, W) in [-1, 1]; a metric that is not defined for a pair is left out."""
        images, source = images.to(self.device).float(), self._stack([pair.source for pair in pairs])
        values = self._distances(images, source, pairs) | self._success(images, source, pairs)
        columns = {name: value.tolist() for name, value in values.items() if name in METRICS}
        return [{name: column[i] for name, column in columns.items() if column[i] == column[i]} for i in range(len(pairs))]

    def _stack(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(tensors)).to(self.device)

    def _distances(self, images: Tensor, source: Tensor, pairs: Sequence[EditItem]) -> dict[str, Tensor]:
        """To the truth, where it is known, and to the source outside the mask, where there is one."""
        values, local = {}, torch.tensor([pair.has_outside for pair in pairs], device=self.device)
        if any(pair.mask is None for pair in pairs):
            mask = None
        else:
            mask = self._stack([pair.mask for pair in pairs])
            values |= edits.preservation(images, source, mask, cell=self.cell, lpips_map=self.lpips_map, has_outside=local)
        if any(pair.truth is None for pair in pairs):
            return values
        truth = self._stack([pair.truth for pair in pairs])
        found = edits.to_truth(images, truth, mask, lpips=self.lpips, lpips_map=self.lpips_map)
        inside = {name: value.masked_fill(~local, torch.nan) for name, value in found.items() if name.endswith("_inside")}
        return values | found | inside

    def _success(self, images: Tensor, source: Tensor, pairs: Sequence[EditItem]) -> dict[str, Tensor]:
        """What the scene encoder says: alignment with the target's caption, nearer to it than to the source's, and the direction."""
        captions = [pair.source_prompt for pair in pairs], [pair.target_prompt for pair in pairs]
        before, after = (self.encoder.embed_captions(texts) for texts in captions)
        shown, was = self.encoder.embed_images(images.clamp(-1, 1)), self.encoder.embed_images(source)
        to_source, to_target = ((shown * caption).sum(-1) for caption in (before, after))
        return {
            "alignment": 100 * to_target,
            "followed": (to_target > to_source).float(),
            "directional_alignment": edits.embedding_alignment(shown - was, after - before),
        }
