"""Edits as items: the embedded pairs, PIE-Bench's published layout and a folder with a prompts file, read whole or refused."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import assert_one_sentence

from companion.data.edit_folders import FolderEdits, PieBench, decoded_mask
from companion.data.edits import half, half_of, load_edits
from companion.data.listings import ListingError
from companion.data.load import load_pairs
from companion.data.pictures import PictureError

ENTRY = {
    "image_path": "1_change_object_80/1_artificial/1.png",
    "original_prompt": "a [round]  cake on a table",
    "editing_prompt": "a [square] cake on a [wooden] table",
    "editing_instruction": "make it square",
    "editing_type_id": "1",
    "blended_word": "cake cake",
    "mask": [0, 2, 512 * 256, 512 * 256 + 7],  # two pixels, and the lower half with a run that leads over the end
}
LINE = {"file_name": "a.png", "source_prompt": "a cat", "target_prompt": "a dog"}


def picture(file, size=(24, 16), value=200):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 40, 40)).save(file)


def pie_bench(folder, size=(32, 32), **changes):
    picture(folder / "annotation_images" / ENTRY["image_path"], size)
    (folder / "mapping_file.json").write_text(json.dumps({"000000000004": ENTRY | changes, "111000000001": ENTRY}))
    return folder


def prompts(folder, *lines):
    picture(folder / "a.png")
    (folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


# The embedded pairs ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes():
    return load_edits()


def test_the_pairs_are_items_with_their_truth_mask_and_records(scenes):
    pairs = load_pairs("edits")
    assert len(scenes) == len(pairs) == 396
    for index in (0, 100, 395):
        item, pair = scenes.item(index), pairs[index]
        for image, stored in ((item.source, pair.source), (item.target, pair.target)):
            assert torch.equal(((image + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0), torch.from_numpy(stored))
        assert torch.equal(item.mask[0], torch.from_numpy(pair.mask)) and item.mask.shape == (1, 64, 64)
        assert (item.source_record, item.target_record) == (pair.record["source"], pair.record["target"])
        assert (item.id, item.kind) == (pair.record["id"], pair.record["edit"]) and item.target_caption == pair.record["target_caption"]


def test_what_has_no_outside_is_a_rule_of_the_kind(scenes):
    items = [scenes.item(index) for index in range(0, 396, 22)]
    assert {item.kind for item in items if not item.has_outside} == {"setting", "style"}
    assert all(item.mask.all() for item in items if not item.has_outside)
    assert not dataclasses.replace(items[0], mask=None).has_outside


def test_the_halves_share_nothing_and_each_kind_is_in_both(scenes):
    even, odd = half(scenes, "even"), half(scenes, "odd")
    assert sorted(even + odd) == list(range(396))
    kinds = [[scenes.records[i]["kind"] for i in part] for part in (even, odd)]
    assert all(part.count(kind) == 33 for part in kinds for kind in set(kinds[0]))
    assert [half_of(name) for name in ("replace-000", "style-017", "000000000012", "111000000001")] == ["even", "odd", "even", "odd"]
    assert half_of("a cat") == half_of("a cat") and {half_of(c) for c in "abcdefghij"} == {"even", "odd"}
    with pytest.raises(ValueError, match="which is 'both', but must be one of even, odd"):
        half(scenes, "both")


def test_the_key_is_the_content_and_not_the_id(scenes):
    item, again = scenes.item(3), scenes.item(3)
    assert item.key == again.key == dataclasses.replace(item, id="another").key
    changed = [
        {"target_caption": "a photo of a dog"},
        {"kind": "add"},
        {"source": item.source + 1e-6},
        {"target": None},
        {"mask": ~item.mask},
        {"source_record": None},
        {"blend_words": ("cake",)},
    ]
    keys = {dataclasses.replace(item, **change).key for change in changed}
    assert len(keys | {item.key}) == len(changed) + 1


def test_pairs_at_another_size_average_pictures_and_masks(scenes):
    small, item = load_edits(size=32).item(5), scenes.item(5)
    assert small.source.shape == small.target.shape == (3, 32, 32) and small.mask.shape == (1, 32, 32) and small.mask.dtype == torch.bool
    assert small.mask.float().mean().item() == pytest.approx(item.mask.float().mean().item(), abs=0.02)
    assert small.key != item.key


# PIE-Bench ------------------------------------------------------------------------------------------------------------------------


def test_the_published_layout_is_read(tmp_path):
    edits = load_edits(pie_bench(tmp_path), size=64)
    item = edits.item(0)
    assert (item.id, item.kind, len(edits)) == ("000000000004", "change object", 2)
    assert (item.source_caption, item.target_caption) == ("a round cake on a table", "a square cake on a wooden table")
    assert item.marked == (("round",), ("square", "wooden")) and item.blend_words == ("cake", "cake")
    assert item.source.shape == (3, 64, 64) and item.target is None and item.source_record is None
    assert item.mask[0, 32:].all() and not item.mask[0, :31].any()  # the two pixels are less than half of one
    assert [half_of(record["id"]) for record in edits.records] == ["even", "odd"]
    assert load_edits(tmp_path).item(0).mask.shape == (1, 512, 512)


def test_runs_are_pairs_of_start_and_length_in_row_order():
    mask = decoded_mask([1, 2, 9, 100], side=4)
    assert mask.astype(int).tolist() == [[0, 1, 1, 0], [0, 0, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1]]
    assert not decoded_mask([], side=4).any() and not decoded_mask([3, 0], side=4).any()


def test_an_edit_without_runs_has_no_mask(tmp_path):
    item = load_edits(pie_bench(tmp_path, mask=[], editing_type_id=9)).item(0)
    assert item.mask is None and item.kind == "change style" and not item.has_outside


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mask": [1, 2, 3]}, "pairs of start and length"),
        ({"mask": "1 2"}, "pairs of start and length"),
        ({"mask": [0, 1.5]}, "pairs of start and length"),
        ({"mask": [True, 2]}, "pairs of start and length"),
        ({"mask": [512 * 512, 1]}, "has a run of 1 pixels from 262144 in its mask, but must stay within 512 x 512"),
        ({"mask": [5, -1]}, "has a run of -1 pixels from 5"),
        ({"editing_type_id": "10"}, "has the editing_type_id '10', but must have a number from 0 to 9"),
        ({"editing_type_id": None}, "has the editing_type_id None"),
        ({"original_prompt": 3}, "has the original_prompt 3, but must have a text"),
        ({"editing_prompt": "[ ]"}, "has an empty editing_prompt, but must have a text"),
        ({"blended_word": ["a"]}, "has the blended_word"),
        ({"image_path": "../1.png"}, r"has the image_path '\.\./1\.png', but must name a picture inside the folder"),
        ({"image_path": "/etc/passwd"}, "must name a picture inside the folder"),
        ({"image_path": None}, "has the image_path None, but must name a picture"),
    ],
)
def test_an_entry_of_another_kind_is_refused_with_its_id(tmp_path, change, sentence):
    with pytest.raises(ListingError, match=rf"^the edit '000000000004' of .*mapping_file\.json .*{sentence}") as raised:
        load_edits(pie_bench(tmp_path, **change))
    assert_one_sentence(raised)


def test_what_is_not_pie_bench_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"PIE-Bench is not in .*annotation_images"):
        PieBench(tmp_path)
    folder = pie_bench(tmp_path)
    for content in ("[]", "{}", '{"1": 2}'):
        (folder / "mapping_file.json").write_text(content)
        with pytest.raises(ListingError, match=r"must (hold|be) an object"):
            load_edits(folder)
    with pytest.raises(FileNotFoundError, match=r"b\.png is missing, but .*mapping_file\.json names it"):
        load_edits(pie_bench(tmp_path, image_path="b.png"))
    wide = load_edits(pie_bench(tmp_path, size=(32, 30)))
    with pytest.raises(PictureError, match=r"1\.png is 32 x 30, but must be square as its mask is"):
        wide.item(0)


# A folder -------------------------------------------------------------------------------------------------------------------------


def test_a_folder_with_prompts_is_read(tmp_path):
    mask = np.zeros((16, 24, 3), np.uint8)
    mask[:, 12:] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    edits = load_edits(prompts(tmp_path, LINE | {"mask": "m.png"}, LINE | {"target_prompt": " a  snowman "}), size=32)
    first, second = edits.item(0), edits.item(1)
    assert (first.id, second.id, first.kind) == ("000-a", "001-a", "prompt")
    assert (second.source_caption, second.target_caption) == ("a cat", "a snowman")
    assert first.source.shape == (3, 32, 32) and first.target is None
    # the same square is cut out of picture and mask
    assert first.mask.shape == (1, 32, 32) and first.mask[..., 16:].all() and not first.mask[..., :16].any()
    assert first.has_outside and second.mask is None and not second.has_outside
    assert load_edits(tmp_path).item(0).source.shape == (3, 512, 512)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (LINE | {"maks": "m.png"}, "has the field 'maks', but must be an object of file_name, source_prompt, target_prompt, mask"),
        (["a.png"], r"has \['a.png'\], but must be an object"),
        (LINE | {"target_prompt": " "}, "has an empty target_prompt, but must have a text"),
        (LINE | {"source_prompt": None}, "has the source_prompt None, but must have a text"),
        (LINE | {"file_name": "../a.png"}, "has the file_name .*must name a picture inside the folder"),
        (LINE | {"mask": "..\\m.png"}, "has the mask .*must name a picture inside the folder"),
        (LINE | {"mask": 3}, "has the mask 3, but must name a picture"),
    ],
)
def test_a_line_of_another_kind_is_refused_with_its_number(tmp_path, line, sentence):
    with pytest.raises(ListingError, match=rf"^line 2 of .*prompts\.jsonl {sentence}") as raised:
        load_edits(prompts(tmp_path, LINE, line))
    assert_one_sentence(raised)


def test_a_folder_is_refused_before_a_picture_is_decoded(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"dataset is .*, but must be 'scenes', a folder with") as raised:
        load_edits(tmp_path)
    assert_one_sentence(raised)
    with pytest.raises(FileNotFoundError, match=r"prompts\.jsonl is missing"):
        FolderEdits(tmp_path)
    with pytest.raises(ListingError, match=r"prompts\.jsonl is empty, but must have a line for every edit"):
        load_edits(prompts(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"m\.png is missing, but .*prompts\.jsonl names it"):
        load_edits(prompts(tmp_path, LINE | {"mask": "m.png"}))
    with pytest.raises(ValueError, match="size is 5, but must be a number of pixels of at least 8, or a model"):
        load_edits(prompts(tmp_path, LINE), size=5)


def test_a_mask_has_the_size_of_its_picture(tmp_path):
    picture(tmp_path / "m.png", (24, 24))
    edits = load_edits(prompts(tmp_path, LINE | {"mask": "m.png"}))
    with pytest.raises(PictureError, match=r"m\.png is 24 x 24, but must be 24 x 16 as a\.png is"):
        edits.item(0)
    (tmp_path / "m.png").write_bytes(b"no picture")
    with pytest.raises(PictureError, match=r"m\.png is no picture of a format that Pillow knows"):
        edits.item(0)


def test_a_link_does_not_lead_out_of_the_folder(tmp_path):
    picture(tmp_path / "outside.png")
    folder = tmp_path / "inner"
    folder.mkdir()
    prompts(folder, LINE | {"file_name": "link.png"})
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(ListingError, match=r"names 'link\.png', but must name a picture inside the folder: a link leads out of it"):
        load_edits(folder)
