"""What the tests of editing share: three images with prompts for the tiny pipeline, and test scenes for the embedded model."""

from functools import cache

import torch
from tiny import IMAGE_SIZE, noise, smooth_tiny_pipeline

from companion.data.load import load_scenes
from companion.weights.pipelines import load_pipeline

SOURCE = ["a red car", "a dog", "two cats"]
TARGET = ["a red bus", "a cat", "two red dogs"]
IMAGES = noise(3, 3, IMAGE_SIZE, IMAGE_SIZE, seed=1).clamp(-1, 1)
T, GUIDANCE = 4, 3.0


@cache
def pipe64():
    """In float64, and smooth enough in x_t to be inverted: rounding stays far below every tolerance here."""
    return smooth_tiny_pipeline(torch.float64)


@cache
def mini():
    return load_pipeline("mini")


@cache
def scenes(count=3):
    """Images (B, 3, 64, 64) and captions of the first test scenes."""
    split = load_scenes("test")
    items = [split.item(i) for i in range(count)]
    return torch.stack([item.image for item in items]), [item.caption for item in items]


def generators(count=3):
    return [torch.Generator().manual_seed(i) for i in range(count)]
