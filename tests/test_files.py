"""Files are whole or refused: what a kill leaves is swept, a full disk is named, a changed bit is found, one process holds a lock."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import assert_one_sentence

from companion.base import files
from companion.base.files import DamagedFile, atomic_write, is_temporary, naming, only_process, read_sealed, sweep, write_sealed
from companion.base.paths import ROOT
from companion.training.caches import kept_tensors
from companion.weights.cards import read_checked, write_card

LEFT = f".weights.safetensors.{'0' * 32}.tmp"
HOLDING = """
import pathlib, sys, time
sys.path.insert(0, sys.argv[2])
from companion.base import files
folder = pathlib.Path(sys.argv[1])
with files._held(folder / ".held.{}.tmp".format("1" * 32)), files.only_process(folder / "lock") as first:
    print(first, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that is writing a file and holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLDING, str(tmp_path), str(ROOT)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "True\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_what_a_killed_process_leaves_is_swept_and_what_a_living_one_writes_is_not(tmp_path, holder):
    (tmp_path / LEFT).write_bytes(b"half")
    (tmp_path / ".hidden").write_bytes(b"mine")
    held = tmp_path / f".held.{'1' * 32}.tmp"
    assert held.exists() and sweep(tmp_path) == [tmp_path / LEFT]
    with only_process(tmp_path / "lock") as first:
        assert not first
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert held.exists(), "a kill leaves it"
    atomic_write(tmp_path / "new", b"whole")  # the first write into the folder sweeps it
    assert sorted(file.name for file in tmp_path.iterdir()) == [".hidden", "lock", "new"]
    with only_process(tmp_path / "lock") as first:
        assert first


def test_a_file_that_is_swept_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    lock, seen = files._lock, []

    def late(stream, **options):
        if not seen:
            seen.append(sweep_all := [file.unlink() for file in tmp_path.glob(".*.tmp")])
            assert len(sweep_all) == 1
        return lock(stream, **options)

    monkeypatch.setattr(files, "_lock", late)
    atomic_write(tmp_path / "a", b"content")
    assert (tmp_path / "a").read_bytes() == b"content" and seen


def test_cards_and_git_never_see_what_is_half_written(tmp_path):
    names = [LEFT, ".tmpA1b2C3"]
    assert all(map(is_temporary, names)) and not any(map(is_temporary, ["card.json", ".hidden", "x.tmp", "weights.safetensors"]))
    for name in [*names, "a.txt"]:
        (tmp_path / name).write_bytes(b"one")
    assert set(write_card(tmp_path)["files"]) == {"a.txt"}
    for name in names:
        (tmp_path / name).unlink(missing_ok=True)  # some are swept already
    assert read_checked(tmp_path, "a.txt") == b"one"
    if (ROOT / ".git").exists():
        places = [f"data/models/adapters/{place}" for place in (*names, ".new/mine/card.json", ".former/mine/card.json")]
        ignored = subprocess.run(["git", "-C", str(ROOT), "check-ignore", *places], capture_output=True, text=True).stdout.split()
        assert ignored == places


def test_a_full_disk_names_the_file_and_keeps_what_was_there(tmp_path, monkeypatch):
    file = tmp_path / "checkpoint.pt"
    atomic_write(file, b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*checkpoint\.pt'") as raised:
        atomic_write(file, b"new")
    assert raised.value.errno == errno.ENOSPC and file.read_bytes() == b"old" and os.listdir(tmp_path) == ["checkpoint.pt"]


def test_a_disk_that_is_full_only_when_a_file_is_closed_names_the_file():
    log = Path("/dev/full")  # every write into it fails
    if not log.exists():
        pytest.skip("no such device")
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'") as raised, naming(log), log.open("a") as stream:
        stream.write("a line\n")
    assert raised.value.errno == errno.ENOSPC and raised.value.__cause__.filename is None
    with pytest.raises(FileNotFoundError, match="absent"), naming(log):
        Path("absent").read_bytes()


def test_every_changed_bit_and_every_lost_end_is_found(tmp_path):
    file, content = tmp_path / "sealed", bytes(range(60))
    write_sealed(file, content)
    whole = file.read_bytes()
    assert read_sealed(file) == content
    flipped = [whole[:i] + bytes([whole[i] ^ 1 << random.Random(i).randrange(8)]) + whole[i + 1 :] for i in range(len(whole))]
    for damaged in [*flipped, *(whole[:end] for end in range(len(whole))), whole + b"\0", content]:
        file.write_bytes(damaged)
        with pytest.raises(DamagedFile, match="sealed is damaged or was written by an earlier version") as raised:
            read_sealed(file)
        assert_one_sentence(raised)


def test_a_kept_tensor_that_is_damaged_is_made_again(tmp_path):
    file, made = tmp_path / "features.tensors", []

    def make():
        made.append(1)
        return {"x": torch.arange(4.0)}

    for _ in range(2):
        assert torch.equal(kept_tensors(file, make)["x"], torch.arange(4.0))
    assert len(made) == 1
    damaged = bytearray(file.read_bytes())
    damaged[-50] ^= 1  # a value
    file.write_bytes(damaged)
    with pytest.warns(UserWarning, match=r"features\.tensors is damaged .*; it is made again"):
        assert torch.equal(kept_tensors(file, make)["x"], torch.arange(4.0))
    assert len(made) == 2 and torch.equal(kept_tensors(file, make)["x"], torch.arange(4.0))


def test_a_lock_needs_no_waiting(tmp_path, holder):
    started = time.monotonic()
    with only_process(tmp_path / "lock") as first:
        assert not first and time.monotonic() - started < 5
