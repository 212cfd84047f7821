"""Pixels: the two directions undo each other, round to nearest, and refuse what is no picture."""

import numpy as np
import pytest
import torch

from companion.data.load import to_tensor
from smoothlib.pixels import from_uint8, to_uint8

LEVELS = torch.arange(256, dtype=torch.uint8)


def test_every_level_survives_the_way_to_floats_and_back():
    images = from_uint8(LEVELS)
    assert images.dtype == torch.float32 and images[0] == -1 and images[255] == 1
    torch.testing.assert_close(images.diff(), torch.full((255,), 2 / 255), rtol=0, atol=1e-6)
    assert torch.equal(to_uint8(images), LEVELS)
    assert torch.equal(to_uint8(images.double()), LEVELS)


def test_floats_go_to_the_nearest_level_and_stay_in_range():
    near = torch.cat([from_uint8(LEVELS) - 0.49 * 2 / 255, from_uint8(LEVELS) + 0.49 * 2 / 255])  # ends reach over -1 and 1
    assert torch.equal(to_uint8(near), torch.cat([LEVELS, LEVELS]))
    assert to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_arrays_of_any_layout_equal_tensors():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    pixels.flags.writeable = False
    for array in (pixels, pixels[::-1], pixels.transpose(2, 0, 1), pixels[:, ::2]):
        assert torch.equal(from_uint8(array), from_uint8(torch.tensor(array.copy())))
    image = to_tensor(pixels)
    assert image.shape == (3, 5, 4) and torch.equal(to_uint8(image), torch.tensor(pixels.copy()).permute(2, 0, 1))


@pytest.mark.parametrize("pixels", [np.zeros((3, 2, 2)), torch.zeros(3, 2, 2), np.zeros((3, 2, 2), np.int64)])
def test_floats_are_not_taken_for_pixels(pixels):
    with pytest.raises(ValueError, match=r"^pixels must be uint8, not torch\.(float64|float32|int64)$"):
        from_uint8(pixels)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (LEVELS, r"not torch\.uint8 from 0 to 255"),
        (torch.tensor([0.5, float("nan")]), "from nan to nan"),
        (torch.tensor([0.5, float("inf")]), "from 0.5 to inf"),
    ],
)
def test_what_is_no_image_is_refused(images, sentence):
    with pytest.raises(ValueError, match=rf"^images must be finite floats in \[-1, 1\], .*{sentence}$"):
        to_uint8(images)
