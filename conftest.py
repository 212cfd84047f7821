"""Notebooks under nbval: `pytest --nbval-lax --nb-preset smoke notebooks` runs each with the parameters of `configs/smoke/<notebook>.yaml`.

The parameters are appended to the notebook's own `parameters` cell in memory, as papermill would inject them after it, so that the very
notebooks that readers open are tested, with small settings. At the end: what tests of several files share as a fixture.
"""

import ast
import os
import tempfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent
CELL_TIMEOUT = 600.0  # seconds; nbval's own default, 2000, would let one stuck cell eat a CI run
SCRATCH = pytest.StashKey[tempfile.TemporaryDirectory]()


def pytest_addoption(parser):
    parser.addoption("--nb-preset", metavar="NAME", help="run notebooks with configs/NAME/<notebook>.yaml (with --nbval or --nbval-lax)")


def pytest_configure(config):
    preset = config.getoption("nb_preset")
    if getattr(config.option, "nbval_cell_timeout", None) == 2000:
        config.option.nbval_cell_timeout = CELL_TIMEOUT
    if preset is None:
        return
    if not (config.getoption("nbval", False) or config.getoption("nbval_lax", False)):
        raise pytest.UsageError("--nb-preset needs --nbval or --nbval-lax.")
    if not (ROOT / "configs" / preset).is_dir():
        known = ", ".join(sorted(folder.name for folder in (ROOT / "configs").glob("*/"))) or "none"
        raise pytest.UsageError(f"--nb-preset is {preset!r}, but the folders in configs are {known}.")
    # Test runs neither read nor touch what real runs left.
    scratch = config.stash[SCRATCH] = tempfile.TemporaryDirectory(prefix="smoothlib-")
    for name in ("RUNS", "OUT"):
        os.environ[f"SMOOTHLIB_{name}"] = str(Path(scratch.name, name.lower()))


def pytest_unconfigure(config):
    if SCRATCH in config.stash:
        config.stash[SCRATCH].cleanup()


def pytest_collection_modifyitems(config, items):
    preset = config.getoption("nb_preset")
    if preset is None:
        return
    notebooks = {item.parent.path: item.parent for item in items if hasattr(item, "cell") and hasattr(item.parent, "nb")}
    for path, notebook in notebooks.items():
        inject_parameters(notebook.nb, path, ROOT / "configs" / preset / f"{path.stem}.yaml")


def inject_parameters(notebook, path, file):
    """Append the parameters in `file` to the notebook's `parameters` cell. UsageError where either is missing or a name is unknown."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise pytest.UsageError(f"{path.name} has {len(cells)} code cells with the tag `parameters`, but must have one.")
    short = f"{file.parent.name}/{file.name}"
    if not file.is_file():
        raise pytest.UsageError(f"{path.name} has no configs/{short}: write one (an empty file runs the notebook as it stands).")
    parameters = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    known = parameter_names(cells[0].source)
    if unknown := [name for name in parameters if name not in known]:
        raise pytest.UsageError(f"configs/{short} sets {unknown[0]}, but {path.name}'s parameters are {', '.join(known)}.")
    lines = [f"{name} = {value!r}" for name, value in parameters.items()]
    cells[0].source += "\n" + "\n".join([f"# configs/{short}", *lines])


def parameter_names(source):
    """Names that a `parameters` cell assigns, in order."""
    return [
        target.id
        for statement in ast.parse(source).body
        for target in (getattr(statement, "targets", None) or [getattr(statement, "target", None)])
        if isinstance(target, ast.Name)
    ]


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """A folder with the tests' tiny pipeline, as diffusers saves it; for reading alone."""
    from tiny import tiny_pipeline  # a notebook's run needs none of it

    folder = tmp_path_factory.mktemp("saved") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder
