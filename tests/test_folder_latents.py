"""A folder of pictures to train on: looked at before the first step, the same folder known again, bad pictures named or left out."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import assert_one_sentence, ship_tiny_pipeline

from companion.base import paths
from companion.training.objectives.denoising import DenoisingObjective
from companion.training.objectives.latents import FolderLatents

NAMES = ("a.png", "b.png", "c.png")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, name in enumerate(NAMES):
        Image.new("RGB", (16, 16), (60 * i, 0, 0)).save(photos / name)
    listed(photos, *({"file_name": name, "text": f"text of {name}"} for name in NAMES))
    return photos


def listed(folder, *entries):
    (folder / "metadata.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def test_a_bad_picture_ends_the_training_at_its_start(folder):
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:50])
    with pytest.raises(ValueError, match=r"1 of 3 images of .*metadata\.jsonl cannot be used: .*b\.png .*bad_images=skip") as raised:
        DenoisingObjective(pipeline="no-such-model", trainable="lora", data=str(folder), resolution=16)  # before a model is looked for
    assert_one_sentence(raised)


def test_bad_pictures_are_left_out_and_counted_where_the_setting_says_so(folder, monkeypatch):
    ship_tiny_pipeline(folder.parent / "models", monkeypatch)
    whole = FolderLatents(None, folder, 16)
    (folder / "b.png").write_bytes(b"<html>")
    (folder / "c.png").unlink()
    with pytest.warns(UserWarning, match=r"2 of 3 images of .* cannot be used: .*b\.png is no picture.*; they are left out"):
        objective = DenoisingObjective(pipeline="mini", trainable="lora", data=str(folder), resolution=16, bad_images="skip")
    examples = objective.examples
    assert len(objective) == len(examples) == 1 and examples.skipped == 2 and examples.captions == ["text of a.png"]
    assert examples.identity() != whole.identity()
    with pytest.warns(UserWarning, match="left out"):
        own = DenoisingObjective(pipeline="mini", trainable="lora", data=str(folder), bad_images="skip").examples
    assert own.resolution == 16 and own.identity() == examples.identity()  # the model's own size, where none is named
    mean, std = examples.posterior(torch.tensor([0, 0]), torch.tensor([False, True]))
    assert mean.shape == (2, *examples.shape) and torch.isfinite(mean).all() and torch.isfinite(std).all()
    (folder / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"3 of 3 images of .* cannot be used"):
        FolderLatents(None, folder, 16, bad_images="skip")
    with pytest.raises(ValueError, match="bad_images must be one of error, skip, got 'ignore'"):
        FolderLatents(None, folder, 16, bad_images="ignore")


def test_the_identity_is_that_of_captions_contents_and_size(folder):
    def bmp(colour):
        Image.new("RGB", (32, 32), colour).save(folder / "a.bmp")

    bmp("red")
    listed(folder, {"file_name": "a.bmp", "text": "a colour"})
    first = FolderLatents(None, folder, 32).identity()
    assert FolderLatents(None, folder, 32).identity() == first != FolderLatents(None, folder, 16).identity()
    bmp("blue")  # as many bytes
    assert FolderLatents(None, folder, 32).identity() != first
    bmp("red")
    listed(folder, {"text": "a colour", "file_name": "a.bmp", "more": 1})  # the listing's other contents are not learned from
    assert FolderLatents(None, folder, 32).identity() == first
    listed(folder, {"file_name": "a.bmp", "text": "another"})
    assert FolderLatents(None, folder, 32).identity() != first


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"file_name": "a.png", "text": " "}, r"line 1 of .*metadata\.jsonl must give a\.png a caption, but its text is empty"),
        ({"file_name": "a.png"}, r"line 1 of .*metadata\.jsonl must give an existing image's file_name and its caption as text"),
        ({"file_name": "a.png", "text": 5}, "and its caption as text, got"),
        ({"file_name": "d.png", "text": "a"}, r"but there is no .*d\.png"),
        ({"file_name": "../photos/a.png", "text": "a"}, "has the file_name '../photos/a.png', but must name a picture inside the folder"),
        (["a.png", "a"], "and its caption as text, got"),
    ],
)
def test_lines_that_are_no_captioned_picture_are_named(folder, entry, sentence):
    listed(folder, entry)
    with pytest.raises(ValueError, match=sentence):
        FolderLatents(None, folder, 16)


def test_training_and_tables_read_a_picture_alike(folder):
    from companion.data.load import load_items

    noise = np.random.default_rng(0).integers(0, 255, (40, 64, 4), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "a.png")
    listing = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"id": 1, "image_id": 1, "caption": "noise"}]}
    (folder.parent / "annotations").mkdir()
    (folder.parent / "annotations" / "captions_photos.json").write_text(json.dumps(listing))
    (item,) = load_items(str(folder.parent), "photos", 1, size=24)
    assert torch.equal(item.image, FolderLatents(None, folder, 24).picture(0))
