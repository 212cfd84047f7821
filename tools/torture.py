"""Kills, damage and bad input, counted: `make torture`.

    python tools/torture.py [--kills 100] [--damages 20] [--inputs 500] [--seed 0] [--counts FILE]

Kills: trainings and exports ended by SIGKILL at random moments and run again must end in the weights and the folder of an undisturbed one;
a process that does nothing but write files leaves each whole, old or new.
Damage: every kind of file that the project writes and reads, with flipped bits, cut off, empty, or with another kind's content, must be
refused in one sentence that names the file, made again, or read as what it was. Inputs: settings of trainings, command lines, parameters of
notebooks with values drawn at random must be taken for what they are or refused in one sentence that names them.

The counts are kept in FILE after each case, so that a stop loses none; a run that names the same file adds to them: take another seed then.

Exit code 1 where anything was lost, silent, unclear, or outside the folders.
"""

import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from torturing import damage, inputs, kills, writes

from companion.base import paths
from companion.base.config import ConfigurationError, OneSentenceParser, errors_as_exit_codes, shown
from companion.base.files import atomic_write
from companion.base.reading import read_json

GOOD = ("good", "made again", "harmless")
HEADINGS = ("what", "cases", *GOOD, "unclear", "silent", "lost", "outside")


def table(found: dict[str, Counter[str]]) -> str:
    """A Markdown table, one line a kind."""
    rows = [HEADINGS, ("---",) * len(HEADINGS)]
    rows += [(kind, str(counts.total()), *(str(counts[name]) for name in HEADINGS[2:])) for kind, counts in found.items()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def counted(kind: str, counts: Any, file: Path) -> Counter[str]:
    """What `file` has counted of a kind before. Raises ConfigurationError for anything but whole numbers of known outcomes."""
    if not isinstance(counts, dict) or not all(name in HEADINGS[2:] and type(count) is int for name, count in counts.items()):
        raise ConfigurationError(f"{file} has {shown(counts)} for {shown(kind)}, but must have counts of {', '.join(HEADINGS[2:])}")
    return Counter(counts)


def tortured(options: Any, folder: Path, say: Callable[[str], None]) -> dict[str, Counter[str]]:
    """What became of all cases, by kind; `say` gets a line for each that was not good."""
    chance, found = random.Random(options.seed), {}
    if options.counts and options.counts.exists():
        found = {kind: counted(kind, counts, options.counts) for kind, counts in read_json(options.counts).items()}
    paths.RUNS = folder / "runs"  # a training that is refused leaves a lock there
    for kind, outcome, told in chain(
        kills.cases(options.kills, folder / "kills", chance),
        writes.cases(options.kills, folder / "writes", chance),
        damage.cases(options.damages, folder / "damage", chance),
        inputs.cases(options.inputs, chance),
    ):
        found.setdefault(kind, Counter())[outcome] += 1
        if options.counts:
            atomic_write(options.counts, json.dumps(found, indent=1).encode())
        if outcome not in GOOD:
            say(f"{kind}: {outcome}: {told}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = OneSentenceParser(prog="torture", description=__doc__.splitlines()[0])
    settings = (
        ("kills", 100, "killed trainings, and as many killed writers"),
        ("damages", 20, "flipped bits in each kind of file"),
        ("inputs", 500, "bad inputs"),
    )
    for name, default, what in settings:
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} ({default})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--counts", type=Path, metavar="FILE", help="keep the counts in FILE after each case, added to those in it")
    options = parser.parse_args(arguments)
    for name in ("kills", "damages", "inputs", "seed"):
        if getattr(options, name) < 0:
            parser.error(f"--{name} is {getattr(options, name)}, but must be at least 0")
    with errors_as_exit_codes(parser.prog), tempfile.TemporaryDirectory() as folder:
        found = tortured(options, Path(folder), print)
    print(table(found))
    return int(any(counts[name] for counts in found.values() for name in HEADINGS[5:]))


if __name__ == "__main__":
    sys.exit(main())
