"""Kernel distance between two sets of images in the feature space of a given network, without the bias of the Fréchet distance.

It is the formula of KID (Bińkowski et al. 2018, Sec. 4) on other features than InceptionV3's: the squared maximum mean discrepancy with the
cubic kernel. Its expectation does not depend on the number of images, and it may fall below zero for sets that are alike.
"""

from torch import Tensor


def polynomial_kernel(a: Tensor, b: Tensor) -> Tensor:
    r""":math:`k(x, y) = (x^T y / D + 1)^3` of features a (N, D) and b (M, D): an (N, M) matrix, float64."""
    return (a.double() @ b.double().T / a.shape[1] + 1) ** 3


def kernel_distance_from_features(a: Tensor, b: Tensor, *, paired: bool = False) -> Tensor:
    r"""Unbiased squared maximum mean discrepancy of features a (N, D) and b (M, D), N, M >= 2; float64, may be negative.

    :math:`\frac{1}{N(N-1)} \sum_{i \ne j} k(a_i, a_j) + \frac{1}{M(M-1)} \sum_{i \ne j} k(b_i, b_j) - \frac{2}{NM} \sum_{i,j} k(a_i, b_j)`
    (Gretton et al. 2012, Eq. 3), which is the mean over subsets that KID reports, at one subset of all images.

    Args:
        paired: a_i and b_i belong together (an image and the real image of its caption), so that they are not independent: k(a_i, b_i) is
            left out of the last sum (Gretton et al. 2012, Eq. 4). Needs N = M.

    Raises ValueError on wrong shapes, NaN or infinity.

    Example:
        >>> import torch
        >>> from smoothlib import kernel_distance_from_features
        >>> features = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
        >>> near, far = (float(kernel_distance_from_features(features, features + shift)) for shift in (0.1, 1.0))
        >>> near < far
        True
    """
    _check(a, b, paired)
    n, m = len(a), len(b)
    within = _sum_without_diagonal(polynomial_kernel(a, a)) / (n * (n - 1)) + _sum_without_diagonal(polynomial_kernel(b, b)) / (m * (m - 1))
    across = polynomial_kernel(a, b)
    return within - 2 * (_sum_without_diagonal(across) / (n * (n - 1)) if paired else across.mean())


def kernel_distance_image_values(a: Tensor, b: Tensor) -> Tensor:
    """Jackknife pseudo-values (N,) of the paired kernel distance of a and b (N, D), N >= 3: what each image and its real one contribute.

    Their mean is the distance, their variance over N its variance over images. Leaving one pair out changes the sums by one row and one
    column, so that all N leave-one-out distances cost one pass over the kernels.
    """
    _check(a, b, True)
    n = len(a)
    if n < 3:
        raise ValueError(f"a has {n} images, but must have at least 3: two must remain where one is left out.")
    across = polynomial_kernel(a, b)
    h = polynomial_kernel(a, a) + polynomial_kernel(b, b) - across - across.T  # (N, N), the one-sample U-statistic's kernel
    h.fill_diagonal_(0)
    total, rows = h.sum(), h.sum(1)
    left_out = (total - 2 * rows) / ((n - 1) * (n - 2))
    return n * total / (n * (n - 1)) - (n - 1) * left_out


def _sum_without_diagonal(kernel: Tensor) -> Tensor:
    return kernel.sum() - kernel.trace()


def _check(a: Tensor, b: Tensor, paired: bool) -> None:
    for name, features in (("a", a), ("b", b)):
        if features.ndim != 2 or features.shape[0] < 2:
            raise ValueError(f"{name} has the shape {tuple(features.shape)}, but must be (N, D) with N >= 2.")
        if not bool(features.isfinite().all()):
            raise ValueError(f"{name} holds NaN or infinity, but all features must be finite.")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"b has {b.shape[1]} features an image, but must have {a.shape[1]}, as a has.")
    if paired and len(a) != len(b):
        raise ValueError(f"b has {len(b)} images, but must have {len(a)}, one for each of a's, where paired is True.")
