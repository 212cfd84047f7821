"""Every kind of file that the project writes and reads again, damaged in every way."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from companion.base import paths
from companion.base.files import read_sealed, write_sealed
from companion.data.load import scene_file
from companion.data.pictures import read_picture
from companion.evidence.records import load_record
from companion.runs.stored import Origin, Result, load_result, store_result
from companion.training.caches import kept_tensors
from companion.training.resuming import read_checkpoint, truncate_log, write_checkpoint
from companion.training.settings import load_config
from companion.weights.adapters import adapter_file
from companion.weights.cards import CARD, read_card

FOREIGN = {"empty": b"", "text": b"<html>404</html>", "pickle": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00N.", "zeros": bytes(64)}


@dataclass(frozen=True)
class Kind:
    """How a file is made and read. `checked`: has it a hash, so that every bit counts? `remade`: is None or a new one right?

    `named`: does a refusal name the file? Settings are refused by their own names.
    """

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    checked: bool = True
    remade: bool = False
    named: bool = True


def _copied(*sources: Path) -> Callable[[Path], Path]:
    """Shipped files in a folder of their own; the path of the first."""

    def make(folder: Path) -> Path:
        for file in sources:
            (folder / file.name).write_bytes(file.read_bytes())
        return folder / sources[0].name

    return make


def _tensors() -> dict[str, torch.Tensor]:
    return {"x": torch.arange(100.0)}


def _sealed(folder: Path) -> Path:
    write_sealed(folder / "sealed", bytes(range(100)))
    return folder / "sealed"


def _checkpoint(folder: Path) -> Path:
    write_checkpoint(folder / "checkpoint.pt", {"step": 5, "parameters": [torch.arange(100.0)]})
    return folder / "checkpoint.pt"


def _cache(folder: Path) -> Path:
    kept_tensors(folder / "x.tensors", _tensors)
    return folder / "x.tensors"


def _item(folder: Path) -> Path:
    result = Result(psnr=20.5, picture=np.arange(100.0))
    result.origin = Origin("code", "cpu", "a machine", "2.0")
    store_result(folder / "item.npz", result)
    return folder / "item.npz"


def _log(folder: Path) -> Path:
    (folder / "log.jsonl").write_text("".join(json.dumps({"step": step, "loss": 0.5}) + "\n" for step in range(9)))
    return folder / "log.jsonl"


def _read_log(file: Path) -> bytes:
    truncate_log(file, 5)
    return file.read_bytes()


def _picture(folder: Path) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)).save(folder / "picture.png")
    return folder / "picture.png"


def _checked(file: Path) -> bytes:
    before, paths.SCENES = paths.SCENES, file.parent
    try:
        return scene_file(file.name).read_bytes()
    finally:
        paths.SCENES = before


def _adapter(file: Path) -> Any:
    return safetensors.torch.load(adapter_file(file.parent).read_bytes())


SMOOTH = tuple(sorted((paths.ADAPTERS / "smooth").iterdir(), key=lambda file: file.suffix != ".safetensors"))  # the weights first
CARD_FIRST = tuple(sorted(SMOOTH, key=lambda file: file.name != CARD))
KINDS = (
    Kind("sealed file", _sealed, read_sealed),
    Kind("checkpoint", _checkpoint, read_checkpoint),
    Kind("kept latents and features", _cache, lambda file: kept_tensors(file, _tensors), remade=True),
    Kind("result of an item", _item, load_result, remade=True),
    Kind("training log", _log, _read_log, checked=False),
    Kind("record", _copied(paths.RESULTS / "table2_recon.json"), load_record, checked=False),
    Kind("settings", _copied(paths.CONFIGS / "training" / "smooth_lora.yaml"), load_config, checked=False, named=False),
    Kind("picture", _picture, lambda file: np.asarray(read_picture(file, 16)), checked=False),
    Kind("adapter", _copied(*SMOOTH), _adapter),
    Kind("card", _copied(*CARD_FIRST), lambda file: read_card(file.parent), checked=False),
    Kind("scene records", _copied(paths.SCENES / "compositional.jsonl.gz", paths.SCENES / CARD), _checked),
    Kind("scene images", _copied(paths.SCENES / "compositional-00.tar", paths.SCENES / CARD), _checked),
)


def damages(whole: bytes, flips: int, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """`flips` flipped bits, three lost ends, and content of other kinds."""
    for _ in range(flips):
        place, bit = chance.randrange(len(whole)), chance.randrange(8)
        yield f"bit {bit} of byte {place}", whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]
    for end in (1, len(whole) // 2, len(whole) - 1):
        yield f"cut to {end} bytes", whole[:end]
    yield from FOREIGN.items()


def plain(value: Any) -> str:
    """Something that is equal for equal contents."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return repr(np.asarray(value.float() if isinstance(value, torch.Tensor) else value).tolist())
    if isinstance(value, dict):
        return repr({key: plain(entry) for key, entry in value.items()})
    return repr([plain(entry) for entry in value]) if isinstance(value, list) else repr(value)


def outcome(kind: Kind, file: Path, wanted: str) -> tuple[str, str]:
    """What the reader makes of a damaged file."""
    try:
        value = kind.read(file)
    except (ValueError, OSError) as error:
        message = str(error)
        clear = (file.name in message or not kind.named) and "\n" not in message and len(message) < 600
        return ("good" if clear else "unclear"), f"{type(error).__name__}: {message[:300]}"
    except Exception as error:
        return "unclear", f"{type(error).__name__}: {str(error)[:300]}"
    if plain(value) == wanted:
        return "made again" if kind.remade else "harmless", ""
    if value is None and kind.remade:
        return "made again", ""
    # without a hash, another text that is right by its rules is another text
    return ("silent", f"read as {plain(value)[:100]}") if kind.checked else ("harmless", "")


def cases(flips: int, folder: Path, chance: random.Random) -> Iterator[tuple[str, str, str]]:
    """(kind, outcome, what was seen) of every damage of every kind; no case without flips."""
    for number, kind in enumerate(KINDS if flips else ()):
        place = folder / str(number)
        place.mkdir(parents=True)
        file = kind.make(place)
        whole = file.read_bytes()
        wanted = plain(kind.read(file))
        for how, content in damages(whole, flips, chance):
            file.write_bytes(content)
            became, told = outcome(kind, file, wanted)
            yield f"damaged {kind.name}", became, f"{how}: {told}"
