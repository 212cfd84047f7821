"""Data sets as items: an item is (id, image, caption), whatever it comes from.

The embedded set is `data/scenes` (see `companion.world`): webp images in tar shards with gzipped JSON records, each file checked against
the sha256 in `data/scenes/card.json`.
"""

import gzip
import io
import json
import tarfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from smoothlib.pixels import to_uint8

from ..base import paths
from ..weights.cards import read_card, read_checked
from .coco import CocoSplit
from .items import Item, Split, check_ids, drawn, noise_seed, seeded_choice, to_tensor
from .pictures import square

__all__ = [
    "SPLITS", "Item", "ScenePair", "SceneSplit", "Split", "check_ids", "drawn", "load_items", "load_pairs", "load_scenes", "load_split",
    "noise_seed", "scene_file", "scene_records", "seeded_choice", "to_tensor",
]  # fmt: skip

SPLITS = ("train", "test", "compositional")


@dataclass(frozen=True)
class SceneSplit:
    """A split of the scenes: images (N, H, W, 3) uint8 and one record per image (id, caption and the scene's fields)."""

    images: np.ndarray
    records: list[dict]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def pixels(self) -> Tensor:
        """The images as networks take them, (N, 3, H, W) uint8, of the same memory."""
        return torch.from_numpy(self.images).permute(0, 3, 1, 2)

    @property
    def captions(self) -> list[str]:
        """The captions, in order."""
        return [record["caption"] for record in self.records]

    def item(self, index: int) -> Item:
        """Image `index` as an item."""
        return Item(self.records[index]["id"], to_tensor(self.images[index]), self.records[index]["caption"])


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


class ResizedSplit:
    """A split whose images are brought to another size (see `pictures.square`): `size` pixels wide and high."""

    def __init__(self, whole: Split, size: int) -> None:
        self.whole, self.records, self.size = whole, whole.records, size

    def __len__(self) -> int:
        return len(self.whole)

    def item(self, index: int) -> Item:
        """Image `index` as an item."""
        item = self.whole.item(index)
        picture = Image.fromarray(to_uint8(item.image).permute(1, 2, 0).numpy())
        return Item(item.id, to_tensor(square(picture, self.size)), item.caption)


def load_split(dataset: str = "scenes", split: str = "test", size: int | str | None = None) -> Split:
    """A whole split; `dataset` is `scenes` or a folder in COCO's captioning layout (see `companion.data.coco`).

    Args:
        size: side of the images in pixels, or the model (as `pipelines.load_pipeline` takes it) that they are for: they get the size that
            this model was made for. None: 64, as the scenes are stored, and 512 for COCO, as in the paper.

    Raises:
        ValueError: `size` is less than 8, or no such model is there.
    """
    whole: Split
    if dataset == "scenes":
        whole = load_scenes(split)
        side = _side(size)
        return whole if side in (None, whole.images.shape[1]) else ResizedSplit(whole, side)
    whole = CocoSplit(Path(dataset), split)  # before the model is looked up, which may have to be downloaded
    whole.resolution = _side(size) or whole.resolution
    return whole


def _side(size: int | str | None) -> int | None:
    if isinstance(size, str):
        from ..weights.pipelines import image_size

        return image_size(size)
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 8):
        raise ValueError(f"size is {size!r}, but must be a number of pixels of at least 8, or a model")
    return size


def load_items(dataset: str = "scenes", split: str = "test", limit: int = 64, seed: int = 0, size: int | str | None = None) -> list[Item]:
    """`limit` items of a split (see `load_split`), chosen by `seed`.

    Raises:
        ValueError: `limit` exceeds the split, or an image cannot be read.
    """
    whole = load_split(dataset, split, size)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= len(whole):
        raise ValueError(f"limit must lie in [1, {len(whole)}] for split {split!r} of {dataset}, got {limit}")
    return [whole.item(index) for index in seeded_choice(len(whole), limit, seed)]
