"""Points found again by features: known translations, and the embedded model's own features on a picture that is moved."""

import pytest
import torch
from tiny import noise, smooth_tiny_pipeline

from companion.data.load import load_pairs, to_tensor
from companion.weights.pipelines import load_pipeline
from smoothlib.editing.point_tracking import resized
from smoothlib.metrics.drags import found_again, semantic_features


@pytest.mark.parametrize("shift", [(0, 0), (5, -3)])
def test_a_translation_of_the_features_is_found_to_a_pixel(shift):
    x, y = shift
    before = resized(noise(2, 8, 8, 8), (32, 32))
    after = torch.roll(before, (y, x), dims=(2, 3))
    points = torch.tensor([[[10.5, 20.5], [12.0, 9.0]], [[16.2, 16.8], [20.0, 12.0]]])
    found = found_again(before, after, points, (32, 32))
    assert ((found.points - points - torch.tensor([x, y])).abs() <= 0.75).all()  # to the centre of the nearest pixel
    assert (found.similarity > 0.95).all()


def test_points_are_pixels_whatever_grid_the_features_have():
    before = noise(1, 8, 8, 8)
    point = torch.tensor([[[18.0, 42.0]]])  # the centre of the cell (4, 10) of a grid of 16 ... and of none of 8
    found = found_again(before, before, point, (64, 64))
    assert (found.points - point).abs().max() <= 1


def test_the_embedded_models_features_follow_an_object():
    """A picture against itself moved by eight pixels: nearer than not looking at all."""
    pipe, pair = load_pipeline("mini"), load_pairs("drags")[1]
    image = to_tensor(pair.source)[None]
    moved = torch.roll(image, 8, dims=3)
    features = semantic_features(pipe, torch.cat([image, moved]), [pair.record["source_caption"]] * 2, noises=2)
    points = torch.tensor(pair.record["handles"])[None]
    found = found_again(features[:1], features[1:], points, (64, 64))
    assert (found.points - points - torch.tensor([8.0, 0.0])).norm(dim=-1).median() < 4


def test_features_do_not_depend_on_the_batch():
    pipe, images = smooth_tiny_pipeline(), noise(2, 3, 16, 16).clamp(-1, 1)
    both = semantic_features(pipe, images, ["a red car", "a dog"], noises=2)
    assert torch.allclose(both[1:], semantic_features(pipe, images[1:], ["a dog"], noises=2), atol=1e-4)
