"""A record without the places of the machine that made it: a folder given as a model, adapter or data set is called by its own name."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from ..base.config import config_hash

PLACED = ("model", "adapter", "adapters", "checkpoints", "dataset", "prompts", "records")  # parameters that may name a place


def is_place(text: str) -> bool:
    """Is it a path that says where on the machine something lies? Names and hub ids are none."""
    return text.startswith(("~", "./", "../", ".\\", "..\\")) or any(kind(text).is_absolute() for kind in (PurePosixPath, PureWindowsPath))


def own_names(places: Sequence[str]) -> dict[str, str]:
    """Place -> its last part, whatever system wrote it; as many parts as tell the places apart."""
    parts = {place: [part for part in re.split(r"[/\\]+", place) if part not in ("", ".", "..", "~")] or ["folder"] for place in places}
    for count in range(1, 1 + max(map(len, parts.values()))):
        names = {place: "/".join(own[-count:]) for place, own in parts.items()}
        if len(set(names.values())) == len(places):
            break
    return names


def without_places(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record in which every place that its configuration or its rows name is replaced by its last part, in labels and texts too."""
    config = record["provenance"].get("config", {})
    named = [text for key in PLACED if isinstance(config, Mapping) for text in _texts(config.get(key))]
    named += [text for fields in record.get("row_fields", {}).values() for key in ("model", "adapters") for text in _texts(fields.get(key))]
    places = sorted({text for text in named if is_place(text)}, key=len, reverse=True)
    if not places:
        return dict(record)
    cleaned = _replaced(record, own_names(places))
    if "config_hash" in cleaned["provenance"]:
        cleaned["provenance"]["config_hash"] = config_hash(cleaned["provenance"]["config"])
    return cleaned


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        yield from (entry for entry in value if isinstance(entry, str))


def _replaced(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for place, name in names.items():
            value = value.replace(place, name)
        return value
    if isinstance(value, Mapping):
        return {_replaced(key, names): _replaced(entry, names) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(entry, names) for entry in value]
    return value
