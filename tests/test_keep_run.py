"""`make record` keeps a run whole or not at all, and the page shows the record that it was kept with."""

import copy
import json
import re
import runpy
import subprocess
from types import SimpleNamespace

import nbformat
import pytest
from sample_records import make

from companion.base import paths
from companion.base.paths import ROOT
from companion.evidence import records as results
from companion.evidence.records import comparison_table, load_record, save_record

CODE = 'record = made()\nresults.save_record(record, paths.OUT / "table2_recon.json")\nresults.comparison_table("table2", this_run=record)'
BEGAN, ENDED = "2026-01-31T11:59:00.500000+00:00", "2026-01-31T12:05:00+00:00"


@pytest.fixture(scope="module")
def tool():
    """tools/keep_run.py as a namespace."""
    return SimpleNamespace(**runpy.run_path(str(ROOT / "tools" / "keep_run.py")))


@pytest.fixture
def places(tool, monkeypatch, tmp_path):
    """Folders of the tool, all below tmp_path."""
    monkeypatch.setattr(paths, "OUT", tmp_path / "out")
    globals_of_tool = tool.check_run.__globals__
    monkeypatch.setitem(globals_of_tool, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setitem(globals_of_tool, "KEPT", tmp_path / "out" / "kept")
    for folder in ("out", "notebooks"):
        (tmp_path / folder).mkdir()
    return tmp_path


def record_of_now(**changes):
    made = make(config={"num_images": 12, **changes})
    made["provenance"] |= {"date": "2026-01-31T12:00:00+00:00"}
    return made


def source_notebook():
    new = nbformat.v4
    cells = [
        new.new_markdown_cell("# Table 2", id="a"),
        new.new_code_cell("num_images = 4  # images", id="b", metadata={"tags": ["parameters"]}),
    ]
    return new.new_notebook(cells=[*cells, new.new_markdown_cell("## The table", id="c"), new.new_code_cell(CODE, id="d")])


def executed(record, recorded=None):
    """The notebook as papermill leaves it after a run that compared with the record before."""
    run = source_notebook()
    injected = nbformat.v4.new_code_cell("# Parameters\nnum_images = 12\n", id="p", metadata={"tags": ["injected-parameters"]})
    run.cells.insert(2, injected)
    run.metadata["papermill"] = {"start_time": BEGAN, "end_time": ENDED, "exception": None}
    for count, cell in enumerate((cell for cell in run.cells if cell.cell_type == "code"), 1):
        cell.execution_count = count
        cell.metadata["papermill"] = {"status": "completed", "exception": False}
    table = comparison_table("table2", this_run=record, recorded=recorded)
    data = {"text/html": table._repr_html_(), "text/plain": repr(table)}
    run.cells[-1].outputs = [nbformat.v4.new_output("execute_result", data=data, execution_count=3)]
    return run


def write(places, run, record):
    nbformat.write(source_notebook(), places / "notebooks" / "table2_recon.ipynb")
    nbformat.write(run, places / "out" / "table2_recon.ipynb")
    if record is not None:
        save_record(record, places / "out" / "table2_recon.json")


def test_what_libraries_warn_of_is_not_kept(tool):
    outputs = [nbformat.v4.new_output("stream", name=name, text=f"{name}: /a/place") for name in ("stdout", "stderr")]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("f()", outputs=outputs), nbformat.v4.new_markdown_cell("text")])
    assert [output.text for output in tool.drop_warnings(notebook).cells[0].outputs] == ["stdout: /a/place"]


def test_a_whole_run_is_kept_with_its_parameters_and_its_record(tool, places, capsys):
    record = record_of_now()
    write(places, executed(record, recorded=record_of_now(seed=5)), record)
    tool.stage(["table2_recon"])
    page = nbformat.read(places / "out" / "kept" / "table2_recon.ipynb", as_version=4)
    kept = load_record(places / "out" / "kept" / "table2_recon.json")
    assert kept == load_record(places / "out" / "table2_recon.json")
    html = page.cells[-1].outputs[0].data["text/html"]
    assert html == comparison_table("table2", recorded=kept)._repr_html_()
    assert "This run" not in html and html.count(">Recorded</th>") == 3
    assert page.cells[2].source == "The outputs on this page are of a run with `num_images = 12`; all else as above."
    assert "a run of 2026-01-31T11:59, with num_images = 12" in capsys.readouterr().out
    nbformat.validate(page)
    nbformat.write(page, places / "notebooks" / "table2_recon.ipynb")  # the kept page is the notebook of the next run
    tool.stage(["table2_recon"])
    run = executed(record)
    del run.cells[2]  # ... which has the default settings
    nbformat.write(run, places / "out" / "table2_recon.ipynb")
    tool.stage(["table2_recon"])
    assert tool.START not in (places / "out" / "kept" / "table2_recon.ipynb").read_text(encoding="utf-8")


def failed(run, record):
    run.cells[-1].outputs = [nbformat.v4.new_output("error", ename="ValueError", evalue="x", traceback=[])]


def papermill_failed(run, record):
    run.metadata.papermill["exception"] = True


def cut_off(run, record):
    run.cells[-1].metadata.papermill["status"] = "pending"
    run.cells[-1].execution_count = None


def running(run, record):
    run.metadata.papermill["end_time"] = None


def by_hand(run, record):
    del run.metadata["papermill"]


def of_an_older_notebook(run, record):
    run.cells[3].source = "## Another title"


def shorter(run, record):
    del run.cells[3]


def earlier_record(run, record):
    record["provenance"]["date"] = "2026-01-31T11:58:00+00:00"


def other_settings(run, record):
    run.cells[2].source = "# Parameters\nnum_images = 13\n"


def edited(run, record):
    record["rows"]["VAE"]["metrics"]["mse"]["mean"] = 0.5


def without_table(run, record):
    run.cells[-1].outputs = []


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (failed, r"out/table2_recon.ipynb has an error in cell In \[3\]: a run that failed is not kept"),
        (papermill_failed, r"is not a finished run of papermill"),
        (cut_off, r"has not run cell 5: only a run from the first cell to the last is kept"),
        (running, r"is not a finished run of papermill: run 'make table2_recon' again"),
        (by_hand, r"is not a finished run of papermill"),
        (of_an_older_notebook, r"is a run of another notebooks/table2_recon.ipynb \(cell 3 differs\)"),
        (shorter, r"is a run of another notebooks/table2_recon.ipynb \(cell 3 differs\)"),
        (
            earlier_record,
            r"out/table2_recon.json was made at 2026-01-31 11:58:00\+00:00, but the run of out/table2_recon.ipynb lasted from",
        ),
        (other_settings, r"was made with num_images = 12, but out/table2_recon.ipynb with 13"),
        (edited, r"table2_recon.json: rows\['VAE'\]\['mse'\]\['mean'\] is 0.5, but must be"),
        (without_table, r"shows 0 comparison tables, but must show one: its record is of table2"),
    ],
)
def test_what_is_not_whole_is_refused_and_nothing_is_kept(tool, places, damage, sentence):
    record = record_of_now()
    run = executed(copy.deepcopy(record))
    damage(run, record)
    write(places, run, record)
    with pytest.raises(ValueError, match=sentence):
        tool.stage(["table2_recon"])
    assert not (places / "out" / "kept").exists()


def test_a_run_without_its_record_is_refused(tool, places):
    write(places, executed(record_of_now()), None)
    with pytest.raises(ValueError, match=r"There is no out/table2_recon.json: the run .* made no record, so there is no result to keep"):
        tool.stage(["table2_recon"])
    with pytest.raises(ValueError, match=r"There is no out/fig04_reconstruction.ipynb to keep: run 'make fig04_reconstruction' first"):
        tool.stage(["fig04_reconstruction"])


def test_a_new_run_begins_without_what_an_earlier_one_left():
    """In the rule of every notebook, before papermill: a run that fails must leave no record of another."""
    dry = subprocess.run(["make", "--dry-run", "fig08_reuse"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert 0 < dry.index("rm -f out/fig08_reuse.ipynb out/fig08_reuse.json") < dry.index("papermill notebooks/fig08_reuse.ipynb")
    dry = subprocess.run(["make", "--dry-run", "record", "NAME=status"], cwd=ROOT, capture_output=True, text=True).stdout
    assert "keep_run.py status" in dry and dry.index("keep_run.py status") < dry.index("notebooks/\n")


def test_a_preset_that_is_missing_is_named_with_those_that_exist():
    made = subprocess.run(["make", "table2_recon", "PRESET=nope"], cwd=ROOT, capture_output=True, text=True)
    said = "PRESET is nope, but for table2_recon must be one of: colab_t4 record sd15 smoke."
    assert made.returncode and made.stderr.splitlines()[0] == said


@pytest.mark.parametrize("file", sorted(paths.RESULTS.glob("table*.json")), ids=lambda file: file.stem)
def test_recorded_on_a_page_is_the_record_that_summary_and_readme_show(tool, file):
    """`python tools/keep_run.py --comparisons` mends it, `make record` and `make refresh` do so by themselves."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{file.stem}.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs if "data" in output]
    (shown,) = [html for output in outputs if (html := output.data.get("text/html", "")).startswith(tool.TABLE)]
    table = re.compile("<table.*</table>", re.DOTALL)
    now = comparison_table(json.loads(file.read_text())["table"], recorded=results.recorded(file.stem))
    assert table.search(shown)[0] == table.search(now._repr_html_())[0]
