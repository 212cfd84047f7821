"""Shards of any content: what is written is read, what is damaged is refused in one sentence, and every stream deals each pair out once."""

import re
import tarfile
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shard_files import add, picture, write_shard

from companion.base import paths
from companion.data.listings import ListingError
from companion.data.shard_stream import ShardStream, stream_order
from companion.data.shards import Shards
from companion.data.tar_index import shard_index

KEYS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="./\\:").filter(str.isprintable), min_size=1, max_size=120)


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")


def examples(count):
    """So many, the same in every run."""
    health = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=health)


@examples(60)
@given(
    captions=st.dictionaries(KEYS, st.text(st.characters(exclude_categories=("Cs",)), max_size=40), min_size=1, max_size=5),
    gnu=st.booleans(),
)
def test_any_keys_and_captions_come_back(tmp_path, captions, gnu):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT if gnu else tarfile.PAX_FORMAT) as archive:
        for number, (key, caption) in enumerate(captions.items()):
            add(archive, f"{key}.jpg", picture(number, side=1))
            add(archive, f"{key}.txt", caption.encode())
    wanted = [caption.removeprefix("\ufeff").strip() for caption in captions.values()]
    if not all(wanted):
        with pytest.raises(ListingError, match=r"(?s)cannot be used: .* has an empty caption for"):
            Shards(tmp_path)
        return
    shards = Shards(tmp_path)
    assert [shards.caption(number) for number in range(len(shards))] == wanted
    assert [shards.member(number).content for number in range(len(shards))] == [picture(number, side=1) for number in range(len(shards))]


@examples(300)
@given(data=st.data())
def test_a_shard_that_is_damaged_anywhere_is_read_or_refused_in_one_sentence(tmp_path, data):
    """Headers get a checksum that is right: what protects from a bad disk does not protect from a bad file."""
    file = write_shard(tmp_path / "a.tar", range(2), pictures={0: b"\xff\xd8" * 40, 1: b"\xff\xd8" * 40})
    content = bytearray(file.read_bytes())[:8192]
    header = 512 * data.draw(st.sampled_from([0, 2, 4, 6]))
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, 511))
        content[header + place] = data.draw(st.sampled_from([0x00, 0x20, 0x2D, 0x2F, 0x31, 0x37, 0x4B, 0x4C, 0x53, 0x67, 0x78, 0x80, 0xFF]))
    if data.draw(st.booleans()):
        block = content[header : header + 512]
        block[148:156] = b" " * 8
        content[header + 148 : header + 156] = b"%06o\0 " % sum(block)
    file.write_bytes(content[: data.draw(st.sampled_from([8192, 8192, 5000, 2048, 700, 100, 0]))])
    try:
        index = shard_index(file)
    except ListingError as error:
        assert re.match(re.escape(str(file)), str(error)) and len(str(error).splitlines()) == 1 and len(str(error)) < 900
    else:
        assert len(index.pairs) + index.left_out <= 4
        assert all(0 <= pair["image"] <= pair["image"] + pair["image_size"] <= file.stat().st_size for pair in index.pairs)


@examples(80)
@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(any),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 100),
    buffer=st.integers(1, 50),
    world=st.integers(1, 7),
    data=st.data(),
)
def test_every_stream_deals_each_pair_out_once(counts, seed, epoch, buffer, world, data):
    shards = mock.MagicMock(counts=counts, caption=str)
    shards.__len__.return_value = sum(counts)
    whole = stream_order(counts, seed, epoch, buffer).tolist()
    assert sorted(whole) == list(range(sum(counts)))
    start = data.draw(st.integers(0, len(whole)))
    dealt = {}
    for rank in range(world):
        stream = ShardStream(shards, size=None, seed=seed, epoch=epoch, buffer=buffer, rank=rank, world=world, start=start)
        for pair in stream:
            assert pair.position % world == rank and pair.position not in dealt and pair.caption == str(pair.asked)
            dealt[pair.position] = pair.asked
    assert [dealt[position] for position in sorted(dealt)] == whole[start:]
