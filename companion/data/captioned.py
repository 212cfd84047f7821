"""Folders of pictures with captions: a listing (jsonl or csv), a .txt beside each picture, or COCO's annotations.

    photos/a.jpg, photos/metadata.jsonl                {"file_name": "a.jpg", "text": "a cat"}       one a line
    photos/a.jpg, photos/captions.csv                  file_name,text                                a header, then one a line
    photos/a.jpg, photos/a.txt                         a cat
    coco/val2014/*.jpg, coco/annotations/captions_val2014.json        as published, of 2014 and 2017

A listing is called metadata or captions, and its caption text or caption. COCO's pictures get the first of their captions.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .coco import annotation_file, read_annotations
from .links import check_link
from .listings import ListingError, inside, json_lines, read_text
from .tar_index import PICTURES, decoded

LISTINGS = ("metadata.jsonl", "captions.jsonl", "metadata.csv", "captions.csv")
CAPTIONS = ("text", "caption")


@dataclass(frozen=True)
class Captioned:
    """A picture of a folder with its caption, and what is wrong with either (None: nothing, as far as is known unopened)."""

    name: str
    caption: str
    problem: str | None = None


def captioned_folder(folder: Path) -> tuple[str, list[Captioned]]:
    """What the pictures of a folder are listed in, for messages, and each with its caption.

    In the order of the listing, or of the names. A picture that is missing, or whose caption is missing or empty, has a problem.

    Raises:
        ListingError: there is no such folder, it has several listings, no picture with a caption, or a line that gives none, or it names a
            picture outside, by its path or by a link.
    """
    there = [name for name in LISTINGS if (folder / name).is_file()]
    if len(there) > 1:
        raise ListingError(f"data is {str(folder)!r}, which has {' and '.join(there)}, but must have one listing: remove the others")
    if there:
        listing = folder / there[0]
        entries = json_lines(listing) if listing.suffix == ".jsonl" else _csv_lines(listing)
        found = [_listed(folder, where, entry) for where, entry in entries]
        if not found:
            raise ListingError(f"{listing} must list at least one image, but is empty")
        return str(listing), found
    found = list(_beside(folder)) if folder.is_dir() else []
    if all(one.problem for one in found):
        raise ListingError(
            f'data must be a folder with a metadata.jsonl of {{"file_name": ..., "text": ...}} lines (or a csv, or a .txt beside each '
            f"image), shards, or COCO, got {str(folder)!r}"
        )
    return str(folder), found


def coco_folder(folder: Path, split: str) -> tuple[str, Path, list[Captioned]]:
    """COCO's annotation file, the folder of the split's pictures, and each picture with its first caption; raises as `coco` does."""
    try:
        file = annotation_file(folder, split)
    except FileNotFoundError as error:
        others = sorted(file.stem.removeprefix("captions_") for file in (folder / "annotations").glob("captions_*.json"))
        raise ListingError(f"{error}; there are annotations of {', '.join(others)}" if others else str(error)) from None
    pictures = folder / split
    return str(file), pictures, [_found(pictures, record["file"], record["caption"], str(file)) for record in read_annotations(file)]


def _found(folder: Path, name: str, caption: str, where: str) -> Captioned:
    check_link(folder, name, where)
    missing = None if (folder / name).is_file() else f"there is no {folder / name}"
    return Captioned(name, caption, missing)


def _listed(folder: Path, where: str, entry: Any) -> Captioned:
    """A line of a listing."""
    fields = [name for name in CAPTIONS if isinstance(entry, Mapping) and name in entry]
    caption = entry[fields[0]] if len(fields) == 1 else None
    if not isinstance(caption, str) or "file_name" not in entry:
        raise ListingError(f"{where} must give an existing image's file_name and its caption as text, got {entry!r:.200}")
    name = inside(entry["file_name"], where)
    if not caption.strip():
        raise ListingError(f"{where} must give {name} a caption, but its text is empty: complete it, or remove the line")
    found = _found(folder, name, caption, where)
    if found.problem:
        problem = f"{where} must give an existing image's file_name and its caption as text, but {found.problem}"
        return Captioned(name, caption, problem)
    return found


def _csv_lines(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a CSV file with a header, each with its place."""
    rows = csv.DictReader(io.StringIO(read_text(file), newline=""), strict=True)
    try:
        for row in rows:
            where = f"line {rows.line_num} of {file}"
            if None in row:
                raise ListingError(f"{where} has more fields than the header: put a caption with commas into double quotes")
            yield where, {name: value for name, value in row.items() if value is not None}
    except csv.Error as error:
        raise ListingError(f"line {rows.line_num} of {file} is not CSV: {error}") from None


def _beside(folder: Path) -> Iterator[Captioned]:
    """Pictures of a folder and its folders by name, with the .txt beside each."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.suffix[1:].lower() not in PICTURES or any(part.startswith(".") for part in name.parts):
            continue
        check_link(folder, str(name), str(folder))
        text = path.with_suffix(".txt")
        check_link(folder, str(text.relative_to(folder)), str(folder))
        caption, problem = "", None
        try:
            caption = decoded(text.read_bytes())
            problem = None if caption else f"{text} is empty, but must be the caption of {path.name}"
        except UnicodeDecodeError:
            problem = f"{text} is not UTF-8, but must be: save it as that"
        except OSError:
            problem = f"{path} has no caption: there is no {text.name} beside it"
        yield Captioned(str(name), caption, problem)
