"""The first code cell of every notebook, which fetches the repository on Colab: written from the one address in _config.yml.

    python tools/colab_cells.py          write the cell into all notebooks
    python tools/colab_cells.py --check  say which notebooks have another one

The address is `repository: url` in _config.yml, empty until the repository is public. A cell must fetch nothing from an address that the
project does not own, so without an address it says in one sentence what to do instead.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
import yaml

ROOT = Path(__file__).resolve().parent.parent
TAGS = ["remove-cell", "nbval-skip"]
ADDRESS = re.compile(r"https://[\w.-]+(/[\w.-]+)+")  # goes into a line for the shell
CELL = """import sys

if "google.colab" in sys.modules:  # on Colab: fetch the repository once; its torch and numpy stay as they are
    from pathlib import Path

    address = "{address}"  # repository: url in _config.yml, written here by tools/colab_cells.py
    folder = Path("/content/smooth-diffusion-companion")
    if address and not folder.exists():
        !git clone -q --depth 1 {{address}} {{folder}}
    own = [folder / "CITATION.cff", folder / "smoothlib/__init__.py"]
    if not all(file.is_file() for file in own) or "Smooth Diffusion, reproduced" not in own[0].read_text():
        what = "delete the folder, and check the address in this cell" if address else "upload a copy of the repository to this place"
        raise SystemExit(f"{{folder}} is not a copy of this project: {{what}}, then run this cell again.")
    %pip install -q -e {{folder}}
    sys.path.insert(0, str(folder))  # Python reads the path of an editable install at its start only
    %cd {{folder}}/notebooks"""


def address() -> str:
    """The repository's public address, from _config.yml; empty until there is one. ValueError for anything that is no address."""
    found = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"] or ""
    if found and not ADDRESS.fullmatch(found):
        raise ValueError(f"repository: url in _config.yml is {found!r}, but must be empty or an address such as https://HOST/OWNER/NAME.")
    return found


def source(public: str) -> str:
    """The cell of a repository with this address."""
    return CELL.format(address=public)


def is_colab_cell(cell: Mapping[str, Any]) -> bool:
    """Is it the cell that acts on Colab alone? A change of it changes no result."""
    return cell["cell_type"] == "code" and TAGS == cell["metadata"].get("tags") and "google.colab" in "".join(cell["source"])


def outdated(wanted: str) -> Iterator[tuple[Path, nbformat.NotebookNode, nbformat.NotebookNode]]:
    """(file, notebook, its cell) of every notebook whose first code cell is not `wanted`."""
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(file, as_version=4)
        cell = next((cell for cell in notebook.cells if is_colab_cell(cell)), None)
        if cell is None:
            raise ValueError(f"{file.name} has no cell with the tags {', '.join(TAGS)} that asks for google.colab, but must have one.")
        if cell.source != wanted:
            yield file, notebook, cell


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a notebook has another cell")
    check = parser.parse_args().check
    try:
        wanted = source(address())
        found = list(outdated(wanted))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    for file, notebook, cell in found:
        print(file.relative_to(ROOT))
        if not check:
            cell.source = wanted
            nbformat.write(notebook, file)
    return int(check and bool(found))


if __name__ == "__main__":
    sys.exit(main())
