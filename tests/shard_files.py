"""Small tar shards as img2dataset writes them, and what may be wrong with one."""

import io
import json
import tarfile

import numpy as np
from PIL import Image


def picture(number, side=16, kind="JPEG"):
    """The bytes of a picture, another for each number."""
    pixels = np.random.default_rng(number).integers(0, 255, (side, side, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def add(archive, name, content, **fields):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(content))


def write_shard(file, numbers, captions=None, pictures=None):
    """KEY.jpg, KEY.txt and KEY.json of each number; `captions` (bytes; None: no .txt) and `pictures` (bytes) replace some of them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for number in numbers:
            key = f"{number:09d}"
            caption = (captions or {}).get(number, f"picture {number}".encode())
            add(archive, f"{key}.jpg", (pictures or {}).get(number) or picture(number))
            if caption is not None:
                add(archive, f"{key}.txt", caption)
            add(archive, f"{key}.json", json.dumps({"key": key, "status": "success", "width": 16}).encode())
    return file


def write_shards(folder, counts, **changes):
    """Shards 00000.tar, 00001.tar, ... of so many pairs each, numbered through."""
    first = 0
    for shard, count in enumerate(counts):
        write_shard(folder / f"{shard:05d}.tar", range(first, first + count), **changes)
        first += count
    return folder
