"""Images as data URIs that together stay within a number of bytes."""

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

QUALITIES = (None, 98, 95, 90, 85, 80, 75)  # of WebP; None is lossless
LONGEST_SIDE = 16383  # of a WebP picture


def data_uris(pictures: Sequence[np.ndarray], *, max_bytes: int) -> tuple[list[str], str]:
    """Pictures (H, W, 3), uint8, as WebP data URIs, and their encoding in words: lossless if that fits in `max_bytes`, else the best.

    Lossy pictures come with their PSNR to the pixels, over all pictures. Raises ValueError where not even the lowest quality fits.
    """
    for quality in QUALITIES:
        files = [_webp(picture, quality) for picture in pictures]
        uris = ["data:image/webp;base64," + base64.b64encode(file).decode() for file in files]
        if sum(map(len, uris)) <= max_bytes:
            return (
                uris,
                "WebP, lossless" if quality is None else f"WebP, quality {quality}, PSNR {_psnr(files, pictures):.0f} dB to the pixels",
            )
    needed, allowed = sum(map(len, uris)) // 1000, max(max_bytes, 0) // 1000
    raise ValueError(
        f"The images need {needed} kB even at WebP quality {QUALITIES[-1]}, but max_kb leaves {allowed} kB: show fewer or smaller ones."
    )


def lowest_bytes(pictures: Sequence[np.ndarray]) -> int:
    """What the pictures' data URIs need together at the lowest quality that `data_uris` takes."""
    return sum(len("data:image/webp;base64,") + 4 * math.ceil(len(_webp(picture, QUALITIES[-1])) / 3) for picture in pictures)


def film_strip(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Frames (H, W, 3) side by side in one picture (H, F * W, 3)."""
    return np.concatenate(frames, axis=1)


def shrink(image: np.ndarray, max_size: int) -> np.ndarray:
    """An image (H, W, 3) at most `max_size` pixels wide and high, averaged over areas; smaller ones as they are."""
    height, width = image.shape[:2]
    factor = max_size / max(height, width)
    if factor >= 1:
        return image
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def _webp(picture: np.ndarray, quality: int | None) -> bytes:
    content = io.BytesIO()
    arguments = {"lossless": True, "quality": 90} if quality is None else {"quality": quality}
    Image.fromarray(picture).save(content, format="webp", method=4, **arguments)
    return content.getvalue()


def _psnr(files: Sequence[bytes], pictures: Sequence[np.ndarray]) -> float:
    decoded = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB"), dtype=float) for file in files]
    squares = sum(((a - b) ** 2).sum() for a, b in zip(decoded, pictures, strict=True))
    return 10 * math.log10(255**2 * sum(picture.size for picture in pictures) / max(squares, 1.0))
