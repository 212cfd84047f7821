"""The pretrained networks that ship with the repository for measuring: loaded from safetensors, checked against their card.

A file is read and checked once in a process. Each call gives a module of its own: whoever moves or trains it moves no other's.
"""

import warnings
from functools import lru_cache
from pathlib import Path

import lpips
import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v2

from ..base import paths
from ..weights.cards import read_checked


def load_network_weights(filename: str, folder: Path | str | None = None) -> dict[str, Tensor]:
    """Read the weights `filename` from `folder` (default: the shipped metric networks) on the CPU, as stored.

    Raises FileNotFoundError and ValueError as `cards.read_checked` does; what it checked are the very bytes that are then parsed.
    """
    if folder is not None:
        return safetensors.torch.load(read_checked(Path(folder), filename))
    return {name: tensor.clone() for name, tensor in _shipped(paths.METRIC_NETWORKS, filename).items()}


@lru_cache(maxsize=4)
def _shipped(folder: Path, filename: str) -> dict[str, Tensor]:
    return load_network_weights(filename, folder)


def lpips_network(folder: Path | str | None = None) -> nn.Module:
    """LPIPS v0.1 with AlexNet (Zhang et al. 2018), the module of the `lpips` package, frozen and in evaluation mode, float32.

    The shipped weights are torchvision's ImageNet AlexNet convolutions and LPIPS's linear heads as published, unrounded (`card.json`
    beside them tells the source), so that nothing is downloaded.

    Args:
        folder: folder with `lpips_alex.safetensors` and `card.json`; default: the shipped one. Raises as `load_network_weights` does.
    """
    weights = load_network_weights("lpips_alex.safetensors", folder)
    # The package registers each head twice, as `lin0` and as `lins.0`; the file holds it once.
    weights |= {f"lins.{name[3:]}": tensor for name, tensor in weights.items() if name.startswith("lin")}
    with warnings.catch_warnings(), torch.device("meta"):  # meta: no random initialisation that would consume the global generator
        warnings.simplefilter("ignore", UserWarning)  # lpips passes torchvision's deprecated `pretrained`
        network = lpips.LPIPS(net="alex", version="0.1", pretrained=False, pnet_rand=True, verbose=False)
    network.load_state_dict(weights, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def mobilenet_v2_features(folder: Path | str | None = None) -> nn.Module:
    """The convolutional part of torchvision's MobileNetV2 (IMAGENET1K_V1), frozen and in evaluation mode, float32.

    Args:
        folder: folder with `mobilenet_v2.safetensors` and `card.json`; default: the shipped one. Raises as `load_network_weights` does.
    """
    weights = {name: tensor.float() for name, tensor in load_network_weights("mobilenet_v2.safetensors", folder).items()}
    with torch.device("meta"):  # no random initialisation that would consume the global generator
        network = mobilenet_v2(weights=None).features
    for name in network.state_dict():
        if name.endswith("num_batches_tracked"):  # unused in evaluation mode and not stored
            weights[name] = torch.zeros((), dtype=torch.int64)
    network.load_state_dict(weights, strict=True, assign=True)
    return network.eval().requires_grad_(False)
