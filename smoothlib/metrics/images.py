"""What every image metric accepts, checked in one place before any work is done, and how the states of metrics are named."""

import hashlib
from typing import Any

from torch import Tensor, aminmax, float32, nn, promote_types, uint8
from torchmetrics import Metric

RANGE_TOLERANCE = 1e-3  # of the unit range; a decoder's rounding passes, a picture in the wrong range does not


def check_value_range(value_range: tuple[float, float]) -> tuple[float, float]:
    """Return `value_range` as two floats; ValueError unless it is an increasing pair."""
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError):
        low, high = 0.0, 0.0
    if not low < high < float("inf") or low == -float("inf"):
        raise ValueError(f"value_range is {value_range!r}, it must be a pair (lowest, highest) of finite numbers such as (-1, 1).")
    return low, high


def check_images(images: Tensor, value_range: tuple[float, float] = (-1.0, 1.0), *, name: str = "images", min_size: int = 1) -> Tensor:
    """Return RGB `images` (B, 3, H, W) as float32 (float64 stays float64).

    Raises ValueError unless `images` is a floating point tensor (B >= 1, 3, H >= min_size, W >= min_size), finite, with values inside
    `value_range` (widened by 1e-3 on either side).
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = f"a tensor of {images.dtype}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
        raise ValueError(f"{name} is {kind}, it must be a floating point tensor of shape (B, 3, H, W).")
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[0] < 1 or min(images.shape[2:]) < min_size:
        raise ValueError(f"{name} has shape {tuple(images.shape)}, it must be (B, 3, H, W) with B >= 1 and H, W >= {min_size}.")
    low, high = (bound.item() for bound in aminmax(images.detach()))  # NaN and infinity both reach the bounds
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        raise ValueError(f"{name} contains NaN or infinity, all of its values must be finite.")
    if low < value_range[0] - RANGE_TOLERANCE or high > value_range[1] + RANGE_TOLERANCE:
        raise ValueError(f"{name} has values from {low:.4g} to {high:.4g}, they must lie in [{value_range[0]:g}, {value_range[1]:g}].")
    return images.to(promote_types(images.dtype, float32))


def check_pair(preds: Tensor, target: Tensor, value_range: tuple[float, float], *, min_size: int = 1) -> tuple[Tensor, Tensor]:
    """Return both image batches as `check_images` does, in one dtype; ValueError unless they also agree in shape and device."""
    preds = check_images(preds, value_range, name="preds", min_size=min_size)
    target = check_images(target, value_range, name="target", min_size=min_size)
    if preds.shape != target.shape:
        raise ValueError(f"preds has shape {tuple(preds.shape)} and target {tuple(target.shape)}, they must be equal.")
    if preds.device != target.device:
        raise ValueError(f"preds is on {preds.device} and target on {target.device}, they must be on one device.")
    dtype = promote_types(preds.dtype, target.dtype)
    return preds.to(dtype), target.to(dtype)


def state_name(metric: Metric, what: str, **settings: Any) -> str:
    """Name of a state of `metric` that tells its class and settings, such as "sum of MeanSquaredError(value_range=(-1.0, 1.0))".

    A MetricCollection takes metrics whose states have equal names and, after the first batch, equal values for one: it updates one of them
    and gives all the same value ever after. Metrics that may come to differ therefore differ in the name of a state.
    """
    told = ", ".join(f"{name}={value!r}" for name, value in sorted(settings.items()))
    return f"{what} of {type(metric).__name__}({told})"


def check_network(name: str, network: nn.Module) -> nn.Module:
    """Return `network`; ValueError unless it is a module, and no metric: a metric's call adds to its state."""
    if not isinstance(network, nn.Module) or isinstance(network, Metric):
        raise ValueError(f"{name} is a {type(network).__name__}, it must be a network (torch.nn.Module).")
    return network


def network_name(network: nn.Module) -> str:
    """Class, plain attributes and a hash of the weights of a network: by this `state_name` tells metrics on different networks apart."""
    plain = {name: value for name, value in vars(network).items() if isinstance(value, (bool, int, str, tuple))}
    told = [f"{name}={value!r}" for name, value in sorted(plain.items()) if not name.startswith("_") and name != "training"]
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().reshape(-1).view(uint8).numpy().tobytes())
    return f"{type(network).__name__}({', '.join([*told, f'weights {digest.hexdigest()[:8]}'])})"
