"""What a training's `data` is: a folder of captioned pictures, COCO, or shards."""

from pathlib import Path

from .captioned import LISTINGS
from .listings import ListingError

LAYOUTS = ("folder", "coco", "shards")


def layout_of(data: str, layout: str | None = None) -> str:
    """The layout of `data`, one of `LAYOUTS`: what is named, or what the folder looks like.

    Raises:
        ListingError: `layout` is none of these, or the folder looks like several.
    """
    if layout is not None:
        if layout not in LAYOUTS:
            raise ListingError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
        return layout
    folder = Path(data)
    if not folder.is_dir():
        return "shards" if data.endswith(".tar") or any(sign in data for sign in "*?[") else "folder"
    looks = {
        "folder": any((folder / name).is_file() for name in LISTINGS),
        "coco": any((folder / "annotations").glob("captions_*.json")),
        "shards": any(folder.glob("*.tar")),
    }
    like = [name for name, found in looks.items() if found]
    if len(like) > 1:
        raise ListingError(f"data is {data!r}, which looks like {' and '.join(like)}: say which it is by the setting layout")
    return like[0] if like else "folder"
