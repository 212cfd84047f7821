"""Every notebook keeps the same conventions: parameters, presets, outputs, its page."""

import ast
import base64
import json
import re
import runpy
from itertools import pairwise
from types import SimpleNamespace

import nbformat
import pytest
import yaml

from conftest import parameter_names
from smoothlib.paths import ROOT

PRESETS = ("smoke", "record", "sd15")  # folders of configs that hold notebook parameters
KB = 1000


def notebooks():
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def read(notebook):
    return nbformat.read(notebook, as_version=4)


def parameters_cell(notebook):
    (cell,) = [cell for cell in read(notebook).cells if "parameters" in cell.metadata.get("tags", [])]
    return cell


@pytest.mark.parametrize("notebook", notebooks(), ids=lambda path: path.stem)
def test_notebook_keeps_the_conventions(notebook):
    content = read(notebook)
    tags = [tag for cell in content.cells for tag in cell.metadata.get("tags", [])]
    assert "injected-parameters" not in tags, "a run's parameters would override the defaults of the next: tools/keep_parameters.py"
    nbformat.validate(content)
    assert content.metadata.kernelspec.name == "python3"
    assert content.cells[0].cell_type == "markdown" and content.cells[0].source.startswith("# ")
    cell = parameters_cell(notebook)
    for statement, following in pairwise([*ast.parse(cell.source).body, None]):
        ast.literal_eval(statement.value)  # plain literals
        line = cell.source.splitlines()[statement.lineno - 1]
        assert re.search(r"  # \S", line), f"{line!r} has no comment, which papermill --help-notebook would show"
        assert following is None or following.lineno > statement.lineno
    source = "\n".join(cell.source for cell in content.cells if cell.cell_type == "code")
    assert "configuration(" in source, "the parameters are validated"


def test_a_runs_parameters_are_kept_as_words():
    tool = SimpleNamespace(**runpy.run_path(str(ROOT / "tools" / "keep_parameters.py")))
    injected = nbformat.v4.new_code_cell("# Parameters\nseed = 3\nmodel = 'mini'", metadata={"tags": ["injected-parameters"]})
    kept = tool.keep_parameters(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("seed = 0"), injected]))
    assert [cell.cell_type for cell in kept.cells] == ["code", "markdown"] and kept.cells[0].source == "seed = 0"
    assert "`seed = 3`, `model = 'mini'`" in kept.cells[1].source and "Parameters" not in kept.cells[1].source
    assert len(tool.keep_parameters(kept).cells) == 1  # run again with the defaults: what was said of the other run goes


@pytest.mark.parametrize("notebook", notebooks(), ids=lambda path: path.stem)
def test_notebook_outputs_are_whole_small_and_without_errors(notebook):
    """Committed outputs are those of one run from top to bottom (or all are missing: then nothing is shown as a result)."""
    cells = [cell for cell in read(notebook).cells if cell.cell_type == "code" and "nbval-skip" not in cell.metadata.get("tags", [])]
    counts = [cell.execution_count for cell in cells]
    assert counts == sorted(counts) if None not in counts else set(counts) == {None}
    for cell, output in ((owner, output) for owner in cells for output in owner.outputs):
        assert output.output_type != "error"
        assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
        for image in (content for kind, content in output.get("data", {}).items() if kind.startswith("image/")):
            assert len(base64.b64decode(image)) <= 300 * KB
            shown = cell.metadata.get("mystnb", {}).get("image", {})
            assert shown.get("alt", "").strip() and shown.get("classes") == "dark-light", f"metadata of the cell {cell.source[:60]!r}"


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_set_parameters_that_exist(preset):
    stems = {notebook.stem: notebook for notebook in notebooks()}
    for file in sorted((ROOT / "configs" / preset).glob("*.yaml")):
        assert file.stem in stems, f"{preset}/{file.name} is for no notebook"
        unknown = set(yaml.safe_load(file.read_text(encoding="utf-8")) or {}) - set(
            parameter_names(parameters_cell(stems[file.stem]).source)
        )
        assert not unknown, f"{preset}/{file.name}"


def test_every_notebook_has_a_smoke_preset_and_a_page():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    pages = re.findall(r"'file': '([^']+)'|'root': '([^']+)'", str(contents))
    pages = {page for pair in pages for page in pair if page}
    assert not [page for page in pages if not any((ROOT / f"{page}{suffix}").is_file() for suffix in (".md", ".ipynb"))]
    for notebook in notebooks():
        assert f"notebooks/{notebook.stem}" in pages
        assert (ROOT / "configs" / "smoke" / f"{notebook.stem}.yaml").is_file()


def test_the_repositorys_address_is_the_same_everywhere():
    """_config.yml holds it; the notebooks' Colab cells must repeat it."""
    address = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    for notebook in notebooks():
        cloned = re.findall(r"git clone (?:--?\S+ (?:\d+ )?)*(\S+?)(?:\\n|\"|\s|$)", json.dumps(read(notebook)))
        assert set(cloned) <= {address}, notebook.name
