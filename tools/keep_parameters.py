"""Turn papermill's injected parameters into a sentence: `python tools/keep_parameters.py NOTEBOOK ...`, part of `make record`.

Left as code they would override the defaults, and every preset, in whatever run of the kept notebook comes next.
"""

import sys
from pathlib import Path

import nbformat

TAG = "injected-parameters"
START = "The outputs on this page are of a run with"


def keep_parameters(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with each cell that papermill injected replaced by a text that names its parameters; an earlier run's text goes."""
    notebook.cells = [cell for cell in notebook.cells if not (cell.cell_type == "markdown" and cell.source.startswith(START))]
    for index, cell in enumerate(notebook.cells):
        if TAG in cell.metadata.get("tags", []):
            lines = [line for line in cell.source.splitlines() if line.strip() and not line.startswith("#")]
            text = f"{START} {', '.join(f'`{line.strip()}`' for line in lines)}; all else as above."
            notebook.cells[index] = nbformat.v4.new_markdown_cell(text, id=cell.id)
    return notebook


if __name__ == "__main__":
    for name in sys.argv[1:]:
        file = Path(name)
        nbformat.write(keep_parameters(nbformat.read(file, as_version=4)), file)
