"""Whatever a file holds, its reader gives a value or one sentence that names the file; what is written is what is read."""

import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from properties import anything, examples, is_sentence

from companion.base.files import DamagedFile, read_sealed, write_sealed
from companion.base.reading import read_json, read_yaml
from companion.data.coco import read_annotations
from companion.data.listings import json_lines
from companion.data.pictures import read_picture
from companion.data.plain_pickle import read_plain_pickle
from companion.evidence.records import load_record
from companion.runs.stored import Origin, Result, item_key, load_result, store_result
from companion.training.resuming import read_checkpoint, truncate_log
from companion.training.settings import load_config
from companion.weights.card_lists import read_list
from companion.weights.cards import read_card
from companion.weights.fine_tune import check_difference

READERS = {
    "facts.json": lambda file: read_json(file, object),
    "facts.yaml": lambda file: read_yaml(file, object),
    "card.json": lambda file: read_card(file.parent),
    "cards.json": read_list,
    "metadata.jsonl": json_lines,
    "captions.json": read_annotations,
    "training.yaml": load_config,
    "item.npz": load_result,
    "sealed": read_sealed,
    "checkpoint.pt": read_checkpoint,
    "log.jsonl": lambda file: truncate_log(file, 5),
    "picture.png": lambda file: read_picture(file, 8),
    "record.json": load_record,
    "drags.pkl": read_plain_pickle,
    "difference.safetensors": lambda file: check_difference(torch.nn.Linear(1, 1), file),
}
# Bytes, text, what a JSON file may hold, and the beginnings of files that their libraries know
FIELDS = ["files", "images", "annotations", "steps", "schema", "text"]
BEGINNINGS = [b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", b"\x80\x04", b"\x08\0\0\0\0\0\0\0{}", b"\xff\xd8\xff"]
contents = (
    st.binary(max_size=120)
    | st.text(max_size=80).map(lambda text: text.encode("utf-8", "replace"))
    | (anything | st.dictionaries(st.sampled_from(FIELDS), anything)).map(lambda value: json.dumps(value).encode())
    | st.tuples(st.sampled_from(BEGINNINGS), st.binary()).map(b"".join)
)


@pytest.mark.parametrize("name", READERS)
def test_any_content_is_read_or_refused_in_one_sentence_that_names_the_file(tmp_path, name):
    file = tmp_path / name

    @examples(40)
    @given(contents)
    def check(content):
        file.write_bytes(content)
        try:
            READERS[name](file)
        except ValueError as error:
            named = name in str(error) or name == "training.yaml"  # settings are refused by their own names
            assert named and is_sentence(str(error)), str(error)

    check()


@examples(40)
@given(st.binary(max_size=200), st.data())
def test_what_is_sealed_comes_back_and_no_other_bit(tmp_path, content, data):
    file = tmp_path / "sealed"
    write_sealed(file, content)
    assert read_sealed(file) == content
    whole = file.read_bytes()
    place, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    for damaged in (whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :], whole[:place]):
        file.write_bytes(damaged)
        with pytest.raises(DamagedFile, match="sealed"):
            read_sealed(file)


names = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)
kept = arrays.arrays(st.sampled_from([np.float32, np.float64, np.uint8, np.int64]), arrays.array_shapes(min_dims=1, max_dims=3, max_side=4))


@examples(40)
@given(st.dictionaries(names, kept | st.floats(allow_nan=False), min_size=1, max_size=3), st.data())
def test_a_stored_result_comes_back_as_itself_or_not_at_all(tmp_path, values, data):
    file = tmp_path / "item.npz"
    result = Result(values)
    result.origin = Origin("code", "cpu", "a machine", "2.0")
    store_result(file, result)
    found = load_result(file)
    assert found.keys() == values.keys() and found.origin == result.origin
    for name, value in values.items():
        np.testing.assert_array_equal(found[name], value)
    file.rename(tmp_path / "other.npz")
    assert load_result(tmp_path / "other.npz") is None, "another item's"
    whole = bytearray((tmp_path / "other.npz").read_bytes())
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(whole)
    assert load_result(file) is None


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@examples(100)
@given(plain, plain)
def test_two_items_have_one_key_only_if_they_are_equal(one, other):
    equal = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (item_key(one) == item_key(other)) == equal and item_key(one) == item_key(copy.deepcopy(one))
