"""Drags as items: a picture, points and where they should go, where it may change, and, for the rendered ones, the true picture.

Two sources: the drag pairs of the scenes, whose objects were really turned or moved, and folders in DragBench's published layout, one per
picture with `original_image.png` and `meta_data.pkl` (prompt, points, mask), which know no true picture. A mask always holds the
pixels of the points, which DragBench's need not do, nor one that was made smaller.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .items import check_ids, to_tensor
from .listings import ListingError
from .load import load_pairs
from .pictures import read_whole
from .plain_pickle import read_plain_pickle

PICTURE, POINTS = "original_image.png", "meta_data.pkl"  # DragBench's file names
MULTIPLE = 64  # of pixels: sides that Stable Diffusion's network halves without remainder

Point = tuple[float, float]  # (x, y) in pixels


@dataclass(frozen=True)
class DragItem:
    """One drag; images are (3, H, W) float32 in [-1, 1].

    kind: how the object moved ("turn", "move"), or the benchmark's category. degrees: by how much it was turned; None where it was not, or
    is not known. truth: the picture after the motion, None where there is none.
    """

    id: str
    kind: str
    image: torch.Tensor
    caption: str
    handles: tuple[Point, ...]
    targets: tuple[Point, ...]
    mask: torch.Tensor  # (H, W) bool, True where the picture may change
    truth: torch.Tensor | None = None
    degrees: float | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return tuple(self.image.shape[1:])

    @property
    def motion(self) -> float:
        """Mean distance from handles to targets, as a share of the picture's longer side."""
        distances = [math.dist(handle, target) for handle, target in zip(self.handles, self.targets, strict=True)]
        return sum(distances) / len(distances) / max(self.size)


def load_drags(dataset: str = "drags", size: int | None = None) -> list[DragItem]:
    """All drags of a data set.

    Args:
        dataset: `drags`, the scenes' pairs, or a folder in DragBench's layout.
        size: the longer side in pixels that pictures are brought to, both sides to a multiple of 64; None: 64 for the scenes, as they are
            stored, and 512 for folders. Points and masks follow.

    Raises:
        FileNotFoundError: there is no such folder.
        ListingError: the folder holds no drags, or one cannot be read; names the file.
    """
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < MULTIPLE):
        raise ValueError(f"size is {size!r}, but must be a whole number of at least {MULTIPLE}")
    drags = _scene_drags(size) if dataset == "drags" else _folder_drags(Path(dataset), size or 512)
    check_ids(drags)
    return drags


def _scene_drags(size: int | None) -> list[DragItem]:
    found = []
    for pair in load_pairs("drags"):
        record = pair.record
        points = [(handle, target) for handle, target in zip(record["handles"], record["targets"], strict=True)]
        turned = math.degrees(abs(record["target"]["yaw"] - record["source"]["yaw"])) if record["edit"] == "turn" else None
        arguments = dict(caption=record["source_caption"], points=points, truth=pair.target, degrees=turned)
        found.append(_item(record["id"], record["edit"], pair.source, pair.mask, size=size, **arguments))
    return found


def _folder_drags(folder: Path, size: int) -> list[DragItem]:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} with drags: pass a folder in DragBench's layout, or 'drags'")
    files = sorted(folder.rglob(POINTS))
    if not files:
        raise ListingError(f"{folder} has no {POINTS} in any folder below it, but must be in DragBench's layout")
    return [_folder_drag(file, folder, size) for file in files]


def _folder_drag(file: Path, folder: Path, size: int) -> DragItem:
    content = read_plain_pickle(file)
    if not isinstance(content, dict) or not {"prompt", "points", "mask"} <= content.keys():
        raise ListingError(f"{file} must hold a dict with prompt, points and mask")
    place = file.parent.relative_to(folder)
    image = read_whole(file.parent / PICTURE)
    prompt, points, mask = content["prompt"], _points(content["points"], file), np.asarray(content["mask"])
    if not isinstance(prompt, str):
        raise ListingError(f"{file} has the prompt {prompt!r}, but must have a text")
    if mask.dtype.kind not in "biuf" or mask.shape[:2] != image.shape[:2] or mask.ndim not in (2, 3):
        raise ListingError(f"{file} has a mask of shape {mask.shape}, but its picture is {image.shape[1]} wide and {image.shape[0]} high")
    inside = mask > 0 if mask.ndim == 2 else (mask > 0).any(axis=2)
    kind = place.parts[0] if len(place.parts) > 1 else "drag"
    return _item(place.as_posix(), kind, image, inside, size=size, caption=prompt, points=points)


def _points(points: Any, file: Path) -> list[tuple[Point, Point]]:
    """Handle and target in turn, each (x, y), as pairs."""
    try:
        listed = [(float(x), float(y)) for x, y in points]
    except (TypeError, ValueError):
        listed = []
    if not listed or len(listed) % 2:
        raise ListingError(f"{file} has the points {str(points)[:80]}, but must have a handle (x, y) and a target (x, y) in turn")
    return list(zip(listed[::2], listed[1::2], strict=True))


def _item(
    name: str,
    kind: str,
    image: np.ndarray,
    mask: np.ndarray,
    *,
    size: int | None,
    caption: str,
    points: Sequence[tuple[Sequence[float], Sequence[float]]],
    truth: np.ndarray | None = None,
    degrees: float | None = None,
) -> DragItem:
    """The item with everything brought to the size asked for."""
    before = image.shape[:2]
    after = before if size is None else _sides(before, size)
    scale = after[1] / before[1], after[0] / before[0]
    handles, targets = (tuple((float(x) * scale[0], float(y) * scale[1]) for x, y in side) for side in zip(*points, strict=True))
    shown = [None if picture is None else to_tensor(_resized(picture, after)) for picture in (image, truth)]
    inside = torch.from_numpy(_resized(mask.astype(np.uint8) * 255, after) > 127)
    for x, y in (*handles, *targets):  # a point outside the picture is refused where the drag is done
        if 0 <= x < after[1] and 0 <= y < after[0]:
            inside[int(y), int(x)] = True
    return DragItem(name, kind, shown[0], caption, handles, targets, inside, shown[1], degrees)


def _sides(sides: tuple[int, int], longer: int) -> tuple[int, int]:
    """Height and width after the longer side has become `longer`, each to the nearest multiple."""
    height, width = (max(MULTIPLE, round(side * longer / max(sides) / MULTIPLE) * MULTIPLE) for side in sides)
    return height, width


def _resized(picture: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    if picture.shape[:2] == sides:
        return picture
    return np.array(Image.fromarray(picture).resize(sides[::-1], Image.Resampling.LANCZOS))


def half(drags: Sequence[DragItem], parity: int) -> list[DragItem]:
    """Those whose id is even (`parity` 0: they choose settings) or odd (1: they are reported): by its number, or its hash without one."""
    return [drag for drag in drags if _number(drag.id) % 2 == parity]


def _number(name: str) -> int:
    found = re.search(r"\d+", name)
    return int(found.group()) if found else hashlib.sha256(name.encode()).digest()[0]


def facts(drags: Sequence[DragItem]) -> Mapping[str, Any]:
    """What a record keeps of the drags themselves: kind, motion as a share of the longer side, degrees."""
    return {
        "kind": [drag.kind for drag in drags],
        "motion": [round(drag.motion, 6) for drag in drags],
        "degrees": [None if drag.degrees is None else round(drag.degrees, 3) for drag in drags],
    }
