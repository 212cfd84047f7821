"""Between pixels as stored (uint8, 0 to 255) and images as the networks see them (floats in [-1, 1])."""

import numpy as np
import torch
from torch import Tensor


def from_uint8(pixels: Tensor | np.ndarray) -> Tensor:
    """uint8 of any shape -> float32 in [-1, 1], same shape and device: 0 is -1, 255 is 1.

    Raises:
        ValueError: `pixels` has another type.

    Example:
        >>> import torch
        >>> from smoothlib import from_uint8
        >>> from_uint8(torch.tensor([0, 255], dtype=torch.uint8))
        tensor([-1.,  1.])
    """
    tensor = pixels if isinstance(pixels, Tensor) else torch.from_numpy(np.array(pixels))  # a copy: torch takes no read-only arrays
    if tensor.dtype != torch.uint8:
        raise ValueError(f"pixels must be uint8, not {tensor.dtype}")
    return tensor.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Floats in [-1, 1] of any shape -> uint8, same shape and device: to the nearest of 0 to 255, what lies outside cut off.

    Raises:
        ValueError: `images` holds integers, NaN or infinity.

    Example:
        >>> import torch
        >>> from smoothlib import to_uint8
        >>> to_uint8(torch.tensor([-1.0, 0.2, 1.5]))
        tensor([  0, 153, 255], dtype=torch.uint8)
    """
    if not images.is_floating_point() or not images.isfinite().all():
        raise ValueError(f"images must be finite floats in [-1, 1], not {images.dtype} from {images.min():.4g} to {images.max():.4g}")
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
