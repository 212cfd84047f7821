"""How far did a drag get? Points of a picture are found again in the dragged one by features of a diffusion model (DragBench's measure).

As in DIFT (Tang et al. 2023), both pictures are noised to a fixed timestep, the features of one block are averaged over several noises, and
a point goes to the place whose features have the largest cosine with its own. The whole dragged picture is searched.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..denoiser import call_network
from ..diffusion import ddim_scheduler
from ..editing.attention import feature_hooks
from ..editing.layers import drag_features
from ..editing.point_tracking import at_cells, resized, to_cells, to_pixels
from ..sampling import encode_images, encode_prompts

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

TIMESTEP, NOISES = 261, 8  # DIFT's


@dataclass(frozen=True)
class FoundPoints:
    """Where points of a picture are in another: `points` (B, N, 2) in pixels, `similarity` (B, N), the cosine of the features there."""

    points: Tensor
    similarity: Tensor


@torch.no_grad()
def semantic_features(
    pipe: "StableDiffusionPipeline",
    images: Tensor,
    prompts: Sequence[str],
    *,
    timestep: int = TIMESTEP,
    noises: int = NOISES,
    seed: int = 0,
) -> Tensor:
    """Features (B, C, h, w) of images (B, 3, H, W): the last up block but one, mean over `noises` noises, the same for every image."""
    z0, embeds = encode_images(pipe, images), encode_prompts(pipe, list(prompts))
    generator, scheduler, kept = torch.Generator().manual_seed(seed), ddim_scheduler(pipe), []
    t = torch.tensor(timestep, device=z0.device)
    with feature_hooks([drag_features(pipe.unet)], lambda module, output: kept.append(output)):
        for _ in range(noises):
            eps = torch.randn(1, *z0.shape[1:], generator=generator).to(z0).expand_as(z0)
            call_network(pipe.unet, scheduler.add_noise(z0, eps, t[None]), t, embeds)
    return torch.stack(kept).mean(0)


def found_again(before: Tensor, after: Tensor, points: Tensor, size: tuple[int, int]) -> FoundPoints:
    """Find points of one picture in another by their features.

    Args:
        before, after: features of both pictures, (B, C, h, w).
        points: (B, N, 2), (x, y) in pixels of pictures of (height, width) `size`, on which the features are searched, bilinearly resized.
    """
    found, similarity = [], []
    for first, second, own in zip(before, after, points, strict=True):  # one by one: features of a whole picture are large
        wanted = at_cells(resized(first[None], size), to_cells(own[None], size, size))[0]  # (C, N)
        cosine = nn.functional.normalize(wanted, dim=0).T @ nn.functional.normalize(resized(second[None], size)[0], dim=0).flatten(1)
        best, where = cosine.max(dim=1)  # (N,)
        cells = torch.stack([where % size[1], where // size[1]], dim=-1).to(own)
        found.append(to_pixels(cells, size, size))
        similarity.append(best)
    return FoundPoints(torch.stack(found), torch.stack(similarity))
