"""Metrics as `torchmetrics.Metric` classes: update with batches, compute once, merge or synchronise partial results."""

from .features import ImageNetFeatures
from .frechet import (
    FrechetDistance,
    FrechetFloor,
    frechet_distance,
    frechet_distance_from_features,
    frechet_floor,
    frechet_image_values,
)
from .frechet_inception import FrechetInceptionDistance, InceptionFeatures
from .istd import (
    Convention,
    InterpolationStandardDeviation,
    conversion_factor,
    lpips_step_distances,
    step_distances,
    step_statistics,
)
from .kernel_distance import kernel_distance_from_features, kernel_distance_image_values
from .reconstruction import (
    LearnedPerceptualImagePatchSimilarity,
    MeanSquaredError,
    PeakSignalNoiseRatio,
    StructuralSimilarity,
)
from .text_alignment import CLIPScore, Retrieval, SceneAlignment

__all__ = [
    "CLIPScore",
    "Convention",
    "FrechetDistance",
    "FrechetFloor",
    "FrechetInceptionDistance",
    "ImageNetFeatures",
    "InceptionFeatures",
    "InterpolationStandardDeviation",
    "LearnedPerceptualImagePatchSimilarity",
    "MeanSquaredError",
    "PeakSignalNoiseRatio",
    "Retrieval",
    "SceneAlignment",
    "StructuralSimilarity",
    "conversion_factor",
    "frechet_distance",
    "frechet_distance_from_features",
    "frechet_floor",
    "frechet_image_values",
    "kernel_distance_from_features",
    "kernel_distance_image_values",
    "lpips_step_distances",
    "step_distances",
    "step_statistics",
]
