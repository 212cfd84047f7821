"""Reconstruction error of images against their originals: MSE, PSNR, SSIM, LPIPS (Table 2).

All four are means over images of a value per image, never pooled over pixels of several images, so that batching changes nothing.
`update(preds, target)` and `compute()` give the mean; `per_image(preds, target)` gives the values themselves (for intervals and paired
tests) and leaves the state alone. Images are (B, 3, H, W) RGB in `value_range`, by default [-1, 1], so that `data_range` is 2.
`CONVENTIONS` says of each metric what is measured and how another tool is set to measure the same.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.functional.image import structural_similarity_index_measure

from .images import check_network, check_pair, check_value_range, network_name, state_name

# metric -> its convention in words: recorded beside every number, and part of what a stored result is found again by
CONVENTIONS = {
    "mse": "on [-1, 1], per image, then the mean",
    "lpips": "AlexNet, v0.1, input in [-1, 1]",
    "ssim": "on [0, 1], per image, then the mean; Gaussian window 11 x 11, sigma 1.5, windows inside the image only; as scikit-image's "
    "structural_similarity(data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=0), or torchmetrics' "
    "structural_similarity_index_measure(data_range=1.0, return_full_image=True) without the 5-pixel border of its map",
    "psnr": "data range 2, per image, then the mean",
}


class ImageMean(Metric):
    """Mean over images of a value per image; a subclass defines `_values(preds, target) -> (B,)`.

    The sum (float64) and the number of images are the whole state, so that partial results merge and synchronise by addition.

    Args:
        value_range: lowest and highest value that an image may have; `data_range` is their difference.
        settings: a subclass's other settings by name, which become part of the sum's name (see `state_name`).
        kwargs: those of `torchmetrics.Metric`.
    """

    full_state_update = False
    min_size = 1  # smallest height and width with a defined value

    def __init__(self, value_range: tuple[float, float] = (-1.0, 1.0), *, settings: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.value_range = check_value_range(value_range)
        self.data_range = self.value_range[1] - self.value_range[0]
        self._sum_name = state_name(self, "sum", value_range=self.value_range, **(settings or {}))
        self.add_state(self._sum_name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def _values(self, preds: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError

    def per_image(self, preds: Tensor, target: Tensor) -> Tensor:
        """Value of each image of a batch (B, 3, H, W), shape (B,); ValueError on a wrong shape, dtype, range, NaN or infinity."""
        preds, target = check_pair(preds, target, self.value_range, min_size=self.min_size)
        return self._values(preds, target)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch: `preds` and `target` are (B, 3, H, W) in `value_range`; ValueError as for `per_image`."""
        values = self.per_image(preds, target)
        setattr(self, self._sum_name, getattr(self, self._sum_name) + values.double().sum())
        self.num_images = self.num_images + values.numel()

    def compute(self) -> Tensor:
        """Mean over all images so far, a float64 scalar; ValueError if there was none."""
        if self.num_images == 0:
            raise ValueError(f"{type(self).__name__} has seen 0 images, update it with at least one before compute.")
        return getattr(self, self._sum_name) / self.num_images


class MeanSquaredError(ImageMean):
    r"""Mean squared error per image, :math:`\frac{1}{3HW}\sum (x - \hat x)^2`, on the given range: on [-1, 1] four times that on [0, 1].

    Example:
        >>> import torch
        >>> from smoothlib import MeanSquaredError
        >>> mse = MeanSquaredError()
        >>> mse.update(torch.zeros(2, 3, 8, 8), torch.full((2, 3, 8, 8), 0.5))
        >>> float(mse.compute())
        0.25
    """

    is_differentiable = True
    higher_is_better = False

    def _values(self, preds: Tensor, target: Tensor) -> Tensor:
        return (preds - target).square().mean(dim=(1, 2, 3))  # (B,)


class PeakSignalNoiseRatio(ImageMean):
    r"""Peak signal-to-noise ratio per image in dB, :math:`10 \log_{10}(R^2 / \mathrm{MSE})` with :math:`R` = `data_range`.

    The logarithm is taken per image and then averaged; torchmetrics' default pools the squared error of all images first, which is never
    larger (Jensen). An image equal to its target has an infinite ratio, which would make every mean infinite: values are cut at
    `max_decibels`. The default 100 dB is a root mean squared error of 1e-5 of the range, far above what rounding to 8 bits alone leaves
    (58.9 dB). `max_decibels=math.inf` keeps the plain definition.

    Args:
        value_range: as in `ImageMean`.
        max_decibels: largest value of an image, > 0.

    Example:
        >>> import torch
        >>> from smoothlib import PeakSignalNoiseRatio
        >>> psnr = PeakSignalNoiseRatio()
        >>> psnr.update(torch.zeros(2, 3, 8, 8), torch.full((2, 3, 8, 8), 0.2))
        >>> round(float(psnr.compute()), 3)  # 10 log10(2^2 / 0.2^2)
        20.0
    """

    is_differentiable = True
    higher_is_better = True

    def __init__(self, value_range: tuple[float, float] = (-1.0, 1.0), *, max_decibels: float = 100.0, **kwargs: Any) -> None:
        if not max_decibels > 0:
            raise ValueError(f"max_decibels is {max_decibels!r}, it must be a number above 0 (math.inf for no limit).")
        super().__init__(value_range, settings={"max_decibels": float(max_decibels)}, **kwargs)
        self.max_decibels = float(max_decibels)

    def _values(self, preds: Tensor, target: Tensor) -> Tensor:
        relative_mse = ((preds - target) / self.data_range).square().mean(dim=(1, 2, 3))  # (B,)
        return -10 * relative_mse.clamp_min(10 ** (-self.max_decibels / 10) if math.isfinite(self.max_decibels) else 0.0).log10()


class StructuralSimilarity(ImageMean):
    r"""Structural similarity per image (Wang et al. 2004), mean over pixels and RGB channels; 1 for equal images.

    SSIM is defined on intensities, from 0 up: its luminance term compares local means relative to their size, which has no meaning for
    values around 0. Images are therefore mapped from `value_range` to [0, 1] and measured there with data range 1, which gives the SSIM of
    the picture whatever range its values come in.

    Gaussian window 11 x 11 with sigma 1.5, K1 = 0.01, K2 = 0.03, :math:`C_i = K_i^2`, population covariances, no downsampling, in
    float64. As in the paper's own code only windows that lie inside the image count. Equal, to below 1e-12, to
    `skimage.metrics.structural_similarity(x, y, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    channel_axis=0)` on the same values in [0, 1] (with `data_range=255` on the values times 255). torchmetrics computes the map, whose
    5-pixel border is left out: with the border, as in its own average, the value moves by 0.013 on average at 64 x 64 (at most 0.034 in
    16 pairs). On [-1, 1] with data range 2 it would be lower, by 0.007 on average for blurred scenes and up to 0.05 for an image.

    Images must be at least 11 x 11.

    Example:
        >>> import torch
        >>> from smoothlib import StructuralSimilarity
        >>> images = torch.rand(2, 3, 16, 16)
        >>> ssim = StructuralSimilarity()
        >>> ssim.update(images, images)
        >>> round(float(ssim.compute()), 6)
        1.0
    """

    is_differentiable = True
    higher_is_better = True
    min_size = 11
    _border = 5

    def _values(self, preds: Tensor, target: Tensor) -> Tensor:
        # float64: in float32 the variance of a bright, flat region is lost in the rounding of its mean square (mps has no float64)
        exact = torch.float32 if preds.device.type == "mps" else torch.float64
        unit_preds, unit_target = ((x.to(exact) - self.value_range[0]) / self.data_range for x in (preds, target))
        _, full_map = structural_similarity_index_measure(
            unit_preds,
            unit_target,
            gaussian_kernel=True,
            sigma=1.5,
            k1=0.01,
            k2=0.03,
            data_range=1.0,
            reduction="none",
            return_full_image=True,
        )  # (B, 3, H, W)
        inside = slice(self._border, -self._border)
        return full_map[..., inside, inside].mean(dim=(1, 2, 3)).to(preds.dtype)  # (B,)


class LearnedPerceptualImagePatchSimilarity(ImageMean):
    """LPIPS (Zhang et al. 2018) per image by a given network; 0 for equal images.

    Runs in float32; the network stays in evaluation mode and its weights get no gradient, images do. `value_range` other than [-1, 1] is
    mapped onto it. Images must be at least 31 x 31 (below that AlexNet's second pooling is empty).

    Args:
        network: maps two batches of images (B, 3, H, W) in [-1, 1] to their distances, (B,) or (B, 1, 1, 1), as `lpips.LPIPS(net="alex")`
            of the `lpips` package does.
        value_range: as in `ImageMean`.

    Raises:
        ValueError: `network` is no network.

    Example:
        >>> import torch
        >>> from smoothlib import LearnedPerceptualImagePatchSimilarity
        >>> class MeanColour(torch.nn.Module):  # stands for lpips.LPIPS(net="alex"), whose weights the package downloads
        ...     def forward(self, a, b):
        ...         return (a.mean((2, 3)) - b.mean((2, 3))).square().sum(1)
        >>> metric = LearnedPerceptualImagePatchSimilarity(MeanColour())
        >>> metric.update(torch.zeros(2, 3, 32, 32), torch.full((2, 3, 32, 32), 0.5))
        >>> float(metric.compute())
        0.75
    """

    is_differentiable = True
    higher_is_better = False
    min_size = 31

    def __init__(self, network: nn.Module, value_range: tuple[float, float] = (-1.0, 1.0), **kwargs: Any) -> None:
        super().__init__(value_range, settings={"network": network_name(check_network("network", network))}, **kwargs)
        self.network = network.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "LearnedPerceptualImagePatchSimilarity":
        """Keep the network in evaluation mode: its heads have dropout, a metric has not."""
        super().train(mode)
        self.network.eval()
        return self

    def _values(self, preds: Tensor, target: Tensor) -> Tensor:
        low, _ = self.value_range
        if self.value_range != (-1.0, 1.0):
            preds, target = ((x - low) * (2 / self.data_range) - 1 for x in (preds, target))
        return self.network(preds.float(), target.float()).reshape(-1)  # (B, 1, 1, 1) -> (B,)
