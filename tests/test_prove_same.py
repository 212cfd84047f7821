"""tools/prove_same.py: pairs of versions are noted only where every bit is equal, and only of modules that were asked."""

import importlib
import json
import sys

import numpy as np
import pytest
import torch

from companion.base import paths

sys.path.insert(0, str(paths.ROOT / "tools"))
prove, values = (importlib.import_module(name) for name in ("prove_same", "proving.sample_values"))
BEFORE = {"smoothlib.a": "1", "smoothlib.b": "1", "smoothlib.c": "1", "smoothlib.gone": "1"}
AFTER = {"smoothlib.a": "2", "smoothlib.b": "1", "smoothlib.c": "2", "smoothlib.new": "2"}


@pytest.fixture
def compared(tmp_path, monkeypatch):
    """Runs the tool on results as given; exit code and table."""

    def compare(before, after, *options):
        found = iter([{"digests": digests, "imported": ["smoothlib.a", "smoothlib.b"]} for digests in (before, after)])
        monkeypatch.setattr(prove, "sources", lambda commit, folder: {"old": BEFORE, "new": AFTER}[commit])
        monkeypatch.setattr(prove, "commit", str)
        monkeypatch.setattr(prove, "results", lambda folder: next(found))
        code = prove.main(["old", "new", *options])
        file = tmp_path / prove.FILE
        return code, json.loads(file.read_text()) if file.exists() else {}

    monkeypatch.setattr(paths, "DATA", tmp_path)
    return compare


def test_equal_results_note_the_changed_modules_that_made_them(compared, capsys):
    assert compared({"x": "1"}, {"x": "1"}) == (0, {})
    assert compared({"x": "1"}, {"x": "1"}, "--why", "smoothlib.a=refuses more") == (0, {"smoothlib.a": {"2": {"1": "refuses more"}}})
    shown = capsys.readouterr().out
    assert "1 of 1 results are equal to the last bit" in shown and "changed, not imported: smoothlib.c 1 -> 2" in shown


@pytest.mark.parametrize("after", [{"x": "2"}, {}, {"x": "1", "y": "1"}])
def test_another_result_notes_nothing(compared, after, capsys):
    assert compared({"x": "1"}, after, "--why", "smoothlib.a=refuses more") == (1, {})
    assert f"differs: {'y' if 'y' in after else 'x'}" in capsys.readouterr().out


@pytest.mark.parametrize("why", ["smoothlib.a", "smoothlib.a= ", "smoothlib.c=not imported", "smoothlib.b=not changed"])
def test_a_reason_is_of_a_module_that_was_asked(compared, why):
    with pytest.raises(SystemExit) as stopped:
        compared({"x": "1"}, {"x": "1"}, "--why", why)
    assert stopped.value.code == 2 and not (paths.DATA / prove.FILE).exists()


def test_a_commit_that_is_not_there_is_named(capsys):
    with pytest.raises(SystemExit) as stopped:
        prove.main(["no-such-commit", "HEAD"])
    assert stopped.value.code == 2 and "'no-such-commit' is no commit of" in capsys.readouterr().err


def test_a_digest_is_of_the_bits():
    x = torch.tensor([1.0, -0.0])
    assert values.digest(x) == values.digest(x.clone()) != values.digest(torch.tensor([1.0, 0.0]))
    assert values.digest(x) != values.digest(x.double()) and values.digest(x) != values.digest(x[None])
    assert values.digest([{"a": x, "seconds": 1}]) == values.digest([{"a": x.numpy(), "seconds": 2}]) != values.digest([{"b": x}])
    assert values.digest(np.float32(1)) != values.digest(np.float32(1 + 2**-23))
