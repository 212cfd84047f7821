"""Examples from the scenes, one click each: pictures of the test split, edit pairs and drag pairs, with the fields that they fill."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..data.drags import load_drags
from ..data.load import load_pairs, load_scenes
from ..data.pictures import square

TEST_SCENES = ((3, 12), (40, 7))  # two walks; the first three are reconstructed too
EDITS = ("replace", "recolour", "setting")
NUM_SHOWN = 3


@dataclass(frozen=True)
class Example:
    """`fields` by the names of a tab's inputs; `pictures` by the names of its pictures, (H, W, 3) uint8."""

    title: str
    fields: Mapping[str, Any]
    pictures: Mapping[str, np.ndarray]


def load_examples(size: int) -> dict[str, list[Example]]:
    """By tab the examples, their pictures `size` x `size` pixels."""
    scenes = load_scenes("test")

    def picture(pixels: np.ndarray) -> np.ndarray:
        return square(Image.fromarray(pixels), size)

    def scene(index: int) -> tuple[str, np.ndarray]:
        return scenes.captions[index], picture(scenes.images[index])

    walks = []
    for a, b in TEST_SCENES:
        (first, first_pixels), (second, second_pixels) = scene(a), scene(b)
        prompts = {"first_prompt": first, "second_prompt": second}
        walks.append(Example(f"Prompts: {first} / {second}", prompts | {"between": "prompts"}, {}))
        pictures = {"first": first_pixels, "second": second_pixels}
        walks.append(Example(f"Pictures: {first} / {second}", prompts | {"between": "pictures"}, pictures))
    indices = [index for walk in TEST_SCENES for index in walk][:NUM_SHOWN]
    shown = [Example(caption, {"prompt": caption}, {"picture": pixels}) for caption, pixels in map(scene, indices)]
    return {"walk": walks, "reconstruct": shown, "edit": _edits(picture), "drag": _drags(size)}


def _edits(picture: Any) -> list[Example]:
    pairs, found = load_pairs("edits"), []
    kinds = list(dict.fromkeys(pair.record["edit"] for pair in pairs))
    for kind in [kind for kind in EDITS if kind in kinds] or kinds[:NUM_SHOWN]:
        pair = next(pair for pair in pairs if pair.record["edit"] == kind)
        source, target = pair.record["source_caption"], pair.record["target_caption"]
        fields = {"source_prompt": source, "target_prompt": target}
        found.append(Example(f"{source} → {target}", fields, {"picture": picture(pair.source)}))
    return found


def _drags(size: int) -> list[Example]:
    found = []
    for item in [item for item in load_drags("drags") if 0.08 < item.motion < 0.2][:NUM_SHOWN]:
        scale = size / item.size[0]
        pixels = ((item.image.permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
        mask = np.array(Image.fromarray(item.mask.numpy()).resize((size, size), Image.Resampling.NEAREST))
        handles, targets = ([[x * scale, y * scale] for x, y in points] for points in (item.handles, item.targets))
        for x, y in (*handles, *targets):
            mask[min(int(y), size - 1), min(int(x), size - 1)] = True
        fields = {"prompt": item.caption, "handles": handles, "targets": targets, "mask": runs_of_mask(mask)}
        found.append(Example(f"{item.caption} ({item.kind})", fields, {"picture": square(Image.fromarray(pixels), size)}))
    return found


def runs_of_mask(mask: np.ndarray) -> list[int]:
    """The lengths of a mask's runs, row by row, as `requests.mask_of_runs` reads them."""
    flat = np.concatenate([[False], mask.astype(bool).ravel()])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()
