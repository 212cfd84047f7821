"""Folders of pictures in the layouts that COCO, LAION (as img2dataset writes it), PIE-Bench and DragBench were published in.

The pictures are the photographs that come with scikit-image, whole and cut; captions and edits are ours.
"""

import io
import json
import pickle
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from companion.base.files import atomic_write

SIDE = 512  # of PIE-Bench's pictures and masks


@dataclass(frozen=True)
class Photograph:
    """A photograph (H, W, 3) uint8, or (H, W) in grey, what it shows, and what an edit makes of it, with the changed words in brackets."""

    name: str
    pixels: np.ndarray
    caption: str
    edited: str
    thing: str


def photographs() -> list[Photograph]:
    """The photographs, in a fixed order; none is downloaded."""
    told = {
        "astronaut": ("a photo of an [astronaut] in front of a flag", "a photo of a [robot] in front of a flag", "person"),
        "chelsea": ("a [ginger] cat looks into the camera", "a [black] cat looks into the camera", "cat"),
        "coffee": ("a cup of [coffee] on a wooden table", "a cup of [tea] on a wooden table", "cup"),
        "rocket": ("a rocket starts at [night]", "a rocket starts at [noon]", "rocket"),
        "camera": ("a man with a [camera] on a field", "a man with a [telescope] on a field", "person"),
        "coins": ("[old] coins in rows", "[new] coins in rows", "coin"),
        "hubble_deep_field": ("[galaxies] in a dark sky", "[fireworks] in a dark sky", "galaxy"),
    }
    found = [Photograph(name, getattr(skimage.data, name)(), *words) for name, words in told.items()]
    motorcycle = skimage.data.stereo_motorcycle()[0]
    return [*found, Photograph("motorcycle", motorcycle, "a [motorcycle] in a garage", "a [bicycle] in a garage", "motorcycle")]


def plain(caption: str) -> str:
    """A caption without the brackets around what an edit changes."""
    return caption.replace("[", "").replace("]", "")


def words() -> list[str]:
    """The words of all captions, sorted."""
    return sorted({word for one in photographs() for text in (one.caption, one.edited) for word in plain(text).lower().split()})


def _pictures(count: int) -> Iterator[tuple[Photograph, np.ndarray]]:
    """`count` different pictures: the photographs as they are, then mirrored, then cut at the top and at the left."""
    changes = (lambda image: image, lambda image: image[:, ::-1], lambda image: image[len(image) // 5 :], lambda image: image[:, 60:])
    found = [(one, np.ascontiguousarray(change(one.pixels))) for change in changes for one in photographs()]
    if count > len(found):
        raise ValueError(f"count is {count}, but must be at most {len(found)}")
    yield from found[:count]


def _encoded(pixels: np.ndarray, kind: str = "jpeg") -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format=kind, **({"quality": 90} if kind == "jpeg" else {}))
    return content.getvalue()


def write_coco(folder: Path, count: int = 24, split: str = "val2017") -> Path:
    """`val2017/*.jpg`, named by twelve digits, and captions and instances in `annotations`; two captions an image."""
    images, captions, instances = [], [], []
    categories = {thing: place for place, thing in enumerate(sorted({one.thing for one in photographs()}), 1)}
    for place, (one, pixels) in enumerate(_pictures(count)):
        identity = 139 + 97 * place
        name = f"{identity:012d}.jpg"
        atomic_write(folder / split / name, _encoded(pixels))
        height, width = pixels.shape[:2]
        images.append({"license": 4, "file_name": name, "height": height, "width": width, "id": identity})
        for k, text in enumerate((plain(one.caption), f"A picture of a {one.thing}.")):
            captions.append({"image_id": identity, "id": 2 * place + k + 1, "caption": text})
        box = {"bbox": [0, 0, width, height], "area": width * height, "iscrowd": 0, "segmentation": []}
        instances.append({"image_id": identity, "id": place + 1, "category_id": categories[one.thing], **box})
    info = {"description": "Photographs of scikit-image in COCO's layout", "version": "1.0"}
    kinds = [{"supercategory": "thing", "id": place, "name": thing} for thing, place in categories.items()]
    for name, more in (("captions", {"annotations": captions}), ("instances", {"annotations": instances, "categories": kinds})):
        content = json.dumps({"info": info, "licenses": [], "images": images, **more})
        atomic_write(folder / "annotations" / f"{name}_{split}.json", content.encode())
    return folder


def write_laion(folder: Path, count: int = 16, in_a_shard: int = 8) -> Path:
    """img2dataset's shards, `00000.tar` with a picture, a text and a JSON each, and the same pictures loose beside a `metadata.jsonl`."""
    listed, shards = [], {}
    for place, (one, pixels) in enumerate(_pictures(count)):
        shard, key = place // in_a_shard, f"{place // in_a_shard:05d}{place % in_a_shard:04d}"
        picture, caption = _encoded(pixels), plain(one.caption)
        about = {"url": "", "key": key, "status": "success", "caption": caption, "width": pixels.shape[1], "height": pixels.shape[0]}
        shards.setdefault(shard, []).extend([(f"{key}.jpg", picture), (f"{key}.txt", caption.encode())])
        shards[shard].append((f"{key}.json", json.dumps(about).encode()))
        atomic_write(folder / f"{key}.jpg", picture)
        listed.append(json.dumps({"file_name": f"{key}.jpg", "text": caption}))
    for shard, members in shards.items():
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as archive:
            for name, data in members:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        atomic_write(folder / "shards" / f"{shard:05d}.tar", content.getvalue())
        stats = {"count": len(members) // 3, "successes": len(members) // 3, "failed_to_download": 0, "failed_to_resize": 0}
        atomic_write(folder / "shards" / f"{shard:05d}_stats.json", json.dumps(stats).encode())
    atomic_write(folder / "metadata.jsonl", ("\n".join(listed) + "\n").encode())
    return folder


def write_pie_bench(folder: Path) -> Path:
    """PIE-Bench's `mapping_file.json` and `annotation_images`: square pictures, masks as runs of pixels, words to change in brackets."""
    mapping = {}
    for place, one in enumerate(photographs()):
        picture = Image.fromarray(one.pixels).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        name = f"{1 + place % 2}_change/1_artificial/{place:012d}.jpg"
        atomic_write(folder / "annotation_images" / name, _encoded(np.asarray(picture)))
        mask = np.zeros((SIDE, SIDE), dtype=bool)
        mask[128 + 8 * place : 384, 96:416] = True
        mapping[f"{place:012d}"] = {
            "image_path": name,
            "original_prompt": one.caption,
            "editing_prompt": one.edited,
            "editing_instruction": f"change the {one.thing}",
            "editing_type_id": str(1 + place % 2),
            "blended_word": "",
            "mask": _runs(mask),
        }
    atomic_write(folder / "mapping_file.json", json.dumps(mapping, indent=1).encode())
    return folder


def _runs(mask: np.ndarray) -> list[int]:
    """Start and length of each run of True in row order."""
    steps = np.diff(np.concatenate([[0], mask.ravel().astype(np.int8), [0]]))
    starts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    return np.stack([starts, ends - starts], axis=1).ravel().tolist()


def write_edits(folder: Path) -> Path:
    """Pictures and a `prompts.jsonl`, as configs/sd15/fig05_text_edit.yaml describes it."""
    lines = []
    for one in photographs():
        atomic_write(folder / f"{one.name}.jpg", _encoded(one.pixels))
        pair = {"source_prompt": plain(one.caption), "target_prompt": plain(one.edited)}
        lines.append(json.dumps({"file_name": f"{one.name}.jpg", **pair}))
    atomic_write(folder / "prompts.jsonl", ("\n".join(lines) + "\n").encode())
    return folder


def write_drag_bench(folder: Path) -> Path:
    """DragBench's folders, one a picture: `original_image.png`, `user_drag.png`, and `meta_data.pkl` with prompt, points and mask."""
    for place, one in enumerate(photographs()):
        picture = Image.fromarray(one.pixels).convert("RGB")
        picture.thumbnail((SIDE, SIDE))
        pixels = np.asarray(picture)
        height, width = pixels.shape[:2]
        mask = np.zeros((height, width), dtype=np.uint8)
        mask[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 1
        handle = (width // 2 - 40, height // 2)
        about = {"prompt": plain(one.caption), "points": [handle, (handle[0] + 48, handle[1] - 16)], "mask": mask}
        own = folder / f"{'animals' if one.thing == 'cat' else 'other_objects'}" / f"{one.name}_{place:02d}"
        for name in ("original_image.png", "user_drag.png"):
            atomic_write(own / name, _encoded(pixels, "png"))
        atomic_write(own / "meta_data.pkl", pickle.dumps(about, protocol=4))
    return folder
