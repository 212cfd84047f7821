"""COCO captions in their published layout: `<folder>/<split>/*.jpg` and `<folder>/annotations/captions_<split>.json`."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from .datasets import Item, seeded_choice, to_tensor

RESOLUTION = 512


def annotation_file(folder: Path, split: str) -> Path:
    """The caption annotations of a split.

    Raises:
        FileNotFoundError: says what to download and where to put it.
    """
    path = folder / "annotations" / f"captions_{split}.json"
    if not path.exists() or not (folder / split).is_dir():
        raise FileNotFoundError(
            f"COCO is not in {folder}: download {split}.zip and the captions annotations from cocodataset.org and unpack them so that "
            f"{folder / split} holds the images and {path} the captions"
        )
    return path


def centre_square(image: Image.Image, resolution: int = RESOLUTION) -> np.ndarray:
    """Resize the shorter side to `resolution` (Lanczos) and cut the centre square, (resolution, resolution, 3) uint8."""
    image = image.convert("RGB")
    scale = resolution / min(image.size)
    image = image.resize((max(resolution, round(image.width * scale)), max(resolution, round(image.height * scale))), Image.LANCZOS)
    left, top = (image.width - resolution) // 2, (image.height - resolution) // 2
    return np.array(image.crop((left, top, left + resolution, top + resolution)))


def load_coco_items(folder: Path, split: str, limit: int, seed: int, resolution: int = RESOLUTION) -> list[Item]:
    """`limit` images chosen by `seed`, each with its first caption (lowest annotation id).

    The paper does not say which year, crop or caption it used; this choice is recorded with every result.

    Raises:
        FileNotFoundError: the folder is not in COCO's layout.
        ValueError: `limit` exceeds the split.
    """
    annotations = json.loads(annotation_file(folder, split).read_text())
    captions = {}
    for entry in sorted(annotations["annotations"], key=lambda a: a["id"]):
        captions.setdefault(entry["image_id"], " ".join(entry["caption"].split()))
    images = sorted((i for i in annotations["images"] if i["id"] in captions), key=lambda i: i["id"])
    if not 1 <= limit <= len(images):
        raise ValueError(f"limit must lie in [1, {len(images)}] for split {split!r} of {folder}, got {limit}")
    chosen = [images[i] for i in seeded_choice(len(images), limit, seed)]
    opened = [centre_square(Image.open(folder / split / entry["file_name"]), resolution) for entry in chosen]
    return [Item(str(e["id"]), to_tensor(pixels), captions[e["id"]]) for e, pixels in zip(chosen, opened, strict=True)]
