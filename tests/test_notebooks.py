"""Every notebook keeps the same conventions: parameters, presets, outputs, its page."""

import ast
import base64
import json
import re
from itertools import pairwise

import nbformat
import pytest
import yaml

from companion.base.paths import ROOT
from conftest import parameter_names

PRESETS = ("smoke", "record", "sd15", "colab_t4")  # folders of configs that hold notebook parameters
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
    assert "injected-parameters" not in tags, "a run's parameters would override the defaults of the next: tools/keep_run.py"
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


@pytest.mark.parametrize("notebook", notebooks(), ids=lambda path: path.stem)
def test_notebook_outputs_are_whole_small_and_without_errors(notebook):
    """Committed outputs are those of one run from top to bottom (or all are missing: then nothing is shown as a result). The cell that
    stands for itself may have been run alone (tools/run_once_cells.py).
    """
    cells = [cell for cell in read(notebook).cells if cell.cell_type == "code" and "nbval-skip" not in cell.metadata.get("tags", [])]
    counts = [cell.execution_count for cell in cells if "once" not in cell.metadata.get("tags", [])]
    assert counts == sorted(counts) if None not in counts else set(counts) == {None}
    for cell, output in ((owner, output) for owner in cells for output in owner.outputs):
        assert output.output_type != "error"
        assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
        for image in (content for kind, content in output.get("data", {}).items() if kind.startswith("image/")):
            assert len(base64.b64decode(image)) <= 300 * KB
            shown = cell.metadata.get("mystnb", {}).get("image", {})
            assert shown.get("alt", "").strip() and shown.get("classes") == "dark-light", f"metadata of the cell {cell.source[:60]!r}"


def as_run(content):
    """Parameter -> value of the run that a committed notebook shows: its defaults, or what the sentence below them says instead."""
    (cell,) = [cell for cell in content.cells if "parameters" in cell.metadata.get("tags", [])]
    sentences = [cell.source for cell in content.cells if cell.source.startswith("The outputs on this page are of a run with")]
    settings = {}
    for code in [cell.source, *re.findall(r"`(\w+ = [^`]+)`", " ".join(sentences))]:
        for statement in ast.parse(code).body:
            target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
            settings[target.id] = ast.literal_eval(statement.value)
    return settings


def suggestions(content):
    """The settings that the text tells readers to try: one dict for each piece of code with options of papermill."""
    for cell in (cell for cell in content.cells if cell.cell_type == "markdown"):
        for code in re.findall(r"`([^`]*-[py] [^`]+)`", cell.source):
            given = dict(re.findall(r"-p (\w+) (\"[^\"]*\"|[^\s\"]+)", code))
            given |= dict(re.findall(r"-y [\"'](\w+): ([^\"']+)[\"']", code))
            yield {name: yaml.safe_load(value) for name, value in given.items()}


@pytest.mark.parametrize("notebook", notebooks(), ids=lambda path: path.stem)
def test_readers_are_not_told_to_try_what_the_page_shows(notebook):
    """A page is recorded with other settings than the defaults: text about the defaults must not pass for text about the page."""
    content = read(notebook)
    shown = as_run(content)
    for given in suggestions(content):
        assert given and set(given) <= set(shown), f"{given} has names that are no parameters"
        assert any(shown[name] != value for name, value in given.items()), f"{given} is what this page was run with"


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


@pytest.mark.parametrize("notebook", notebooks(), ids=lambda notebook: notebook.stem)
def test_no_stored_output_names_a_place_of_the_machine_that_made_it(notebook):
    outputs = [output for cell in read(notebook).cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert str(ROOT) not in json.dumps(outputs)
    assert not re.findall(r"(?<![\w.:/])/(?:home|root|Users|tmp|mnt)/\w[^\"' ]*", json.dumps(outputs))
