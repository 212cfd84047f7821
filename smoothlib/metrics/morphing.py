"""MorphBench's two measures of a morph (Zhang et al. 2024, "DiffMorpher", Sec. 4.4), on the perceptual distances of adjacent images.

Both are known here under other names. With d_1, ..., d_{F-1} the LPIPS distances of a walk's adjacent images,

    PPL = sum_i d_i           = (F - 1) mean step        of LPIPS
    PDV = variance of the d_i = ISTD^2 of the walk       of LPIPS

so that the coefficient of variation is (F - 1) sqrt(PDV) / PPL. MorphBench takes 17 images of a pair of real pictures. It names neither the
network of its perceptual loss nor its scale, and its printed values are larger than LPIPS gives: compare rows, not tables.
"""

from typing import Any

import torch
from torch import Tensor


def perceptual_path_length(distances: Any) -> Tensor:
    """Perceptual path length (PPL): the sum of a walk's step distances, (..., F - 1) -> (...) float64; lower is a more direct way.

    A walk that changes less has a shorter path, and so does one between more similar ends. StyleGAN's measure of the same name is another
    one: it divides the distance of two images by the square of a tiny step between their latents.

    Args:
        distances: perceptual distances of adjacent images, tensor or array, such as those of `lpips_step_distances`.

    Raises:
        ValueError: fewer than one distance, or a distance that is negative or not finite.

    Example:
        >>> from smoothlib.metrics import perceptual_path_length
        >>> float(perceptual_path_length([0.1, 0.3, 0.2]))
        0.6
    """
    return _checked(distances, at_least=1).sum(dim=-1)


def perceptual_distance_variance(distances: Any, *, ddof: int = 0) -> Tensor:
    """Perceptual distance variance (PDV): the variance of a walk's step distances, (..., F - 1) -> (...) float64; lower is an evener pace.

    Like ISTD it falls when the images merely move less: read it beside the path length, or take their ratio, the coefficient of variation.

    Args:
        distances: perceptual distances of adjacent images, tensor or array, such as those of `lpips_step_distances`.
        ddof: the variance of n distances divides by n - ddof; the paper does not say which.

    Raises:
        ValueError: fewer than two distances, a distance that is negative or not finite, or a `ddof` that is neither 0 nor 1.

    Example:
        >>> from smoothlib.metrics import perceptual_distance_variance
        >>> float(perceptual_distance_variance([1.0, 3.0]))
        1.0
    """
    if ddof not in (0, 1):
        raise ValueError(f"ddof is {ddof!r}, but must be 0 or 1.")
    return _checked(distances, at_least=2).var(dim=-1, correction=ddof)


def _checked(distances: Any, at_least: int) -> Tensor:
    found = torch.as_tensor(distances, dtype=torch.float64)
    if found.ndim < 1 or found.shape[-1] < at_least:
        raise ValueError(f"distances has the shape {tuple(found.shape)}, but must be (..., F - 1) with F - 1 of at least {at_least}.")
    if not (found.isfinite() & (found >= 0)).all():
        raise ValueError("distances has a negative or non-finite value, but all must be finite and at least 0.")
    return found
