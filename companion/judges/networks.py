"""The pretrained networks that ship with the repository for measuring: loaded from safetensors, checked against their card."""

from pathlib import Path

import safetensors.torch
from torch import Tensor

from ..base import paths
from ..weights.cards import read_checked


def load_network_weights(filename: str, folder: Path | str | None = None) -> dict[str, Tensor]:
    """Read the weights `filename` from `folder` (default: the shipped metric networks) on the CPU, as stored.

    Raises FileNotFoundError and ValueError as `cards.read_checked` does; what it checked are the very bytes that are then parsed.
    """
    return safetensors.torch.load(read_checked(Path(folder or paths.METRIC_NETWORKS), filename))
