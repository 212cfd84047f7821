"""The first code cell of every notebook: written from one address, and run in a kernel that passes for Colab, without git and pip."""

import runpy
import sys

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel

from companion.base.paths import ROOT

TOOL = runpy.run_path(str(ROOT / "tools" / "colab_cells.py"))
ADDRESS = "https://example.org/owner/name"
GIT = """#!/bin/sh
for folder; do :; done
echo "GIT $*"
[ "$1" = clone ] && mkdir -p "$folder" && . "{made}"
"""
OURS = f'for part in "{ROOT}"/[a-zA-Z]*; do ln -s "$part" "$folder"; done'  # the repository as it is
OTHERS = ["", 'mkdir "$folder/smoothlib"; touch "$folder/smoothlib/__init__.py"', 'rm -r "$folder"']
OTHERS += [f"{OTHERS[1]}; echo 'title: Another project' > \"$folder/CITATION.cff\""]


def bootstrap(notebook):
    (cell,) = [cell for cell in nbformat.read(notebook, as_version=4).cells if TOOL["is_colab_cell"](cell)]
    return cell


def test_every_notebook_has_the_cell_of_the_one_address():
    """After a change of it in _config.yml: `python tools/colab_cells.py`."""
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert {bootstrap(notebook).source for notebook in notebooks} == {TOOL["source"](TOOL["address"]())} and len(notebooks) >= 20
    assert all(next(c for c in nbformat.read(n, as_version=4).cells if c.cell_type == "code") == bootstrap(n) for n in notebooks)


@pytest.mark.parametrize("given", ["https://example.org/a b", "git@example.org:owner/name", "https://example.org/a;rm", "owner/name"])
def test_what_is_no_address_is_not_written_into_cells(given, tmp_path):
    """The address ends up in a line for the shell."""
    (tmp_path / "_config.yml").write_text(f"repository:\n  url: '{given}'\n", encoding="utf-8")
    address = runpy.run_path(str(ROOT / "tools" / "colab_cells.py"))["address"]
    address.__globals__["ROOT"] = tmp_path
    with pytest.raises(ValueError, match="must be empty or an address"):
        address()
    (tmp_path / "_config.yml").write_text(f"repository:\n  url: {ADDRESS}\n", encoding="utf-8")
    assert address() == ADDRESS


class Colab:
    """A kernel that believes it is Colab's: with a stand-in for google.colab, and a git and a pip that only say what they were asked."""

    def __init__(self, folder):
        self.folder, self.made, self.places = folder, folder / "made.sh", 0
        programs, pip = folder / "bin", folder / "python" / "pip"
        for part in (programs, pip):
            part.mkdir(parents=True)
        (programs / "git").write_text(GIT.format(made=self.made), encoding="utf-8")
        (programs / "git").chmod(0o755)
        (pip / "__init__.py").touch()
        (pip / "__main__.py").write_text("import sys; print('PIP', *sys.argv[1:])", encoding="utf-8")
        self.environment = {"PATH": f"{programs}:/usr/bin:/bin", "PYTHONPATH": str(pip.parent), "IPYTHONDIR": str(folder / "ipython")}
        self.manager, self.client = start_new_kernel(kernel_name="python3", env=self.environment, cwd=str(folder))
        self.run("import sys, types; sys.modules['google.colab'] = types.ModuleType('google.colab')")

    def run(self, source):
        """(status, what was shown) of a cell."""
        shown = []

        def keep(message):
            content = message["content"]
            shown.append(content.get("text", "") + content.get("evalue", ""))

        reply = self.client.execute_interactive(source, output_hook=keep, timeout=60)
        return reply["content"]["status"], "".join(shown)

    def start(self, address, made):
        """Run the cell of a repository with this address where git clones as `made` says; the folder, and what `run` gives."""
        self.places += 1
        place = self.folder / f"content{self.places}"
        place.mkdir()
        self.made.write_text(made, encoding="utf-8")
        source = TOOL["source"](address)
        assert source.count("/content/") == 1
        self.source = source.replace("/content/", f"{place}/")
        return place / "smooth-diffusion-companion", *self.run(self.source)


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    kernel = Colab(tmp_path_factory.mktemp("colab"))
    yield kernel
    kernel.client.stop_channels()
    kernel.manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("made", OTHERS)
def test_what_is_not_this_project_is_neither_installed_nor_imported(colab, made):
    folder, status, shown = colab.start(ADDRESS, made)
    assert f"GIT clone -q --depth 1 {ADDRESS} {folder}" in shown
    assert f"{folder} is not a copy of this project: delete the folder, and check the address in this cell" in shown
    assert status == "error" and "PIP" not in shown and str(folder) not in colab.run("print(sys.path)")[1]


def test_without_a_public_address_nothing_is_fetched_and_one_sentence_says_what_to_do(colab):
    folder, status, shown = colab.start("", OURS)
    assert "GIT" not in shown and "PIP" not in shown and not folder.exists()
    assert f"{folder} is not a copy of this project: upload a copy of the repository to this place, then run this cell again." in shown
    assert status == "error"
    folder.mkdir()
    for part in ROOT.glob("[a-zA-Z]*"):
        (folder / part.name).symlink_to(part)  # uploaded
    status, shown = colab.run(colab.source)
    assert status == "ok" and f"PIP install -q -e {folder}" in shown and "GIT" not in shown


def test_the_library_can_be_imported_at_once_and_is_fetched_once(colab):
    """The kernel that runs the cell is the one that imports the library: an editable install alone would not be seen by it."""
    folder, status, shown = colab.start(ADDRESS, OURS)
    assert status == "ok" and shown.count("GIT clone") == 1 and f"PIP install -q -e {folder}" in shown, shown
    status, shown = colab.run("import os, smoothlib; from companion.base import config; print(smoothlib.__file__, os.getcwd())")
    assert status == "ok" and shown.split() == [str(folder / "smoothlib" / "__init__.py"), str((folder / "notebooks").resolve())], shown
    status, again = colab.run(colab.source)
    assert status == "ok" and "GIT" not in again


def test_elsewhere_the_cell_does_nothing(colab):
    colab.run("kept = sys.modules.pop('google.colab')")
    place, status, shown = colab.start(ADDRESS, OURS)
    colab.run("sys.modules['google.colab'] = kept")
    assert (status, shown) == ("ok", "") and not place.exists()


def test_the_kernel_is_of_this_environment(colab):
    assert colab.run("print(sys.executable)")[1].strip() == sys.executable
