"""Drags as items: the scenes' pairs, DragBench's folders, and pickles that hold more than data."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import assert_one_sentence

from companion.data.drags import facts, half, load_drags
from companion.data.listings import ListingError
from companion.data.plain_pickle import read_plain_pickle
from smoothlib.editing.drag_points import drag_points


@pytest.fixture(scope="module")
def drags():
    return load_drags()


def test_the_scenes_drags_are_whole_and_can_be_dragged(drags):
    assert len(drags) >= 100 and {drag.kind for drag in drags} == {"turn", "move"}
    masks = torch.stack([drag.mask for drag in drags])
    points = drag_points([drag.handles for drag in drags], [drag.targets for drag in drags], masks, size=drags[0].size)
    assert len(points) == len(drags)
    assert all((drag.degrees is None) == (drag.kind == "move") for drag in drags)
    assert 14 < min(drag.degrees for drag in drags if drag.degrees) and max(drag.degrees for drag in drags if drag.degrees) < 35
    assert all(0 < motion < 0.5 for motion in facts(drags)["motion"])
    assert not torch.equal(drags[0].image, drags[0].truth)


def test_halves_are_by_id_and_share_nothing(drags):
    even, odd = half(drags, 0), half(drags, 1)
    assert even[0].id == "drag-000" and odd[0].id == "drag-001" and len(even) + len(odd) == len(drags)
    assert not {drag.id for drag in even} & {drag.id for drag in odd}


def test_points_and_masks_follow_the_size(drags):
    large = load_drags(size=128)[3]
    small = drags[3]
    assert large.image.shape == large.truth.shape == (3, 128, 128) and large.mask.shape == (128, 128)
    assert large.handles == tuple((2 * x, 2 * y) for x, y in small.handles) and large.motion == pytest.approx(small.motion)
    assert large.mask.float().mean() == pytest.approx(small.mask.float().mean().item(), abs=0.02)


@pytest.fixture
def bench(tmp_path):
    """Two pictures in DragBench's layout, 200 wide and 100 high; the second's pickle as Python 2 would have written it."""
    mask = np.zeros((100, 200), np.uint8)
    mask[20:80, 20:180] = 255
    for place, protocol in (("animals/cat_1", 4), ("land_scape/hill", 2)):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        Image.fromarray(np.full((100, 200, 3), 90, np.uint8)).save(folder / "original_image.png")
        content = {"prompt": "a cat", "points": [[30, 40], [60, 40], [np.int64(100), 50.0], (199, 99)], "mask": mask}
        (folder / "meta_data.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    return tmp_path


def test_dragbench_is_read_in_its_published_layout(bench):
    cat, hill = load_drags(str(bench), size=512)
    assert (cat.id, cat.kind, cat.caption, cat.truth, cat.degrees) == ("animals/cat_1", "animals", "a cat", None, None)
    assert hill.id == "land_scape/hill" and cat.size == hill.size == (256, 512)
    assert cat.handles == ((30 * 2.56, 40 * 2.56), (100 * 2.56, 50 * 2.56)) and cat.targets[0] == (60 * 2.56, 40 * 2.56)
    assert cat.mask[int(99 * 2.56), int(199 * 2.56)]  # the mask of the file leaves this target out
    assert cat.mask.float().mean() == pytest.approx(0.48, abs=0.01)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(points=[[1, 2]]), "has the points .* must have a handle"),
        (dict(points=None), "has the points None"),
        (dict(prompt=3), "has the prompt 3, but must have a text"),
        (dict(mask=np.zeros((4, 4))), r"has a mask of shape \(4, 4\), but its picture is 200 wide and 100 high"),
    ],
)
def test_wrong_folders_are_refused_by_name(bench, change, sentence):
    file = bench / "animals" / "cat_1" / "meta_data.pkl"
    file.write_bytes(pickle.dumps(read_plain_pickle(file) | change))
    with pytest.raises(ListingError, match=f"meta_data.pkl {sentence}") as raised:
        load_drags(str(bench))
    assert_one_sentence(raised)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder nowhere with drags"):
        load_drags("nowhere")
    with pytest.raises(ListingError, match=r"has no meta_data\.pkl in any folder"):
        load_drags(str(tmp_path))
    with pytest.raises(ValueError, match="size is 12, but must be a whole number of at least 64"):
        load_drags(size=12)


# Pickles --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_is_read_back(tmp_path, protocol):
    arrays = [np.arange(6, dtype=">i4").reshape(2, 3), np.ones((2, 2, 2), np.float32).T, np.array([True, False]), np.zeros((0, 3))]
    content = {"a": [1, 2.5, None, True, "text", (3, -1)], "n": np.float64(0.5), "i": np.uint8(7), "f": np.asfortranarray(arrays[0])}
    file = tmp_path / "data.pkl"
    file.write_bytes(pickle.dumps(content | dict(arrays=arrays), protocol=protocol))
    read = read_plain_pickle(file)
    assert {key: read[key] for key in ("a", "n", "i")} == {key: content[key] for key in ("a", "n", "i")}
    assert np.array_equal(read["f"], content["f"])
    for one, other in zip(read["arrays"], arrays, strict=True):
        assert one.dtype == other.dtype and np.array_equal(one, other)


class Runs:
    """Pickled, it is a call of `os.system`."""

    def __init__(self, call):
        self.call = call

    def __reduce__(self):
        return self.call


def harmful(tmp_path):
    import os

    marker = tmp_path / "was here"
    return {
        "a call": Runs((os.system, (f"touch '{marker}'",))),
        "evaluated": Runs((eval, (f"open({str(marker)!r}, 'w')",))),
        "a NumPy function": Runs((np.save, (str(marker), 1))),
        "a class": Runs((type(tmp_path), ("x",))),
        "an object array": np.array([Runs((os.system, (f"touch '{marker}'",)))], dtype=object),
        "a set": {1, 2},
        "bytes": b"content",
        "a structured array": np.zeros(2, dtype=[("x", "f4")]),
        "text in an array": np.array(["a"]),
        "nested": {"mask": [({"x": Runs((os.system, (f"touch '{marker}'",)))},)]},
    }, marker


@pytest.mark.parametrize("name", ["a call", "evaluated", "a NumPy function", "a class", "an object array", "a set", "bytes"])
def test_anything_else_is_refused_and_never_run(tmp_path, name):
    refuse(tmp_path, name)


@pytest.mark.parametrize("name", ["a structured array", "text in an array", "nested"])
def test_it_is_also_refused_inside(tmp_path, name):
    refuse(tmp_path, name)


def refuse(tmp_path, name):
    contents, marker = harmful(tmp_path)
    file = tmp_path / "data.pkl"
    file.write_bytes(pickle.dumps(contents[name]))
    with pytest.raises(ListingError, match=r"data\.pkl .*, but must hold only dicts, lists, tuples, numbers, strings and arrays") as raised:
        read_plain_pickle(file)
    assert_one_sentence(raised)
    assert not marker.exists()


def test_an_array_that_claims_more_than_there_is_takes_no_memory(tmp_path):
    content = pickle.dumps(np.zeros(3, np.uint8), protocol=2)
    shape = content.index(b"K\x03\x85")  # the tuple (3,) of its state
    file = tmp_path / "data.pkl"
    file.write_bytes(content[:shape] + b"J\xff\xff\xff\x7f\x85" + content[shape + 3 :])
    with pytest.raises(ListingError, match="has an array whose size is not that of its content"):
        read_plain_pickle(file)


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"no pickle", pickle.dumps([1, 2])[:-2], b"\x80\x02]q\x00h\x00a."])
def test_a_broken_pickle_is_named(tmp_path, content):
    file = tmp_path / "data.pkl"
    file.write_bytes(content)
    with pytest.raises(ListingError, match=r"data\.pkl is (no pickle that can be read|nested too deeply)"):
        read_plain_pickle(file)
