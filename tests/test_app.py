"""What the local app refuses, in one sentence each, before any work: requests and pictures."""

import io

import numpy as np
import pytest
import torch
from asking import DRAG, EDIT, GREY, RECONSTRUCT, WALK, tiny_models
from PIL import Image
from tiny import IMAGE_SIZE

from companion.app.compute import noise
from companion.app.examples import runs_of_mask
from companion.app.line import one_sentence
from companion.app.pictures import MAX_BYTES, MAX_PIXELS, read_upload, shown_name
from companion.app.requests import mask_of_runs, prepared
from companion.data.pictures import PictureError


@pytest.fixture(scope="module")
def models():
    return tiny_models()


def file_of(width=8, height=8, kind="png"):
    content = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(content, format=kind)
    return content.getvalue()


# Requests -------------------------------------------------------------------------------------------------------------------------

REFUSED = [
    (WALK | {"kind": "dance"}, "kind is 'dance'"),
    (WALK | {"frames": 2}, "frames is 2, but must be"),
    (WALK | {"frames": "many"}, "frames is 'many', but must be"),
    (WALK | {"first_prompt": " "}, "first_prompt is ' ', but must be a text"),
    (WALK | {"first_prompt": "dog " * 200}, "first_prompt has .* tokens"),
    (WALK | {"guidance_scale": float("nan")}, "guidance_scale is nan"),
    (WALK | {"speed": 3}, "speed is unknown"),
    (WALK | {"between": "pictures"}, "first is empty, but must be a picture"),
    (WALK | {"between": "pictures", "guidance_scale": 1}, "guidance_scale must differ from 1"),
    (RECONSTRUCT | {"picture": None}, "picture is empty, but must be a picture"),
    (RECONSTRUCT | {"picture": "another"}, "picture is empty, but must be a picture"),
    (RECONSTRUCT | {"inversion": "null_text", "guidance_scale": 1}, "guidance_scale must differ from 1"),
    (EDIT | {"method": "magic"}, "method is 'magic', but must be"),
    (EDIT | {"strength": 3}, "strength is 3"),
    (EDIT | {"target_prompt": ""}, "target_prompt is ''"),
    (DRAG | {"handles": [], "targets": []}, "handles is empty"),
    (DRAG | {"targets": []}, "targets of image 0 has shape"),
    (DRAG | {"handles": [[4, 999]]}, "must lie in the picture"),
    (DRAG | {"handles": [[4, 4], [4, 4]], "targets": [[8, 8], [9, 9]]}, "one place twice"),
    (DRAG | {"handles": [["x", 4]]}, "handles is .*, but must be a list of at most 32 points"),
    (DRAG | {"handles": [[i, 1] for i in range(33)]}, "but must be a list of at most 32 points"),
    (DRAG | {"mask": [-1, 7]}, "mask is .*, but must be the lengths of a mask's runs"),
    (DRAG | {"mask": [3]}, "mask has 3 pixels, but must have"),
    (DRAG | {"mask": [IMAGE_SIZE**2]}, "masks is empty"),
    (DRAG | {"mask": [0, 1, IMAGE_SIZE**2 - 1]}, "must lie in the mask"),
    (DRAG | {"strength": 0}, "strength is 0"),
    (DRAG | {"iterations": 100_000}, "iterations is 100000"),
]


@pytest.mark.parametrize(("request_", "sentence"), REFUSED, ids=[sentence for _, sentence in REFUSED])
def test_what_cannot_be_done_is_refused_before_it_joins_the_line(models, request_, sentence):
    with pytest.raises(ValueError, match=sentence) as refused:
        prepared(request_, {"p": GREY}, models)
    assert "\n" not in one_sentence(refused.value) and one_sentence(refused.value).endswith((".", "?"))


def test_a_request_must_be_an_object(models):
    with pytest.raises(ValueError, match="request is a list"):
        prepared([1], {}, models)


def test_masks_travel_as_runs():
    mask = np.random.default_rng(0).random((7, 5)) < 0.5
    for one in (mask, ~mask, np.ones_like(mask), np.zeros_like(mask)):
        assert np.array_equal(mask_of_runs(tuple(runs_of_mask(one)), one.shape).numpy(), one)


# Pictures -------------------------------------------------------------------------------------------------------------------------


def test_pictures_become_the_square_that_the_model_sees():
    assert read_upload(file_of(40, 20), "a.png", 16).shape == (16, 16, 3)
    assert np.ptp(read_upload(file_of(kind="webp"), "a.webp", 16)) >= 0


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "a.png cannot be read, but must be a picture in PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a.png cannot be read"),
        (file_of(300, 300)[:200], "a.png cannot be read"),
        (file_of(MAX_PIXELS // 1000, 1001), "a.png has 25000 x 1001 pixels, but must have at most 25,000,000"),
        (bytes(MAX_BYTES + 1), "a.png has 10.0 MB, but must have at most 10 MB"),
    ],
    ids=["empty", "postscript", "cut off", "pixels", "bytes"],
)
def test_what_is_no_picture_is_refused_and_leaves_no_file(content, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(PictureError, match=sentence):
        read_upload(content, "folder/a.png", 16)
    assert not list(tmp_path.iterdir())


def test_names_are_shown_without_folders_and_control_signs():
    assert shown_name("C:\\x\\a\nb.png") == "ab.png" and shown_name("") == "the file" and len(shown_name("x" * 999)) == 80


def test_noise_is_that_of_the_seed(models):
    pipe = models.sides[0].pipe
    assert torch.equal(noise(pipe, IMAGE_SIZE, 3), noise(pipe, IMAGE_SIZE, 3))
    assert not torch.equal(noise(pipe, IMAGE_SIZE, 3), noise(pipe, IMAGE_SIZE, 4))
