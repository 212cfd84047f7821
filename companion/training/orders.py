"""The order in which an epoch takes its examples: a permutation that follows from seed and epoch alone."""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=2)  # a step may lie in two epochs; drawing hundreds of thousands anew for each takes as long as reading a picture
def random_order(length: int, seed: int, epoch: int) -> Tensor:
    """All examples in random order, (length,) long."""
    return torch.randperm(length, generator=torch.Generator().manual_seed(seed * 7_919 + epoch))
