"""Interpolation standard deviation (Sec. 4.1, A.3) and what is read beside it: how evenly the images of a walk follow each other.

A walk is F images (11 in the paper) from nearly equally spaced latents; its F - 1 step distances are those between adjacent images. ISTD is
their standard deviation, averaged over walks. A model whose images merely move less has a lower ISTD without being smoother, so the mean
step and the coefficient of variation (standard deviation / mean, free of every unit) are given with it, and all three again on LPIPS
distances.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from .images import check_images, check_network, check_value_range, network_name, state_name
from .reconstruction import LearnedPerceptualImagePatchSimilarity

Quantity = Literal["istd", "mean_step", "cv"]
MIN_FRAMES = 3  # two distances: the fewest that can differ


@dataclass(frozen=True)
class Convention:
    """What the paper leaves open about ISTD. The default is what this project records.

    norm: "l2" is the square root of the sum over all 3HW values (grows with the image size), "rms" that of their mean (does not).
    pixel_scale: width of the range that pixels are brought to: 1 for [0, 1], 2 for [-1, 1], 255 for bytes.
    ddof: the standard deviation of n distances divides by n - ddof.
    """

    norm: Literal["l2", "rms"] = "l2"
    pixel_scale: float = 1.0
    ddof: int = 0

    def __post_init__(self) -> None:
        if self.norm not in ("l2", "rms"):
            raise ValueError(f"norm is {self.norm!r}, it must be 'l2' or 'rms'.")
        if not 0 < self.pixel_scale < math.inf:
            raise ValueError(f"pixel_scale is {self.pixel_scale!r}, it must be a positive number such as 1 for pixels in [0, 1].")
        if self.ddof not in (0, 1):
            raise ValueError(f"ddof is {self.ddof!r}, it must be 0 or 1.")

    def describe(self) -> dict[str, str]:
        """The convention in words, for each number that `InterpolationStandardDeviation` gives: recorded beside it."""
        low_high = {1.0: "in [0, 1]", 2.0: "in [-1, 1]", 255.0: "in [0, 255]"}.get(self.pixel_scale, f"in a range of {self.pixel_scale:g}")
        norm = {"l2": "L2 norm (square root of the sum over all 3HW values)", "rms": "root mean square over all 3HW values"}[self.norm]
        step = f"{norm} of the difference of adjacent images, pixels {low_high}"
        lpips = "LPIPS (AlexNet, v0.1) of adjacent images"
        deviation = f"standard deviation (ddof {self.ddof}) of a walk's step distances, then the mean over walks; distance: "
        ratio = f"standard deviation (ddof {self.ddof}) / mean of a walk's step distances, then the mean over walks; distance: "
        mean = "mean of a walk's step distances, then the mean over walks; distance: "
        return {
            f"{prefix}{name}": words + distance
            for prefix, distance in (("", step), ("lpips_", lpips))
            for name, words in (("istd", deviation), ("mean_step", mean), ("cv", ratio))
        }


CONVENTIONS = Convention().describe()


def conversion_factor(
    source: Convention, target: Convention, *, image_size: tuple[int, int], num_distances: int = 10, quantity: Quantity = "istd"
) -> float:
    """Factor that turns a number recorded under `source` into the one that `target` would have given: exact, no images needed.

    `image_size` is (H, W) of the images, `num_distances` F - 1. `quantity`: "istd", "mean_step" (also single distances) or "cv".
    """
    if quantity not in ("istd", "mean_step", "cv"):
        raise ValueError(f"quantity is {quantity!r}, it must be 'istd', 'mean_step' or 'cv'.")
    if num_distances < MIN_FRAMES - 1:
        raise ValueError(f"num_distances is {num_distances}, it must be at least {MIN_FRAMES - 1}.")
    root_of_size = math.sqrt(3 * image_size[0] * image_size[1])
    unit = {convention: convention.pixel_scale / (1 if convention.norm == "l2" else root_of_size) for convention in (source, target)}
    spread = math.sqrt((num_distances - source.ddof) / (num_distances - target.ddof))
    return (1 if quantity == "cv" else unit[target] / unit[source]) * (1 if quantity == "mean_step" else spread)


def step_distances(walks: Tensor, *, value_range: tuple[float, float] = (-1.0, 1.0), convention: Convention | None = None) -> Tensor:
    """Distances of adjacent images (A.3), (B, F - 1) float64, of `walks` (B, F, 3, H, W) in `value_range`.

    Raises ValueError unless `walks` is a floating point tensor of that shape with F >= 3, finite, inside `value_range`.

    Example:
        >>> import torch
        >>> from smoothlib import step_distances
        >>> grey = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 3, 1, 1, 1).expand(1, 3, 3, 8, 8)
        >>> step_distances(grey, value_range=(0, 1))  # 0.5 in each of 192 values, so 0.5 * sqrt(192)
        tensor([[6.9282, 6.9282]], dtype=torch.float64)
    """
    convention = convention or Convention()
    low, high = check_value_range(value_range)
    walks = _check_walks(walks, (low, high))
    norms = torch.linalg.vector_norm(walks.diff(dim=1).flatten(2), dim=2, dtype=torch.float64)  # (B, F - 1)
    divisor = 1 if convention.norm == "l2" else math.sqrt(walks[0, 0].numel())
    return norms * (convention.pixel_scale / (high - low) / divisor)


def lpips_step_distances(walks: Tensor, lpips: LearnedPerceptualImagePatchSimilarity) -> Tensor:
    """LPIPS of adjacent images, (B, F - 1) float64, of `walks` (B, F, 3, H, W) in the range that `lpips` was made for."""
    walks = _check_walks(walks, lpips.value_range)
    with torch.no_grad():
        return torch.stack([lpips.per_image(walk[:-1], walk[1:]).double() for walk in walks])


def step_statistics(distances: Any, *, ddof: int = 0) -> dict[Quantity, Tensor]:
    """ISTD, mean step and coefficient of variation of each walk from its step distances (..., F - 1), tensor or array: each (...) float64.

    Raises ValueError where a walk stands still: all of its distances are 0, and their standard deviation / mean is 0 / 0.

    Example:
        >>> from smoothlib import step_statistics
        >>> {name: round(float(value), 3) for name, value in step_statistics([1.0, 3.0]).items()}
        {'istd': 1.0, 'mean_step': 2.0, 'cv': 0.5}
    """
    distances = torch.as_tensor(distances, dtype=torch.float64)
    if distances.ndim < 1 or distances.shape[-1] < MIN_FRAMES - 1:
        raise ValueError(f"distances has shape {tuple(distances.shape)}, it must be (..., F - 1) with F >= {MIN_FRAMES}.")
    if not (distances.isfinite() & (distances >= 0)).all():
        raise ValueError("distances contains a negative or non-finite number, all of its values must be finite and at least 0.")
    mean, deviation = distances.mean(dim=-1), distances.std(dim=-1, correction=ddof)
    if (mean == 0).any():
        still = ", ".join(map(str, (mean == 0).flatten().nonzero().flatten().tolist()))
        raise ValueError(f"distances of walk {still} are all 0: its images do not change, the coefficient of variation is undefined.")
    return {"istd": deviation, "mean_step": mean, "cv": deviation / mean}


class InterpolationStandardDeviation(Metric):
    """ISTD (Sec. 4.1, A.3) with mean step and coefficient of variation, on pixels and, with a network for it, on LPIPS distances.

    `update(walks)` takes (B, F, 3, H, W), one walk per prompt; F must stay the same. `compute()` is a dict of means over all walks, float64
    scalars: `istd`, `mean_step`, `cv`, and the same with the prefix `lpips_`. The step distances of every walk are the state, so that
    merging, batching and synchronising change nothing, and `values()` gives the numbers of each walk for paired tests between models on the
    same prompts and noises.

    Args:
        value_range: lowest and highest value that an image may have.
        convention: norm, pixel scale and divisor; the default is the recorded one. `conventions` tells it in words.
        lpips: the network to measure LPIPS with too (see `LearnedPerceptualImagePatchSimilarity`); images must then be at least 31 x 31.
        kwargs: those of `torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> from smoothlib import InterpolationStandardDeviation
        >>> istd = InterpolationStandardDeviation(value_range=(0, 1))
        >>> istd.update(torch.tensor([0.0, 0.5, 1.0]).reshape(1, 3, 1, 1, 1).expand(1, 3, 3, 8, 8))
        >>> round(float(istd.compute()["istd"]), 6)  # even steps
        0.0
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = False

    def __init__(
        self,
        value_range: tuple[float, float] = (-1.0, 1.0),
        *,
        convention: Convention | None = None,
        lpips: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.value_range = check_value_range(value_range)
        self.convention = convention or Convention()
        self.lpips = None if lpips is None else LearnedPerceptualImagePatchSimilarity(check_network("lpips", lpips), self.value_range)
        words = self.convention.describe()
        self.conventions = words if self.lpips else {name: told for name, told in words.items() if not name.startswith("lpips_")}
        settings = dict(value_range=self.value_range, convention=self.convention)
        network = {"lpips_distances": {"network": network_name(lpips)}} if self.lpips else {}
        self._state = {kind: state_name(self, kind, **settings, **network.get(kind, {})) for kind in self._kinds()}
        for name in self._state.values():
            self.add_state(name, [], dist_reduce_fx="cat")

    def _kinds(self) -> dict[str, str]:
        """Kind of distance -> prefix of the numbers made from it."""
        return {"pixel_distances": ""} | ({"lpips_distances": "lpips_"} if self.lpips else {})

    def distances(self, walks: Tensor) -> dict[str, Tensor]:
        """Step distances of `walks`: `pixel_distances` and, with LPIPS, `lpips_distances`, each (B, F - 1)."""
        found = {"pixel_distances": step_distances(walks, value_range=self.value_range, convention=self.convention)}
        return found | ({"lpips_distances": lpips_step_distances(walks, self.lpips)} if self.lpips else {})

    def per_prompt(self, walks: Tensor) -> dict[str, Tensor]:
        """The numbers of each walk of a batch, (B,), without adding it; ValueError as for `step_distances` and `step_statistics`."""
        return self._statistics(self.distances(walks))

    def update(self, walks: Tensor) -> None:
        """Add a batch of walks (B, F, 3, H, W); ValueError as for `per_prompt`, or where F differs from before."""
        distances = self.distances(walks)
        self._statistics(distances)  # raises for a walk that stands still, before anything is kept
        before = [kept.shape[1] + 1 for kept in getattr(self, self._state["pixel_distances"])[:1]]
        if before and before != [walks.shape[1]]:
            raise ValueError(f"walks has {walks.shape[1]} frames, it must have {before[0]} as before.")
        for kind, values in distances.items():
            getattr(self, self._state[kind]).append(values)

    def values(self) -> dict[str, Tensor]:
        """The numbers of each walk so far, (n,), in the order of the updates; ValueError if there was none."""
        kept = {kind: getattr(self, name) for kind, name in self._state.items()}
        if len(kept["pixel_distances"]) == 0:  # a list; a tensor once synchronised
            raise ValueError(f"{type(self).__name__} has seen 0 walks, update it with at least one before compute.")
        return self._statistics({kind: dim_zero_cat(values) for kind, values in kept.items()})

    def compute(self) -> dict[str, Tensor]:
        """Means over all walks so far; ValueError if there was none."""
        return {name: values.mean() for name, values in self.values().items()}

    def _statistics(self, distances: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            f"{prefix}{name}": values
            for kind, prefix in self._kinds().items()
            for name, values in step_statistics(distances[kind], ddof=self.convention.ddof).items()
        }


def _check_walks(walks: Tensor, value_range: tuple[float, float]) -> Tensor:
    """`walks` as float32 or float64 after the checks that `step_distances` names."""
    if not isinstance(walks, Tensor) or not walks.is_floating_point():
        kind = f"a tensor of {walks.dtype}" if isinstance(walks, Tensor) else f"a {type(walks).__name__}"
        raise ValueError(f"walks is {kind}, it must be a floating point tensor of shape (B, F, 3, H, W).")
    if walks.ndim != 5 or walks.shape[1] < MIN_FRAMES or walks.shape[2] != 3 or walks.numel() == 0:
        raise ValueError(f"walks has shape {tuple(walks.shape)}, it must be (B, F, 3, H, W) with B >= 1 and F >= {MIN_FRAMES}.")
    return check_images(walks.flatten(0, 1), value_range, name="walks").unflatten(0, walks.shape[:2])
