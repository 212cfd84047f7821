"""Global styles as image filters on the rendering: pencil sketch, cartoon, oil painting, sepia."""

import numpy as np
from PIL import Image, ImageFilter

LUMA = np.float32([0.299, 0.587, 0.114])


def _gradient_magnitude(channel: np.ndarray) -> np.ndarray:
    dx, dy = np.zeros_like(channel), np.zeros_like(channel)
    dx[:, 1:] = channel[:, 1:] - channel[:, :-1]
    dy[1:] = channel[1:] - channel[:-1]
    return np.hypot(dx, dy)


def object_edges(albedo: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Line drawing strength in [0, 1] from jumps of albedo and surface normal, (H, W)."""
    strength = sum(0.7 * _gradient_magnitude(albedo[..., k]) + 0.3 * _gradient_magnitude(normals[..., k]) for k in range(3))
    return np.clip(strength - 0.12, 0, 1)


def _pencil(image, edges):
    y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]]
    hatching = 0.5 * np.sin(0.9 * (x + y)) + 0.5
    shade = np.clip((0.55 - image @ LUMA) * 1.1, 0, 0.6) * hatching
    return np.repeat(np.clip(0.97 - 0.9 * edges - 0.8 * shade, 0, 1)[..., None], 3, axis=-1)


def _cartoon(image, edges):
    flat = Image.fromarray((np.round(image * 5) / 5 * 255).astype(np.uint8)).filter(ImageFilter.ModeFilter(3))
    return np.clip(np.asarray(flat, np.float32) / 255 * 1.12, 0, 1) * (1 - 0.85 * edges)[..., None]


def _oil(image, edges):
    smooth = np.asarray(Image.fromarray((image * 255).astype(np.uint8)).filter(ImageFilter.MedianFilter(3)), np.float32) / 255
    strokes = Image.fromarray(np.random.default_rng(1).standard_normal((24, 24)).astype(np.float32)).resize(
        image.shape[1::-1], Image.BICUBIC
    )
    bold = np.clip((smooth - 0.5) * 1.25 + 0.52 + 0.025 * np.asarray(strokes)[..., None], 0, 1)
    grey = bold.mean(-1, keepdims=True)
    return np.clip(grey + (bold - grey) * 1.5, 0, 1)


def _sepia(image, edges):
    return np.clip((image @ LUMA)[..., None] * np.float32([1.08, 0.9, 0.66]), 0, 1)


FILTERS = {"pencil sketch": _pencil, "cartoon": _cartoon, "oil painting": _oil, "sepia": _sepia}


def apply_style(image: np.ndarray, style: str, albedo: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Restyle a display image (H, W, 3) in [0, 1]; `photo` leaves it as it is. Albedo and normals are the renderer's guides."""
    if style == "photo":
        return image
    return FILTERS[style](image.astype(np.float32), object_edges(albedo, normals))
