"""`make adapters` trains what is not there, finishes what a kill left half exported, and takes no damaged file for a finished one."""

import importlib
import sys

import pytest
from test_exports import Exported

from companion.base import paths
from companion.base.config import ConfigurationError
from companion.base.files import only_process
from companion.training import loop
from companion.training.publishing import FORMER, STAGING
from companion.training.resuming import LOCK
from companion.weights.cards import CARD, check_files, read_card

sys.path.insert(0, str(paths.ROOT / "tools"))
train_adapters = importlib.import_module("train_adapters")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the adapter of the one entry that is listed goes; its training takes no time."""
    for name in ("RUNS", "MODELS"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())
    monkeypatch.setattr(paths, "ADAPTERS", paths.MODELS / "adapters")
    monkeypatch.setitem(loop.OBJECTIVES, "denoising", Exported)
    monkeypatch.setattr(loop, "claim_export_folder", claim := loop.claim_export_folder)
    monkeypatch.setattr("companion.training.exports.exported_file", lambda config: "weights.pt")
    assert claim
    return paths.ADAPTERS / "gentle"


def adapters(again=False):
    train_adapters.train_missing(["gentle"], {"gentle": {"steps": 1, "objective_options": {}}}, again=again)


def test_an_adapter_is_trained_once(folder, capsys):
    adapters()
    assert "gentle: 1 steps" in capsys.readouterr().out and set(read_card(folder)["training"]) == {"gentle"}
    adapters()
    assert capsys.readouterr().out == "gentle is there\n"


@pytest.mark.parametrize("left", ["weights without a card", "half a folder", "only the folder that was replaced"])
def test_what_a_kill_left_is_finished(folder, capsys, left):
    adapters()
    if left == "weights without a card":
        (folder / CARD).unlink()
    else:
        place = folder.parent / (STAGING if left == "half a folder" else FORMER) / folder.name
        place.parent.mkdir()
        folder.rename(place)
        (folder.parent / STAGING / folder.name).mkdir(parents=True, exist_ok=True)
    capsys.readouterr()
    adapters()
    assert ("gentle is there" in capsys.readouterr().out) == (left == "only the folder that was replaced")
    check_files(folder)
    assert [file.name for file in folder.parent.iterdir()] == ["gentle"]


def test_a_damaged_adapter_is_not_there(folder):
    adapters()
    (folder / "training-gentle.yaml").write_text("steps: 2")
    with pytest.raises(ValueError, match=r"training-gentle\.yaml is damaged or not the file that card\.json records"):
        adapters()
    adapters(again=True)
    check_files(folder)


def test_an_adapter_that_another_process_trains_is_left_alone(folder):
    with only_process(paths.RUNS / "training" / "gentle" / LOCK) as first:
        assert first
        with pytest.raises(ConfigurationError, match="another process trains"):
            adapters()
