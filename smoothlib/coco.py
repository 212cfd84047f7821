"""COCO captions in their published layout: `<folder>/<split>/*.jpg` and `<folder>/annotations/captions_<split>.json`."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from .datasets import to_tensor
from .items import Item

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


class CocoSplit:
    """A split of COCO, sorted by image id, each image with its first caption (lowest annotation id); images are read when asked for.

    The paper does not say which year, crop or caption it used; this choice is recorded with every result.

    Raises:
        FileNotFoundError: the folder is not in COCO's layout.
    """

    def __init__(self, folder: Path, split: str, resolution: int = RESOLUTION) -> None:
        annotations = json.loads(annotation_file(folder, split).read_text())
        captions: dict[int, str] = {}
        for entry in sorted(annotations["annotations"], key=lambda a: a["id"]):
            captions.setdefault(entry["image_id"], " ".join(entry["caption"].split()))
        images = sorted((i for i in annotations["images"] if i["id"] in captions), key=lambda i: i["id"])
        self.records = [{"id": str(i["id"]), "caption": captions[i["id"]], "file": i["file_name"]} for i in images]
        self.folder, self.resolution = folder / split, resolution

    def __len__(self) -> int:
        return len(self.records)

    def item(self, index: int) -> Item:
        """Image `index` as an item."""
        record = self.records[index]
        pixels = centre_square(Image.open(self.folder / record["file"]), self.resolution)
        return Item(record["id"], to_tensor(pixels), record["caption"])
