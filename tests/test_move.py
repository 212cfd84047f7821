"""One package becomes two (tools/move_modules.py), and the proof that it is the same program (tools/prove_move.py), on a tiny package."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from move_modules import MoveError, move
from moving import Project
from prove_move import Table, at_revision, excluded, in_tree, influence, prove, renewed

STALENESS = """WITHOUT_INFLUENCE = frozenset(
    "page staleness".split()
)
HOME = 1
"""
OLD = {
    "smoothlib/__init__.py": '"""All of it."""\n',
    "smoothlib/staleness.py": STALENESS,
    "smoothlib/core.py": (
        '"""The core; see `page.show` and smoothlib.page."""\n\nSCALE = 2.0\n\n\ndef double(x, by=SCALE):\n    return x * by\n'
    ),
    "smoothlib/tools/__init__.py": 'from .near import near\nfrom .far import far\n\n__all__ = ["far", "near"]\n',
    "smoothlib/tools/near.py": "def near(x):\n    return x\n",
    "smoothlib/tools/far.py": "def far(x):\n    return -x\n",
    "smoothlib/page.py": (
        "from . import core\nfrom .core import double\nfrom .tools import far, near\n\n\n"
        "class Part:\n    def show(self):\n        return double(1)\n\n\n"
        'def show(x):\n    """Doc."""\n    from .core import SCALE as own\n\n'
        '    if x is None:\n        raise ValueError("see smoothlib.core, run python -m smoothlib.page")\n'
        "    return core.double(near(x)) + far(own) * Part().show()\n"
    ),
    "tests/test_page.py": (
        "import sys\n\nfrom smoothlib import page\nfrom smoothlib.tools import far\n\n\ndef test_it(monkeypatch):\n"
        '    monkeypatch.setattr("smoothlib.core.SCALE", 3)\n    assert page.show(far(1)) and page.Part\n\n\n'
        'COMMAND = [sys.executable, "-m", "smoothlib.page"]\n'
    ),
}
TABLE = {
    "moves": {
        "smoothlib.core": "smoothlib.core.numbers",
        "smoothlib.page": "companion.book.page",
        "smoothlib.page.Part": "companion.book.parts.Part",
        "smoothlib.staleness": "companion.base.staleness",
        "smoothlib.tools": "smoothlib.tools",
        "smoothlib.tools.far": "companion.far",
        "smoothlib.tools.near": "smoothlib.tools.near",
        "smoothlib.gone": "companion.gone",
    },
    "commands": {"smoothlib.page": "companion.book"},
    "new": {name: f'"""{name}."""\n' for name in ("companion", "companion.base", "companion.book", "smoothlib.core")},
    "split_off": {"companion.book.parts": '"""Parts."""\n'},
    "edits": [{"file": "smoothlib/staleness.py", "old": "HOME = 1", "new": "HOME = 2"}],
}
NOTEBOOK = {
    "cells": [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["# T\n", "\n", "`page.show` is in `smoothlib/page.py`"]},
        {
            "cell_type": "code",
            "execution_count": 1,
            "id": "b",
            "metadata": {},
            "outputs": [{"name": "stdout", "output_type": "stream", "text": ["smoothlib.page\n"]}],
            "source": ["%pip list\n", "from smoothlib import core, page"],
        },
        {"cell_type": "code", "execution_count": 2, "id": "c", "metadata": {}, "outputs": [], "source": ["page.Part(), core.SCALE"]},
    ],
    "metadata": {},
    "nbformat": 4,
    "nbformat_minor": 5,
}
INCLUDE = "```{literalinclude} ../smoothlib/page.py\n:pyobject: Part.show\n:caption: `Part` in `smoothlib/page.py`\n```\n"
BOOK = f"{INCLUDE}\n`smoothlib.page.show`\n"


@pytest.fixture
def checkout(tmp_path):
    """A repository with the tiny package in one commit."""
    (tmp_path / "tools" / "moved").mkdir(parents=True)
    files = OLD | {"notebooks/one.ipynb": json.dumps(NOTEBOOK, indent=1) + "\n", "book/page.md": BOOK, "tools/moves.yaml": yaml.dump(TABLE)}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    commit(tmp_path, "init", "-q")
    return tmp_path


def commit(folder, *first):
    user = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in [first, ("add", "--all"), ("commit", "-qm", "State")]:
        subprocess.run(["git", "-C", str(folder), *user, *command], check=bool(command), capture_output=True)


def moved(checkout):
    notes = move(checkout, checkout / "tools" / "moves.yaml")
    assert notes == ["not in this tree: smoothlib.gone"]
    return in_tree(checkout)


def test_a_pure_move_is_proven(checkout):
    new = moved(checkout)
    proof = prove(in_old(checkout), new, TABLE)
    assert not proof.wrong
    assert proof.on_purpose == ["companion.base.staleness.HOME", "companion.base.staleness.WITHOUT_INFLUENCE"]
    names = {"smoothlib.core.numbers.double", "companion.book.parts.Part", "companion.book.page.show", "companion.far.far"}
    assert names | {"notebooks.one:#1", "tests.test_page.test_it"} <= set(proof.same) and proof.strings == 3


def in_old(checkout):
    return at_revision(checkout, "HEAD")


def test_what_names_a_module_follows_it(checkout):
    new = moved(checkout)
    assert "from .parts import Part" in new["companion/book/page.py"] and "from ..far import far" in new["companion/book/page.py"]
    assert "from smoothlib.core.numbers import SCALE as own" in new["companion/book/page.py"]
    assert '"see smoothlib.core.numbers, run python -m companion.book"' in new["companion/book/page.py"]
    assert "see `page.show` and companion.book.page." in new["smoothlib/core/numbers.py"]
    assert new["smoothlib/tools/__init__.py"] == 'from .near import near\n\n__all__ = [\n    "near",\n]\n'
    assert '"smoothlib.core.numbers.SCALE"' in new["tests/test_page.py"] and '"-m", "companion.book"]' in new["tests/test_page.py"]
    assert "from companion.far import far" in new["tests/test_page.py"] and "parts.Part" in new["tests/test_page.py"]
    page = (checkout / "book" / "page.md").read_text()
    assert page.splitlines()[0].endswith("../companion/book/parts.py") and "`Part` in `companion/book/parts.py`" in page
    assert page.endswith("`companion.book.page.show`\n")
    text, first, second = json.loads(new["notebooks/one.ipynb"])["cells"]
    assert "`companion/book/page.py`" in "".join(text["source"]) and "".join(second["source"]) == "parts.Part(), core.SCALE"
    imports = "from smoothlib.core import numbers as core\nfrom companion.book import page\nfrom companion.book import parts"
    assert "".join(first["source"]) == f"%pip list\n{imports}"
    assert first["outputs"] == NOTEBOOK["cells"][1]["outputs"], "what a run left stays"
    assert excluded(new["companion/base/staleness.py"]) == {"companion.base", "companion.book.page"}
    assert influence(OLD, new, Table(TABLE["moves"])) == []


@pytest.mark.parametrize(
    ("file", "before", "after", "wrong"),
    [
        ("smoothlib/core/numbers.py", "SCALE = 2.0", "SCALE = 2.5", ["differs: smoothlib.core.numbers.SCALE"]),
        ("smoothlib/core/numbers.py", "by=SCALE", "by=3", ["differs: smoothlib.core.numbers.double"]),
        ("smoothlib/tools/near.py", "def near(x):\n    return x\n", "", ["missing: smoothlib.tools.near.near"]),
        ("smoothlib/tools/near.py", "def near", "def further(x):\n    return x\n\n\ndef near", ["new: smoothlib.tools.near.further"]),
        ("companion/book/page.py", "tools import near", "core.numbers import double as near", ["differs: companion.book.page.show"]),
        ("smoothlib/tools/__init__.py", "import near", "import other as near", ["differs: companion.book.page.show"]),
        ("companion/book/page.py", "SCALE as own", "double as own", ["differs: companion.book.page.show"]),
        ("companion/book/page.py", "python -m companion.book", "python -m companion.page", ["differs: companion.book.page.show"]),
        ("companion/base/staleness.py", "HOME = 2", "HOME = 3", ["differs: companion.base.staleness.HOME"]),
        ("tests/test_page.py", "far(1)", "far(2)", ["differs: tests.test_page.test_it"]),
    ],
    ids=["constant", "default", "dropped", "new", "import", "handed on", "local import", "text", "edit", "test"],
)
def test_any_other_program_is_not(checkout, file, before, after, wrong):
    new = moved(checkout)
    assert new[file].count(before) == 1
    assert prove(in_old(checkout), new | {file: new[file].replace(before, after)}, TABLE).wrong == wrong


def test_names_are_those_of_their_scope():
    """A parameter that is called as a module is no module, and an import may be written in another way."""
    text = "from . import b\n\n\ndef f(b):\n    return b.x\n\n\ndef g():\n    return [b.x for c in b.y]\n"
    old = {"smoothlib/a.py": text, "smoothlib/b.py": "x = y = 1\n"}
    text = "from .b import x, y\n\n\ndef f(b):\n    return b.x\n\n\ndef g():\n    return [x for c in y]\n"
    table = {"moves": {"smoothlib.a": "companion.a", "smoothlib.b": "companion.b"}}
    new = {"companion/a.py": text, "companion/b.py": old["smoothlib/b.py"]}
    assert not prove(old, new, table).wrong
    other = new | {"companion/a.py": text.replace("return b.x", "return x")}
    assert prove(old, other, table).wrong == ["differs: companion.a.f"]


def test_a_record_gets_new_names_only_for_what_is_the_same(checkout):
    old, new = in_old(checkout), moved(checkout)
    names = Table(TABLE["moves"])
    proof = prove(old, new, TABLE)
    hashes = {name: old[f"smoothlib/{name.replace('.', '/')}.py"] for name in ("core", "tools.far")}
    found = renewed(hashes | {"tools.near": "other", "walks": "gone"}, old, new, proof, names, lambda source: source)
    assert found == {
        "companion.far": new["companion/far.py"],
        "smoothlib.core.numbers": new["smoothlib/core/numbers.py"],
        "smoothlib.tools.near": "other",
        "smoothlib.walks": "gone",
    }
    proof.on_purpose.append("companion.far.far")
    assert renewed(hashes, old, new, proof, names, lambda source: source)["companion.far"] == hashes["tools.far"]


def test_the_move_stops_before_it_writes(checkout):
    table = checkout / "tools" / "moves.yaml"
    (checkout / "smoothlib" / "unknown.py").write_text("")
    commit(checkout)
    with pytest.raises(MoveError, match=r"has no line for smoothlib\.unknown: say where they go\.$"):
        move(checkout, table)
    (checkout / "smoothlib" / "unknown.py").unlink()
    with pytest.raises(MoveError, match="have changes that are not committed"):
        move(checkout, table)
    table.write_text(yaml.dump(TABLE | {"edits": [{"file": "smoothlib/core.py", "old": "nowhere", "new": ""}]}))
    commit(checkout)
    with pytest.raises(MoveError, match=r"smoothlib/core\.py does not have, once, the text .* that begins 'nowhere'"):
        move(checkout, table)
    assert not (checkout / "companion").exists()
    (checkout / "companion").mkdir()
    with pytest.raises(MoveError, match="the move has been made"):
        move(checkout, table)


def test_every_module_of_this_tree_has_a_place():
    root = Path(__file__).resolve().parents[1]
    if not (root / "companion").exists():  # afterwards there is nothing left to move
        assert Project(root, root / "tools" / "moves.yaml").missing() == []
