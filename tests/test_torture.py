"""A small `make torture`: one kill, two flipped bits a kind of file, a hundred inputs, and nothing silent, unclear or lost."""

import importlib
import sys
from collections import Counter

import pytest

from companion.base import paths

sys.path.insert(0, str(paths.ROOT / "tools"))
torture, damage, kinds = (importlib.import_module(name) for name in ("torture", "torturing.damage", "torturing.kinds"))


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")


def test_nothing_is_silent_unclear_or_lost(capsys):
    code = torture.main(["--kills", "1", "--damages", "2", "--inputs", "100"])
    shown = capsys.readouterr().out
    assert code == 0, shown
    lines = [line for line in shown.splitlines() if line.startswith("| ")]
    assert lines[0] == "| " + " | ".join(torture.HEADINGS) + " |" and len(lines) == 2 + 2 + len(damage.KINDS) + 5


def test_what_is_found_is_counted_told_and_an_exit_code(monkeypatch, capsys):
    silent = damage.Kind("blind reader", kinds._sealed, lambda file: file.read_bytes())
    deaf = damage.Kind("deaf reader", kinds._sealed, lambda file: {}[file])
    monkeypatch.setattr(damage, "KINDS", (silent,))
    assert torture.main(["--kills", "0", "--damages", "3", "--inputs", "0"]) == 1
    shown = capsys.readouterr().out
    assert "| damaged blind reader | 10 | 0 | 0 | 0 | 0 | 10 | 0 | 0 |" in shown
    assert "damaged blind reader: silent: empty: read as b''" in shown
    assert damage.outcome(deaf, damage.Path("x"), "") == ("unclear", "KeyError: " + repr(damage.Path("x")))
    assert torture.table({"a": Counter(good=2)}).splitlines()[-1] == "| a | 2 | 2 | 0 | 0 | 0 | 0 | 0 | 0 |"


@pytest.mark.parametrize("arguments", [["--kills", "-1"], ["--damages", "x"], ["--nonsense"]])
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(SystemExit) as stopped:
        torture.main(arguments)
    assert stopped.value.code == 2
