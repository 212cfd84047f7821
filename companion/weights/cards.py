"""Cards: what a shipped folder of weights or data is, how it was made, and the sha256 of every file in it."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..base import paths
from ..base.files import atomic_write, is_temporary
from ..base.reading import UnreadableFile, parse_json, read_text, read_yaml
from .card_lists import check_listed, relisting

CARD = "card.json"
LOADED_SUFFIXES = {".safetensors", ".json", ".txt"}  # what the libraries read from a model's folder


def file_hashes(folder: Path) -> dict[str, str]:
    """Relative path -> sha256 of every file below `folder` except the card itself and what is still being written."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CARD and not is_temporary(path.name))
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_card(folder: Path) -> dict[str, Any]:
    """The folder's card, {} where there is none.

    Raises ValueError, which names the file, where it is not what `write_card` writes, or not the one that the list beside the folder has.
    """
    path = folder / CARD
    if not path.exists():
        return {}
    content = path.read_bytes()
    check_listed(path, content)
    return parse_card(path, content)


def parse_card(path: Path, content: bytes) -> dict[str, Any]:
    """The card whose file `path` has this content; raises as `read_card` does."""
    try:
        card = parse_json(content.decode("utf-8"), "it", remedy="")
    except ValueError as error:
        raise ValueError(f"{path} is damaged, restore it: {error if isinstance(error, UnreadableFile) else 'it is not UTF-8'}.") from error
    files = card.get("files", {}) if isinstance(card, dict) else None
    if not isinstance(files, dict) or not all(isinstance(expected, str) for expected in files.values()):
        raise ValueError(f"{path} is damaged, restore it: it must hold facts by name, and under files each file's sha256 by its name.")
    return card


def read_checked(folder: Path, name: str) -> bytes:
    """The content of `folder/name`; the very bytes returned are those whose sha256 was compared with the folder's card.

    Raises:
        FileNotFoundError: the card or the file is missing.
        ValueError: the card does not list the file, or records another sha256.
    """
    file = folder / name
    if not (folder / CARD).is_file():
        raise FileNotFoundError(f"{folder / CARD} is missing, without it {name} cannot be checked: restore it.")
    expected = read_card(folder).get("files", {}).get(name)
    if expected is None:
        raise ValueError(f"{file} is not listed in {CARD}: remove it or update the card.")
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing, but {CARD} lists it: restore it.")
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != expected:
        raise ValueError(f"{file} is damaged or not the file that {CARD} records: restore it, its sha256 must be {expected}.")
    return content


def check_files(folder: Path, part: str = "") -> None:
    """Raise unless every file whose name begins with `part` is the one in the card; only folders outside `data/models` may lack a card.

    Links are followed: what is reached through `data/models` belongs to it, wherever it lies.
    """
    card = read_card(folder)
    if not card:
        if _is_shipped(folder):
            raise ValueError(f"{folder} has no {CARD} with its files' hashes: restore it, or write it with companion.weights.cards")
        return
    there = {name for name in _loaded_files(folder) if name != CARD}
    for name in sorted({*card.get("files", ()), *there}):
        if name.startswith(part):
            read_checked(folder, name)


def _is_shipped(folder: Path) -> bool:
    """Does the folder lie in `data/models`, by its name or by where the links in its name lead?"""
    places = (Path(os.path.abspath(folder)), folder.resolve())
    return any(place.is_relative_to(root) for place in places for root in (Path(os.path.abspath(paths.MODELS)), paths.MODELS.resolve()))


def _loaded_files(folder: Path) -> Iterator[str]:
    """Relative paths of the files below `folder` that a library may read, also of those that a linked folder holds."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        where = os.path.realpath(place)
        if where in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(where)
        yield from (Path(place, name).relative_to(folder).as_posix() for name in names if Path(name).suffix in LOADED_SUFFIXES)


def write_card(folder: Path, **facts: Any) -> dict[str, Any]:
    """Write `card.json`: the facts that an earlier card had, replaced by those given, and the hashes of the files as they are now."""
    card = {**read_card(folder), **facts, "files": file_hashes(folder)}
    content = (json.dumps(card, indent=1, ensure_ascii=False) + "\n").encode()
    with relisting(folder, content):
        atomic_write(folder / CARD, content)
    return card


def training_facts(folder: Path) -> dict[str, Any]:
    """Of every training whose log lies in `folder`: settings, steps, minutes and last logged numbers."""
    facts = {}
    for log in sorted(folder.glob("training-*.jsonl")):
        last = parse_json(read_text(log).splitlines()[-1], f"the last line of {log}")
        settings = read_yaml(log.with_suffix(".yaml"))
        facts[settings["name"]] = {"settings": settings, "minutes": round(last["seconds"] / 60, 1), "last_logged": last}
    return facts


def write_model_card(name: str, *, guidance_scale: float | None = None, metrics: dict[str, float] | None = None) -> dict[str, Any]:
    """The card of the embedded pipeline `data/models/<name>`.

    `guidance_scale` is the scale that the model works best at, `metrics` what was measured on these weights; None keeps what the card has.
    """
    folder = paths.MODELS / name
    facts: dict[str, Any] = {
        "description": "Text-to-image latent diffusion model of the rendered scenes, 64 x 64, as a diffusers StableDiffusionPipeline.",
        "licence": "Apache-2.0 (weights); trained on renders of models under CC0 and CC BY 3.0, see NOTICE",
        "training_data": {"scenes_card_sha256": hashlib.sha256((paths.SCENES / CARD).read_bytes()).hexdigest(), "split": "train"},
        "training": training_facts(folder),
    }
    facts |= {key: value for key, value in (("guidance_scale", guidance_scale), ("metrics", metrics)) if value is not None}
    return write_card(folder, **facts)
