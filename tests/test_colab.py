"""The first code cell of every notebook, run as Colab would run it: in an IPython shell, with git and pip that fetch nothing."""

import os
import subprocess
import sys

import nbformat
import pytest

from companion.base.paths import ROOT

COLAB = """
import sys, types
from IPython.core.interactiveshell import InteractiveShell

sys.path[:] = [path for path in sys.path if path]
sys.modules["google.colab"] = types.ModuleType("google.colab")
shell = InteractiveShell.instance()
shell.register_magic_function(lambda line: print("PIP", line), magic_name="pip")
result = shell.run_cell(open(sys.argv[1]).read())
if result.success:
    shell.run_cell("import os, smoothlib; print('IMPORTED', smoothlib.__file__); print('IN', os.getcwd())")
"""
GIT = """#!/bin/sh
for folder; do :; done
echo "GIT $*"
mkdir -p "$folder/smoothlib" "$folder/notebooks"
{made}
"""
OURS = """touch "$folder/smoothlib/__init__.py"; echo 'title: Smooth Diffusion, reproduced' > "$folder/CITATION.cff" """
SENTENCE = "is not a copy of this project: delete the folder, and check the address in this cell."


def bootstrap(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    (cell,) = [cell for cell in cells if cell.cell_type == "code" and "google.colab" in cell.source]
    return cell


def test_all_notebooks_start_alike():
    cells = [bootstrap(notebook) for notebook in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    assert len({cell.source for cell in cells}) == 1 and len(cells) >= 20
    assert {tuple(cell.metadata.tags) for cell in cells} == {("remove-cell", "nbval-skip")}


@pytest.fixture
def colab(tmp_path):
    """A function that runs the cell with a `git` that makes a clone by the given shell commands; what the shell printed."""
    cell, script, programs = tmp_path / "cell.py", tmp_path / "colab.py", tmp_path / "bin"
    source = bootstrap(ROOT / "notebooks" / "table1_istd.ipynb").source
    assert source.count("/content/") == 1
    cell.write_text(source.replace("/content/", f"{tmp_path}/content/"), encoding="utf-8")
    script.write_text(COLAB, encoding="utf-8")
    programs.mkdir()
    (tmp_path / "content").mkdir()

    def run(made):
        (programs / "git").write_text(GIT.format(made=made), encoding="utf-8")
        (programs / "git").chmod(0o755)
        environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "IPYTHONDIR": str(tmp_path / "ipython"), "PYTHONPATH": ""}
        command = [sys.executable, str(script), str(cell)]
        shown = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        return shown.stdout + shown.stderr

    return run


def test_the_library_can_be_imported_at_once_and_is_fetched_once(colab, tmp_path):
    """The kernel that runs the cell is the one that imports the library: an editable install alone would not be seen by it."""
    folder = tmp_path / "content" / "smooth-diffusion-companion"
    shown = colab(OURS)
    assert f"IMPORTED {folder / 'smoothlib' / '__init__.py'}" in shown, shown
    assert f"IN {folder / 'notebooks'}" in shown
    assert f"PIP install -q -e {folder}" in shown, shown
    assert shown.count("GIT clone") == 1
    again = colab("exit 1")
    assert "GIT" not in again and "IMPORTED" in again


@pytest.mark.parametrize(
    "made",
    ["", 'touch "$folder/smoothlib/__init__.py"', OURS.replace("Smooth Diffusion, reproduced", "Another project"), 'rm -r "$folder"'],
)
def test_what_is_not_this_project_is_neither_installed_nor_imported(colab, made):
    shown = colab(made)
    assert SENTENCE in shown and "PIP" not in shown and "IMPORTED" not in shown and "Traceback" not in shown
