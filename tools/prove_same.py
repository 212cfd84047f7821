"""Does the code of two commits compute the same numbers? Compares the bits of a few results; notes the modules that may then differ.

    python tools/prove_same.py BEFORE AFTER                         the comparison alone
    python tools/prove_same.py BEFORE AFTER --why MODULE=REASON     and, if all bits are equal, data/same_numbers.json

For commits that change what is refused and how, in modules behind recorded results. `companion.base.same_numbers` reads the file: a record
made with a hash that stands there is not older than the code, as long as the module is the one of AFTER. `proving/sample_values.py` says
what is computed; it is a sample, and the reason is what reading the difference shows. Each commit runs in a process of its own, with this
checkout's data. A module without a reason, or that the results do not import, is not noted.

Exit code 1 where a result differs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from companion.base import paths
from companion.base.config import OneSentenceParser
from companion.base.files import atomic_write
from companion.base.reading import read_json
from companion.base.same_numbers import FILE
from companion.base.source_hash import source_hash
from companion.base.staleness import PACKAGES, has_no_influence


def commit(text: str) -> str:
    """The full hash of a commit, for argparse."""
    command = ["git", "rev-parse", "--verify", "--quiet", f"{text}^{{commit}}"]
    found = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True)
    if found.returncode:
        raise argparse.ArgumentTypeError(f"{text!r} is no commit of {paths.ROOT}")
    return found.stdout.strip()


def sources(commit: str, folder: Path) -> dict[str, str]:
    """Write both packages as they were at `commit` into `folder`; hash by module, of those that can influence a value."""
    packed = subprocess.run(["git", "archive", commit, *PACKAGES], cwd=paths.ROOT, check=True, stdout=subprocess.PIPE).stdout
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed, check=True)
    names = {file.relative_to(folder).with_suffix("").as_posix().replace("/", "."): file for file in folder.rglob("*.py")}
    return {name: source_hash(file.read_text(encoding="utf-8")) for name, file in names.items() if not has_no_influence(name)}


def results(folder: Path) -> dict:
    """What the packages in `folder` compute."""
    out = folder / "found.json"
    place = {**os.environ, "PYTHONPATH": str(folder), "SMOOTHLIB_ROOT": str(paths.ROOT), "SMOOTHLIB_RUNS": str(folder / "runs")}
    script = Path(__file__).parent / "proving" / "sample_values.py"
    subprocess.run([sys.executable, str(script), str(out)], cwd=folder, env=place, check=True)
    return read_json(out)


def note(pairs: Sequence[tuple[str, str, str, str]]) -> None:
    """Add (module, hash before, hash now, reason) to the table."""
    file = paths.DATA / FILE
    table = read_json(file) if file.exists() else {}
    for module, before, now, why in pairs:
        table.setdefault(module, {}).setdefault(now, {})[before] = why
    atomic_write(file, (json.dumps(table, indent=1, sort_keys=True) + "\n").encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = OneSentenceParser(prog="prove_same", description=__doc__.splitlines()[0])
    parser.add_argument("before", type=commit, help="commit, e.g. that of the records")
    parser.add_argument("after", type=commit, help="commit whose modules are here now")
    parser.add_argument(
        "--why", action="append", default=[], metavar="MODULE=REASON", help="what a module differs in, where it is no number"
    )
    options = parser.parse_args(arguments)
    reasons = {module: why.strip() for module, _, why in (given.partition("=") for given in options.why)}
    if without := [module for module, why in reasons.items() if not why]:
        parser.error(f"--why is {without[0]!r}, but must be MODULE=REASON")
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before", Path(folder) / "after"
        hashes = sources(options.before, before), sources(options.after, after)
        found = results(before), results(after)
    one, other = found[0]["digests"], found[1]["digests"]
    differ = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    changed = sorted(name for name in hashes[0].keys() & hashes[1].keys() if hashes[0][name] != hashes[1][name])
    asked = [name for name in changed if name in found[0]["imported"] and name in found[1]["imported"]]
    print(f"{len(one) - len(differ)} of {len(one)} results are equal to the last bit.")
    for name in differ:
        print(f"differs: {name}")
    for name in changed:
        print(f"{'changed' if name in asked else 'changed, not imported'}: {name} {hashes[0][name]} -> {hashes[1][name]}")
    if differ:
        return 1
    if odd := [module for module in reasons if module not in asked]:
        parser.error(f"--why names {odd[0]}, but must name modules that have changed and that the results import")
    if reasons:
        note([(name, hashes[0][name], hashes[1][name], why) for name, why in reasons.items()])
    return 0


if __name__ == "__main__":
    sys.exit(main())
