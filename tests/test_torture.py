"""A small `make torture`: one kill, two flipped bits a kind of file, a hundred inputs, and nothing silent, unclear or lost."""

import importlib
import json
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


def test_counts_are_kept_and_added_up(tmp_path, capsys):
    file, nothing = tmp_path / "counts.json", ["--kills", "0", "--damages", "0"]
    for seed in ("1", "2"):
        torture.main([*nothing, "--inputs", "5", "--seed", seed, "--counts", str(file)])
    assert sum(sum(counts.values()) for counts in json.loads(file.read_text()).values()) == 10
    capsys.readouterr()
    for damaged in ("[", '{"a": 5}', '{"a": {"well": 1}}', '{"a": {"good": "1"}}'):
        file.write_text(damaged)
        with pytest.raises(SystemExit) as stopped:
            torture.main([*nothing, "--inputs", "0", "--counts", str(file)])
        said = capsys.readouterr().err
        assert stopped.value.code == 2 and "counts.json" in said and said.count("\n") == 1, said


@pytest.mark.parametrize("arguments", [["--kills", "-1"], ["--damages", "x"], ["--nonsense"]])
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(SystemExit) as stopped:
        torture.main(arguments)
    assert stopped.value.code == 2
