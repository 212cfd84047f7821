"""Write hashes.txt: every file of the releases in constraints.txt by its sha256, as the package index gives them.

    python tools/hash_pins.py [--uv PROGRAM]

`make env` installs from it first. Needs uv (`pip install uv` in an environment of its own). After every change of constraints.txt.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from companion.base import paths
from companion.base.config import OneSentenceParser, errors_as_exit_codes
from companion.base.files import atomic_write

PINS, HASHES = paths.ROOT / "constraints.txt", paths.ROOT / "hashes.txt"
# torch's files differ between builds of one version (CPU, CUDA); setuptools is pip's own to replace; the renderer is not in `make env`
FREE = {"torch", "torchvision", "setuptools", "mitsuba", "drjit", "pyoidn", "cffi", "pycparser"}
HEADING = """\
# What `make env` installs first: every file of these releases by its sha256, written by tools/hash_pins.py. The versions are those of
# constraints.txt, which pins more: torch and torchvision, whose files differ between builds of one version, and the renderer.
"""


def canonical(name: str) -> str:
    """A package's name as indexes write it."""
    return re.sub("[-_.]+", "-", name).lower()


def hashed_pins() -> list[str]:
    """The pins of constraints.txt that `make env` installs by their hashes."""
    return [pin for pin in PINS.read_text(encoding="utf-8").split() if canonical(pin.partition("==")[0]) not in FREE]


def main() -> None:
    """Command line."""
    parser = OneSentenceParser(prog="hash_pins", description=__doc__.splitlines()[0])
    parser.add_argument("--uv", default="uv", help="the program uv (uv)")
    options = parser.parse_args()
    with errors_as_exit_codes(parser.prog), tempfile.TemporaryDirectory() as folder:
        pins, found = Path(folder) / "pins.in", Path(folder) / "hashes.txt"
        pins.write_text("\n".join(hashed_pins()), encoding="utf-8")
        command = "pip compile --quiet --no-deps --generate-hashes --no-annotate --no-header --python-version 3.11.9".split()
        if code := subprocess.run([options.uv, *command, str(pins), "--output-file", str(found)]).returncode:
            sys.exit(f"{parser.prog}: uv ended with exit status {code}, see above.")
        atomic_write(HASHES, (HEADING + found.read_text(encoding="utf-8")).encode())


if __name__ == "__main__":
    main()
