"""What is measured of an edited picture: distance to the true edit, what was left alone, and whether it is what was asked.

`METRICS` names what a record keeps. A metric that is not defined for a pair (an outside where the edit is everywhere) has no value there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from smoothlib.metrics import edits

from ...data.edits import EditPair
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
    def __call__(self, images: Tensor, pairs: Sequence[EditPair]) -> list[dict[str, float]]:
        """By metric the value of each picture (B, 3, H, W) in [-1, 1]; a metric that is not defined for a pair is left out."""
        values: dict[str, Tensor] = {}
        images = images.to(self.device).float()
        values |= self._distances(images, pairs)
        values |= self._success(images, pairs)
        columns = {name: value.tolist() for name, value in values.items() if name in METRICS}
        return [{name: column[i] for name, column in columns.items() if column[i] == column[i]} for i in range(len(pairs))]
