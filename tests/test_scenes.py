"""The scene world: records, captions, splits, pairs; and, where its optional packages and sources are present, the renderer."""

import importlib.util
import io

import numpy as np
import pytest
from PIL import Image

from companion.base import paths
from companion.data.load import load_pairs, load_scenes, scene_file
from companion.world import mini, sources
from companion.world.build import FIRST_SEED, QUALITY, encode
from companion.world.scene import Scene, caption, is_held_out, sample_scene
from companion.world.scene_pairs import EDITS, drag_pairs, edit_pairs
from companion.world.vocabulary import CLASSES, EXTRAS, GROUNDS, GROUNDS_OF, SETTINGS

COUNTS = {"train": 10_000, "test": 1_000, "compositional": 500}
can_render = (
    bool(importlib.util.find_spec("mitsuba") and importlib.util.find_spec("pyoidn")) and (sources.CACHE / sources.FURNITURE.file).exists()
)
needs_renderer = pytest.mark.skipif(not can_render, reason="needs the extra [render] and the furniture package in runs/scene_sources")


def scene(**changes):
    fields = dict(seed=1, cls="sofa", model=0, colour="red", yaw=0.2, x=0.1, z=0.0, scale=1.0, elevation=18.0)
    return Scene(**{**fields, "setting": "apartment", "ground": "wood", "light_rotation": 30.0, **changes})


def test_caption_reads_as_in_the_data_card():
    assert caption(scene(extra="teddy bear")) == "a photo of a red sofa and a teddy bear on a wooden floor in an apartment"
    assert caption(scene(style="oil painting", setting="night", ground="snow")) == "an oil painting of a red sofa on snow at night"


@pytest.mark.parametrize(
    "change, sentence",
    [
        (dict(cls="zebra"), "cls must be one of teddy bear, .*'zebra'"),
        (dict(model=7), "model must be one of 0, 1, 2, got 7"),
        (dict(colour=None), "colour must be one of red, .*None"),
        (dict(cls="dog"), "colour must be one of None, got 'red'"),
        (dict(elevation=80.0), r"elevation must lie in \[5, 35\], got 80.0"),
        (dict(extra="sofa"), "extra must be one of None, basketball"),
        (dict(x=float("nan")), "x must lie in"),
    ],
)
def test_a_bad_record_is_refused_in_one_sentence(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        scene(**change)


def test_splits_have_their_counts_records_and_pictures():
    for split, count in COUNTS.items():
        scenes = load_scenes(split)
        assert len(scenes) == count == len(scenes.images)
        assert scenes.images.shape[1:] == (64, 64, 3) and scenes.images.dtype == np.uint8
        assert scenes.images.reshape(count, -1).std(axis=1).min() > 2  # no blank picture
        assert len({image.tobytes() for image in scenes.images}) == count  # no two alike


def test_stored_records_are_what_the_sampler_draws_and_captions_follow_from_them():
    for split in COUNTS:
        for i, record in enumerate(load_scenes(split).records[:200]):
            drawn = sample_scene(FIRST_SEED[split] + i, held_out=split == "compositional")
            assert {**drawn.to_dict(), "id": f"{split}-{i:06d}", "caption": caption(drawn)} == record


def test_held_out_pairs_occur_in_the_compositional_test_alone():
    held = {split: {is_held_out(r["cls"], r["ground"]) for r in load_scenes(split).records} for split in COUNTS}
    assert held == {"train": {False}, "test": {False}, "compositional": {True}}
    records = load_scenes("train").records
    held_pairs = {(r["cls"], r["ground"]) for r in load_scenes("compositional").records}
    assert {c for c, _ in held_pairs} <= {r["cls"] for r in records} and {g for _, g in held_pairs} <= {r["ground"] for r in records}


def test_every_class_ground_and_setting_is_well_represented_in_training():
    records = load_scenes("train").records
    for field, words in (("cls", CLASSES), ("ground", GROUNDS), ("setting", SETTINGS)):
        for word in words:
            assert sum(r[field] == word for r in records) > 200, word


def test_edit_pairs_differ_in_the_named_field_alone():
    field_of = {"replace": {"cls", "model", "colour"}, "add": {"extra"}, "recolour": {"colour"}}
    pairs = load_pairs("edits")
    for pair in pairs:
        source, target = pair.record["source"], pair.record["target"]
        changed = {name for name in source if source[name] != target[name]}
        edit = pair.record["edit"]
        assert changed and changed <= field_of.get(edit, {edit}), pair.record["id"]
        assert not is_held_out(target["cls"], target["ground"])
        assert target["ground"] in GROUNDS_OF[target["setting"]]
        assert pair.record["target_caption"] == caption(Scene(**target)) != pair.record["source_caption"]
    assert all(sum(p.record["edit"] == edit for p in pairs) >= 60 for edit in EDITS)


def test_edits_change_the_picture_inside_their_mask_and_hardly_outside():
    for pair in load_pairs("edits"):
        difference = np.abs(pair.source.astype(float) - pair.target.astype(float)).mean(-1)
        assert difference[pair.mask].mean() > 1, pair.record["id"]
        if pair.record["edit"] in ("recolour", "add") and (~pair.mask).any():
            assert difference[pair.mask].mean() > 2 * difference[~pair.mask].mean(), pair.record["id"]


def test_drag_points_lie_on_the_object_in_both_views_and_move():
    pairs = load_pairs("drags")
    assert len(pairs) >= 100
    for pair in pairs:
        handles, targets = np.array(pair.record["handles"]), np.array(pair.record["targets"])
        assert handles.shape == targets.shape and 3 <= len(handles) <= 6
        for points in (handles, targets):
            assert (points >= 2).all() and (points <= 62).all()
            columns, rows = points.astype(int).T
            assert pair.mask[rows, columns].all()
        assert np.linalg.norm(handles - targets, axis=1).max() > 0.5


def test_a_damaged_shard_is_named(tmp_path, monkeypatch):
    for name in ("card.json", "test.jsonl.gz"):
        (tmp_path / name).write_bytes((paths.SCENES / name).read_bytes())
    with (tmp_path / "test.jsonl.gz").open("r+b") as file:
        file.seek(100)
        file.write(b"\0\0\0\0")
    monkeypatch.setattr(paths, "SCENES", tmp_path)
    with pytest.raises(ValueError, match=r"test\.jsonl\.gz is damaged or not the file that card\.json records"):
        scene_file("test.jsonl.gz")
    with pytest.raises(FileNotFoundError, match="is missing"):
        scene_file("test-00.tar")


def test_every_model_used_has_a_creator_and_licence_on_record():
    lines = (paths.SCENES / "models.csv").read_text().splitlines()[1:]
    listed = {line.split(",")[0] for line in lines}
    assert listed == {key for keys in CLASSES.values() for key in keys} | set(EXTRAS.values())
    assert all(line.rsplit(",", 1)[1] in ("CC0 1.0", "CC BY 3.0") and '""' not in line for line in lines)
    notice = (paths.ROOT / "NOTICE").read_text()
    assert all(key in notice for key in listed)


def test_every_caption_of_the_world_is_made_of_whole_word_tokens():
    tokenizer = mini.build_tokenizer()
    captions = load_scenes("train").captions + load_scenes("compositional").captions
    words = sorted({word for text in captions for word in text.split()})
    lengths = {word: len(tokenizer(word).input_ids) - 2 for word in words}
    assert set(lengths.values()) == {1}
    assert max(len(text.split()) for text in captions) + 2 <= mini.MAX_TOKENS
    encoded = tokenizer("a photo of a red sofa").input_ids
    assert tokenizer.decode(encoded, skip_special_tokens=True).strip() == "a photo of a red sofa"


@needs_renderer
def test_the_same_record_renders_the_same_pixels_and_equals_the_shipped_picture():
    from companion.world.render import render

    drawn = sample_scene(FIRST_SEED["test"] + 3)
    first, second = render(drawn).image, render(drawn).image
    assert np.array_equal(first, second)
    decoded = np.array(Image.open(io.BytesIO(encode(first, quality=QUALITY))))
    assert np.array_equal(decoded, load_scenes("test").images[3])


@needs_renderer
def test_recolouring_changes_most_of_the_object():
    from companion.world.render import render

    for cls in ("car", "chair", "sofa"):
        for model in range(3):
            red = render(scene(cls=cls, model=model, colour="red"), geometry=True)
            blue = render(scene(cls=cls, model=model, colour="blue"), geometry=True)
            change = np.abs(red.image.astype(float) - blue.image.astype(float)).max(-1) > 30
            assert change[red.objects == 1].mean() > 0.35, (cls, model)


def test_stored_pairs_are_what_the_generator_draws():
    drawn = {pair.id: pair.to_dict() for pair in [*edit_pairs(), *drag_pairs()]}
    for pair in load_pairs("edits") + load_pairs("drags"):
        wanted = drawn[pair.record["id"]]
        assert {name: pair.record[name] for name in wanted} == wanted


def test_the_edit_is_independent_of_the_scene_that_it_edits():
    """No target value dominates, overall or within a class: an edit drawn from the scene's own random stream would be a function of it."""
    pairs = [pair.record for pair in load_pairs("edits")]
    for edit, field in (("add", "extra"), ("recolour", "colour"), ("style", "style"), ("replace", "cls")):
        values = [record["target"][field] for record in pairs if record["edit"] == edit]
        assert max(values.count(value) for value in set(values)) <= 0.4 * len(values), edit
    moves = [p.record["target"]["x"] - p.record["source"]["x"] for p in load_pairs("drags") if p.record["edit"] == "move"]
    turns = [p.record["target"]["yaw"] - p.record["source"]["yaw"] for p in load_pairs("drags") if p.record["edit"] == "turn"]
    for amounts in (moves, turns):
        assert 0.3 <= np.mean(np.array(amounts) > 0) <= 0.7
