"""A process that writes files of several kinds over and over, killed at random moments: each must be whole, old or new."""

import random
from collections.abc import Iterator
from pathlib import Path

from companion.base.files import is_temporary, read_sealed, write_sealed
from companion.base.reading import read_json
from companion.runs.stored import Origin, Result, load_result, store_result
from companion.weights.card_lists import LIST
from companion.weights.cards import CARD, read_card, write_card

from .nursery import Nursery

WRITING = """
from torturing import writes

def work(folder):
    for number in range(1, 1_000_000) if (folder / "on").exists() else [0]:
        writes.write(folder, number)
"""


def write(folder: Path, number: int) -> None:
    """One round: every file holds `number`."""
    write_sealed(folder / "sealed", b"%d " % number * 2000)
    result = Result(number=float(number))
    result.origin = Origin("code", "cpu", "a machine", "2.0")
    store_result(folder / "hash" / "code" / "item.npz", result)
    (folder / "models" / "mini").mkdir(parents=True, exist_ok=True)
    if not (folder / "models" / LIST).exists():
        (folder / "models" / LIST).write_text("{}")
    write_card(folder / "models" / "mini", number=number)


def read(folder: Path) -> dict[str, int]:
    """What each file holds. Raises ValueError or OSError for one that is not whole."""
    texts = set(read_sealed(folder / "sealed").split())
    result = load_result(folder / "hash" / "code" / "item.npz")
    if result is None or len(texts) != 1:
        raise ValueError("a file holds parts of two rounds" if result else "the result of an item is not whole")
    if len(read_json(folder / "models" / LIST)["mini"]) > 2:
        raise ValueError(f"{LIST} has more than the old and the new card")
    return {"sealed": int(texts.pop()), "item": int(result["number"]), CARD: read_card(folder / "models" / "mini")["number"]}


def verdict(folder: Path, nursery: Nursery) -> tuple[str, str]:
    """Of what a kill left, and of what the next round makes of it."""
    try:
        found = read(folder)
    except (ValueError, OSError, KeyError) as error:
        return "lost", f"{type(error).__name__}: {error}"
    if max(found.values()) - min(found.values()) > 1:
        return "silent", f"rounds {found}"
    code, errors = nursery.run(folder)
    if code:
        return "lost", errors
    left = [file.name for file in folder.rglob("*") if is_temporary(file.name)]
    if left or read(folder) != dict.fromkeys(found, 0):
        return "outside", f"left {left}"
    return "good", ""


def cases(count: int, folder: Path, chance: random.Random) -> Iterator[tuple[str, str, str]]:
    """(kind, outcome, what was seen) of `count` kills."""
    if not count:
        return
    with Nursery(WRITING) as nursery:
        for number in range(count):
            place = folder / str(number)
            nursery.run(place)
            (place / "on").touch()
            nursery.run(place, kill_after=chance.uniform(0, 0.2))
            (place / "on").unlink()
            yield "kill -9 while files are written", *verdict(place, nursery)
