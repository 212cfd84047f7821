"""Run the cells that do a page's thing once, and keep what they show: `python tools/run_once_cells.py [NAME ...]`.

A result page shows one cell, tagged `once`, that does for one prompt or picture what its study does for all. It needs nothing of
the notebook around it and gives nothing to it: neither the record nor its age depends on it. So it is run alone, in a kernel of its own,
and its outputs are stored in notebooks/. A recording of the whole page runs it as well.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from companion.base import paths
from companion.base.config import OneSentenceParser
from companion.base.files import atomic_write

TAG = "once"
SECONDS = 600


def once_cell(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """The cell of a notebook that stands for itself, or None."""
    return next((cell for cell in notebook.cells if TAG in cell.metadata.get("tags", [])), None)


def run_cell(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The outputs of a cell alone in a new kernel; what is said on the error stream, such as warnings, is left out.

    Raises:
        nbclient.exceptions.CellExecutionError: the cell fails, for instance because it needs something from another one.
    """
    alone = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.source)])
    NotebookClient(alone, timeout=SECONDS, resources={"metadata": {"path": str(paths.ROOT / "notebooks")}}).execute()
    return [output for output in alone.cells[0].outputs if output.get("name") != "stderr"]


def run_page(file: Path) -> bool:
    """Store the outputs of the page's cell; False where it has none."""
    notebook = nbformat.read(file, as_version=4)
    cell = once_cell(notebook)
    if cell is None:
        return False
    cell.outputs, cell.execution_count = run_cell(cell), 1  # the first that its kernel ran
    atomic_write(file, (nbformat.writes(notebook).rstrip("\n") + "\n").encode())
    return True


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = OneSentenceParser(prog="run_once_cells.py", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="pages; all of them where none is named")
    names = parser.parse_args(arguments).names
    files = {file.stem: file for file in sorted((paths.ROOT / "notebooks").glob("*.ipynb"))}
    if unknown := [name for name in names if name not in files]:
        parser.error(f"NAME is {unknown[0]!r}, but must be a page in notebooks/: {', '.join(files)}")
    for name in names or files:
        if run_page(files[name]):
            print(name, flush=True)
        elif names:
            parser.error(f"NAME is {name!r}, whose notebook has no cell with the tag {TAG!r}")


if __name__ == "__main__":
    main(sys.argv[1:])
