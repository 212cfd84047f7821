"""COCO captions in their published layout: `<folder>/<split>/*.jpg` and `<folder>/annotations/captions_<split>.json`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .items import Item, to_tensor
from .links import check_link
from .listings import ListingError, inside, parse_json, read_text
from .pictures import read_picture

RESOLUTION = 512  # Stable Diffusion 1.5's, the paper's


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


def read_annotations(file: Path) -> list[dict[str, Any]]:
    """The images of an annotation file that have captions, sorted by id, as `{"id", "caption", "file"}`.

    An image's caption is the one with the lowest annotation id that is not empty, spaces made single.

    Raises:
        ListingError: the file holds something else than images and captions, an id twice, ids of several kinds, an image with empty
            captions alone, a file name that leads out of the folder, or no caption for any of its images.
    """
    content = parse_json(read_text(file), str(file))
    images, captions = _images(content, file), _captions(content, file)
    of_kind = {type(identity): identity for identity in [*images, *(identity for _, identity, _ in captions)]}
    if len(of_kind) > 1:  # 1 and "1" would be two images
        raise ListingError(f"{file} has the image ids {of_kind[int]!r} and {of_kind[str]!r}, but all must be numbers, or all texts")
    first: dict[int | str, str] = {}
    for _, identity, caption in captions:
        first[identity] = first.get(identity) or caption
    if empty := [identity for identity in sorted(images) if first.get(identity) == ""]:
        raise ListingError(f"{file} has an empty caption for the image of the id {empty[0]!r}, and no other: complete it, or remove it")
    found = [
        {"id": str(identity), "caption": first[identity], "file": images[identity]} for identity in sorted(images.keys() & first.keys())
    ]
    if not found:
        raise ListingError(f"{file} has {len(images)} images and {len(captions)} captions, but no image with a caption")
    return found


def _images(content: Any, file: Path) -> dict[int | str, str]:
    """File name by image id."""
    found: dict[int | str, str] = {}
    for entry, where in _section(content, "images", file):
        identity = _identity(entry, "id", where)
        if identity in found:
            raise ListingError(f"{file} has two images of the id {identity!r}, but ids must differ: number them anew")
        found[identity] = inside(entry.get("file_name"), where)
    return found


def _captions(content: Any, file: Path) -> list[tuple[int, int | str, str]]:
    """Annotation id, image id and caption, sorted by annotation id."""
    found: dict[int, tuple[int, int | str, str]] = {}
    for entry, where in _section(content, "annotations", file):
        number = entry.get("id")
        if not isinstance(number, int) or isinstance(number, bool):
            raise ListingError(f"{where} has the id {number!r}, but must have a whole number, by which an image's first caption is found")
        if number in found:
            raise ListingError(f"{file} has two annotations of the id {number}, but ids must differ: number them anew")
        if not isinstance(caption := entry.get("caption"), str):
            has = f"the caption {caption!r}" if "caption" in entry else f"only {', '.join(map(str, entry))}"
            raise ListingError(f"{where} has {has}, but must have a text as caption, as the captions_*.json of COCO")
        found[number] = number, _identity(entry, "image_id", where), " ".join(caption.split())
    return [found[number] for number in sorted(found)]


def _section(content: Any, name: str, file: Path) -> list[tuple[Mapping[str, Any], str]]:
    """The entries of a list of the file, each with its place ("images[3] of FILE")."""
    if not isinstance(content, dict):
        raise ListingError(f"{file} holds a {type(content).__name__}, but must hold images and annotations, as the captions_*.json of COCO")
    entries = content.get(name)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        found = "none" if name not in content else "something else"
        raise ListingError(f"{file} must hold a list of {name}, as the captions_*.json of COCO, but has {found}")
    return [(entry, f"{name}[{index}] of {file}") for index, entry in enumerate(entries)]


def _identity(entry: Mapping[str, Any], field: str, where: str) -> int | str:
    value = entry.get(field)
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise ListingError(f"{where} has the {field} {value!r}, but must have the number of an image")
    return value


class CocoSplit:
    """A split of COCO, sorted by image id, each image with its first caption (lowest annotation id); images are read when asked for.

    The paper does not say which year, crop or caption it used; this choice is recorded with every result. An image is read as
    `companion.data.pictures.read_picture` says, `resolution` pixels wide and high.

    Raises:
        FileNotFoundError: the folder is not in COCO's layout.
        ListingError: the annotations are not COCO's captions (see `read_annotations`), or a picture is a link that leads out of the folder.
    """

    def __init__(self, folder: Path, split: str, resolution: int = RESOLUTION) -> None:
        file = annotation_file(folder, split)
        self.records = read_annotations(file)
        self.folder, self.resolution = folder / split, resolution
        for record in self.records:
            check_link(self.folder, record["file"], str(file))

    def __len__(self) -> int:
        return len(self.records)

    def item(self, index: int) -> Item:
        """Image `index` as an item; PictureError where it cannot be read."""
        record = self.records[index]
        return Item(record["id"], to_tensor(read_picture(self.folder / record["file"], self.resolution)), record["caption"])
