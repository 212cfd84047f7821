"""Metrics as `torchmetrics.Metric` classes: update with batches, compute once, merge or synchronise partial results."""

from .features import ImageNetFeatures
from .frechet import FrechetDistance, frechet_distance, frechet_distance_from_features
from .istd import (
    Convention,
    InterpolationStandardDeviation,
    conversion_factor,
    lpips_step_distances,
    step_distances,
    step_statistics,
)
from .reconstruction import (
    LearnedPerceptualImagePatchSimilarity,
    MeanSquaredError,
    PeakSignalNoiseRatio,
    StructuralSimilarity,
)

__all__ = [
    "Convention",
    "FrechetDistance",
    "ImageNetFeatures",
    "InterpolationStandardDeviation",
    "LearnedPerceptualImagePatchSimilarity",
    "MeanSquaredError",
    "PeakSignalNoiseRatio",
    "StructuralSimilarity",
    "conversion_factor",
    "frechet_distance",
    "frechet_distance_from_features",
    "lpips_step_distances",
    "step_distances",
    "step_statistics",
]
