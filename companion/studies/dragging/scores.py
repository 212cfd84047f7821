"""What is measured of a dragged picture: are the points where they should be, is it the true picture, and was the rest left alone?

The points are found again by the features of one model, the base model of the study, whatever model dragged: a model would otherwise be its
own judge. How well that judge finds points at all is measured on the true pictures, whose points are known.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from smoothlib.metrics import edits
from smoothlib.metrics.drags import NOISES, TIMESTEP, FoundPoints, found_again, semantic_features

from ...data.drags import DragItem
from ...judges.networks import lpips_network

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

SUCCESS = 1 / 16  # of the picture's longer side: mean distance at which a drag has succeeded; four pixels of 64
METRICS = {  # name -> column: the heading, which values are better, decimals
    "distance": {"label": "Distance to the targets (% of the side)", "direction": "down", "decimals": 2},
    "success": {"label": "Success", "direction": "up", "decimals": 3},
    "lpips": {"label": "LPIPS to the truth", "direction": "down", "decimals": 4},
    "psnr": {"label": "PSNR to the truth (dB)", "direction": "up", "decimals": 2},
    "lpips_inside": {"label": "LPIPS to the truth, inside", "direction": "down", "decimals": 4},
    "psnr_inside": {"label": "PSNR to the truth, inside (dB)", "direction": "up", "decimals": 2},
    "lpips_source": {"label": "LPIPS to the source", "direction": "none", "decimals": 4},
    "lpips_outside": {"label": "LPIPS to the source, outside", "direction": "down", "decimals": 4},
    "psnr_outside": {"label": "PSNR to the source, outside (dB)", "direction": "up", "decimals": 2},
}
UNTOUCHED = {"lpips_outside": 0.0, "psnr_outside": edits.MAX_DECIBELS}
OF_TRUTH = ("lpips", "psnr", "lpips_inside", "psnr_inside")
CONVENTIONS = {
    "distance": "mean over the points of the distance from where a handle is found again to its target, in % of the longer side; found by "
    f"the largest cosine over the whole picture of features of the base model: the last up block but one, timestep {TIMESTEP}, mean of "
    f"{NOISES} noises",
    "success": f"1 where that distance is at most {100 * SUCCESS:g} %, else 0",
    "lpips_source": "against the untouched source; AlexNet, v0.1, input in [-1, 1]",
} | {name: text.replace("true edit", "true picture") for name, text in edits.CONVENTIONS.items() if name in METRICS}


class DragScores:
    """The measures of batches of dragged pictures; the sources' features are found once.

    Args:
        judge: the pipeline whose features find the points.
    """

    def __init__(self, judge: "StableDiffusionPipeline") -> None:
        self.judge = judge
        self.lpips = lpips_network().to(judge.device)
        self.lpips_map = edits.spatial_lpips(self.lpips)
        self.features: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, images: Tensor, drags: Sequence[DragItem]) -> dict[str, np.ndarray]:
        """By metric the value of each picture (B,), of pictures (B, 3, H, W) in [-1, 1]; `points` (B, N, 2): where handles are, in pixels.

        Metrics of the truth are there where every drag has one.
        """
        images = images.to(self.judge.device).float().clamp(-1, 1)
        source, mask = self._stack([drag.image for drag in drags]), self._stack([drag.mask for drag in drags])[:, None]
        values = self._distances(images, source, drags)
        values["lpips_source"] = self.lpips(images, source).reshape(-1)
        values |= edits.preservation(images, source, mask, cell=self.judge.vae_scale_factor, lpips_map=self.lpips_map)
        for name, untouched in UNTOUCHED.items():  # where the mask leaves nothing outside, nothing there has changed
            values[name] = values[name].nan_to_num(untouched)
        if all(drag.truth is not None for drag in drags):
            truth = self._stack([drag.truth for drag in drags])
            values |= edits.to_truth(images, truth, mask, lpips=self.lpips, lpips_map=self.lpips_map)
        values = {name: value for name, value in values.items() if name in METRICS or name == "points"}
        return {name: value.float().numpy(force=True) for name, value in values.items()}

    def _stack(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(tensors)).to(self.judge.device)

    def find(self, images: Tensor, drags: Sequence[DragItem]) -> FoundPoints:
        """Where the handles are in these pictures; the points of drags that have fewer than others are filled up with (0, 0)."""
        missing = [drag for drag in drags if drag.id not in self.features]
        if missing:
            new = semantic_features(self.judge, self._stack([drag.image for drag in missing]), [drag.caption for drag in missing])
            self.features |= dict(zip([drag.id for drag in missing], new.cpu(), strict=True))
        before = self._stack([self.features[drag.id] for drag in drags])
        after = semantic_features(self.judge, images, [drag.caption for drag in drags])
        return found_again(before, after, _padded([drag.handles for drag in drags]).to(images), tuple(images.shape[2:]))

    def _distances(self, images: Tensor, source: Tensor, drags: Sequence[DragItem]) -> dict[str, Tensor]:
        points = self.find(images, drags).points
        given = torch.stack([torch.arange(points.shape[1]) < len(drag.handles) for drag in drags]).to(points)
        away = (points - _padded([drag.targets for drag in drags]).to(points)).norm(dim=-1) * given
        share = away.sum(1) / given.sum(1) / max(images.shape[2:])
        return {"points": points, "distance": 100 * share, "success": (share <= SUCCESS).float()}


def _padded(points: Sequence[Sequence[Sequence[float]]]) -> Tensor:
    """(B, N, 2)."""
    most = max(map(len, points))
    return torch.tensor([[*map(list, own), *[[0.0, 0.0]] * (most - len(own))] for own in points], dtype=torch.float32)


def motion_groups(facts: Mapping[str, Sequence]) -> dict[str, np.ndarray]:
    """Name -> which drags, bool (n,): by size of the motion on the picture and, for turns, by the angle. Groups without any are left out.

    `facts` as `data.drags.facts` gives them.
    """
    motion = 100 * np.asarray(facts["motion"], dtype=float)
    degrees = np.array([math.nan if angle is None else angle for angle in facts["degrees"]], dtype=float)
    groups = {
        "points move less than 6 % of the side": motion < 6,
        "points move 6 to 12 %": (motion >= 6) & (motion < 12),
        "points move 12 % or more": motion >= 12,
        "moved": np.array([kind == "move" for kind in facts["kind"]]),
        "turned by less than 20 degrees": degrees < 20,
        "turned by 20 to 30 degrees": (degrees >= 20) & (degrees < 30),
        "turned by 30 degrees or more": degrees >= 30,
    }
    return {name: which for name, which in groups.items() if which.any()}
