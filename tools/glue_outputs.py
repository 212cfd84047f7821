"""Outputs that make values quotable in the book, for a run on a machine without myst_nb (a cluster, Colab), which makes none.

The values are those of the run's record: `glue_means(PREFIX, ...)` glues the mean of every row and metric that has values of its items.
`show_and_glue(NAME, ...)` has displayed what it glues, and lacks the name alone.
"""

import ast
from collections.abc import Iterator, Mapping
from typing import Any

import nbformat

from companion.studies.rows import glue_key

MIME = "application/papermill.record/"


def restore_glue(notebook: nbformat.NotebookNode, record: Mapping[str, Any] | None) -> nbformat.NotebookNode:
    """The notebook with the outputs that its cells would have glued; those that are there stay."""
    for cell in notebook.cells:
        if cell.cell_type != "code" or not cell.get("execution_count") or any(map(_name, cell.outputs)):
            continue
        for function, first in _glued(cell.source):
            if function == "show_and_glue":
                shown = [output for output in cell.outputs if output.output_type == "display_data" and "text/html" in output.data]
                for output in shown[:1]:
                    output.metadata["scrapbook"] = {"mime_prefix": "", "name": first}
            elif record is not None:
                cell.outputs += [_output(name, mean) for name, mean in means(first, record)]
    return notebook


def means(prefix: str, record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """What `glue_means` calls each mean, and the mean."""
    for label, row in record["rows"].items():
        for metric, measured in row["metrics"].items():
            if "values" in measured:
                yield f"{prefix}-{glue_key(label)}-{metric}", measured["mean"]


def _glued(source: str) -> list[tuple[str, str]]:
    """(function, first argument) of the calls that glue; those whose name is made at run time are passed over."""
    try:
        calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and node.args]
    except SyntaxError:  # a line for IPython alone
        return []
    named = [(ast.unparse(node.func).rpartition(".")[2], node.args[0]) for node in calls if isinstance(node.args[0], ast.Constant)]
    return [(function, first.value) for function, first in named if function in ("glue_means", "show_and_glue")]


def _name(output: Mapping[str, Any]) -> str | None:
    return output.get("metadata", {}).get("scrapbook", {}).get("name")


def _output(name: str, value: float) -> nbformat.NotebookNode:
    metadata = {"scrapbook": {"mime_prefix": MIME, "name": name}}
    return nbformat.v4.new_output("display_data", {f"{MIME}text/plain": repr(float(value))}, metadata=metadata)
