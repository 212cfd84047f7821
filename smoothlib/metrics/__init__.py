"""Metrics as `torchmetrics.Metric` classes: update with batches, compute once, merge or synchronise partial results."""

from .frechet import FrechetDistance, FrechetFloor, frechet_distance, frechet_distance_from_features, frechet_floor, frechet_image_values
from .istd import Convention, InterpolationStandardDeviation, conversion_factor, lpips_step_distances, step_distances, step_statistics
from .kernel_distance import kernel_distance_from_features, kernel_distance_image_values
from .morphing import perceptual_distance_variance, perceptual_path_length
from .reconstruction import LearnedPerceptualImagePatchSimilarity, MeanSquaredError, PeakSignalNoiseRatio, StructuralSimilarity
from .text_alignment import Retrieval

__all__ = [
    "Convention",
    "FrechetDistance",
    "FrechetFloor",
    "InterpolationStandardDeviation",
    "LearnedPerceptualImagePatchSimilarity",
    "MeanSquaredError",
    "PeakSignalNoiseRatio",
    "Retrieval",
    "StructuralSimilarity",
    "conversion_factor",
    "frechet_distance",
    "frechet_distance_from_features",
    "frechet_floor",
    "frechet_image_values",
    "kernel_distance_from_features",
    "kernel_distance_image_values",
    "lpips_step_distances",
    "perceptual_distance_variance",
    "perceptual_path_length",
    "step_distances",
    "step_statistics",
]
