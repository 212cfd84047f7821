"""Image-text pairs in tar shards: pairs by number, each caption and picture read when it is asked for.

A data set of any size takes 24 bytes of memory a pair. What a shard holds is known before the first pair is read (see `tar_index`), but
pictures are decoded only when they are due: of hundreds of thousands some are damaged, and another is taken in place of each.
"""

import glob
import gzip
import hashlib
import json
import re
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tarfile import BLOCKSIZE

import numpy as np

from .listings import ListingError, parse_json, read_text
from .pictures import PictureError, read_picture
from .tar_index import decoded, shard_index

BAD_PICTURES = ("error", "skip")
IN_A_ROW = 100  # pictures that cannot be read one after another: then something else is wrong
LISTED = re.compile(r"(.+)-\d+\.tar")


@dataclass(frozen=True)
class Member:
    """What a shard holds of a file, which `read_picture` takes as it takes a path."""

    name: str
    content: bytes
    shard: Path | None = None

    def read_bytes(self) -> bytes:
        return self.content

    def __str__(self) -> str:
        return f"{self.name} of {self.shard}" if self.shard else self.name


def _member(shard: Path, offset: int, size: int) -> Member:
    """The member whose content begins at `offset`, named by the header before it."""
    with open(shard, "rb", buffering=0) as stream:
        stream.seek(offset - BLOCKSIZE)
        found = stream.read(BLOCKSIZE + size)
    if len(found) != BLOCKSIZE + size:
        raise OSError(f"{shard} has become shorter while it was read: fetch it again, then go on")
    name = found[:100].partition(b"\0")[0].decode(errors="replace")
    return Member(name, found[BLOCKSIZE:], shard)


class Shards:
    """The pairs of several shards, numbered in the order of the shards' names.

    Args:
        data: a folder, all of whose *.tar are taken, or a pattern such as `laion/000*.tar`.
        bad: `error`, or `skip`: pairs without a caption or a picture are left out (`left_out`), and a picture that turns out to be
            damaged is replaced by the next that is not.

    Shards without captions, such as those of the scenes (`data/scenes/train-*.tar`), have them in a `train.jsonl` or `train.jsonl.gz`
    beside them, by the id NAME-KEY.

    Raises:
        ListingError: there are no shards or no pairs, a shard is refused (`tar_index.shard_index`), or a pair is not complete (`error`).
    """

    def __init__(self, data: Path | str, bad: str = "error") -> None:
        if bad not in BAD_PICTURES:
            raise ListingError(f"bad_images must be one of {', '.join(BAD_PICTURES)}, got {bad!r}")
        self.bad, self.files = bad, shard_files(data)
        self.listed: dict[str, list[str]] = {}  # captions from beside the shards, by the shards' common name
        indices = []
        for file in self.files:
            captions = self._captions_beside(file)
            indices.append(shard_index(file, captions))
        self.counts = np.array([len(index.pairs) for index in indices])
        self.ends = np.cumsum(self.counts)
        self.pairs = np.concatenate([index.pairs for index in indices])
        self.left_out = sum(index.left_out for index in indices)
        self.problems = [index.problem for index in indices if index.problem]  # the first of each shard
        self.broken: dict[int, str] = {}  # what could not be decoded so far, and why
        self._names = [(file.name, index.digest) for file, index in zip(self.files, indices, strict=True)]
        if self.left_out:
            said = f"{self.left_out} of {len(self) + self.left_out} pairs in {data} cannot be used: {self.problems[0]}"
            if bad == "error" or not len(self):
                raise ListingError(f"{said}; complete or remove them, or leave them out by the setting bad_images=skip")
            warnings.warn(f"{said}; they are left out (bad_images=skip)", stacklevel=2)
        if not len(self):
            raise ListingError(f"data is {str(data)!r}, whose {len(self.files)} shards hold no pictures with captions")

    def _captions_beside(self, file: Path) -> Mapping[str, str] | None:
        name = LISTED.fullmatch(file.name)
        if name is None:
            return None
        for listing in (file.with_name(f"{name[1]}.jsonl"), file.with_name(f"{name[1]}.jsonl.gz")):
            if listing.is_file():
                captions = _listed_captions(listing, f"{name[1]}-")
                self.listed[name[1]] = list(captions.values())
                return captions
        return None

    def __len__(self) -> int:
        return len(self.pairs)

    def _shard(self, number: int) -> Path:
        return self.files[int(np.searchsorted(self.ends, number, side="right"))]

    def caption(self, number: int) -> str:
        """The caption of a pair."""
        pair, shard = self.pairs[number], self._shard(number)
        if pair["text_size"] < 0:
            return self.listed[LISTED.fullmatch(shard.name)[1]][pair["text"]]
        return decoded(_member(shard, int(pair["text"]), int(pair["text_size"])).content)

    def member(self, number: int) -> Member:
        """The picture of a pair as the shard has it. OSError where the shard cannot be read."""
        pair = self.pairs[number]
        return _member(self._shard(number), int(pair["image"]), int(pair["image_size"]))

    def picture(self, number: int, size: int) -> tuple[int, np.ndarray]:
        """A pair's picture as (size, size, 3) uint8, and its number: that of the next readable one (`skip`) where it is damaged itself.

        The next is the next by number, after the last the first: which one it is depends on the data alone, so that a resumed run takes
        the same.

        Raises:
            PictureError: it is damaged (`error`), or a hundred in a row are.
            OSError: the shard cannot be read; nothing stands for what a disk or a network refuses.
        """
        in_a_row = min(IN_A_ROW, len(self))
        for other in ((number + step) % len(self) for step in range(in_a_row)):
            if other in self.broken:
                continue
            try:
                return other, read_picture(self.member(other), size)  # a member stands for a path
            except PictureError as error:
                if self.bad == "error":
                    raise PictureError(f"{error}; repair it, or let another stand for it by the setting bad_images=skip") from None
                self.broken[other] = str(error)
        raise PictureError(f"{in_a_row} pictures in a row cannot be read: {self.broken[number]}")

    def identity(self) -> str:
        """Hash of the shards' names, and of their keys, captions, the sizes of the pictures and their last bytes."""
        return hashlib.sha256(json.dumps(self._names).encode()).hexdigest()


def shard_files(data: Path | str) -> list[Path]:
    """The shards that a folder or a pattern names, sorted by name; ListingError where there are none."""
    folder = Path(data)
    found = folder.glob("*.tar") if folder.is_dir() else map(Path, glob.glob(str(data)))
    files = sorted(file for file in found if file.suffix == ".tar" and not file.name.startswith("."))
    if not files:
        raise ListingError(f"data is {str(data)!r}, but must be a folder with tar shards, or a pattern that fits some, such as laion/*.tar")
    return files


def _listed_captions(listing: Path, prefix: str) -> dict[str, str]:
    """Caption by key of a listing whose ids are the shards' common name and the key."""
    try:
        text = gzip.decompress(listing.read_bytes()).decode("utf-8-sig") if listing.suffix == ".gz" else read_text(listing)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ListingError(f"{listing} cannot be read: {error}") from None
    places = ((f"line {number} of {listing}", line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())
    captions = {}
    for where, line in places:
        entry = parse_json(line, where)
        known = isinstance(entry, dict) and isinstance(entry.get("id"), str) and isinstance(entry.get("caption"), str)
        if not known or not entry["id"].startswith(prefix):
            raise ListingError(f"{where} must give an id that begins with {prefix!r} and a caption, got {entry!r:.200}")
        captions[entry["id"].removeprefix(prefix)] = " ".join(entry["caption"].split())
    return captions
