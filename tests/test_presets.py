"""`--nb-preset`: notebooks run under nbval with the parameters of a preset, and what is missing is named."""

import os
import shutil
import subprocess
import sys

import nbformat
import pytest

from companion.base.paths import ROOT
from conftest import inject_parameters, parameter_names


def notebook(*, parameters='num_images: int = 64  # how many\nmodel = "mini"  # which', tags=("parameters",), check="pass"):
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": list(tags)})
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# T"), first, nbformat.v4.new_code_cell(check)], metadata=kernel)


@pytest.fixture
def checkout(tmp_path):
    """A folder with this repository's conftest.py and a preset named small."""
    shutil.copy(ROOT / "conftest.py", tmp_path)
    (tmp_path / "configs" / "small").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def run_pytest(checkout, *arguments):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, "notebooks"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, env=os.environ | {"SMOOTHLIB_RUNS": "unset"})


def test_a_notebook_runs_with_the_presets_parameters_and_its_own_scratch_folder(checkout):
    check = (
        'assert (num_images, model) == (2, "mini"), num_images\n'
        'import os\nassert os.path.basename(os.environ["SMOOTHLIB_RUNS"]) == "runs" and "OUT" in str(os.environ.keys())'
    )
    nbformat.write(notebook(check=check), checkout / "notebooks" / "table.ipynb")
    (checkout / "configs" / "small" / "table.yaml").write_text("num_images: 2\n")
    before = (checkout / "notebooks" / "table.ipynb").read_bytes()
    result = run_pytest(checkout, "--nbval-lax", "--nbval-current-env", "--nb-preset", "small")
    assert result.returncode == 0 and "2 passed" in result.stdout, result.stdout
    assert (checkout / "notebooks" / "table.ipynb").read_bytes() == before

    # The same notebook without the preset fails: the parameters really come from it.
    result = run_pytest(checkout, "--nbval-lax", "--nbval-current-env")
    assert result.returncode == 1 and "AssertionError" in result.stdout


SMALL = ["--nbval-lax", "--nb-preset", "small"]


@pytest.mark.parametrize(
    ("made", "preset_file", "arguments", "sentence"),
    [
        ({"tags": []}, "{}", SMALL, "table.ipynb has 0 code cells with the tag `parameters`, but must have one."),
        ({}, None, SMALL, "table.ipynb has no configs/small/table.yaml: write one"),
        ({}, "num_image: 2", SMALL, "small/table.yaml sets num_image, but table.ipynb's parameters are num_images, model."),
        ({}, "{}", [*SMALL[:2], "large"], "--nb-preset is 'large', but the folders in configs are small."),
        ({}, "{}", SMALL[1:], "--nb-preset needs --nbval or --nbval-lax."),
    ],
    ids=["no parameters cell", "no file", "unknown name", "unknown preset", "no nbval"],
)
def test_what_is_missing_is_named_in_one_sentence(checkout, made, preset_file, arguments, sentence):
    nbformat.write(notebook(**made), checkout / "notebooks" / "table.ipynb")
    if preset_file is not None:
        (checkout / "configs" / "small" / "table.yaml").write_text(preset_file)
    result = run_pytest(checkout, *arguments)
    assert result.returncode == 4 and sentence in result.stderr + result.stdout, result.stderr + result.stdout
    assert "Traceback" not in result.stderr


def test_injected_values_keep_their_types(tmp_path):
    made, file = notebook(parameters="a = 1\nb = 'x'\nc: list = []\nd = None\ne = 0.5\nf = True"), tmp_path / "table.yaml"
    file.write_text("a: 2\nb: it's\nc: [1.0, two]\nd: 3.5\ne: null\nf: false\n")
    inject_parameters(made, tmp_path / "table.ipynb", file)
    namespace = {}
    exec(made.cells[1].source, namespace)
    assert [namespace[name] for name in "abcdef"] == [2, "it's", [1.0, "two"], 3.5, None, False]


def test_parameter_names_are_those_assigned():
    assert parameter_names("a = 1\nb: int = 2  # c = 3\nprint(a)\n") == ["a", "b"]
