"""Wavefront OBJ models as arrays: one part per material, standing on the ground, in metres."""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Part:
    """The triangles of one material: vertices (V, 3), faces (F, 3), texture coordinates (V, 2) or None, normals (V, 3) or None."""

    material_name: str
    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray | None
    normals: np.ndarray | None
    material: dict


@dataclass(frozen=True)
class Model:
    """A furniture model: its parts and its (width, height, depth) in metres, centred on x and z with its lowest point at y = 0."""

    parts: tuple[Part, ...]
    size: np.ndarray


def parse_materials(path: Path) -> dict[str, dict]:
    """Read the MTL keys that the renderer uses: diffuse Kd, specular Ks and Ns, opacity d / Tr, texture map_Kd."""
    materials: dict[str, dict] = {}
    current: dict = {}
    if not path.exists():
        return materials
    for line in path.read_text(encoding="latin-1").splitlines():
        words = line.split()
        if not words:
            continue
        key, values = words[0], words[1:]
        if key == "newmtl":
            current = materials.setdefault(" ".join(values), {})
        elif key in ("Kd", "Ks"):
            current[key] = [float(v) for v in values[:3]]
        elif key == "Ns":
            current["Ns"] = float(values[0])
        elif key == "d":
            current["d"] = float(values[-1])
        elif key == "Tr":
            current["d"] = 1.0 - float(values[0])
        elif key == "map_Kd" and (path.parent / values[-1]).exists():
            current["map"] = str(path.parent / values[-1])
    return materials


def _corner(token: str, counts: tuple[int, int, int]) -> tuple[int, int, int]:
    """Resolve one `v/vt/vn` face corner to zero-based indices; -1 stands for absent, negative OBJ indices count from the end."""
    fields = [*token.split("/"), "", ""][:3]
    return tuple((int(f) - 1 if int(f) > 0 else n + int(f)) if f else -1 for f, n in zip(fields, counts, strict=True))


def parse_obj(path: Path):
    """Read positions, texture coordinates, normals, fan-triangulated faces per material, and the materials of an OBJ file."""
    positions, texcoords, normals = [], [], []
    groups: dict[str, list] = {}
    materials: dict[str, dict] = {}
    name = "default"
    for line in path.read_text(encoding="latin-1").splitlines():
        words = line.split()
        if not words:
            continue
        key, values = words[0], words[1:]
        if key == "v":
            positions.append([float(v) for v in values[:3]])
        elif key == "vt":
            texcoords.append([float(v) for v in values[:2]])
        elif key == "vn":
            normals.append([float(v) for v in values[:3]])
        elif key == "usemtl":
            name = " ".join(values)
        elif key == "mtllib":
            materials.update(parse_materials(path.parent / " ".join(values)))
        elif key == "f":
            counts = (len(positions), len(texcoords), len(normals))
            corners = [_corner(v, counts) for v in values]
            groups.setdefault(name, []).extend((corners[0], corners[i], corners[i + 1]) for i in range(1, len(corners) - 1))
    to_array = lambda rows, width: np.array(rows, np.float32).reshape(-1, width)  # noqa: E731
    return to_array(positions, 3), to_array(texcoords, 2), to_array(normals, 3), groups, materials


def _part(name, triangles, positions, texcoords, normals, scale, material) -> Part:
    corners = np.array(triangles, np.int64).reshape(-1, 3)
    unique, inverse = np.unique(corners, axis=0, return_inverse=True)
    uv = None
    if len(texcoords) and (unique[:, 1] >= 0).all():
        uv = texcoords[unique[:, 1]] * np.float32([1, -1]) + np.float32([0, 1])  # OBJ counts v from below, bitmaps from above
    normal = None
    if len(normals) and (unique[:, 2] >= 0).all():
        normal = normals[unique[:, 2]] / scale
        normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-8)
    return Part(name, positions[unique[:, 0]], inverse.reshape(-1, 3).astype(np.uint32), uv, normal, material)


@cache
def load_model(path: str, width: float, height: float, depth: float, rotation: str = "") -> Model:
    """Load an OBJ model, apply the catalogue's rotation and stretch it to the catalogue's size (given in centimetres, as there)."""
    positions, texcoords, normals, groups, materials = parse_obj(Path(path))
    if rotation:
        matrix = np.array([float(v) for v in rotation.split()], np.float32).reshape(3, 3)
        positions, normals = positions @ matrix.T, normals @ matrix.T if len(normals) else normals
    low, high = positions.min(0), positions.max(0)
    size = np.array([width, height, depth], np.float32) / 100
    scale = size / np.maximum(high - low, 1e-6)
    foot = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2], np.float32)
    positions = (positions - foot) * scale
    parts = [_part(name, tris, positions, texcoords, normals, scale, materials.get(name, {})) for name, tris in groups.items() if tris]
    return Model(tuple(parts), size)


def from_catalogue(entry: dict[str, str]) -> Model:
    """Load the model of one catalogue entry (see `sources.furniture_catalogue`)."""
    if not os.path.exists(entry["path"]):
        raise FileNotFoundError(f"model file {entry['path']} is missing from its pack")
    return load_model(entry["path"], float(entry["width"]), float(entry["height"]), float(entry["depth"]), entry.get("modelRotation", ""))
