"""Kernel distance: parity with torch-fidelity and torchmetrics, no bias, and what single images contribute."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from smoothlib.metrics import kernel_distance_from_features, kernel_distance_image_values
from smoothlib.metrics.kernel_distance import polynomial_kernel


def features(n: int, d: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


@pytest.mark.parametrize(("estimate", "paired"), [("unbiased", False), ("u-statistic", True)])
def test_equals_torch_fidelity_on_the_full_set(estimate, paired) -> None:
    fidelity = pytest.importorskip("torch_fidelity.metric_kid")
    a, b = features(30, 7, 0), features(30, 7, 1, 0.3)
    settings = dict(kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1)
    kernels = [fidelity.kernel_poly(x.numpy(), y.numpy(), **settings) for x, y in ((a, a), (a, b), (b, b))]
    expected = fidelity.mmd2(*kernels, mmd_est=estimate)
    assert kernel_distance_from_features(a, b, paired=paired).item() == pytest.approx(expected, rel=1e-12)
    if not paired:  # its whole metric, with one subset of all images
        whole = fidelity.kid_features_to_metric(a, b, kid_subsets=1, kid_subset_size=30, verbose=False)
        assert whole["kernel_inception_distance_mean"] == pytest.approx(expected, rel=1e-9)


def test_equals_torchmetrics_on_the_full_set() -> None:
    a, b = features(25, 6, 2), features(25, 6, 3, 0.5)
    assert kernel_distance_from_features(a, b).item() == pytest.approx(poly_mmd(a, b).item(), rel=1e-12)


def test_two_sets_by_hand() -> None:
    a, b = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [3.0]])
    within = (1 * 2 + 1) ** 3 + (0 * 3 + 1) ** 3  # k(a_1, a_2) + k(b_1, b_2): means over the pairs
    across = 1 + (1 * 3 + 1) ** 3 + 1 + (2 * 3 + 1) ** 3
    assert kernel_distance_from_features(a, b).item() == within - 2 * across / 4
    assert kernel_distance_from_features(a, b, paired=True).item() == within - (4**3 + 1)
    assert polynomial_kernel(a, b).tolist() == [[1.0, 64.0], [1.0, 343.0]]


@pytest.mark.parametrize("paired", [False, True])
def test_it_has_no_bias_however_few_the_images(paired) -> None:
    """Equal distributions: zero on average with five images; where pairs depend on each other, only if they are left out."""
    values = []
    for seed in range(4000):
        common = features(5, 3, seed) if paired else 0
        values.append(
            kernel_distance_from_features(common + features(5, 3, 10_000 + seed), common + features(5, 3, 20_000 + seed), paired=paired)
        )
    mean, error = np.mean(values), np.std(values) / 4000**0.5
    assert abs(mean) < 3 * error


def test_image_values_are_the_jackknifes() -> None:
    a, b = features(12, 4, 4), features(12, 4, 5, 0.4)
    whole = kernel_distance_from_features(a, b, paired=True)
    left_out = []
    for i in range(12):
        kept = [j for j in range(12) if j != i]
        left_out.append(kernel_distance_from_features(a[kept], b[kept], paired=True))
    torch.testing.assert_close(kernel_distance_image_values(a, b), 12 * whole - 11 * torch.stack(left_out))
    assert kernel_distance_image_values(a, b).mean().item() == pytest.approx(whole.item())


@pytest.mark.parametrize(
    ("a", "b", "paired", "sentence"),
    [
        (features(1, 3, 0), features(4, 3, 0), False, r"a has the shape \(1, 3\), but must be \(N, D\) with N >= 2"),
        (features(4, 3, 0), features(4, 2, 0), False, "b has 2 features an image, but must have 3, as a has"),
        (features(4, 3, 0), features(5, 3, 0), True, "b has 5 images, but must have 4"),
        (features(4, 3, 0), features(4, 3, 0) / 0, False, "b holds NaN or infinity"),
    ],
)
def test_bad_features_are_named(a, b, paired, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        kernel_distance_from_features(a, b, paired=paired)
    with pytest.raises(ValueError, match="a has 2 images, but must have at least 3"):
        kernel_distance_image_values(features(2, 3, 0), features(2, 3, 1))
