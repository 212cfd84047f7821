"""Shards as a stream: an order by seed, dealt out to processes and workers, resumed at any sample."""

import numpy as np
import pytest
from shard_files import write_shards
from torch.utils.data import DataLoader

from companion.base import paths
from companion.data.listings import ListingError
from companion.data.shard_stream import ShardStream, stream_order
from companion.data.shards import Shards

COUNTS = [7, 4, 9, 3]


@pytest.fixture
def shards(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    return Shards(write_shards(tmp_path / "laion", COUNTS, pictures={5: b"<html>"}), "skip")


def numbers(stream):
    return [pair.asked for pair in stream]


@pytest.mark.parametrize("buffer", [1, 2, 10, 23, 1000])
def test_an_epoch_is_every_pair_once_in_an_order_of_its_own(buffer):
    first, again, other, later = (stream_order(COUNTS, *key, buffer).tolist() for key in ((3, 0), (3, 0), (4, 0), (3, 1)))
    assert sorted(first) == list(range(23)) and first == again
    assert first != other and first != later and sorted(later) == list(range(23))


def test_a_buffer_of_one_keeps_the_order_within_a_shard():
    starts = [np.flatnonzero(np.diff(stream_order([50, 50], seed, 0, 1)) != 1).tolist() for seed in range(8)]
    assert {tuple(places) for places in starts} == {(), (49,)}  # the shards in their order, or the other way round


def test_pairs_are_drawn_from_the_buffer_alone():
    """What is given out at a position has entered the buffer: no picture far ahead is read; and what entered long ago may come late."""
    order = stream_order([10_000], 1, 0, 100)
    ahead = order - np.arange(10_000)
    assert 90 <= ahead.max() <= 99
    waited = -ahead[ahead < 0]
    assert 80 < waited.mean() < 120  # geometric with mean 100
    with pytest.raises(ListingError, match="shuffle_buffer must be at least 1, got 0"):
        stream_order([3], 0, 0, 0)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_processes_see_different_pairs_that_together_are_the_epoch(shards, world):
    whole = numbers(ShardStream(shards, size=None, seed=2))
    parts = [numbers(ShardStream(shards, size=None, seed=2, rank=rank, world=world)) for rank in range(world)]
    assert sorted(number for part in parts for number in part) == list(range(23))
    assert all(part == whole[rank::world] for rank, part in enumerate(parts))


@pytest.mark.parametrize("start", [0, 1, 8, 22, 23])
def test_a_resumed_stream_goes_on_at_the_sample(shards, start):
    for world in (1, 3):
        for rank in range(world):
            settings = dict(size=16, seed=2, buffer=6, rank=rank, world=world)
            whole, resumed = list(ShardStream(shards, **settings)), list(ShardStream(shards, **settings, start=start))
            later = [pair for pair in whole if pair.position >= start]
            assert [(p.position, p.number, p.caption) for p in resumed] == [(p.position, p.number, p.caption) for p in later]
            assert all(np.array_equal(a.picture, b.picture) for a, b in zip(resumed, later, strict=True))


def test_a_damaged_picture_is_replaced_with_its_caption_and_shows(shards):
    pairs = {pair.asked: pair for pair in ShardStream(shards, size=16)}
    assert [pair.asked for pair in pairs.values() if pair.number != pair.asked] == [5]
    assert pairs[5].number == 6 and pairs[5].caption == "picture 6" and np.array_equal(pairs[5].picture, pairs[6].picture)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_workers_of_a_loader_take_turns(shards):
    for rank in range(2):
        stream = ShardStream(shards, size=None, seed=1, rank=rank, world=2, start=3)
        assert numbers(DataLoader(stream, batch_size=None, num_workers=2)) == numbers(stream)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(rank=2, world=2), r"rank is 2 of 2 processes, but must lie in \[0, 1\]"),
        (dict(world=0), "rank is 0 of 0 processes"),
        (dict(start=24), r"start is 24, but must lie in \[0, 23\]"),
        (dict(buffer=0), "shuffle_buffer must be at least 1, got 0"),
    ],
)
def test_what_is_no_part_of_a_stream_is_refused(shards, settings, sentence):
    with pytest.raises(ListingError, match=sentence):
        ShardStream(shards, size=None, **settings)
