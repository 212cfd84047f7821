"""OBJ materials as Mitsuba BSDFs: principled, two-sided, with textures, cut-outs and paint."""

import math
from functools import cache

import mitsuba as mi
import numpy as np
from PIL import Image

from .meshes import Part

mi.set_variant("scalar_rgb")


@cache
def _texture(path: str) -> tuple[dict, np.ndarray | None]:
    """A bitmap texture's plugin description and its alpha channel in [0, 1] if it is really transparent somewhere."""
    alpha = None
    image = Image.open(path)
    if path.lower().endswith(".png") and "A" in image.convert("RGBA").getbands():
        channel = np.asarray(image.convert("RGBA"))[..., 3]
        if channel.min() < 200:
            alpha = channel[..., None].astype(np.float32) / 255
    colour = mi.Bitmap(np.array(image.convert("RGB")))
    return {"type": "bitmap", "bitmap": colour, "filter_type": "bilinear"}, alpha


def _bsdf(material: dict, paint: tuple[float, float, float] | None):
    """The material as a two-sided principled BSDF; `paint` replaces colour and texture."""
    colour = {"type": "rgb", "value": [min(0.92, max(0.02, c)) for c in (paint or material.get("Kd", (0.7, 0.7, 0.7)))]}
    alpha = None
    if paint is None and "map" in material:
        colour, alpha = _texture(material["map"])
    specular = max(material.get("Ks", (0.0,)))
    roughness = float(np.clip(math.sqrt(2 / (max(material.get("Ns", 10), 1) + 2)), 0.12, 0.9)) if specular > 0.05 else 0.8
    bsdf = {
        "type": "principled",
        "base_color": colour,
        "roughness": roughness,
        "specular": float(np.clip(specular, 0.1, 0.6)),
        "metallic": 0.0,
    }
    bsdf = {"type": "twosided", "inner": bsdf}
    if alpha is not None:
        return {"type": "mask", "opacity": {"type": "bitmap", "bitmap": mi.Bitmap(alpha), "raw": True}, "inner": bsdf}
    if material.get("d", 1.0) < 0.99:
        return {"type": "mask", "opacity": {"type": "rgb", "value": max(0.15, material["d"])}, "inner": bsdf}
    return bsdf


_bsdf_cache: dict = {}


def material_bsdf(model: str, part: Part, paint: tuple[float, float, float] | None) -> "mi.BSDF":
    full_key = (model, part.material_name, paint)
    if full_key not in _bsdf_cache:
        _bsdf_cache[full_key] = mi.load_dict(_bsdf(part.material, paint))
    return _bsdf_cache[full_key]
