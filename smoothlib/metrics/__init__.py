"""Metrics as `torchmetrics.Metric` classes: update with batches, compute once, merge or synchronise partial results."""

from .features import ImageNetFeatures
from .frechet import FrechetDistance, frechet_distance, frechet_distance_from_features
from .reconstruction import (
    LearnedPerceptualImagePatchSimilarity,
    MeanSquaredError,
    PeakSignalNoiseRatio,
    StructuralSimilarity,
)

__all__ = [
    "FrechetDistance",
    "ImageNetFeatures",
    "LearnedPerceptualImagePatchSimilarity",
    "MeanSquaredError",
    "PeakSignalNoiseRatio",
    "StructuralSimilarity",
    "frechet_distance",
    "frechet_distance_from_features",
]
