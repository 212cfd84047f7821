"""Tar shards of captioned pictures: what each holds is known before it is read, and what no shard may hold is refused by name."""

import io
import os
import re
import tarfile
import warnings

import numpy as np
import pytest
from PIL import Image
from shard_files import add, picture, write_shard, write_shards
from tiny import assert_one_sentence

from companion.base import paths
from companion.data import tar_index
from companion.data.listings import ListingError
from companion.data.load import load_scenes
from companion.data.pictures import PictureError
from companion.data.shards import Shards


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")


def test_pairs_are_numbered_through_all_shards(tmp_path):
    shards = Shards(write_shards(tmp_path / "laion", [3, 1, 2]))
    assert len(shards) == 6 and shards.counts.tolist() == [3, 1, 2]
    for number in range(6):
        assert shards.caption(number) == f"picture {number}"
        assert shards.member(number).content == picture(number)
        taken, pixels = shards.picture(number, 16)
        assert taken == number and np.array_equal(pixels, np.array(Image.open(io.BytesIO(picture(number))).convert("RGB")))
    assert str(shards.member(4)) == f"000000004.jpg of {tmp_path / 'laion' / '00002.tar'}"


def test_a_pattern_takes_some_of_the_shards(tmp_path):
    write_shards(tmp_path / "laion", [2, 2, 2])
    (tmp_path / "laion" / "00000_stats.json").write_text("{}")
    assert len(Shards(tmp_path / "laion")) == 6
    assert [Shards(str(tmp_path / "laion" / "0000[12].tar")).caption(i) for i in (0, 3)] == ["picture 2", "picture 5"]
    with pytest.raises(ListingError, match=r"data is '.*9\*\.tar', but must be a folder with tar shards"):
        Shards(str(tmp_path / "laion" / "9*.tar"))


def test_the_scenes_are_read_by_the_same_reader():
    scenes = load_scenes("compositional")
    shards = Shards(str(paths.SCENES / "compositional-*.tar"))
    assert len(shards) == len(scenes) and [shards.caption(i) for i in range(0, 500, 50)] == scenes.captions[::50]
    number, pixels = shards.picture(333, 64)
    assert number == 333 and np.array_equal(pixels, scenes.images[333])


def test_names_are_webdatasets(tmp_path):
    """A key goes to the first dot of the last part; parts need not lie beside one another; other members of a pair are not looked at."""
    (tmp_path / "d").mkdir()
    with tarfile.open(tmp_path / "d" / "x.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        add(archive, "v1.0", b"", type=tarfile.DIRTYPE)
        add(archive, f"v1.0/{'n' * 120}.PNG", picture(1, kind="PNG"))
        add(archive, "v1.0/b.seg.png", b"a mask")
        add(archive, "v1.0/._b.jpg", b"left by a Mac")
        add(archive, "v1.0/b.webp", picture(2, kind="WEBP"))
        add(archive, "v1.0/b.txt", "\ufeff two\u2028lines \n".encode())
        add(archive, f"v1.0/{'n' * 120}.txt", "ein Bär".encode())
    shards = Shards(tmp_path / "d")
    assert [shards.caption(i) for i in range(len(shards))] == ["ein Bär", "two\u2028lines"]
    assert shards.picture(0, 16)[0] == 0


def test_the_index_is_kept_until_the_shard_changes(tmp_path, monkeypatch):
    folder = write_shards(tmp_path / "laion", [2])
    file = folder / "00000.tar"
    os.utime(file, (1e9, 1e9))
    monkeypatch.setattr(tar_index, "SETTLED", 0)
    before = Shards(folder)
    with monkeypatch.context() as patch:
        patch.setattr(tar_index.tarfile, "open", lambda *_, **__: pytest.fail("read again"))
        again = Shards(folder)
    assert again.identity() == before.identity() and np.array_equal(again.pairs, before.pairs)
    for kept in (tmp_path / "runs" / "shards").iterdir():
        kept.write_bytes(kept.read_bytes()[:-40])  # a damaged index is made again
    assert Shards(folder).identity() == before.identity()
    content = bytearray(file.read_bytes())
    where = before.pairs[1]
    content[where["image"] + where["image_size"] - 20] ^= 1  # one bit of a picture's end
    file.write_bytes(content)
    assert Shards(folder).identity() != before.identity()


def damaged(file, kind):
    """Write a shard with one thing wrong with it."""
    whole = write_shard(file, range(3)).read_bytes()
    with tarfile.open(file) as archive:
        members = archive.getmembers()
    ends = {"cut in a picture": members[6].offset_data + 50, "cut in a header": members[3].offset + 100, "cut between": members[3].offset}
    if kind in ends:
        file.write_bytes(whole[: ends[kind]])
    elif kind == "a header's bit":
        content = bytearray(whole)
        content[members[3].offset + 5] ^= 1
        file.write_bytes(content)
    elif kind == "100 MB declared":
        content = bytearray(whole)
        member = members[3]
        member.size = 100 * 10**6
        content[member.offset : member.offset + 512] = member.tobuf(tarfile.USTAR_FORMAT)
        file.write_bytes(content)
    elif kind == "no tar":
        file.write_bytes(b"<html>" * 1000)
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "compressed":
        with tarfile.open(file, "w:gz") as archive:
            add(archive, "a.jpg", picture(0))
    else:
        name, content, fields = ADDED[kind]
        with tarfile.open(file, "a") as archive:
            add(archive, name, content, **fields)


ADDED = {
    "a link": ("9.jpg", b"", dict(type=tarfile.SYMTYPE, linkname="../secret.jpg")),
    "a hard link": ("9.jpg", b"", dict(type=tarfile.LNKTYPE, linkname="000000000.jpg")),
    "a device": ("9.jpg", b"", dict(type=tarfile.CHRTYPE)),
    "an absolute name": ("/9.jpg", b"x", {}),
    "a drive": ("C:\\9.jpg", b"x", {}),
    "upwards": ("a/../../9.jpg", b"x", {}),
    "no number": ("9.jpg", b"x", dict(pax_headers={"GNU.sparse.size": "x"})),
    "a line break": ("9\n.jpg", b"x", {}),
    "latin-1": ("\udce4.jpg", b"x", {}),
    "a key twice": ("000000001.png", b"x", {}),
    "a caption twice": ("000000001.txt", b"x", {}),
    "a novel": ("9.txt", b"x" * (2**20 + 1), {}),
    "a long header": ("n" * (tar_index.LARGEST // 2**6), b"x", {}),
}
REFUSED = {
    "cut in a picture": "is cut off or damaged as a tar file",
    "cut in a header": "is cut off or damaged as a tar file",
    "cut between": "is cut off or damaged as a tar file",
    "a header's bit": "is cut off or damaged as a tar file",
    "no tar": "is cut off or damaged as a tar file",
    "empty": "is empty, but must be a tar file",
    "compressed": "is cut off or damaged as a tar file",
    "100 MB declared": "declares 100000000 bytes for '000000001.jpg', but must have members of at most 67108864",
    "a link": "holds '9.jpg', which is a link or no plain file",
    "a hard link": "holds '9.jpg', which is a link or no plain file",
    "a device": "holds '9.jpg', which is a link or no plain file",
    "an absolute name": "holds '/9.jpg', but must hold names without a root",
    "a drive": r"holds 'C:.*9\.jpg', but must hold names without a root and without \.\.",
    "upwards": r"holds 'a/../../9.jpg', but must hold names without a root and without \.\.",
    "no number": "is cut off or damaged as a tar file",
    "a line break": r"holds '9\\n\.jpg', but must hold names of printable characters in UTF-8",
    "latin-1": r"holds '\\udce4\.jpg', but must hold names of printable characters in UTF-8",
    "a key twice": "has two pictures of the key '000000001'",
    "a caption twice": "has two captions of the key '000000001'",
    "a novel": "declares 1048577 bytes for '9.txt', but a caption must have at most 1048576",
    "a long header": "has a header of [0-9]* bytes, but must have members of at most 1000000",
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("bad", ["error", "skip"])
def test_a_damaged_shard_is_refused_by_name(tmp_path, monkeypatch, kind, bad):
    file = write_shards(tmp_path / "laion", [2]) / "00001.tar"
    damaged(file, kind)
    if kind == "a long header":
        monkeypatch.setattr(tar_index, "LARGEST", 10**6)
    with pytest.raises(ListingError, match=f"^{re.escape(str(file))} {REFUSED[kind]}") as raised:
        Shards(tmp_path / "laion", bad)
    assert_one_sentence(raised)


INCOMPLETE = {
    "no caption": (dict(captions={1: None}), "has no caption for 000000001"),
    "an empty caption": (dict(captions={1: b" \n"}), "has an empty caption for 000000001"),
    "latin-1": (dict(captions={1: "Bär".encode("latin-1")}), r"has a caption for 000000001 that is not UTF-8 \(byte 1 is 0xe4\)"),
}


@pytest.mark.parametrize("kind", INCOMPLETE)
def test_pairs_that_are_not_complete_are_named_or_left_out_and_counted(tmp_path, kind):
    changes, sentence = INCOMPLETE[kind]
    folder = write_shards(tmp_path / "laion", [2, 2], **changes)
    with pytest.raises(ListingError, match=rf"1 of 4 pairs in .* cannot be used: .*00000\.tar {sentence}.*bad_images=skip") as raised:
        Shards(folder)
    assert_one_sentence(raised)
    with pytest.warns(UserWarning, match="1 of 4 pairs .* are left out"):
        shards = Shards(folder, "skip")
    assert shards.left_out == 1 and [shards.caption(i) for i in range(len(shards))] == ["picture 0", "picture 2", "picture 3"]


def test_a_damaged_picture_is_named_or_the_next_stands_for_it(tmp_path):
    broken = {1: b"<html>", 2: picture(2)[:300], 5: b""}
    folder = write_shards(tmp_path / "laion", [3, 3], pictures=broken | {5: b"x"})
    with pytest.raises(PictureError, match=r"000000002\.jpg of .*00000\.tar cannot be read as a picture: .*bad_images=skip"):
        Shards(folder).picture(2, 16)
    shards = Shards(folder, "skip")
    assert [shards.picture(number, 16)[0] for number in range(6)] == [0, 3, 3, 3, 4, 0]
    assert set(shards.broken) == {1, 2, 5}
    other_way = Shards(folder, "skip")
    assert [other_way.picture(number, 16)[0] for number in reversed(range(6))] == [0, 4, 3, 3, 3, 0]  # whatever was read before


def test_where_no_picture_can_be_read_nothing_stands_for_it(tmp_path):
    shards = Shards(write_shards(tmp_path / "laion", [3], pictures=dict.fromkeys(range(3), b"x")), "skip")
    for _ in range(2):
        with pytest.raises(PictureError, match=r"3 pictures in a row cannot be read: 000000001\.jpg of .* is no picture"):
            shards.picture(1, 16)


def test_a_shard_that_goes_away_is_no_damaged_picture(tmp_path):
    folder = write_shards(tmp_path / "laion", [3])
    shards = Shards(folder, "skip")
    os.truncate(folder / "00000.tar", 2000)
    with pytest.raises(OSError, match="has become shorter while it was read"):
        shards.picture(2, 16)
    assert not shards.broken


def test_a_folder_without_a_whole_pair_is_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ListingError, match=r"2 of 2 pairs in .* cannot be used"):
            Shards(write_shards(tmp_path / "a", [2], captions={0: None, 1: None}), "skip")
        with pytest.raises(ListingError, match="whose 1 shards hold no pictures with captions"):
            Shards(write_shards(tmp_path / "b", [0]), "skip")
    with pytest.raises(ListingError, match="bad_images must be one of error, skip, got 'ignore'"):
        Shards(tmp_path / "a", "ignore")
