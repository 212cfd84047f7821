"""Who vouches for the cards: beside the folders, `cards.json` holds the sha256 of the card of each.

A card records the hashes of its folder's files, and facts such as the guidance scale that notebooks use. One changed bit in it would be
taken for a fact, if nothing recorded the card itself. While a card is replaced its entry holds both hashes, so that a kill leaves a folder
that can be read.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from ..base import paths
from ..base.files import atomic_write, only_process
from ..base.reading import UnreadableFile, read_json

LIST = "cards.json"
REMEDY = "restore it, or write it again with `python tools/list_cards.py`"


def read_list(file: Path) -> dict[str, list[str]]:
    """Folder -> the hashes that its card may have; {} where there is no list. Raises UnreadableFile where it is another file."""
    try:
        found = read_json(file, remedy=REMEDY)
    except FileNotFoundError:
        return {}
    for name, hashes in found.items():
        if not isinstance(hashes, list) or not hashes or not all(isinstance(one, str) for one in hashes):
            raise UnreadableFile(f"{file} has for {name!r} no list of hashes: {REMEDY}")
    return found


def check_listed(card: Path, content: bytes) -> None:
    """Raises UnreadableFile unless the list beside the card's folder has this card, or does not name the folder."""
    folder = card.parent
    allowed = read_list(folder.parent / LIST).get(folder.name)
    if allowed is not None and hashlib.sha256(content).hexdigest() not in allowed:
        raise UnreadableFile(
            f"{card} is damaged, restore it: it is not the one that {folder.parent / LIST} records (a card that was edited on purpose is "
            "taken up by `python tools/list_cards.py`)"
        )


@contextlib.contextmanager
def relisting(folder: Path, content: bytes) -> Iterator[None]:
    """In the block, the card of `folder` becomes `content`: before, the list allows it too, and afterwards it alone.

    Nothing is listed where there is no list beside the folder.
    """
    file, digest = folder.parent / LIST, hashlib.sha256(content).hexdigest()
    if not file.is_file():
        yield
        return
    _enter(file, folder.name, [digest], keep=True)
    yield
    _enter(file, folder.name, [digest], keep=False)


def write_list(folder: Path, cards: dict[str, str]) -> None:
    """Write the list of `folder` again: name of a folder in it -> hash of its card."""
    _write(folder / LIST, {name: [digest] for name, digest in cards.items()})


def _enter(file: Path, name: str, hashes: list[str], *, keep: bool) -> None:
    with only_process(paths.RUNS / "cards.lock", wait=True):  # another training may finish at this moment
        found = read_list(file)
        _write(file, {**found, name: list(dict.fromkeys([*(found.get(name, []) if keep else []), *hashes]))})


def _write(file: Path, entries: dict[str, list[str]]) -> None:
    atomic_write(file, (json.dumps(entries, indent=1, sort_keys=True) + "\n").encode())
