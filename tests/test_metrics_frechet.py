"""Fréchet distance and the packaged ImageNet features: closed forms, parity with scipy and torchmetrics, merging, faults."""

import math
import shutil
from pathlib import Path

import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
import torchvision
from skimage import data
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from companion.base import paths
from companion.judges.features import ImageNetFeatures
from companion.judges.networks import load_network_weights
from smoothlib.metrics import FrechetDistance, frechet_distance, frechet_distance_from_features, frechet_image_values


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_covariance(d: int, seed: int, rank: int | None = None) -> Tensor:
    factor = torch.randn(d, rank or d, generator=generator(seed), dtype=torch.float64)
    return factor @ factor.T


class PooledPixels(nn.Module):
    """A tiny extractor: images (B, 3, H, W) -> (B, 12)."""

    num_features = 12

    def forward(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images, 2).flatten(1)


@pytest.fixture(scope="module")
def sets() -> tuple[Tensor, Tensor]:
    """Two sets of images, (40, 3, 8, 8) and (30, 3, 8, 8), in [-1, 1]."""
    real = torch.rand(40, 3, 8, 8, generator=generator(1)) * 2 - 1
    fake = (torch.rand(30, 3, 8, 8, generator=generator(2)) ** 2) * 2 - 1
    return real, fake


def test_commuting_covariances_in_closed_form() -> None:
    a, b = torch.tensor([4.0, 1.0, 0.0, 9.0]), torch.tensor([1.0, 1.0, 0.25, 0.0])
    mu1, mu2 = torch.tensor([1.0, 0.0, 0.0, 2.0]), torch.tensor([0.0, 0.0, 3.0, 2.0])
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=generator(), dtype=torch.float64))[0]
    expected = 1 + 9 + (2 - 1) ** 2 + 0 + 0.5**2 + 3**2  # |mu1 - mu2|^2 + sum (sqrt a - sqrt b)^2
    sigmas = [rotation @ torch.diag(variances.double()) @ rotation.T for variances in (a, b)]
    assert frechet_distance(mu1, sigmas[0], mu2, sigmas[1]).item() == pytest.approx(expected, abs=1e-7)


def test_two_dimensions_in_closed_form() -> None:
    """For 2 x 2 matrices, tr sqrt(M) = sqrt(tr M + 2 sqrt(det M))."""
    sigma1, sigma2 = random_covariance(2, 0), random_covariance(2, 1)
    product = sigma1 @ sigma2
    expected = sigma1.trace() + sigma2.trace() - 2 * (product.trace() + 2 * product.det().sqrt()).sqrt()
    zero = torch.zeros(2)
    torch.testing.assert_close(frechet_distance(zero, sigma1, zero, sigma2), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("d", [3, 40])
def test_equals_scipy_sqrtm(d: int) -> None:
    sigma1, sigma2 = random_covariance(d, 2), random_covariance(d, 3)
    mu1, mu2 = torch.randn(2, d, generator=generator(4), dtype=torch.float64)
    root = scipy.linalg.sqrtm((sigma1 @ sigma2).numpy()).real.trace()
    expected = (mu1 - mu2).square().sum() + sigma1.trace() + sigma2.trace() - 2 * root
    distance = frechet_distance(mu1, sigma1, mu2, sigma2)
    torch.testing.assert_close(distance, expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(frechet_distance(mu2, sigma2, mu1, sigma1), distance, rtol=1e-10, atol=0)


def test_fewer_images_than_features() -> None:
    """Of centred features A (N, D), B (M, D), tr sqrt(S_A S_B) is the sum of singular values of A B^T / sqrt((N - 1)(M - 1))."""
    a = torch.randn(12, 100, generator=generator(5), dtype=torch.float64)
    b = 0.5 * torch.randn(9, 100, generator=generator(6), dtype=torch.float64) + 0.3
    centred_a, centred_b = ((x - x.mean(0)) / math.sqrt(len(x) - 1) for x in (a, b))
    trace_sqrt = torch.linalg.svdvals(centred_a @ centred_b.T).sum()
    expected = (a.mean(0) - b.mean(0)).square().sum() + centred_a.square().sum() + centred_b.square().sum() - 2 * trace_sqrt
    torch.testing.assert_close(frechet_distance_from_features(a, b), expected, rtol=1e-7, atol=0)
    assert 0 <= frechet_distance_from_features(a, a).item() < 1e-6


def test_shift_and_scale_of_one_set() -> None:
    """Moving a set by c adds |c|^2; scaling it by s about its mean gives (1 - s)^2 tr(Sigma)."""
    a = torch.randn(50, 6, generator=generator(7), dtype=torch.float64)
    shift = torch.arange(6.0, dtype=torch.float64)
    assert frechet_distance_from_features(a, a + shift).item() == pytest.approx(shift.square().sum().item())
    scaled = a.mean(0) + 1.5 * (a - a.mean(0))
    assert frechet_distance_from_features(a, scaled).item() == pytest.approx(0.25 * a.var(0).sum().item())


def test_metric_equals_torchmetrics_on_the_same_features(sets: tuple[Tensor, Tensor]) -> None:
    ours, theirs = FrechetDistance(PooledPixels()), FrechetInceptionDistance(feature=PooledPixels(), normalize=True)
    for images, real in zip(sets, (True, False), strict=True):
        ours.update(images, real=real)
        theirs.update(images, real=real)
    assert ours.compute().item() == pytest.approx(theirs.compute().item(), rel=1e-5)
    from_features = frechet_distance_from_features(*(PooledPixels()(images) for images in sets))
    assert ours.compute().item() == pytest.approx(from_features.item(), rel=1e-9)
    assert ours.compute().item() > 0.1


def test_batches_merged_parts_and_forward_agree(sets: tuple[Tensor, Tensor]) -> None:
    real, fake = sets
    at_once, one_by_one, first, second = (FrechetDistance(PooledPixels()) for _ in range(4))
    at_once.update(real, real=True)
    at_once.update(fake, real=False)
    for image in real.split(1):
        one_by_one.update(image, real=True)
    for image in fake.split(7):
        assert one_by_one(image, real=False) is None
    first.update(real[:11], real=True)
    second.update(real[11:], real=True)
    second.update(fake, real=False)
    first.merge_state(second)
    for metric in (one_by_one, first):
        torch.testing.assert_close(metric.compute(), at_once.compute(), rtol=1e-9, atol=0)


def test_real_images_can_be_kept(sets: tuple[Tensor, Tensor]) -> None:
    real, fake = sets
    keeping, forgetting = FrechetDistance(PooledPixels(), reset_real_features=False), FrechetDistance(PooledPixels())
    for metric in (keeping, forgetting):
        metric.update(real, real=True)
        metric.update(fake, real=False)
    expected = keeping.compute()
    keeping.reset()
    keeping.update(fake, real=False)
    torch.testing.assert_close(keeping.compute(), expected, rtol=0, atol=0)
    forgetting.reset()
    forgetting.update(fake, real=False)
    with pytest.raises(ValueError, match="seen 0 real and 30 generated images"):
        forgetting.compute()


def test_faults_raise_one_sentence(sets: tuple[Tensor, Tensor]) -> None:
    eye, zero = torch.eye(3), torch.zeros(3)
    with pytest.raises(ValueError, match=r"have shapes \(3,\), \(3, 3\), \(2,\), \(3, 3\)"):
        frechet_distance(zero, eye, zero[:2], eye)
    with pytest.raises(ValueError, match="NaN or infinity"):
        frechet_distance(zero, eye, zero, eye * math.nan)
    with pytest.raises(ValueError, match=r"b has shape \(1, 4\)"):
        frechet_distance_from_features(torch.zeros(5, 4), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="num_features is None"):
        FrechetDistance(nn.Flatten())
    metric = FrechetDistance(nn.Flatten(), num_features=12)
    with pytest.raises(ValueError, match=r"feature_extractor gave shape \(40, 192\), it must be \(40, 12\)"):
        metric.update(sets[0], real=True)
    with pytest.raises(ValueError, match="gave NaN or infinity"):
        metric.update(torch.full((2, 3, 2, 2), math.nan), real=True)
    assert metric.real_num_images == 0


@pytest.fixture(scope="module")
def extractor() -> ImageNetFeatures:
    return ImageNetFeatures()


def photograph(name: str) -> Tensor:
    """A photograph (1, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(getattr(data, name)().copy()).permute(2, 0, 1)[None] / 127.5 - 1


# First six features of the float32 network whose file torchvision names mobilenet_v2-b0353104.pth, at 224, bicubic.
PUBLISHED_FEATURES = {
    "astronaut": [2.2827, 0.2257, 0.7579, 1.9841, 0.6046, 0.9109],
    "chelsea": [0.7033, 1.3729, 2.0342, 1.5720, 0.1224, 0.3247],
    "coffee": [0.3736, 0.0000, 2.2077, 0.1244, 0.6242, 0.0351],
}


@pytest.mark.parametrize("name", PUBLISHED_FEATURES)
def test_features_equal_those_of_the_published_weights(name: str, extractor: ImageNetFeatures) -> None:
    features = extractor(photograph(name))
    assert features.shape == (1, 1280) and features.dtype == torch.float32
    torch.testing.assert_close(features[0, :6], torch.tensor(PUBLISHED_FEATURES[name]), rtol=0, atol=0.015)  # float16 storage


def test_features_follow_torchvisions_preprocessing(extractor: ImageNetFeatures) -> None:
    """At the network's own size nothing is resized: the features are torchvision's of normalised pixels."""
    images = photograph("astronaut")[..., 100:324, 100:324]
    normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = extractor.network(normalise((images + 1) / 2)).mean(dim=(2, 3))
    torch.testing.assert_close(extractor(images), expected, rtol=1e-4, atol=1e-5)


def test_features_do_not_depend_on_batch_mode_or_range(extractor: ImageNetFeatures) -> None:
    small = ImageNetFeatures(resolution=64)
    images = torch.cat([photograph("astronaut")[..., a : a + 64, a : a + 64] for a in (0, 100, 200)])
    together = small.train()(images)
    assert together.shape == (3, 1280) and not together.requires_grad
    torch.testing.assert_close(torch.cat([small(image) for image in images.split(1)]), together, rtol=1e-4, atol=1e-5)
    unit = ImageNetFeatures(resolution=64, value_range=(0, 1))
    torch.testing.assert_close(unit((images + 1) / 2), together, rtol=1e-3, atol=1e-4)
    assert (small(images) - extractor(images)).abs().max() > 0.1  # the resolution matters


def test_resize_is_antialiased() -> None:
    """Stripes finer than the network's pixels average to grey, where plain interpolation would hit the white ones only."""
    stripes = torch.tensor([-1.0, 1.0, 1.0, -1.0]).repeat(32).expand(1, 3, 128, 128)
    for interpolation in ("bilinear", "bicubic"):
        small, seen = ImageNetFeatures(resolution=32, interpolation=interpolation), []
        small.network.register_forward_pre_hook(lambda network, inputs, seen=seen: seen.append(inputs[0]))
        small(stripes)
        inside = (seen[0] * small.std + small.mean)[..., 2:-2]  # (1, 3, 32, 28) in [0, 1]
        torch.testing.assert_close(inside, torch.full_like(inside, 0.5), rtol=0, atol=1e-3)


def test_distance_on_imagenet_features_orders_degradations() -> None:
    crops = torch.cat(
        [photograph(name)[..., a : a + 64, a : a + 64] for name in ("astronaut", "chelsea", "coffee") for a in range(0, 220, 40)]
    )
    noise = torch.randn(crops.shape, generator=generator(8))
    metric = FrechetDistance(ImageNetFeatures(resolution=64), reset_real_features=False)
    metric.update(crops, real=True)
    distances = []
    for strength in (0.1, 0.4):
        metric.reset()
        metric.update((crops + strength * noise).clamp(-1, 1), real=False)
        distances.append(metric.compute().item())
    assert 1 < distances[0] < distances[1]


def test_extractor_faults(extractor: ImageNetFeatures, tmp_path: Path) -> None:
    for arguments, message in (({"resolution": 16}, "resolution is 16"), ({"interpolation": "nearest"}, "interpolation is 'nearest'")):
        with pytest.raises(ValueError, match=message):
            ImageNetFeatures(**arguments)
    with pytest.raises(ValueError, match="images has values from 0 to 255"):
        extractor(torch.tensor([0.0, 255.0]).repeat(1, 3, 8, 4))
    for name in ("card.json", "mobilenet_v2.safetensors"):
        shutil.copy(paths.METRIC_NETWORKS / name, tmp_path / name)
    with (tmp_path / "mobilenet_v2.safetensors").open("r+b") as file:
        file.seek(3_000_000)
        file.write(b"\0\0\0\0")
    with pytest.raises(ValueError, match=r"mobilenet_v2\.safetensors is damaged"):
        ImageNetFeatures(weights_folder=tmp_path)
    with pytest.raises(ValueError, match=r"LICENSES\.txt is not listed in card\.json"):
        shutil.copy(paths.METRIC_NETWORKS / "LICENSES.txt", tmp_path)
        load_network_weights("LICENSES.txt", tmp_path)


# What single images contribute ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(40, 5), (12, 30)])
def test_image_values_are_the_derivative_with_respect_to_the_images_weights(n: int, d: int) -> None:
    """Against central differences of the distance of weighted Gaussians, more and fewer images than features."""
    a = torch.randn(n, d, generator=generator(7), dtype=torch.float64)
    b = 0.8 * a + 0.5 * torch.randn(n, d, generator=generator(8), dtype=torch.float64) + 0.3

    def weighted(weights: Tensor) -> Tensor:
        moments = []
        for features in (a, b):
            mean = weights @ features / weights.sum()
            moments += [mean, (features - mean).T @ (weights[:, None] * (features - mean)) / weights.sum()]
        return frechet_distance(*moments)

    values = frechet_image_values(a, b)
    assert values.mean().item() == pytest.approx(frechet_distance_from_features(a, b).item(), rel=1e-9)
    for i in (0, n // 2, n - 1):
        step = torch.zeros(n, dtype=torch.float64)
        step[i] = 1e-4
        slope = (weighted(1 + step) - weighted(1 - step)) / 2e-4 * n
        assert (values[i] - values.mean()).item() == pytest.approx(slope.item(), rel=1e-3, abs=1e-3)


def test_image_values_need_pairs() -> None:
    with pytest.raises(ValueError, match="b has 5 images, but must have 4, one for each of a's"):
        frechet_image_values(torch.rand(4, 3), torch.rand(5, 3))
