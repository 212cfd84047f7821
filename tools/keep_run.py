"""Keep what a run left: `make record` and `make refresh`.

    python tools/keep_run.py NAME ...        check out/NAME.ipynb and its record; put what is to be kept into out/kept
    python tools/keep_run.py --comparisons   let the tables in notebooks/ show the records of data/results

A run is kept whole or not at all: finished without an error, of the notebook as it is now, with the record that this very run wrote. Its
parameters become a sentence, because as code they would override the defaults, and every preset, of the next run. Its comparison table is
rendered again from the record alone, because the run itself could only compare with the record before it.
"""

import ast
import datetime
import shutil
import sys
from collections.abc import Mapping
from typing import Any

import nbformat

from companion.base import paths
from companion.base.config import OneSentenceParser
from companion.evidence.published import is_place, own_names
from companion.evidence.records import comparison_table, load_record, record_files

sys.path.insert(0, str(paths.ROOT / "tools"))
from glue_outputs import restore_glue

TAG = "injected-parameters"
START = "The outputs on this page are of a run with"
TABLE = '<div class="comparison"'  # how the HTML of a comparison table begins
NOTEBOOKS, KEPT = paths.ROOT / "notebooks", paths.OUT / "kept"


def check_run(name: str) -> tuple[nbformat.NotebookNode, dict[str, Any] | None]:
    """The executed notebook and its record (None for a notebook that makes none); ValueError with one sentence unless both are whole."""
    file = paths.OUT / f"{name}.ipynb"
    if not file.is_file():
        raise ValueError(f"There is no out/{name}.ipynb to keep: run 'make {name}' first, or name another notebook with NAME=.")
    run = nbformat.read(file, as_version=4)
    check_finished(run, name)
    check_sources(run, nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4), name)
    if not any("save_record(" in cell.source and f'"{name}.json"' in cell.source for cell in run.cells if cell.cell_type == "code"):
        return run, None
    record_file = paths.OUT / f"{name}.json"
    if not record_file.is_file():
        raise ValueError(f"There is no out/{name}.json: the run of out/{name}.ipynb made no record, so there is no result to keep.")
    record = load_record(record_file)
    check_same_run(run, record, name)
    return run, record


def check_finished(run: nbformat.NotebookNode, name: str) -> None:
    """Did papermill run every cell to its end?"""
    made = run.metadata.get("papermill", {})
    for number, cell in enumerate(run.cells, 1):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        if any(output.output_type == "error" for output in cell.outputs) or cell.metadata.get("papermill", {}).get("exception"):
            raise ValueError(f"out/{name}.ipynb has an error in cell In [{cell.execution_count}]: a run that failed is not kept.")
        if cell.execution_count is None or cell.metadata.get("papermill", {}).get("status") != "completed":
            raise ValueError(f"out/{name}.ipynb has not run cell {number}: only a run from the first cell to the last is kept.")
    if made.get("exception") or not made.get("start_time") or not made.get("end_time"):
        raise ValueError(f"out/{name}.ipynb is not a finished run of papermill: run 'make {name}' again.")


def check_sources(run: nbformat.NotebookNode, now: nbformat.NotebookNode, name: str) -> None:
    """Is it the notebook that is there now? Keeping a run of an older one would take back what was edited since."""
    ran, there = ([(cell.cell_type, cell.source) for cell in without_parameters(one).cells] for one in (run, now))
    if ran != there:
        number = next((i for i, (a, b) in enumerate(zip(ran, there, strict=False), 1) if a != b), min(len(ran), len(there)) + 1)
        raise ValueError(f"out/{name}.ipynb is a run of another notebooks/{name}.ipynb (cell {number} differs): run 'make {name}' again.")


def without_parameters(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without what papermill injected, and without the sentence that an earlier kept run left in its place."""
    cells = [cell for cell in notebook.cells if TAG not in cell.metadata.get("tags", [])]
    cells = [cell for cell in cells if not (cell.cell_type == "markdown" and cell.source.startswith(START))]
    return nbformat.from_dict({**notebook, "cells": cells})


def check_same_run(run: nbformat.NotebookNode, record: Mapping[str, Any], name: str) -> None:
    """Was the record written while the notebook ran, with the notebook's parameters?"""
    start, end = (datetime.datetime.fromisoformat(run.metadata.papermill[key]) for key in ("start_time", "end_time"))
    made = datetime.datetime.fromisoformat(record["provenance"]["date"])
    if not start - datetime.timedelta(seconds=1) <= made <= end:  # a record's date has no fractions of a second
        raise ValueError(f"out/{name}.json was made at {made}, but the run of out/{name}.ipynb lasted from {start} to {end}.")
    settings = record["provenance"]["config"]
    for parameter, value in injected_parameters(run).items():
        if parameter in settings and settings[parameter] not in (value, published(value)):
            raise ValueError(f"out/{name}.json was made with {parameter} = {settings[parameter]!r}, but out/{name}.ipynb with {value!r}.")


def published(value: Any) -> Any:
    """A parameter as records have it: without the place of a folder on this machine."""
    if isinstance(value, list):
        return [published(entry) for entry in value]
    return own_names([value])[value] if isinstance(value, str) and is_place(value) else value


def injected_parameters(notebook: nbformat.NotebookNode) -> dict[str, Any]:
    """Name -> value of what papermill injected."""
    cells = [cell for cell in notebook.cells if TAG in cell.metadata.get("tags", [])]
    statements = [statement for cell in cells for statement in ast.parse(cell.source).body if isinstance(statement, ast.Assign)]
    return {statement.targets[0].id: ast.literal_eval(statement.value) for statement in statements}


def keep_parameters(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with each cell that papermill injected replaced by a text that names its parameters; an earlier run's text goes."""
    notebook.cells = [cell for cell in notebook.cells if not (cell.cell_type == "markdown" and cell.source.startswith(START))]
    for index, cell in enumerate(notebook.cells):
        if TAG in cell.metadata.get("tags", []):
            lines = [line for line in cell.source.splitlines() if line.strip() and not line.startswith("#")]
            text = f"{START} {', '.join(f'`{line.strip()}`' for line in lines)}; all else as above."
            notebook.cells[index] = nbformat.v4.new_markdown_cell(text, id=cell.id)
    return notebook


def drop_warnings(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without what its cells wrote to stderr: libraries' warnings, which name folders of the machine."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def show_record(notebook: nbformat.NotebookNode, record: Mapping[str, Any], name: str) -> nbformat.NotebookNode:
    """The notebook whose comparison table is that of `record`; ValueError unless it has exactly one where the record has a table."""
    if record["table"] is None:
        return notebook
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    shown = [output for output in outputs if output.get("data", {}).get("text/html", "").startswith(TABLE)]
    if len(shown) != 1:
        raise ValueError(f"{name}.ipynb shows {len(shown)} comparison tables, but must show one: its record is of {record['table']}.")
    table = comparison_table(record["table"], recorded=record)
    shown[0]["data"] = {"text/html": table._repr_html_(), "text/plain": repr(table)}
    return notebook


def stage(names: list[str]) -> None:
    """Put into out/kept what is to be copied; nothing where one of the runs is not whole."""
    runs = {name: check_run(name) for name in names}
    parameters = {name: said(injected_parameters(run)) for name, (run, _) in runs.items()}
    pages = {name: drop_warnings(keep_parameters(run)) for name, (run, _) in runs.items()}
    for name, (_, record) in runs.items():
        restore_glue(pages[name], record)
        if record is not None:
            show_record(pages[name], record, name)
    shutil.rmtree(KEPT, ignore_errors=True)
    KEPT.mkdir(parents=True)
    for name, (run, record) in runs.items():
        nbformat.write(pages[name], KEPT / f"{name}.ipynb")
        if record is not None:
            shutil.copyfile(paths.OUT / f"{name}.json", KEPT / f"{name}.json")
        print(f"{name}: a run of {run.metadata.papermill['start_time'][:16]}, {parameters[name]}")


def said(parameters: Mapping[str, Any]) -> str:
    """The parameters of a run in words."""
    return "with " + ", ".join(f"{key} = {value!r}" for key, value in parameters.items()) if parameters else "at its default settings"


def show_records() -> None:
    """Every page whose record answers to one of the paper's tables shows that record, and what a page glues can be quoted."""
    records = {file.stem: load_record(file) for file in record_files()}
    for page in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook, record = nbformat.read(page, as_version=4), records.get(page.stem)
        if any(cell.get("outputs") for cell in notebook.cells):
            before = nbformat.writes(notebook)
            restore_glue(notebook, record)
            if record is not None:
                show_record(notebook, record, page.stem)
            if nbformat.writes(notebook) != before:
                nbformat.write(notebook, page)


def main() -> None:
    """Command line."""
    parser = OneSentenceParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="a notebook that has been run")
    parser.add_argument("--comparisons", action="store_true", help="let the tables in notebooks/ show the records of data/results")
    options = parser.parse_args()
    try:
        if options.names:
            stage(options.names)
        if options.comparisons:
            show_records()
    except (OSError, ValueError) as error:
        sys.exit(f"{error} Nothing was kept." if options.names else str(error))


if __name__ == "__main__":
    main()
