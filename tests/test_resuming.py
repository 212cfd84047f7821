"""A training goes on from whole files alone, no second one runs beside it, and what it publishes is visible with its card or not at all."""

import json
import random
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from test_exports import Exported, config
from test_training import trainer, weights
from tiny import assert_one_sentence

from companion.base import paths
from companion.base.config import ConfigurationError
from companion.base.files import DamagedFile
from companion.training import loop, publishing
from companion.training.publishing import replacing, tidy
from companion.training.resuming import alone, read_checkpoint, truncate_log
from companion.weights.cards import CARD, read_card, write_card

LOCKING = """
import pathlib, sys, time
sys.path.insert(0, sys.argv[2])
from companion.training.resuming import alone
with alone("mine", pathlib.Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Folders of a test's own, and an objective that takes no time."""
    for name in ("RUNS", "MODELS"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())
    monkeypatch.setitem(loop.OBJECTIVES, "autoencoder", Exported)
    return dict(objective="autoencoder", objective_options={}, export_to="test", warmup_steps=0)


def test_a_flipped_bit_in_a_checkpoint_is_never_taken_up(tmp_path, monkeypatch):
    first = trainer(tmp_path, monkeypatch)
    first.run(stop_after=5)
    whole, chance = first.checkpoint.read_bytes(), random.Random(0)
    damages = [whole[: len(whole) // 2], b"", b"\x80\x04N."]
    for _ in range(40):
        place = chance.randrange(len(whole))
        damages.append(whole[:place] + bytes([whole[place] ^ 1 << chance.randrange(8)]) + whole[place + 1 :])
    for damaged in damages:
        first.checkpoint.write_bytes(damaged)
        with pytest.raises(DamagedFile, match=r"checkpoint\.pt is damaged .*; delete it to train from the first step$") as raised:
            trainer(tmp_path, monkeypatch)
        assert_one_sentence(raised)
    first.checkpoint.write_bytes(whole)
    assert torch.equal(weights(trainer(tmp_path, monkeypatch).objective), weights(first.objective))
    assert read_checkpoint(first.checkpoint)["step"] == 5


@pytest.mark.parametrize("line", [b'{"loss": 1}', b"[5}", b"\xff\xfe{}", b'{"step": "one"}', b"5}"])
def test_a_log_line_that_is_no_step_is_named(tmp_path, line):
    log = tmp_path / "log.jsonl"
    log.write_bytes(b'{"step": 3}\n' + line + b'\n{"step": 6}\n')
    with pytest.raises(ValueError, match=r"log\.jsonl, line 2, is not the record of a step: remove the line") as raised:
        truncate_log(log, 5)
    assert_one_sentence(raised)
    log.write_bytes(b'{"step": 3}\n{"step": 6}\n{"ste')
    truncate_log(log, 5)
    assert log.read_bytes() == b'{"step": 3}\n'


def test_a_log_that_was_damaged_or_lost_is_that_of_the_checkpoint(tmp_path, monkeypatch):
    first = trainer(tmp_path, monkeypatch)
    first.run(stop_after=6)
    whole = first.log.read_bytes()
    assert [json.loads(line)["step"] for line in whole.splitlines()] == [3, 6]
    for damaged in (b"", whole.replace(b'"step": 3', b'"step": 2'), b"\xff", whole + b'{"step": 7, "loss": 1}\n{"ste', None):
        first.log.unlink() if damaged is None else first.log.write_bytes(damaged)
        assert trainer(tmp_path, monkeypatch).log.read_bytes() == whole
    first.checkpoint.unlink()
    assert trainer(tmp_path, monkeypatch).log.read_bytes() == b"", "a training from the first step has no lines yet"


def test_two_trainings_of_one_name_do_not_run_at_once(mine, monkeypatch):
    folder = config(**mine).folder
    process = subprocess.Popen([sys.executable, "-c", LOCKING, str(folder), str(paths.ROOT)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "in\n"
        with pytest.raises(ConfigurationError, match=r"^name is 'mine', but another process trains .*: wait for its end") as raised:
            loop.train(config(**mine, steps=1, learning_rate=1e-2))
        assert_one_sentence(raised)
        monkeypatch.setenv("RANK", "1")
        with alone("mine", folder):
            pass  # another rank of the training that holds the lock
        monkeypatch.delenv("RANK")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    loop.train(config(**mine, steps=1, learning_rate=1e-2))  # a killed process holds nothing
    assert (paths.MODELS / "test" / CARD).is_file()


def test_an_export_that_breaks_off_shows_nothing_and_is_finished_later(mine, monkeypatch):
    export = Exported.export

    def broken(self, folder):
        export(self, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(Exported, "export", broken)
    with pytest.raises(KeyboardInterrupt):
        loop.train(config(**mine, steps=1))
    assert list(paths.MODELS.iterdir()) == []
    monkeypatch.setattr(Exported, "export", export)
    loop.train(config(**mine, steps=1))
    assert set(read_card(paths.MODELS / "test")["files"]) == {"weights.pt", "training-mine.jsonl", "training-mine.yaml"}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device")])
def test_a_full_disk_names_the_folder_that_is_exported(tmp_path, error):
    with pytest.raises(OSError, match=r"No space left on device.*: '.*\.new/smooth'$"), replacing(tmp_path / "smooth"):
        raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["while the new one is made", "between both renames", "before the old one is removed"])
def test_a_kill_while_a_folder_is_replaced_leaves_the_old_or_the_new_one(tmp_path, moment):
    folder = tmp_path / "smooth"
    new, former = tmp_path / publishing.STAGING / "smooth", tmp_path / publishing.FORMER / "smooth"
    old = folder if moment == "while the new one is made" else former
    young = folder if moment == "before the old one is removed" else new
    for place, content in ((old, "old"), (young, "new")):
        place.mkdir(parents=True)
        (place / "weights").write_text(content)
    tidy(folder)
    assert (folder / "weights").read_text() == ("new" if young == folder else "old")
    assert [file.name for file in tmp_path.iterdir()] == ["smooth"]


def test_a_card_never_vouches_for_damage(tmp_path):
    folder = tmp_path / "mini"
    folder.mkdir()
    for name in ("unet", "vae"):
        (folder / name).write_bytes(b"trained")
    write_card(folder, licence="ours")
    card = (folder / CARD).read_bytes()
    (folder / "unet").write_bytes(b"trainee")
    sentence = r"unet is damaged or not the file that card\.json records: restore it"
    with pytest.raises(DamagedFile, match=sentence) as raised, replacing(folder) as new:
        (new / "vae").write_bytes(b"trained on")
        write_card(new)
    assert_one_sentence(raised)
    assert (folder / CARD).read_bytes() == card and (folder / "vae").read_bytes() == b"trained"
    with replacing(folder) as new:  # the damaged file itself may be replaced
        (new / "unet").write_bytes(b"anew")
        write_card(new)
    assert json.loads((folder / CARD).read_text())["licence"] == "ours" and (folder / "unet").read_bytes() == b"anew"


def test_what_is_published_can_be_read_by_others(tmp_path):
    """safetensors makes its files for their owner alone; the umask decides, as for every other file."""
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    with replacing(tmp_path / "mine") as new:
        safetensors.torch.save_file({"x": torch.zeros(1)}, new / "weights.safetensors")
        (new / "weights.safetensors").chmod(0o600)
    assert (tmp_path / "mine" / "weights.safetensors").stat().st_mode == ordinary.stat().st_mode
