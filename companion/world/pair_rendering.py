"""Render a pair of scenes: both images, the mask of what should change, and for drags the handle and target points."""

import math

import numpy as np
from PIL import Image, ImageFilter

from .render import FIELD_OF_VIEW, Rendering, camera, main_object, render
from .scene import Scene
from .scene_pairs import Pair

HANDLES = 6
VISIBLE_WITHIN = 0.04  # metres between a vertex and the surface seen at its pixel
EVERYWHERE = ("setting", "style")  # edits that change light or medium, hence every pixel


def change_mask(edit: str, source: Rendering, target: Rendering) -> np.ndarray:
    """Pixels that the edit is about, (H, W) uint8 0 or 255.

    Objects are the union of where they stand before and after, grown by one pixel; a ground edit is everything on the ground plane; setting
    and style are the whole image. Shadows and reflected light outside the mask may change a little, as they would in a photograph.
    """
    if edit in EVERYWHERE:
        return np.full(source.objects.shape, 255, np.uint8)
    if edit == "ground":
        on_ground = [(r.objects == 0) & (np.abs(r.position[..., 1]) < 1e-3) & (np.abs(r.position).sum(-1) > 0) for r in (source, target)]
        return np.where(on_ground[0] | on_ground[1], 255, 0).astype(np.uint8)
    label = 2 if edit == "add" else 1
    union = ((source.objects == label) | (target.objects == label)).astype(np.uint8) * 255
    return np.array(Image.fromarray(union).filter(ImageFilter.MaxFilter(3)))


def vertices_in_world(scene: Scene) -> np.ndarray:
    """World positions (V, 3) of the main object's vertices, in the model's own order: the same row is the same point of the object."""
    model, placement = main_object(scene)
    vertices = np.concatenate([part.vertices for part in model.parts])
    return vertices @ placement[:3, :3].T + placement[:3, 3]


def project(scene: Scene, points: np.ndarray, resolution: int) -> np.ndarray:
    """Pinhole projection of world points (N, 3) to pixel coordinates (N, 2) as (x, y), origin at the upper left corner."""
    frame = camera(scene)
    origin = np.array(frame["origin"])
    forward = np.array(frame["target"]) - origin
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0, 1, 0])
    right = right / np.linalg.norm(right)
    up = np.cross(right, forward)
    offset = points - origin
    focal = 0.5 / math.tan(math.radians(FIELD_OF_VIEW) / 2)
    depth = offset @ forward
    return np.stack([(offset @ right / depth * focal + 0.5) * resolution, (0.5 - offset @ up / depth * focal) * resolution], -1)


def _is_visible(points: np.ndarray, pixels: np.ndarray, view: Rendering) -> np.ndarray:
    """Whether each point lies inside the frame and on the surface that its pixel shows."""
    size = view.objects.shape[0]
    column, row = np.clip(pixels.astype(int), 0, size - 1).T
    inside = ((pixels >= 2) & (pixels < size - 2)).all(-1)
    distance = np.linalg.norm(view.position[row, column] - points, axis=-1)
    return inside & (view.objects[row, column] == 1) & (distance < VISIBLE_WITHIN)


def handle_points(pair: Pair, source: Rendering, target: Rendering) -> tuple[np.ndarray, np.ndarray]:
    """Up to six points (x, y) of the object visible in both views, spread by farthest-point sampling: in the source, in the target."""
    size = source.objects.shape[0]
    points = vertices_in_world(pair.source), vertices_in_world(pair.target)
    pixels = project(pair.source, points[0], size), project(pair.target, points[1], size)
    candidates = np.flatnonzero(_is_visible(points[0], pixels[0], source) & _is_visible(points[1], pixels[1], target))
    if len(candidates) == 0:
        return np.zeros((0, 2)), np.zeros((0, 2))
    chosen = [int(np.random.default_rng(pair.source.seed).choice(candidates))]
    while len(chosen) < min(HANDLES, len(candidates)):
        gap = np.linalg.norm(pixels[0][candidates][:, None] - pixels[0][chosen][None], axis=-1).min(1)
        if gap.max() < 2:
            break
        chosen.append(int(candidates[gap.argmax()]))
    return pixels[0][chosen].round(2), pixels[1][chosen].round(2)


def render_pair(pair: Pair) -> dict[str, np.ndarray]:
    """`source`, `target` (H, W, 3) and `mask` (H, W) uint8; for drags also `handles` and `targets` (N, 2)."""
    source, target = render(pair.source, geometry=True), render(pair.target, geometry=True)
    result = {"source": source.image, "target": target.image, "mask": change_mask(pair.edit, source, target)}
    if pair.edit in ("turn", "move"):
        result["handles"], result["targets"] = handle_points(pair, source, target)
    return result
