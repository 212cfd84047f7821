"""Pictures that users bring: any file that Pillow reads becomes the square that a model sees, or is refused by its name.

Every reader of pictures goes through `read_picture`, so that one picture is the same in a table and in a training:

- the EXIF orientation is applied, as every viewer does;
- what is transparent shows white;
- grey of 16 bits is scaled by its range, grey of 32 bits and floats by the range that their values fit (see `grey_range`);
- the largest centred square is cut out and resized with Lanczos' filter, which averages where it shrinks;
- of several frames the first counts.
"""

import contextlib
import hashlib
import io
import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError

from ..base import paths
from ..base.files import atomic_write
from ..base.progress import progress_bar

MAX_RATIO = 10_000  # longer to shorter side: beyond it there is a damaged header rather than a picture
DARKEST = 16 / 255  # of its range; a whole picture that is nowhere brighter has another range
SETTLED = 2.0  # seconds: a file that is younger may still change without its time stamp showing it
AT_ONCE = 1000  # pictures that wait for the threads


class PictureError(ValueError):
    """A picture cannot be read; one sentence names the file and what is wrong with it."""


def read_picture(file: Path, size: int) -> np.ndarray:
    """The largest centred square of a picture, resized to `size` x `size`: (size, size, 3) uint8.

    Raises:
        PictureError: the file is missing, damaged, no picture, of more pixels than `PIL.Image.MAX_IMAGE_PIXELS`, more than `MAX_RATIO`
            times as long as wide, or of a kind whose brightness is not known.
    """
    return square(_decoded(file, _content(file)), size)


def read_whole(file: Path) -> np.ndarray:
    """A picture at its own size: (H, W, 3) uint8; raises as `read_picture` does."""
    return np.array(_decoded(file, _content(file)))


def square(image: Image.Image, size: int) -> np.ndarray:
    """The largest centred square of an RGB image, resized to `size` x `size`: (size, size, 3) uint8."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    inner = image.crop((left, top, left + side, top + side))  # `resize(box=...)` would mix in what lies around
    return np.array(inner.resize((size, size), Image.Resampling.LANCZOS))


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise PictureError(f"{file} cannot be read: {error.strerror or error}") from None


def _decoded(file: Path, content: bytes) -> Image.Image:
    """The picture upright in RGB, 8 bits a channel."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            _check_shape(image)
            return _rgb(ImageOps.exif_transpose(image))
    except PictureError as error:
        raise PictureError(f"{file} {error}") from None
    except UnidentifiedImageError:
        raise PictureError(f"{file} is no picture of a format that Pillow knows") from None
    except Exception as error:  # decoders raise many kinds for what is damaged
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise PictureError(f"{file} cannot be read as a picture: {reason}") from error


def _check_shape(image: Image.Image) -> None:
    """Look at the header's size before anything of that size is made."""
    short, long = sorted(image.size)
    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or np.inf):
        allowed = f"at most {Image.MAX_IMAGE_PIXELS} pixels (PIL.Image.MAX_IMAGE_PIXELS)"
        raise PictureError(f"is {image.width} x {image.height}, but must have {allowed}")
    if long > MAX_RATIO * short:
        raise PictureError(f"is {image.width} x {image.height}, but must be at most {MAX_RATIO} times as long as wide")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _grey(image)
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image  # Pillow has no direct way
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def _grey(image: Image.Image) -> Image.Image:
    """A grey image of 16 or 32 bits a pixel in 8 bits."""
    values = np.asarray(image)
    white = grey_range(image.mode, float(values.min()), float(values.max()))
    return Image.fromarray((values.astype(np.float64) * (255 / white)).round().astype(np.uint8))


def grey_range(mode: str, low: float, high: float) -> float:
    """The value that is white in a grey image of Pillow's mode `mode` with values from `low` to `high`; black is 0.

    Files of 16 bits say their range. Those of 32 bits (`I`) hold, by what programs write, 0 to 255 or 0 to 65535, floats (`F`) 0 to 1 or
    0 to 255: the smallest range that holds the values. Floats just above 1 would be black in the next range; they are refused, as are
    whole numbers just above 255.

    Raises:
        PictureError: the values fit no range.
    """
    ranges = {"F": (1.0, 255.0), "I": (255.0, 65535.0)}.get(mode, (65535.0,))
    for smaller, white in zip((0.0, *ranges), ranges, strict=False):
        if low >= 0 and high <= white and (smaller == 0 or high >= DARKEST * white):
            return white
    allowed = " or ".join(f"0 to {white:g}" for white in ranges)
    raise PictureError(f"has grey values from {low:g} to {high:g}, but must have {allowed}: save it in 8 or 16 bits")


# Whole folders --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Examined:
    """What is known of a picture's file: the sha256 of its content, and what is wrong with it (None: it can be read)."""

    sha256: str
    problem: str | None


def examine(folder: Path, names: Iterable[str]) -> dict[str, Examined]:
    """Decode every picture of a folder once, before it is needed: name -> what was found.

    Kept in runs/pictures under each file's size and time stamps, so that a second call decodes only what has changed since.
    """
    key = f"{folder.resolve()} {PIL.__version__} {Image.MAX_IMAGE_PIXELS} {MAX_RATIO}"
    cache = paths.RUNS / "pictures" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    kept, found, waiting = _kept(cache), {}, {}
    for name in dict.fromkeys(names):
        stamp = _stamp(folder / name)
        if stamp and kept.get(name, [])[:3] == stamp:
            found[name] = Examined(*kept[name][3:])
        else:
            waiting[name] = stamp
    if waiting:
        try:
            _examine(folder, waiting, found, kept)
        finally:  # an interrupted look at a large folder goes on where it stopped
            with contextlib.suppress(OSError):
                atomic_write(cache, json.dumps(kept).encode())
    return found


def _examine(folder: Path, waiting: dict[str, list | None], found: dict[str, Examined], kept: dict[str, list]) -> None:
    names, done = list(waiting), 0
    with (
        progress_bar("pictures looked at", total=len(names)) as advance_to,
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
    ):
        for part in (names[start : start + AT_ONCE] for start in range(0, len(names), AT_ONCE)):
            for name, result in zip(part, pool.map(_look, [folder / name for name in part]), strict=True):
                found[name] = result
                stamp = waiting[name]
                if stamp and time.time() - max(stamp[1:]) / 1e9 > SETTLED and stamp == _stamp(folder / name):
                    kept[name] = [*stamp, result.sha256, result.problem]
                done += 1
                advance_to(done)


def _look(file: Path) -> Examined:
    content = b""
    try:
        content = _content(file)
        _decoded(file, content)
    except PictureError as error:
        return Examined(hashlib.sha256(content).hexdigest(), str(error))
    return Examined(hashlib.sha256(content).hexdigest(), None)


def _stamp(file: Path) -> list[int] | None:
    """Size, time of the last change of the content, and of the file: the last cannot be set back."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _kept(cache: Path) -> dict[str, list]:
    try:
        kept = json.loads(cache.read_bytes())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) and all(isinstance(entry, list) and len(entry) == 5 for entry in kept.values()) else {}
