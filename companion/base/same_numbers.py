"""Versions of a module that compute the same numbers as the one here: a record that an earlier one made is not older than the code.

Two versions may differ in what they refuse, or how they say it, and in no value. `tools/prove_same.py` computes results with both, compares
their bits and, where all are equal, writes the pair into data/same_numbers.json with a reason. A pair is of two hashes, so that any later
change of the module ends it. Stored items of runs do not ask here: they are computed again.
"""

import json
from functools import cache
from pathlib import Path

from . import paths

FILE = "same_numbers.json"  # module -> hash now -> hash before -> reason


def reason_for(module: str, now: object, before: object) -> str | None:
    """Why the versions of these hashes compute the same numbers; None where that has not been shown.

    Raises ValueError where the table is not what `tools/prove_same.py` writes.
    """
    return pairs(paths.DATA / FILE).get((module, str(now), str(before)))


@cache
def pairs(file: Path) -> dict[tuple[str, str, str], str]:
    """(module, hash now, hash before) -> reason, from `file`; nothing where there is none."""
    if not file.is_file():
        return {}
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        found = {(module, now, before): why for module, to in table.items() for now, of in to.items() for before, why in of.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is not the table that tools/prove_same.py writes: restore it") from error
    if not all(isinstance(why, str) and why.strip() for why in found.values()):
        raise ValueError(f"{file} must give a reason for each pair: restore it")
    return found
