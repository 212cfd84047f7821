"""Arrows point one way: `smoothlib` needs nothing of `companion`, and the rooms of `companion` import only what lies below them."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from companion.base.paths import ROOT

# Room -> the rooms that it may import, from the ground up: a room may name only those above it here. All may import smoothlib.
ROOMS = {
    "base": (),
    "runs": ("base",),
    "weights": ("base",),
    "data": ("base", "weights"),
    "evidence": ("base", "runs", "weights"),
    "world": ("base", "runs", "weights"),
    "judges": ("base", "weights", "world"),
    "training": ("base", "weights", "data", "world", "judges"),
    "book": ("base", "weights", "data", "world"),  # book.live exports the weights, a menu of captions and scenes to edit
    "studies": ("base", "book", "runs", "weights", "data", "evidence", "judges"),
    "app": ("base", "book", "weights", "data", "studies"),
}
MODULE_LINES, FUNCTION_LINES = 250, 60
# Arrows that point the wrong way, and what takes each away; one that is gone must go from here too.
EXCEPTIONS: dict[tuple[str, str], str] = {}


def modules() -> dict[str, ast.Module]:
    files = [file for package in ("companion", "smoothlib") for file in sorted((ROOT / package).rglob("*.py"))]
    names = [file.relative_to(ROOT).with_suffix("").parts for file in files]
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    return {".".join(name[:-1] if name[-1] == "__init__" else name): tree for name, tree in zip(names, trees, strict=True)}


def imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import that runs, those inside functions included; not those for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)):
            yield from imports(child)


def arrows(trees: dict[str, ast.Module]) -> set[tuple[str, str]]:
    """(module, module that it imports) for all of both packages."""
    found = set()
    for name, tree in trees.items():
        package = name if (ROOT.joinpath(*name.split(".")) / "__init__.py").is_file() else name.rpartition(".")[0]
        for node in imports(tree):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            else:
                above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                start = ".".join([*above, *([node.module] if node.module else [])])
                targets = [inner if (inner := f"{start}.{alias.name}") in trees else start for alias in node.names]
            found |= {(name, target) for target in targets if target in trees}
    return found


@pytest.fixture(scope="module")
def graph():
    return arrows(modules())


def room(name: str) -> str:
    return name.split(".")[1] if name.startswith("companion.") else ""


def test_the_method_needs_nothing_of_what_surrounds_it(graph):
    upward = {(a, b) for a, b in graph if a.startswith("smoothlib") and b.startswith("companion")}
    assert upward == {(a, b) for a, b in EXCEPTIONS if a.startswith("smoothlib")}


def test_rooms_import_only_what_lies_below_them(graph):
    between = {(a, b) for a, b in graph if room(a) and room(b) and room(a) != room(b)}
    assert {room(name) for arrow in between for name in arrow} <= set(ROOMS)
    wrong = {(a, b) for a, b in between if room(b) not in ROOMS[room(a)]}
    assert wrong == {(a, b) for a, b in EXCEPTIONS if a.startswith("companion")}


def test_the_table_has_no_way_up():
    order = list(ROOMS)
    assert not [(a, b) for a, below in ROOMS.items() for b in below if order.index(b) >= order.index(a)]


def test_no_module_imports_itself_through_others(graph):
    sorter = TopologicalSorter()
    for a, b in graph:
        sorter.add(a, b)
    try:
        sorter.prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_networks_are_called_through_one_door():
    """What a call means, of a UNet or a transformer and whatever it predicts, is decided in `smoothlib.denoiser` alone."""
    called = {
        name: {ast.unparse(node.func).split(".")[-1] for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for name, tree in modules().items()
    }
    direct = {name for name, names in called.items() if name.startswith("smoothlib") and names & {"unet", "transformer"}}
    assert not direct and "call_network" in called["smoothlib.denoiser"] & called["smoothlib.inversion"]


def test_modules_and_functions_stay_short():
    """A function's docstring is not counted: equation, shapes, units and errors belong there, and are not what makes code long."""
    trees = modules()
    long = {name: lines for name in trees if (lines := len(source_of(name).read_text(encoding="utf-8").splitlines())) > MODULE_LINES}
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                doc = len((ast.get_docstring(node, clean=False) or "").splitlines())
                if (lines := node.end_lineno - node.lineno + 1 - doc) > FUNCTION_LINES:
                    long[f"{name}.{node.name}"] = lines
    assert len(trees) > 100 and not long


def source_of(name: str) -> Path:
    path = ROOT.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
