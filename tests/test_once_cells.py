"""Cells that do a page's thing once: they stand for themselves, and neither the record nor its age depends on them."""

import ast
import sys

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from companion.base import paths

sys.path.insert(0, str(paths.ROOT / "tools"))
import make_results
import run_once_cells as tool

PAGES = {file.stem: tool.once_cell(nbformat.read(file, as_version=4)) for file in sorted((paths.ROOT / "notebooks").glob("*.ipynb"))}
WITH = sorted(name for name, cell in PAGES.items() if cell is not None)


def test_the_pages_of_the_papers_method_have_one():
    assert {"table1_istd", "table2_recon", "table3_lambda", "fig03_interpolation", "fig05_text_edit", "fig08_reuse"} <= set(WITH)


@pytest.mark.parametrize("name", WITH)
def test_it_shows_its_code_and_what_it_gave(name):
    cell = PAGES[name]
    assert "show-input" in cell.metadata["tags"]
    assert cell.outputs
    assert not [output for output in cell.outputs if output.output_type == "error"]
    assert cell.execution_count == 1
    assert len(cell.source.splitlines()) <= 22


@pytest.mark.parametrize("name", WITH)
def test_it_uses_no_name_of_another_cell(name):
    tree = ast.parse(PAGES[name].source)
    given = {
        alias.asname or alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    given |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
    used = {node.id for node in names if isinstance(node.ctx, ast.Load)} - set(
        dir(__builtins__) if not isinstance(__builtins__, dict) else __builtins__
    )
    assert used <= given


def page(tmp_path, *sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[-1].metadata["tags"] = [tool.TAG]
    file = tmp_path / "page.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), file)
    return file


def test_outputs_are_those_of_the_cell_alone(tmp_path):
    file = page(tmp_path, "x = 3", "import sys\nprint(6 * 7)\nprint('a warning', file=sys.stderr)")
    assert tool.run_page(file)
    cell = tool.once_cell(nbformat.read(file, as_version=4))
    assert [output.text for output in cell.outputs] == ["42\n"]


def test_a_cell_that_needs_another_fails_and_changes_nothing(tmp_path):
    file = page(tmp_path, "x = 3", "print(x)")
    before = file.read_bytes()
    with pytest.raises(CellExecutionError, match="name 'x' is not defined"):
        tool.run_page(file)
    assert file.read_bytes() == before


def test_a_page_is_not_older_for_it(tmp_path):
    assert make_results.code_cells(page(tmp_path, "x = 3", "print(1)")) == ["x = 3"]


@pytest.mark.parametrize(("name", "said"), [("tabel1", "must be a page in notebooks/"), ("status", "has no cell with the tag 'once'")])
def test_a_name_without_such_a_cell_is_refused(name, said, capsys):
    with pytest.raises(SystemExit):
        tool.main([name])
    assert said in capsys.readouterr().err
