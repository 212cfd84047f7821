"""What came of each preset: run in a process of its own, within a time, and stored as soon as it is known."""

import json
import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from companion.base.config import config_hash
from companion.base.files import atomic_write
from companion.base.staleness import package_modules

WORKS, FAILED, LATE = "works", "FAILED", "too long"
HEADING = f"{'preset':24}{'result':10}{'seconds':>9}{'peak GB':>9}{'UNet samples':>14}"
REPORT = re.compile(r"^rehearsed: peak (\S+) GB, (\d+) samples$", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """One preset's run.

    Args:
        result: `WORKS`, `FAILED` or `LATE`.
        seconds: by the clock, the start of the process included.
        peak: the process's largest resident memory, GB; None where it was killed.
        samples: how many the UNet was given, the members of a batch one by one; None where it was killed.
        error: the last line of what it said, where it does not work.
        code: of what ran, a hash.
    """

    result: str
    seconds: float
    peak: float | None
    samples: int | None
    error: str
    code: str

    def line(self, name: str) -> str:
        """Its line of the table."""
        peak, samples = ("" if value is None else value for value in (self.peak, self.samples))
        return f"{name:24}{self.result:10}{self.seconds:9.0f}{peak:>9}{samples:>14}{'  ' + self.error if self.error else ''}"


def report(peak: float, samples: int) -> str:
    """What a preset's process says last of itself."""
    return f"rehearsed: peak {peak:.1f} GB, {samples} samples"


def code(files: Sequence[Path]) -> str:
    """A hash of the packages' modules and of `files`."""
    return config_hash({**package_modules(), **{file.name: file.read_text(encoding="utf-8") for file in files}})


def stored(file: Path) -> dict[str, Outcome]:
    """Name -> outcome, as an earlier rehearsal has left them."""
    if not file.is_file():
        return {}
    return {name: Outcome(**fields) for name, fields in json.loads(file.read_text(encoding="utf-8")).items()}


def store(file: Path, outcomes: Mapping[str, Outcome]) -> None:
    """Write all outcomes; the file is whole at every moment."""
    atomic_write(file, json.dumps({name: asdict(one) for name, one in outcomes.items()}, indent=1, sort_keys=True).encode())


def cheapest_first(names: Sequence[str], counted: Mapping[str, Outcome]) -> list[str]:
    """`names` in the order of the samples that their UNets were given when it was `counted`; those that were not come last."""

    def cost(name: str) -> float:
        samples = counted[name].samples if name in counted else None
        return float("inf") if samples is None else samples

    return sorted(names, key=cost)


def run(command: Sequence[str], environment: Mapping[str, str], folder: Path, minutes: float | None, made_by: str) -> Outcome:
    """The outcome of a command; after `minutes` it is ended. What it had stored until then a later run finds."""
    started = time.monotonic()
    try:
        done = subprocess.run(
            command,
            env=os.environ | dict(environment),
            capture_output=True,
            text=True,
            cwd=folder,
            timeout=None if minutes is None else 60 * minutes,
        )
    except subprocess.TimeoutExpired:
        return Outcome(LATE, time.monotonic() - started, None, None, f"ended after {minutes:g} minutes", made_by)
    seconds, said = time.monotonic() - started, (done.stdout + done.stderr).strip()
    found = REPORT.search(said)
    peak, samples = (float(found[1]), int(found[2])) if found else (None, None)
    error = "" if done.returncode == 0 else _last_line(REPORT.sub("", said))
    return Outcome(FAILED if error else WORKS, round(seconds, 1), peak, samples, error, made_by)


def _last_line(said: str) -> str:
    return next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "killed")


def table(names: Sequence[str], run_one, file: Path, outcomes: dict[str, Outcome]) -> int:
    """Print and store the outcome of each preset as soon as it is known; 1 where one does not work.

    Those of `outcomes` are printed as they are; `run_one` gives the others.
    """
    print(HEADING, flush=True)
    for name in names:
        if name not in outcomes:
            outcomes[name] = run_one(name)
            store(file, stored(file) | {name: outcomes[name]})
        print(outcomes[name].line(name), flush=True)
    works = sum(outcomes[name].result == WORKS for name in names)
    print(f"{works} of {len(names)} presets work.")
    return int(works < len(names))
