"""Vouch for the cards below data as they are now: write the `cards.json` beside each folder that has one.

    python tools/list_cards.py

Only after the files of every folder have been compared with its card; a folder with a damaged file stops all.
"""

import hashlib
import sys
from pathlib import Path

from companion.base import paths
from companion.base.config import OneSentenceParser, errors_as_exit_codes
from companion.weights.card_lists import write_list
from companion.weights.cards import CARD, file_hashes, parse_card


def listed(root: Path) -> dict[Path, dict[str, str]]:
    """Folder -> name of each folder with a card in it -> hash of the card. Raises ValueError where a file is not the card's."""
    found: dict[Path, dict[str, str]] = {}
    for card in sorted(root.rglob(CARD)):
        folder, content = card.parent, card.read_bytes()
        if any(part.startswith(".") for part in folder.relative_to(root).parts):
            continue  # half an export
        now, recorded = file_hashes(folder), parse_card(card, content).get("files", {})
        if wrong := sorted(name for name in recorded if now.get(name) != recorded[name]):
            raise ValueError(f"{folder / wrong[0]} is damaged or not the file that {CARD} records: restore it first")
        found.setdefault(folder.parent, {})[folder.name] = hashlib.sha256(content).hexdigest()
    return found


def main() -> None:
    """Command line."""
    parser = OneSentenceParser(prog="list_cards", description=__doc__.splitlines()[0])
    parser.parse_args()
    with errors_as_exit_codes(parser.prog):
        for folder, cards in listed(paths.DATA).items():
            write_list(folder, cards)
            print(f"{folder.relative_to(paths.ROOT)}: {len(cards)} cards")


if __name__ == "__main__":
    sys.exit(main())
