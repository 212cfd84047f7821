"""`make results`: what has changed is recorded, what has not is skipped, and an interruption loses no finished page."""

import importlib.util
import json
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pytest
import yaml

from companion.base import paths


def load_tool(name):
    spec = importlib.util.spec_from_file_location(name, paths.ROOT / f"tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


tool = load_tool("make_results")
SOURCE = "from companion.base import paths\nfrom companion.studies.smoothness import walks\nstudy.record('a')"


def write_notebook(file, source=SOURCE):
    file.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A"), nbformat.v4.new_code_cell(source)]), file)


def write_card(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "card.json").write_text(json.dumps({"files": files, "metrics": {"n": 1}}))


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of two pages; `made` lists what make was asked for, and a run leaves a record."""
    for name, folder in {"ROOT": ".", "CONFIGS": "configs", "MODELS": "models", "SCENES": "scenes", "RESULTS": "results"}.items():
        (tmp_path / folder).mkdir(exist_ok=True)
        monkeypatch.setattr(paths, name, tmp_path / folder)
    (tmp_path / "configs" / "record").mkdir()
    for name in ("first", "second"):
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb")
        (tmp_path / "configs" / "record" / f"{name}.yaml").write_text("num_prompts: 3\n")
    write_card(tmp_path / "models" / "mini", weights="a")
    write_card(tmp_path / "models" / "adapters" / "smooth", weights="b")
    write_card(tmp_path / "scenes", shard="c")
    pages = {"first": {"weights": ["mini"], "minutes": 2}, "second": {"weights": ["mini", "adapters/*"], "minutes": 30}}
    table = {"reference": {"evaluations_per_second": 100}, "pages": pages}
    (tmp_path / "configs" / "results.yaml").write_text(yaml.safe_dump(table, sort_keys=False))
    monkeypatch.setattr(tool, "LEDGER", tmp_path / "recorded.json")
    monkeypatch.setattr(tool.read_table, "__defaults__", (tmp_path / "configs" / "results.yaml",))
    monkeypatch.setattr(tool, "evaluations_per_second", lambda: 50.0)
    checkout = SimpleNamespace(root=tmp_path, made=[], failures={})

    def make(*arguments):
        checkout.made.append(" ".join(arguments))
        if arguments[-1] in checkout.failures:
            raise checkout.failures[arguments[-1]]
        if arguments[0] == "keep":
            name = arguments[1].removeprefix("NAME=")
            (tmp_path / "results" / f"{name}.json").write_text(json.dumps({"values": name}))

    monkeypatch.setattr(tool, "make", make)
    return checkout


def results(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["make_results", *arguments])
    tool.main()


ALL = ["PRESET=record first", "keep NAME=first", "PRESET=record second", "keep NAME=second", "refresh"]


def test_everything_is_recorded_once_in_order_and_then_nothing(checkout, monkeypatch, capsys):
    results(monkeypatch, "--plan")
    assert checkout.made == [] and "60 min  second: never recorded by this command" in capsys.readouterr().out  # half the speed
    results(monkeypatch)
    assert checkout.made == ALL
    checkout.made.clear()
    monkeypatch.setattr(tool, "evaluations_per_second", lambda: pytest.fail("measured although nothing is to be done"))
    results(monkeypatch)
    assert checkout.made == [] and capsys.readouterr().out.count("current") == 2


CHANGES = {
    "the notebook": lambda root: write_notebook(root / "notebooks" / "second.ipynb", SOURCE + "\nprint(1)"),
    "its parameters": lambda root: (root / "configs" / "record" / "second.yaml").write_text("num_prompts: 4\n"),
    "weights (adapters/smooth)": lambda root: write_card(root / "models" / "adapters" / "smooth", weights="other"),
    "weights (adapters/plain)": lambda root: write_card(root / "models" / "adapters" / "plain", weights="new"),
    "its record in data/results": lambda root: (root / "results" / "second.json").write_text('{"values": "edited"}'),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_has_changed_is_named_and_recorded_anew(checkout, monkeypatch, capsys, what):
    results(monkeypatch)
    checkout.made.clear()
    CHANGES[what](checkout.root)
    results(monkeypatch)
    assert f"second: {what}" in capsys.readouterr().out and checkout.made == [*ALL[2:]]


def test_changed_modules_and_scenes_concern_all_pages_and_a_cards_figures_none(checkout, monkeypatch, capsys):
    results(monkeypatch)
    checkout.made.clear()
    card = checkout.root / "models" / "mini" / "card.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"metrics": {"n": 1000}}))
    results(monkeypatch)
    assert checkout.made == []
    monkeypatch.setattr(tool, "modules_behind", lambda *names: dict.fromkeys([*names, "walks"], "edited"))
    results(monkeypatch, "--plan")
    assert "first: modules (" in capsys.readouterr().out
    monkeypatch.setattr(tool, "reason_for", lambda name, now, before: "refuses more")
    results(monkeypatch, "--plan")
    assert capsys.readouterr().out.count("current") == 2  # they compute the same numbers
    write_card(checkout.root / "scenes", shard="others")
    results(monkeypatch, "--plan")
    assert capsys.readouterr().out.count("the scenes") == 2


def test_a_page_that_fails_is_named_and_the_others_are_kept(checkout, monkeypatch):
    checkout.failures["first"] = subprocess.CalledProcessError(2, "make")
    with pytest.raises(SystemExit, match="Not recorded, see above: first"):
        results(monkeypatch)
    assert checkout.made == ["PRESET=record first", *ALL[2:]]
    checkout.failures.clear()
    checkout.made.clear()
    results(monkeypatch)
    assert checkout.made == [*ALL[:2], "refresh"]


def test_a_kill_loses_no_finished_page(checkout, monkeypatch):
    checkout.failures["second"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        results(monkeypatch)
    checkout.failures.clear()
    checkout.made.clear()
    results(monkeypatch)
    assert checkout.made == ALL[2:]


def test_only_and_all(checkout, monkeypatch, capsys):
    results(monkeypatch, "--only", "second")
    assert checkout.made == ALL[2:]
    checkout.made.clear()
    results(monkeypatch, "--only", "second", "--all")
    assert checkout.made == ALL[2:]
    with pytest.raises(SystemExit) as stopped:
        results(monkeypatch, "--only", "third")
    assert stopped.value.code == 2 and "--only is 'third', but must be one of first, second" in capsys.readouterr().err


def test_the_table_names_every_page_that_is_recorded_with_weights_and_parameters_that_exist():
    pages, _ = tool.read_table(paths.CONFIGS / "results.yaml")
    notebooks = {file.stem for file in (paths.ROOT / "notebooks").glob("*.ipynb")}
    assert {page.name for page in pages} == notebooks - {"summary", "claims", "status"}  # these follow from the records
    for page in pages:
        assert (paths.CONFIGS / "record" / f"{page.name}.yaml").is_file(), page.name
        for pattern in page.weights:
            assert tool._folders(pattern), f"{page.name}: {pattern}"
        assert page.state()["modules"] or page.name == "paper_vs_code"


def test_the_cell_that_acts_on_colab_alone_changes_no_result(tmp_path):
    """It holds the repository's address, which may change without making a page older than its notebook."""
    cell = nbformat.v4.new_code_cell('if "google.colab" in sys.modules:\n    !git', metadata={"tags": ["remove-cell", "nbval-skip"]})
    others = [nbformat.v4.new_code_cell(SOURCE), nbformat.v4.new_code_cell('print("google.colab")')]
    file = tmp_path / "page.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell, *others]), file)
    assert tool.code_cells(file) == [other.source for other in others]


def test_imports_are_found_beside_lines_that_only_ipython_reads():
    cells = [
        "import sys\nif 'google.colab' in sys.modules:\n    %cd /content\n    !ls\nif True:\n    from companion.runs import runs",
        "from smoothlib.metrics import frechet_distance_from_features\nimport companion.world.mini",
        "def f():\n    from companion.weights import pipelines",
    ]
    assert tool.imported_modules(cells) == [
        "companion.runs",
        "companion.weights.pipelines",
        "companion.world.mini",
        "smoothlib.metrics",
    ]
