"""Image features of a packaged ImageNet network, for distances between sets of images without a download."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smoothlib.metrics.images import check_images, check_value_range
from smoothlib.pixels import from_uint8

from ..base import paths
from ..weights.cards import read_card
from .networks import mobilenet_v2_features

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BATCH = 16  # images; a CPU's allocator hands the activations of larger batches back to the system, which halves the speed
GPU_BATCH = 256
SCENE_RESOLUTION = 128  # of what the network sees of a scene, which has 64 x 64 pixels


class ImageNetFeatures(nn.Module):
    """Pooled features of torchvision's MobileNetV2 (IMAGENET1K_V1), without its classifier: images (B, 3, H, W) -> (B, 1280).

    Images are resized to `resolution` x `resolution` (antialiased, aspect ratio not kept, values not clipped), normalised by ImageNet's
    mean and standard deviation and passed through the network in float32. The convolutions are stored in float16, the batch norms in
    float32; that rounding changes a feature vector by 0.2 to 0.3 % of its length (measured on four photographs).

    One thread of a CPU does about 25 images/s at resolution 224 and 100 at 128. A distance belongs to its resolution; the default, 224, is
    the one that the network was trained at.

    Args:
        resolution: side length in pixels of what the network sees, at least 32.
        interpolation: "bicubic" or "bilinear".
        value_range: lowest and highest value of the images given to `forward`.
        weights_folder: folder with `mobilenet_v2.safetensors` and `card.json`; default: the shipped one.

    Raises ValueError on a bad argument or damaged weights, FileNotFoundError on missing ones; `forward` raises ValueError as
    `check_images` does.
    """

    num_features = 1280

    def __init__(
        self,
        resolution: int = 224,
        *,
        interpolation: str = "bicubic",
        value_range: tuple[float, float] = (-1.0, 1.0),
        weights_folder: Path | str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(resolution, int) or resolution < 32:
            raise ValueError(f"resolution is {resolution!r}, it must be a whole number of pixels of at least 32.")
        if interpolation not in ("bicubic", "bilinear"):
            raise ValueError(f"interpolation is {interpolation!r}, it must be 'bicubic' or 'bilinear'.")
        self.resolution = resolution
        self.interpolation = interpolation
        self.value_range = check_value_range(value_range)
        self.network = mobilenet_v2_features(weights_folder)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.eval()

    def train(self, mode: bool = True) -> "ImageNetFeatures":
        """Stay in evaluation mode: the statistics of the batch norms belong to the network."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 1280), float32, of `images` (B, 3, H, W) in `value_range`."""
        images = check_images(images, self.value_range).float()
        low, high = self.value_range
        images = (images - low) / (high - low)  # (B, 3, H, W) in [0, 1]
        size = (self.resolution, self.resolution)
        if images.shape[2:] != size:
            images = F.interpolate(images, size, mode=self.interpolation, align_corners=False, antialias=True)
        features = self.network((images - self.mean) / self.std)  # (B, 1280, resolution / 32, resolution / 32)
        return features.mean(dim=(2, 3))  # (B, 1280)


def feature_network_sha256() -> str:
    """The sha256 of the shipped weights behind `ImageNetFeatures`, from their card."""
    return read_card(paths.METRIC_NETWORKS)["files"]["mobilenet_v2.safetensors"]


def device_of(network: nn.Module) -> torch.device:
    """Where a network computes; the CPU for one without weights."""
    return next((tensor.device for tensor in [*network.parameters(), *network.buffers()]), torch.device("cpu"))


def batch_size_on(device: torch.device) -> int:
    """Images in one call of a feature network that suit a device."""
    return BATCH if device.type == "cpu" else GPU_BATCH


@torch.no_grad()
def features_of(
    images: np.ndarray | Tensor, network: nn.Module, batch_size: int | None = None, done: Callable[[int], None] = lambda images: None
) -> Tensor:
    """Features (N, D) by `network`, where it is, of uint8 images (N, 3, H, W); on the CPU.

    `done` is told after each batch how many images have theirs. `batch_size`: None for what suits the network's device.
    """
    device = device_of(network)
    found: list[Tensor] = []
    for batch in torch.as_tensor(images).split(batch_size or batch_size_on(device)):
        found.append(network(from_uint8(batch.to(device))).cpu())
        done(sum(map(len, found)))
    return torch.cat(found)


def scene_features(images: np.ndarray | Tensor, **options: Any) -> Tensor:
    """Features (N, 1280) of scenes, uint8 (N, 3, H, W) as `SceneSplit.pixels` gives them, by `ImageNetFeatures` at 128 x 128.

    `options`: those of `features_of`.
    """
    return features_of(images, ImageNetFeatures(SCENE_RESOLUTION), **options)
