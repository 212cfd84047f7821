"""Data sets as items: an item is (id, image, caption), whatever it comes from.

The embedded set is `data/scenes` (see `smoothlib.scenes`): webp images in tar shards with gzipped JSON records, each file checked against
the sha256 in `data/scenes/card.json`.
"""

import gzip
import io
import json
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from . import paths
from .cards import read_card, read_checked
from .pixels import from_uint8

SPLITS = ("train", "test", "compositional")
NOISE_SEEDS = 1_000_000  # to each seed of a run; no data set here is larger


@dataclass(frozen=True)
class Item:
    """One captioned image: (3, H, W) float32 in [-1, 1]."""

    id: str
    image: torch.Tensor
    caption: str


@dataclass(frozen=True)
class SceneSplit:
    """A split of the scenes: images (N, H, W, 3) uint8 and one record per image (id, caption and the scene's fields)."""

    images: np.ndarray
    records: list[dict]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def captions(self) -> list[str]:
        """The captions, in order."""
        return [record["caption"] for record in self.records]

    def item(self, index: int) -> Item:
        """Image `index` as an item."""
        return Item(self.records[index]["id"], to_tensor(self.images[index]), self.records[index]["caption"])


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32 in [-1, 1]."""
    return from_uint8(image).permute(2, 0, 1)


def scene_file(name: str) -> Path:
    """A file of the scene data, checked against its card; raises as `cards.read_checked` does."""
    read_checked(paths.SCENES, name)
    return paths.SCENES / name


def scene_records(name: str) -> list[dict]:
    """The records of a split or of the pairs (`edits`, `drags`)."""
    with gzip.open(scene_file(f"{name}.jsonl.gz"), "rt") as lines:
        return [json.loads(line) for line in lines]


def _decode(content: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(content)))


@lru_cache(maxsize=3)
def load_scenes(split: str = "train") -> SceneSplit:
    """Load a whole split of the embedded scenes: train, test or compositional.

    Raises:
        ValueError: `split` is none of these.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    records, images = scene_records(split), []
    for shard in sorted(name for name in read_card(paths.SCENES)["files"] if name.startswith(f"{split}-") and name.endswith(".tar")):
        with tarfile.open(scene_file(shard)) as archive:
            images += [_decode(archive.extractfile(member).read()) for member in archive.getmembers()]
    return SceneSplit(np.stack(images), records)


@dataclass(frozen=True)
class ScenePair:
    """Two scenes that differ in one field: images and mask as arrays, the rest as recorded (captions, scenes, handles, targets)."""

    source: np.ndarray
    target: np.ndarray
    mask: np.ndarray
    record: dict


def load_pairs(kind: str = "edits") -> list[ScenePair]:
    """Load the edit pairs (`edits`) or drag pairs (`drags`).

    Raises:
        ValueError: `kind` is neither.
    """
    if kind not in ("edits", "drags"):
        raise ValueError(f"kind must be edits or drags, got {kind!r}")
    with tarfile.open(scene_file(f"{kind}.tar")) as archive:
        images = {member.name: _decode(archive.extractfile(member).read()) for member in archive.getmembers()}
    pairs = []
    for record in scene_records(kind):
        source, target, mask = (images[f"{record['id']}.{part}.webp"] for part in ("source", "target", "mask"))
        pairs.append(ScenePair(source, target, (mask[..., 0] if mask.ndim == 3 else mask) > 127, record))
    return pairs


def seeded_choice(count: int, limit: int, seed: int) -> list[int]:
    """`limit` of `count` indices, drawn without replacement from `seed` and sorted: nobody picks images by hand.

    A larger `limit` with the same seed keeps the smaller one's indices.
    """
    order = np.random.default_rng(seed).permutation(count)
    return sorted(int(i) for i in order[:limit])


def drawn(split: "Split", limit: int, seed: int) -> list[tuple[int, int]]:
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


class Split(Protocol):
    """A set of captioned images: `records` hold id and caption of each, `item` reads one image."""

    records: list[dict]

    def __len__(self) -> int: ...

    def item(self, index: int) -> Item:
        """Image `index` as an item."""


def load_split(dataset: str = "scenes", split: str = "test") -> Split:
    """A whole split; `dataset` is `scenes` or a folder in COCO's captioning layout (see `smoothlib.coco`)."""
    if dataset == "scenes":
        return load_scenes(split)
    from .coco import CocoSplit

    return CocoSplit(Path(dataset), split)


def load_items(dataset: str = "scenes", split: str = "test", limit: int = 64, seed: int = 0) -> list[Item]:
    """`limit` items of a split (see `load_split`), chosen by `seed`.

    Raises:
        ValueError: `limit` exceeds the split.
    """
    whole = load_split(dataset, split)
    if not 1 <= limit <= len(whole):
        raise ValueError(f"limit must lie in [1, {len(whole)}] for split {split!r} of {dataset}, got {limit}")
    return [whole.item(index) for index in seeded_choice(len(whole), limit, seed)]
