"""Procedural ground textures: eight materials as linear-RGB reflectance maps, drawn with numpy from fixed seeds."""

from functools import cache

import numpy as np
from PIL import Image

SIZE = 512
BASE = {  # mean linear reflectance
    "grass": (0.10, 0.20, 0.035),
    "sand": (0.52, 0.40, 0.24),
    "snow": (0.82, 0.84, 0.88),
    "wood": (0.36, 0.19, 0.08),
    "tiles": (0.60, 0.58, 0.54),
    "asphalt": (0.12, 0.12, 0.125),
    "carpet": (0.35, 0.06, 0.07),
    "brick": (0.36, 0.13, 0.08),
}
NOISE = {"grass": 0.55, "sand": 0.18, "snow": 0.05, "wood": 0.08, "tiles": 0.04, "asphalt": 0.25, "carpet": 0.15, "brick": 0.15}


def _noise(octaves: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Sum of bicubically enlarged white noise at several scales, (SIZE, SIZE, 1)."""
    layers = [Image.fromarray(rng.standard_normal((n, n)).astype(np.float32)).resize((SIZE, SIZE), Image.BICUBIC) for n in octaves]
    return np.mean([np.asarray(layer) for layer in layers], axis=0)[..., None]


@cache
def ground_texture(name: str) -> np.ndarray:
    """Reflectance map (512, 512, 3) float32 of the ground `name`; the same every time."""
    rng = np.random.default_rng([ord(c) for c in name])
    fine = _noise((8, 32, 128, 256), rng)
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    texture = np.ones((SIZE, SIZE, 3)) * np.array(BASE[name])
    if name == "wood":  # planks of 48 texels with a wavy grain and dark joints
        plank = x // 48
        shade = rng.uniform(0.75, 1.25, 64)[plank % 64]
        grain = 1 + 0.18 * np.sin(y / 9.0 + _noise((4, 8), rng)[..., 0] * 9 + plank * 2.1)
        texture *= (shade * grain * np.where(x % 48 < 2, 0.45, 1))[..., None]
    elif name == "tiles":  # 64-texel squares with joints
        joint = np.where((x % 64 < 3) | (y % 64 < 3), 0.55, 1)
        texture *= (joint * rng.uniform(0.92, 1.08, (8, 8))[y // 64, x // 64])[..., None]
    elif name == "brick":  # running bond, mortar between
        row = y // 32
        shifted = x + 32 * (row % 2)
        texture *= rng.uniform(0.75, 1.25, (16, 9))[row, shifted // 64][..., None]
        texture = np.where(((shifted % 64 < 4) | (y % 32 < 4))[..., None], (0.5, 0.48, 0.45), texture)
    return np.clip(texture * (1 + NOISE[name] * fine), 0.01, 0.9).astype(np.float32)
