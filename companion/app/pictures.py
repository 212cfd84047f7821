"""Pictures that people bring: bounded in bytes and pixels, of the formats that a browser shows, in memory only.

The file that the reader of pictures needs lies in a folder of the app's own for as long as it is read.
"""

import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.pictures import PictureError, read_picture

MAX_BYTES = 10_000_000
MAX_PIXELS = 25_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def read_upload(content: bytes, name: str, size: int) -> np.ndarray:
    """The largest centred square of an uploaded picture, (size, size, 3) uint8.

    Raises:
        PictureError: one sentence: too large, no picture of `FORMATS`, or one that `read_picture` refuses.
    """
    name = shown_name(name)
    if len(content) > MAX_BYTES:
        raise PictureError(too_large(name, len(content)))
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
    except Exception as error:  # whatever a decoder raises for what is no picture
        raise PictureError(f"{name} cannot be read, but must be a picture in {', '.join(FORMATS)}") from error
    if width * height > MAX_PIXELS:
        raise PictureError(f"{name} has {width} x {height} pixels, but must have at most {MAX_PIXELS:,}")
    with tempfile.TemporaryDirectory(prefix="smooth-app-") as folder:
        file = Path(folder) / "picture"
        file.write_bytes(content)
        try:
            return read_picture(file, size)
        except PictureError as error:
            raise PictureError(str(error).replace(str(file), name)) from error


def too_large(name: str, size: int) -> str:
    """The sentence for a file of too many bytes."""
    return f"{shown_name(name)} has {size / 1e6:.1f} MB, but must have at most {MAX_BYTES // 1_000_000} MB"


def shown_name(name: str) -> str:
    """A file's name as a sentence may show it: without folders and signs that cannot be printed, cut off after 80 letters."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[:80] or "the file"


def png(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as a PNG file."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="png")
    return content.getvalue()
