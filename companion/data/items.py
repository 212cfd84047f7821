"""What is measured: items, each (id, image, caption), splits that hold them, and the choice of some by seed, with noises of their own.

Where items come from is a matter of `companion.data.load`. Results of items depend on what they are, not on how they were read.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from smoothlib.pixels import from_uint8

NOISE_SEEDS = 1_000_000  # to each seed of a run; no data set here is larger


@dataclass(frozen=True)
class Item:
    """One captioned image: (3, H, W) float32 in [-1, 1]."""

    id: str
    image: torch.Tensor
    caption: str


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32 in [-1, 1]."""
    return from_uint8(image).permute(2, 0, 1)


class Split(Protocol):
    """A set of captioned images: `records` hold id and caption of each, `item` reads one image."""

    records: list[dict]

    def __len__(self) -> int: ...

    def item(self, index: int) -> Item:
        """Image `index` as an item."""


def seeded_choice(count: int, limit: int, seed: int) -> list[int]:
    """`limit` of `count` indices, drawn without replacement from `seed` and sorted: nobody picks images by hand.

    A larger `limit` with the same seed keeps the smaller one's indices.

    Raises:
        ValueError: `seed` is not a whole number of at least 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed is {seed!r}, but must be a whole number of at least 0")
    order = np.random.default_rng(seed).permutation(count)
    return sorted(int(i) for i in order[:limit])


def drawn(split: Split, limit: int, seed: int) -> list[tuple[int, int]]:
    """`limit` images of a split, chosen by `seed`: the index of each, and the seed of its noise (see `noise_seed`).

    Raises ValueError where `limit` exceeds the split, or `seed` is outside [0, 999].
    """
    if not 1 <= limit <= len(split):
        raise ValueError(f"limit must lie in [1, {len(split)}], not {limit}")
    return [(index, noise_seed(seed, index)) for index in seeded_choice(len(split), limit, seed)]


def noise_seed(seed: int, place: int) -> int:
    """Seed of the noise that the item at `place` of its data set has under a run's `seed`, whatever else is chosen with it.

    Raises ValueError where `seed` is outside [0, 999]: the noises of other seeds would be met again.
    """
    if not 0 <= seed < 1000:
        raise ValueError(f"seed must lie in [0, 999], not {seed}")
    return seed * NOISE_SEEDS + place


def check_ids(items: Sequence[Any]) -> None:
    """Raises ValueError where two of the items (anything with an id) have one id: results are told apart by it."""
    if repeated := [name for name, count in Counter(item.id for item in items).items() if count > 1]:
        raise ValueError(f"the data set has the id {repeated[0]!r} more than once, but must give every image an id of its own.")
