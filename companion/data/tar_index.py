"""Where the captioned pictures of a tar shard lie, found from its headers alone and kept in runs/shards.

Shards are what img2dataset and the webdataset tools write: KEY.jpg (or another picture), KEY.txt with its caption, and whatever else they
keep of a pair; KEY is all of the name before the first dot of its last part.

Python's tarfile reads the headers. The webdataset package (1.0.2) reads such shards, too, but cannot go on at a sample: a resumed run
begins a new epoch. It deals out whole shards, so that ranks get different numbers of samples; it passes over links in silence, and has no
limit for the size of a member. With the index a sample is a number: order and rank follow from arithmetic, and a resumed run reads nothing
twice.
"""

import contextlib
import hashlib
import json
import os
import stat
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

import numpy as np

from ..base import paths
from ..base.files import DamagedFile, read_sealed, write_sealed
from .listings import ListingError
from .pictures import SETTLED

PICTURES = frozenset(("bmp", "gif", "jpeg", "jpg", "png", "tif", "tiff", "webp"))
MEGABYTE = 2**20
LARGEST, LARGEST_TEXT = 64 * MEGABYTE, MEGABYTE  # a member; a caption
TAIL = 64  # bytes at a picture's end that count for the identity: where its compressed content differs from another's
VERSION = 1  # of the kept index
PAIR = np.dtype([("image", "<i8"), ("image_size", "<i4"), ("text", "<i8"), ("text_size", "<i4")])


@dataclass(frozen=True)
class ShardIndex:
    """The pairs of a shard in the order of its pictures; how many were left out, why the first was, and a hash of what it holds."""

    pairs: np.ndarray  # (N,) of PAIR: where picture and caption begin, and their sizes in bytes
    left_out: int
    problem: str | None
    digest: str


@dataclass
class _Found:
    """What a shard holds of one key."""

    picture: tuple[int, int] | None = None
    text: tuple[int, int] | None = None
    caption: str = ""
    problem: str | None = None
    digest: bytes = field(default=b"", repr=False)


def shard_index(file: Path, captions: Mapping[str, str] | None = None) -> ShardIndex:
    """The index of a shard; kept in runs/shards under the shard's size and time stamps.

    Args:
        captions: by key, where they do not lie in the shard; a pair's `text` is then its key's place among them, and its `text_size` -1.

    Raises:
        ListingError: the shard is no tar file, is cut off or damaged, or holds a link, a name that leads out of it, a key twice, or a
            member of more than 64 MiB (a caption: 1 MiB). No picture is opened before that is known.
    """
    stamp = _stamp(file)
    if captions is not None:
        return _read_index(file, captions)
    kept = paths.RUNS / "shards" / f"{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:32]}.index"
    if found := _kept(kept, stamp):
        return found
    found = _read_index(file, None)
    if time.time() - max(stamp[1:]) / 1e9 > SETTLED and stamp == _stamp(file):  # a younger file may still change under its time stamp
        said = {"version": VERSION, "stamp": stamp, "left_out": found.left_out, "problem": found.problem, "digest": found.digest}
        with contextlib.suppress(OSError):  # a full disk: the index is made again
            write_sealed(kept, json.dumps(said).encode() + b"\n" + found.pairs.tobytes())
    return found


def _stamp(file: Path) -> list[int]:
    try:
        known = file.stat()
    except OSError as error:
        raise ListingError(f"{file} cannot be read: {error.strerror or error}") from None
    if not stat.S_ISREG(known.st_mode):
        raise ListingError(f"{file} is no file, but must be a tar file")
    return [known.st_size, known.st_mtime_ns, known.st_ctime_ns]


def _kept(file: Path, stamp: list[int]) -> ShardIndex | None:
    try:
        head, _, content = read_sealed(file).partition(b"\n")
        said = json.loads(head)
    except (OSError, DamagedFile, ValueError):
        return None
    if said.get("version") != VERSION or said.get("stamp") != stamp:
        return None
    return ShardIndex(np.frombuffer(content, PAIR), said["left_out"], said["problem"], said["digest"])


def _read_index(file: Path, captions: Mapping[str, str] | None) -> ShardIndex:
    found: dict[str, _Found] = {}
    try:
        with open(file, "rb") as stream:
            for member in _members(file, stream):
                _take(file, stream, member, found)
    except OSError as error:
        raise ListingError(f"{file} cannot be read: {error.strerror or error}") from None
    places = None if captions is None else {key: place for place, key in enumerate(captions)}
    pairs, problems, digest = [], [], hashlib.sha256()
    for key, one in found.items():
        if captions is not None and one.text is None:
            one.caption, one.text = captions.get(key, ""), (places[key], -1) if key in captions else None
        if problem := _problem(key, one):
            problems.append(f"{file} {problem}")
            continue
        pairs.append((*one.picture, *one.text))
        digest.update(json.dumps([key, one.picture[1], one.caption]).encode() + one.digest)
    return ShardIndex(np.array(pairs, PAIR), len(problems), problems[0] if problems else None, digest.hexdigest())


def _problem(key: str, one: _Found) -> str | None:
    if one.picture is None:
        return f"has no picture for {key}.txt"
    if one.text is None:
        return f"has no caption for {key}"
    return one.problem or (None if one.caption else f"has an empty caption for {key}")


def _take(file: Path, stream: IO[bytes], member: tarfile.TarInfo, found: dict[str, _Found]) -> None:
    """Note a member that is a picture or a caption."""
    folder, _, name = member.name.rpartition("/")
    stem, _, ending = name.partition(".")
    ending = ending.lower()
    if not stem or not (ending in PICTURES or ending == "txt"):
        return
    key = f"{folder}/{stem}" if folder else stem
    one = found.setdefault(key, _Found())
    if (one.text if ending == "txt" else one.picture) is not None:
        what = "captions" if ending == "txt" else "pictures"
        raise ListingError(f"{file} has two {what} of the key {key!r}, but keys must differ within a shard")
    place = member.offset_data, member.size
    if ending != "txt":
        stream.seek(member.offset_data + max(0, member.size - TAIL))
        one.picture, one.digest = place, stream.read(min(TAIL, member.size))
        return
    if member.size > LARGEST_TEXT:
        raise ListingError(f"{file} declares {member.size} bytes for {member.name!r}, but a caption must have at most {LARGEST_TEXT}")
    stream.seek(member.offset_data)
    one.text, content = place, stream.read(member.size)
    try:
        one.caption = decoded(content)
    except UnicodeDecodeError as error:
        one.problem = f"has a caption for {key} that is not UTF-8 (byte {error.start} is {content[error.start]:#04x})"


def decoded(content: bytes) -> str:
    """A caption as it is used: without a byte order mark, and without white space around it. Raises UnicodeDecodeError."""
    return content.decode("utf-8-sig").strip()


class _Bounded:
    """A file that gives no more than the largest member at once, whatever a header asks for."""

    def __init__(self, file: Path, stream: IO[bytes]) -> None:
        self.file, self.stream, self.seek, self.tell = file, stream, stream.seek, stream.tell

    def read(self, count: int) -> bytes:
        if not 0 <= count <= LARGEST:
            raise ListingError(f"{self.file} has a header of {count} bytes, but must have members of at most {LARGEST}")
        return self.stream.read(count)


def _members(file: Path, stream: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """The plain files of a shard, each checked; raises as `shard_index` does."""
    damaged = f"{file} is cut off or damaged as a tar file: fetch it again, or remove it"
    try:
        with tarfile.open(fileobj=_Bounded(file, stream), mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # a million of them take a gigabyte
                if not member.isdir():
                    _check(file, member)
                    yield member
            stream.seek(archive.offset)
            if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes a damaged header for the end
                raise ListingError(damaged)
    except ListingError:
        raise
    except (tarfile.TarError, ValueError, OverflowError) as error:  # tarfile lets through what int() says of an extended header
        raise ListingError(damaged if os.fstat(stream.fileno()).st_size else f"{file} is empty, but must be a tar file") from error


def _check(file: Path, member: tarfile.TarInfo) -> None:
    if not member.isreg() or member.issparse():
        raise ListingError(f"{file} holds {member.name!r}, which is a link or no plain file, but must hold plain files alone")
    if not member.name.isprintable():  # a line break would end the sentence that names it
        raise ListingError(f"{file} holds {member.name!r}, but must hold names of printable characters in UTF-8")
    for path in (PurePosixPath(member.name), PureWindowsPath(member.name)):
        if path.is_absolute() or path.drive or path.root or ".." in path.parts:
            raise ListingError(f"{file} holds {member.name!r}, but must hold names without a root and without ..")
    if not 0 <= member.size <= LARGEST:
        raise ListingError(f"{file} declares {member.size} bytes for {member.name!r}, but must have members of at most {LARGEST}")
