"""Record again every page behind which something has changed: `make results`.

    python tools/make_results.py [--only NAME ...] [--plan] [--all]

A page is current while its own code, its parameters (configs/record), the modules that it uses, the weights that it loads and the scenes
are those of its last recording, which data/recorded.json keeps. Before anything is computed the plan is printed: what is recorded, why, and
about how long it takes on this machine. Each page is kept as soon as it is done. After an interruption the same command goes on: finished
pages are current, and the page that was interrupted finds its finished items in `runs`. A folder `runs` from another machine, put in the
place of this one's, is taken up in the same way.
"""

import ast
import hashlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from companion.base import paths
from companion.base.config import OneSentenceParser, config_hash
from companion.base.files import atomic_write
from companion.base.machine import machine
from companion.base.reading import read_json, read_yaml
from companion.base.same_numbers import reason_for
from companion.base.staleness import PACKAGES, has_no_influence, modules_behind, package_modules
from companion.weights.cards import CARD
from companion.weights.pipelines import load_pipeline

sys.path.insert(0, str(paths.ROOT / "tools"))
from colab_cells import is_colab_cell
from run_once_cells import TAG

TABLE, LEDGER = paths.CONFIGS / "results.yaml", paths.DATA / "recorded.json"


@dataclass(frozen=True)
class Page:
    """One notebook of the table: the weights that it loads (patterns in data/models) and its minutes on the reference machine."""

    name: str
    weights: tuple[str, ...]
    minutes: float

    @property
    def notebook(self) -> Path:
        return paths.ROOT / "notebooks" / f"{self.name}.ipynb"

    def state(self) -> dict[str, Any]:
        """Hashes of all that determines the page, in words that name what has changed."""
        sources = code_cells(self.notebook)
        parameters = read_yaml(paths.CONFIGS / "record" / f"{self.name}.yaml", object)
        return {
            "the notebook": config_hash(sources),
            "its parameters": config_hash(parameters or {}),
            "modules": modules_behind(*imported_modules(sources)),
            "weights": {name: _digest(paths.MODELS / name / CARD) for pattern in self.weights for name in _folders(pattern)},
            "the scenes": _digest(paths.SCENES / CARD),
        }

    def has_record(self) -> bool:
        """Does the notebook write a record?"""
        return "save_record" in "".join(code_cells(self.notebook)) or ".record(" in "".join(code_cells(self.notebook))


def code_cells(notebook: Path) -> list[str]:
    """The sources of a notebook's code cells, in order, but for two that change no result: that for Colab, and the one that stands
    for itself (tools/run_once_cells.py).
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    counted = (
        cell for cell in cells if cell["cell_type"] == "code" and not is_colab_cell(cell) and TAG not in cell["metadata"].get("tags", [])
    )
    return ["".join(cell["source"]) for cell in counted]


def imported_modules(sources: list[str]) -> list[str]:
    """The modules of this project that these cells import; lines that only IPython understands are passed over."""
    text = "\n".join(line for source in sources for line in source.splitlines() if not line.lstrip().startswith(("%", "!")))
    known, found = package_modules(), set()
    for node in ast.walk(ast.parse(_without_empty_blocks(text))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PACKAGES:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.partition(".")[0] in PACKAGES}
    return sorted(found - set(PACKAGES))


def _without_empty_blocks(text: str) -> str:
    """`if ...:` whose lines were all IPython's gets a `pass`."""
    lines = text.splitlines()
    filled = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        filled.append(line)
        indent = len(line) - len(line.lstrip())
        if line.split("#")[0].rstrip().endswith(":") and len(following) - len(following.lstrip()) <= indent:
            filled.append(f"{' ' * (indent + 4)}pass")
    return "\n".join(filled)


def _folders(pattern: str) -> list[str]:
    return sorted(card.parent.relative_to(paths.MODELS).as_posix() for card in paths.MODELS.glob(f"{pattern}/{CARD}"))


def _digest(file: Path) -> str:
    """Hash of the files that a card lists, so that a new figure in the card itself changes nothing."""
    files = read_json(file).get("files", {})
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16]


def what_changed(now: dict[str, Any], then: dict[str, Any]) -> list[str]:
    """In words: the entries of two states that differ, of modules and weights the names."""
    changed = []
    for key, value in now.items():
        before = then.get(key)
        if value == before:
            continue
        if isinstance(value, dict) and isinstance(before, dict):
            differing = (name for name in value.keys() | before.keys() if value.get(name) != before.get(name))
            names = sorted(name for name in differing if not _same_numbers(key, name, value.get(name), before.get(name)))
            if not names:
                continue
            shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
            changed.append(f"{key} ({shown})")
        else:
            changed.append(key)
    return changed


def _same_numbers(key: str, name: str, now: object, then: object) -> bool:
    """Is `name` a module whose change leaves every number as it is? Weights, say, are never."""
    return key == "modules" and (has_no_influence(name) or reason_for(name, now, then) is not None)


def read_table(file: Path = TABLE) -> tuple[list[Page], dict[str, Any]]:
    """The pages in their order, and the reference machine."""
    table = read_yaml(file)
    return [Page(name, tuple(entry["weights"]), float(entry["minutes"])) for name, entry in table["pages"].items()], table["reference"]


def read_ledger() -> dict[str, Any]:
    """Page -> its last recording."""
    return read_json(LEDGER) if LEDGER.exists() else {}


def reasons(page: Page, ledger: dict[str, Any]) -> list[str]:
    """Why a page has to be recorded; empty where it is current."""
    if page.name not in ledger:
        return ["never recorded by this command"]
    found = what_changed(page.state(), ledger[page.name]["state"])
    record = paths.RESULTS / f"{page.name}.json"
    if page.has_record() and (not record.exists() or config_hash(read_json(record)) != ledger[page.name].get("record")):
        found.append("its record in data/results")
    return found


@torch.no_grad()
def evaluations_per_second(seconds: float = 3.0) -> float:
    """How many evaluations of the embedded UNet this machine makes in a second, in batches of 44."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    unet = load_pipeline("mini", device=device).unet
    x, context = torch.randn(44, 4, 16, 16, device=device), torch.randn(44, 24, 192, device=device)
    unet(x, 500, context)
    count, started = 0, time.monotonic()
    while time.monotonic() - started < seconds:
        unet(x, 500, context).sample.sum().item()
        count += len(x)
    return count / (time.monotonic() - started)


def record_page(page: Page, ledger: dict[str, Any]) -> None:
    """Run the notebook, keep its page and record, and note what they were made from."""
    state, started = page.state(), time.monotonic()
    make("PRESET=record", page.name)
    make("keep", f"NAME={page.name}")
    record = paths.RESULTS / f"{page.name}.json"
    ledger[page.name] = {
        "state": page.state() | {"modules": state["modules"], "weights": state["weights"]},
        "record": config_hash(read_json(record)) if page.has_record() else None,
        "seconds": round(time.monotonic() - started),
        "machine": machine("cuda" if torch.cuda.is_available() else "cpu")["name"],
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    atomic_write(LEDGER, (json.dumps(ledger, indent=1, sort_keys=True) + "\n").encode())


def make(*arguments: str) -> None:
    """Run make in the repository; CalledProcessError where it fails."""
    subprocess.run(["make", "--no-print-directory", *arguments], cwd=paths.ROOT, check=True)


def print_plan(pages: list[Page], todo: dict[str, list[str]], reference: dict[str, Any]) -> None:
    """What is current, what is recorded, why, and about how long that takes here."""
    scale = reference["evaluations_per_second"] / evaluations_per_second() if todo else 1.0
    for page in pages:
        why = todo.get(page.name)
        minutes = f"{max(1, round(page.minutes * scale)):4d} min" if why else "  current"
        print(f"{minutes}  {page.name}" + (f": {'; '.join(why)}" if why else ""))
    total = sum(page.minutes for page in pages if page.name in todo) * scale
    if todo:
        print(f"{round(total):4d} min in all on this machine, less what `runs` holds already.", flush=True)


def main() -> None:
    """Command line."""
    pages, reference = read_table()
    parser = OneSentenceParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="record these pages alone")
    parser.add_argument("--plan", action="store_true", help="print what would be recorded, and record nothing")
    parser.add_argument("--all", action="store_true", help="record current pages too")
    arguments = parser.parse_args()
    names = [page.name for page in pages]
    if unknown := [name for name in arguments.only or () if name not in names]:
        parser.error(f"--only is {unknown[0]!r}, but must be one of {', '.join(names)}")
    pages = [page for page in pages if not arguments.only or page.name in arguments.only]
    ledger = read_ledger()
    todo = {page.name: why for page in pages if (why := reasons(page, ledger) or (["asked for"] if arguments.all else []))}
    print_plan(pages, todo, reference)
    if arguments.plan:
        return
    failed = []
    for page in pages:
        if page.name in todo:
            try:
                record_page(page, ledger)
            except subprocess.CalledProcessError:
                failed.append(page.name)  # the others do not wait for it
    if todo:
        make("refresh")
    if failed:
        sys.exit(f"Not recorded, see above: {', '.join(failed)}. The same command goes on with these.")


if __name__ == "__main__":
    main()
