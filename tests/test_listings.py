"""Captions from files that others write: COCO's annotations and metadata.jsonl, read as they are or refused in one sentence."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny import assert_one_sentence

from companion.data import load as datasets
from companion.data.coco import CocoSplit
from companion.data.listings import ListingError, inside, json_lines, read_text
from companion.data.load import load_items, load_scenes, load_split
from companion.data.pictures import PictureError

IMAGE = {"id": 1, "file_name": "a.png"}
CAPTION = {"id": 1, "image_id": 1, "caption": "a cat"}


def coco(folder, images=(IMAGE,), annotations=(CAPTION,), content=None):
    """A folder in COCO's layout with one picture, a.png; `content` in place of the annotation file."""
    (folder / "annotations").mkdir()
    (folder / "val").mkdir()
    Image.new("RGB", (30, 20), (255, 0, 0)).save(folder / "val" / "a.png")
    content = json.dumps({"images": images, "annotations": annotations}) if content is None else content
    (folder / "annotations" / "captions_val.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(folder)


BOX = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 1]}
REFUSED = {
    "objects": (
        dict(annotations=[BOX]),
        r"annotations\[0\] of .* has only id, image_id, category_id, bbox, but must have a text as caption",
    ),
    "no annotations": (dict(content=json.dumps({"images": [IMAGE]})), "must hold a list of annotations, .* but has none"),
    "no images": (dict(content=json.dumps({"annotations": [CAPTION]})), "must hold a list of images, .* but has none"),
    "images of another kind": (dict(images=["a.png"]), "must hold a list of images, .* but has something else"),
    "null": (dict(annotations=[CAPTION | {"caption": None}]), r"annotations\[0\] of .* has the caption None"),
    "no id": (dict(annotations=[{"image_id": 1, "caption": "a"}]), r"annotations\[0\] of .* has the id None, but must have a whole number"),
    "no image's id": (dict(images=[{"file_name": "a.png"}]), r"images\[0\] of .* has the id None, but must have the number of an image"),
    "texts on one side": (dict(annotations=[CAPTION | {"image_id": "1"}]), "has the image ids 1 and '1', but all must be numbers"),
    "two kinds": (dict(images=[IMAGE, IMAGE | {"id": "x"}]), "has the image ids 1 and 'x', but all must be numbers, or all texts"),
    "an image's id twice": (dict(images=[IMAGE, {"id": 1, "file_name": "b.png"}]), "has two images of the id 1, but ids must differ"),
    "a caption's id twice": (dict(annotations=[CAPTION, CAPTION]), "has two annotations of the id 1, but ids must differ"),
    "other images": (dict(annotations=[CAPTION | {"image_id": 2}]), "has 1 images and 1 captions, but no image with a caption"),
    "empty": (dict(annotations=[CAPTION | {"caption": " \n"}]), "has an empty caption for the image of the id 1, and no other"),
    "a list": (dict(content="[]"), "holds a list, but must hold images and annotations"),
    "cut off": (dict(content='{"images": [{"id": 1,'), "is not JSON: Expecting property name .* in line 1"),
    "nested": (dict(content="[" * 100_000), "is nested too deeply"),
    "latin-1": (dict(content='{"caption": "é"}'.encode("latin-1")), r"has another encoding \(byte 13 is 0xe9\), but must be UTF-8"),
    "utf-16": (dict(content="{}".encode("utf-16")), "is UTF-16, but must be UTF-8"),
    "upwards": (dict(images=[IMAGE | {"file_name": "../val/a.png"}]), r"images\[0\] of .* has the file_name '../val/a.png', .* inside the"),
    "absolute": (dict(images=[IMAGE | {"file_name": "/tmp/a.png"}]), "has the file_name '/tmp/a.png', but must name a picture inside"),
    "no name": (dict(images=[{"id": 1}]), "has the file_name None, but must name a picture"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_annotation_files_are_refused_by_name(tmp_path, kind):
    content, sentence = REFUSED[kind]
    with pytest.raises(ListingError, match=sentence) as raised:
        load_items(coco(tmp_path, **content), "val", 1)
    assert "captions_val.json" in str(raised.value)
    assert_one_sentence(raised)


def test_the_caption_is_the_first_with_words_and_ids_may_be_texts(tmp_path):
    annotations = [(12, "third"), (3, "  "), (4, " second\nwith  spaces"), (10, "tenth")]
    entries = [{"id": number, "image_id": "x", "caption": caption} for number, caption in annotations]
    content = "\ufeff" + json.dumps({"images": [IMAGE | {"id": "x"}, {"id": "w", "file_name": "absent.png"}], "annotations": entries})
    (item,) = load_items(coco(tmp_path, content=content), "val", 1, size=8)
    assert (item.id, item.caption, item.image.shape) == ("x", "second with spaces", (3, 8, 8))


def test_images_get_the_models_size(tmp_path):
    folder = coco(tmp_path)
    assert load_items(folder, "val", 1)[0].image.shape == (3, 512, 512)  # the paper's
    assert load_items(folder, "val", 1, size="mini")[0].image.shape == (3, 64, 64)
    assert load_items(folder, "val", 1, size=24)[0].image.shape == (3, 24, 24)
    scenes = load_split("scenes", "compositional", size="mini")
    assert scenes is load_scenes("compositional")  # of that size already
    half = load_split("scenes", "compositional", size=32)
    assert len(half) == len(scenes) and half.records == scenes.records and half.item(3).caption == scenes.item(3).caption
    averaged = scenes.item(3).image.unflatten(1, (32, 2)).unflatten(3, (32, 2)).mean((2, 4))
    assert half.item(3).image.shape == (3, 32, 32) and (half.item(3).image - averaged).abs().mean() < 0.05
    for size in (0, 7, True, 64.0):
        with pytest.raises(ValueError, match=f"^size is {size!r}, but must be a number of pixels of at least 8, or a model$"):
            load_split("scenes", "compositional", size=size)


def test_a_missing_dataset_is_named_before_a_model_is_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="COCO is not in"):
        load_split(str(tmp_path), "val", size="no-such-model")


def test_the_item_of_a_missing_picture_names_it(tmp_path):
    coco(tmp_path, images=[IMAGE | {"file_name": "b.png"}])
    split = CocoSplit(tmp_path, "val")
    with pytest.raises(PictureError, match=r"b\.png cannot be read: No such file"):
        split.item(0)


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path):
    coco(tmp_path, images=[IMAGE | {"file_name": "b.png"}])
    (tmp_path / "val" / "a.png").rename(tmp_path / "outside.png")
    (tmp_path / "val" / "b.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(ListingError, match=r"captions_val\.json names 'b\.png', a link that leads out of the folder"):
        CocoSplit(tmp_path, "val")


def test_true_is_no_number_of_images():
    with pytest.raises(ValueError, match=r"limit must lie in \[1, 1000\] .*, got True"):
        load_items(limit=True)


@pytest.mark.parametrize("seed", [None, -1, 1.0, "0", True])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(ValueError, match=r"^seed is .*, but must be a whole number of at least 0$"):
        datasets.seeded_choice(10, 3, seed)
    assert datasets.seeded_choice(10, 3, np.int64(0)) == datasets.seeded_choice(10, 3, 0)


def test_only_a_newline_ends_a_line(tmp_path):
    file = tmp_path / "metadata.jsonl"
    texts = [f"first{character}second" for character in "\u2028\u2029\u0085\x1c\x0b"]
    for end, mark in (("\n", ""), ("\r\n", "\ufeff"), ("\n\n", "")):
        file.write_bytes((mark + end.join(json.dumps(text, ensure_ascii=False) for text in texts) + end).encode())
        assert [value for _, value in json_lines(file)] == texts
    file.write_text('"a"\n\n{"b"')
    with pytest.raises(ListingError, match=r"line 3 of .*metadata\.jsonl is not JSON"):
        json_lines(file)
    file.write_bytes(b"\xff")
    with pytest.raises(ListingError, match=r"metadata\.jsonl has another encoding"):
        read_text(file)


@pytest.mark.parametrize(
    "name", ["../a.png", "x/../../a.png", "..\\a.png", "/a.png", "C:\\a.png", "C:a.png", "\\\\host\\a.png", "", " ", 5, "a\0"]
)
def test_names_that_lead_out_of_the_folder_are_refused(name):
    with pytest.raises(ListingError, match=r"^here has the file_name .*, but must name a picture"):
        inside(name, "here")


def test_names_inside_the_folder_are_taken():
    for name in ("a.png", "train/0..1.png", "..a.png", "é ü.jpg"):
        assert inside(name, "here") == name
