"""Files of every kind, damaged in every way."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .foreign import FOREIGN_KINDS
from .kinds import KINDS as OWN_KINDS
from .kinds import Kind

KINDS = (*OWN_KINDS, *FOREIGN_KINDS)
FOREIGN = {"empty": b"", "text": b"<html>404</html>", "pickle": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00N.", "zeros": bytes(64)}


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
