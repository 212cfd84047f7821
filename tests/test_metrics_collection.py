"""Metrics in a MetricCollection, which merges those that it takes for one: each gives what it gives alone."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from companion.judges.networks import lpips_network
from smoothlib.metrics import (
    Convention,
    FrechetDistance,
    InterpolationStandardDeviation,
    LearnedPerceptualImagePatchSimilarity,
    MeanSquaredError,
    PeakSignalNoiseRatio,
    StructuralSimilarity,
)

ALL_METRICS = {
    "MeanSquaredError": MeanSquaredError,
    "PeakSignalNoiseRatio": PeakSignalNoiseRatio,
    "StructuralSimilarity": StructuralSimilarity,
    "LearnedPerceptualImagePatchSimilarity": lambda: LearnedPerceptualImagePatchSimilarity(lpips_network()),
}


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor]:
    """Random images (4, 3, 32, 32) in [-1, 1] and noisy copies."""
    target, noise = torch.rand(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    target = 2 * target - 1
    return (target + 0.4 * (noise - 0.5)).clamp(-1, 1), target


def test_collection_keeps_the_metrics_apart_after_a_perfect_batch(pair: tuple[Tensor, Tensor]) -> None:
    """MSE and LPIPS of equal images are both 0: equal states must not make a MetricCollection merge them."""
    collection = MetricCollection([metric() for metric in ALL_METRICS.values()])
    collection.update(pair[1], pair[1])
    collection.update(*pair)
    for name, metric in ALL_METRICS.items():
        expected = (metric().per_image(pair[1], pair[1]).double().mean() + metric().per_image(*pair).double().mean()) / 2
        torch.testing.assert_close(collection.compute()[name], expected, rtol=1e-6, atol=0)


def test_collection_keeps_settings_apart_that_agree_on_the_first_batch(pair: tuple[Tensor, Tensor]) -> None:
    """A batch below every limit gives three equal sums, and one in [0, 1] is in both ranges; the next batch does not."""
    settings = [dict(max_decibels=40), dict(max_decibels=90), dict(max_decibels=math.inf), dict(value_range=(0, 1), max_decibels=40)]
    together = MetricCollection({str(i): PeakSignalNoiseRatio(**each) for i, each in enumerate(settings)})
    alone = [PeakSignalNoiseRatio(**each) for each in settings]
    target = (pair[1] + 1) / 2
    for error in (0.1, 1e-5):
        preds = target + error * (0.5 - target).sign()
        together.update(preds, target)
        for metric in alone:
            metric.update(preds, target)
    for i, metric in enumerate(alone):
        torch.testing.assert_close(together.compute()[str(i)], metric.compute(), rtol=1e-12, atol=0)
    assert len({metric.compute().item() for metric in alone}) == 4 and len(together.compute_groups) == 4


def test_collection_keeps_conventions_of_istd_apart() -> None:
    """Conventions that differ in what is made of the distances alone have equal states; a state's name tells them apart."""
    conventions = [Convention(*options) for options in itertools.product(("l2", "rms"), (1.0, 255.0), (0, 1))]
    collection = MetricCollection({f"convention {i}": InterpolationStandardDeviation(convention=c) for i, c in enumerate(conventions)})
    collection.update(2 * torch.rand(3, 5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 1)
    assert len(collection.compute_groups) == len(conventions)


def test_collection_keeps_frechet_distances_of_other_resolutions_apart() -> None:
    """Uniform images have the same features at every resolution here: equal states, until another batch comes."""

    class Brightest(torch.nn.Module):
        num_features = 2

        def __init__(self, resolution: int) -> None:
            super().__init__()
            self.resolution = resolution

        def forward(self, images: Tensor) -> Tensor:
            resized = torch.nn.functional.adaptive_avg_pool2d(images, self.resolution)
            return torch.stack([resized.amax(dim=(1, 2, 3)), resized.amin(dim=(1, 2, 3))], dim=1)

    collection = MetricCollection({str(r): FrechetDistance(Brightest(r)) for r in (1, 4)})
    collection.update(torch.linspace(-1, 1, 6).view(-1, 1, 1, 1).expand(-1, 3, 8, 8), real=True)
    images = 2 * torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 1
    collection.update(images, real=False)
    for r in (1, 4):
        alone = FrechetDistance(Brightest(r))
        alone.update(torch.linspace(-1, 1, 6).view(-1, 1, 1, 1).expand(-1, 3, 8, 8), real=True)
        alone.update(images, real=False)
        torch.testing.assert_close(collection.compute()[str(r)], alone.compute())
    assert len(collection.compute_groups) == 2


class Weighted(torch.nn.Module):
    """A stand-in for a perceptual network: the squared difference of mean colours, times a weight."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(float(weight)))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.weight * (a.mean((2, 3)) - b.mean((2, 3))).square().sum(1)


def test_collection_keeps_networks_apart_that_differ_in_their_weights_alone(pair: tuple[Tensor, Tensor]) -> None:
    """Equal images have the distance 0 by any weights: the next batch has not."""
    collection = MetricCollection({f"by {w}": LearnedPerceptualImagePatchSimilarity(Weighted(w)) for w in (1, 2)})
    collection.update(pair[1], pair[1])
    collection.update(*pair)
    found = collection.compute()
    assert found["by 1"] > 0
    torch.testing.assert_close(found["by 2"], 2 * found["by 1"])


@pytest.mark.parametrize("given", [True, "alex", MeanSquaredError()])
def test_what_is_no_network_is_refused_by_name(given: object) -> None:
    kind = type(given).__name__
    for make, name in (
        (LearnedPerceptualImagePatchSimilarity, "network"),
        (FrechetDistance, "feature_extractor"),
        (lambda network: InterpolationStandardDeviation(lpips=network), "lpips"),
    ):
        with pytest.raises(ValueError, match=rf"^{name} is a {kind}, it must be a network"):
            make(given)
