"""The test scenes that readers edit in their browser: pictures with their captions, and the true pictures of the edited captions."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from companion.data.load import ScenePair, load_pairs

KINDS, EACH = ("replace", "recolour", "ground", "setting"), 2  # the edits that the menus of captions can say
FIELDS = {"word": "cls", "colour": "colour", "setting": "setting", "ground": "ground"}


@cache
def chosen() -> list[ScenePair]:
    """The first EACH pairs of every kind that show one object as a photograph: they are taken by their order, not by how they turn out."""
    found = []
    for kind in KINDS:
        pairs = [pair for pair in load_pairs("edits") if pair.record["edit"] == kind and _plain(pair.record)]
        found += pairs[:EACH]
    return found


def scenes() -> list[dict[str, Any]]:
    """{id, words, target} of each scene, `words` and `target` by the names of the menus."""
    records = [pair.record for pair in chosen()]
    return [{"id": one["id"], "words": _words(one["source"]), "target": _words(one["target"])} for one in records]


def scene_bytes() -> bytes:
    """Picture and true edit of each scene in turn, (H, W, 3) uint8 each."""
    return b"".join(image.tobytes() for pair in chosen() for image in (pair.source, pair.target))


def _plain(record: Mapping[str, Any]) -> bool:
    return all(record[side]["style"] == "photo" and record[side]["extra"] is None for side in ("source", "target"))


def _words(scene: Mapping[str, Any]) -> dict[str, str | None]:
    return {word: scene[field] for word, field in FIELDS.items()}
