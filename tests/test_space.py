"""Disk space of a run: what is missing must find room before it is computed."""

import shutil

import numpy as np
import pytest
from tiny import assert_one_sentence

from companion.base import paths
from companion.base.config import ConfigurationError
from companion.runs.runs import run_items


@pytest.fixture
def disk(monkeypatch):
    """Sets what is free, in MB."""
    real = shutil.disk_usage(paths.ROOT)

    def free(megabytes, **other):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: real._replace(free=int(megabytes * 1e6), **other))

    return free


@pytest.fixture
def run(tmp_path):
    """Runs the items up to `count`, each of which stores 4 MB; the batches that were computed."""

    def run(count):
        batches = []

        def large(items):
            batches.append(items)
            return [{"values": np.zeros(500_000)} for _ in items]

        try:
            run_items(range(count), large, name="large", config={}, root=tmp_path, progress=False)
        finally:
            run.batches = batches

    return run


def test_a_full_disk_is_named_before_the_first_item(disk, run):
    disk(7)
    with pytest.raises(
        ConfigurationError, match=r"^the disk of .*large.* has 7 MB left, but a run's first results need 8: make room"
    ) as raised:
        run(1)
    assert run.batches == []
    assert_one_sentence(raised)
    disk(0, total=0)  # a disk that tells nothing
    run(1)


def test_what_is_missing_must_find_room_once_the_size_of_a_result_is_known(disk, run):
    disk(30)
    said = r"has 30 MB left, but 9 missing results of 4 MB each need 36: make room, or let SMOOTHLIB_RUNS name a folder on another disk$"
    with pytest.raises(ConfigurationError, match=said) as raised:
        run(10)
    assert run.batches == [[0]]
    assert_one_sentence(raised)
    with pytest.raises(ConfigurationError, match=said):
        run(10)
    assert run.batches == []  # the result that is stored tells it before the first item
    disk(37)
    run(10)
    assert run.batches == [[item] for item in range(1, 10)]
