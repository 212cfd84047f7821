"""Pairs by seed: different images of one class, none twice, prefixes that stay, and the prompt that both may share."""

import numpy as np
import pytest

from companion.data.load import SceneSplit
from companion.runs.stored import item_key
from companion.studies.interpolation.pairs import pairs_from, seeded_pairs

CLASSES = ["cat", "dog", "car"]


def split(count=40, **fields):
    records = [{"id": f"s{i}", "caption": f"caption {i}", "cls": CLASSES[i * i % 3], **fields} for i in range(count)]
    return SceneSplit(np.zeros((count, 2, 2, 3), np.uint8), records)


def test_pairs_are_of_one_class_and_no_image_is_in_two():
    scenes = split()
    cls = {record["id"]: record["cls"] for record in scenes.records}
    pairs = pairs_from(scenes, 15, seed=1)
    assert all(cls[pair.first.id] == cls[pair.second.id] for pair in pairs)
    assert len({item.id for pair in pairs for item in (pair.first, pair.second)}) == 30
    assert len({pair.noise_seed for pair in pairs}) == len({item_key(pair) for pair in pairs}) == 15
    assert pairs[0].id == f"{pairs[0].first.id}+{pairs[0].second.id}" and pairs[0].first.caption == f"caption {pairs[0].first.id[1:]}"


def test_a_larger_limit_keeps_the_pairs_and_skip_leaves_out_the_first():
    def ids(*arguments, **options):
        return [pair.id for pair in pairs_from(split(), *arguments, **options)]

    assert ids(4) == ids(12)[:4] and ids(5, skip=4) == ids(9)[4:] and ids(4, seed=1) != ids(4)


def test_images_without_the_field_pair_freely():
    scenes = split()
    cls = {record["id"]: record["cls"] for record in scenes.records}
    pairs = pairs_from(scenes, 20, same="topic")
    assert len({item.id for pair in pairs for item in (pair.first, pair.second)}) == 40
    assert any(cls[pair.first.id] != cls[pair.second.id] for pair in pairs)


def test_every_group_gives_all_its_pairs():
    groups = ["a"] * 5 + ["b"] * 4 + ["c"]
    found = seeded_pairs(groups, seed=3)
    assert sorted(groups[i] for i, _ in found) == ["a", "a", "b", "b"] and all(groups[i] == groups[j] for i, j in found)


def test_one_prompt_may_be_shared_and_takes_its_words_from_the_record():
    (pair,) = pairs_from(split(), 1, prompt="a photo of a {cls}")
    assert pair.first.caption == pair.second.caption == f"a photo of a {CLASSES[int(pair.first.id[1:]) ** 2 % 3]}"
    assert item_key(pair) != item_key(pairs_from(split(), 1)[0])
    (pair,) = pairs_from(split(), 1, prompt="A church")
    assert pair.second.caption == "A church"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(limit=19), "limit and skip must not exceed 1. pairs together, not 19 and 0"),
        (dict(limit=10, skip=11), "limit and skip must not exceed 1. pairs together, not 10 and 11"),
        (dict(limit=0), "limit must be at least 1 and skip at least 0, not 0 and 0"),
        (dict(limit=1, seed=1000), r"seed must lie in \[0, 999\], not 1000"),
        (dict(limit=1, prompt="a {class}"), r"name fields of the records \(id, caption, cls\), not 'a {class}'"),
        (dict(limit=1, prompt="a {"), "not 'a {'"),
        (dict(limit=1, prompt="{cls:>100000000}"), "not '{cls:>100000000}'"),
        (dict(limit=1, prompt="{cls.__class__}"), "not '{cls.__class__}'"),
        (dict(limit=1, prompt="{cls!r}"), "not '{cls!r}'"),
    ],
)
def test_what_cannot_be_had_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        pairs_from(split(37), **options)
