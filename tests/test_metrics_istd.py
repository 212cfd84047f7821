"""ISTD and its family: closed forms, a hand-computed walk, conventions, batching, merging, synchronisation, faults."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from companion.judges.networks import lpips_network
from smoothlib.metrics import LearnedPerceptualImagePatchSimilarity
from smoothlib.metrics.istd import (
    CONVENTIONS,
    Convention,
    InterpolationStandardDeviation,
    conversion_factor,
    lpips_step_distances,
    step_distances,
    step_statistics,
)

SIZE = (6, 4)  # (H, W): not square, so that neither can stand for the other


def flat_walk(*levels: float, size: tuple[int, int] = SIZE) -> Tensor:
    """A walk (1, F, 3, H, W) of uniform grey images."""
    return torch.tensor(levels)[None, :, None, None, None].expand(1, -1, 3, *size)


def random_walks(count: int, frames: int = 6, size: tuple[int, int] = SIZE, seed: int = 0) -> Tensor:
    return 2 * torch.rand(count, frames, 3, *size, generator=torch.Generator().manual_seed(seed)) - 1


def random_conventions() -> list[Convention]:
    return [Convention(*options) for options in itertools.product(("l2", "rms"), (1.0, 2.0, 255.0), (0, 1))]


def test_linear_walk_has_equal_known_distances_and_no_deviation():
    first, last = random_walks(2, frames=2, seed=1).double().unbind(1)  # (2, 3, H, W)
    eta = torch.linspace(0, 1, 11, dtype=torch.float64)[None, :, None, None, None]
    walks = (1 - eta) * first[:, None] + eta * last[:, None]
    expected = (last - first).flatten(1).norm(dim=1) / 2 / 10  # [-1, 1] is twice as wide as [0, 1]
    torch.testing.assert_close(step_distances(walks), expected[:, None].expand(2, 10), rtol=1e-12, atol=0)
    found = InterpolationStandardDeviation().per_prompt(walks)
    torch.testing.assert_close(found["mean_step"], expected, rtol=1e-12, atol=0)
    assert found["istd"].max() < 1e-12 and found["cv"].max() < 1e-12


def test_a_walk_computed_by_hand():
    """Grey levels 0, .1, .3, .6 of [0, 1]: root-mean-square steps .1, .2, .3; their variance is .02 / 3 (ddof 0)."""
    walk = 2 * flat_walk(0, 0.1, 0.3, 0.6) - 1
    root = math.sqrt(3 * 6 * 4)
    torch.testing.assert_close(step_distances(walk)[0], root * torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64), rtol=1e-6, atol=0)
    found = {name: value.item() for name, value in InterpolationStandardDeviation().per_prompt(walk).items()}
    assert found == pytest.approx({"istd": root * math.sqrt(0.02 / 3), "mean_step": root * 0.2, "cv": math.sqrt(0.02 / 3) / 0.2}, rel=1e-6)
    rms_bytes = InterpolationStandardDeviation(convention=Convention("rms", 255, ddof=1)).per_prompt(walk)
    assert rms_bytes["istd"].item() == pytest.approx(255 * 0.1, rel=1e-6)  # sqrt(.02 / 2) = .1
    assert rms_bytes["cv"].item() == pytest.approx(0.5, rel=1e-6)


def test_one_jump_has_the_largest_coefficient_of_variation_that_n_distances_allow():
    walk = flat_walk(-0.5, -0.5, -0.5, 0.5, 0.5, 0.5)  # n = 5
    assert InterpolationStandardDeviation().per_prompt(walk)["cv"].item() == pytest.approx(math.sqrt(5 - 1))
    walks = random_walks(20)
    assert (InterpolationStandardDeviation().per_prompt(walks)["cv"] < 2).all()


def test_a_model_that_merely_moves_less_has_a_lower_istd_but_the_same_cv():
    walks = random_walks(3).double()
    full, damped = (InterpolationStandardDeviation().per_prompt(x) for x in (walks, 0.3 * walks))
    for name, factor in (("istd", 0.3), ("mean_step", 0.3), ("cv", 1.0)):
        torch.testing.assert_close(damped[name], factor * full[name], rtol=1e-12, atol=0)


@pytest.mark.parametrize("target", random_conventions(), ids=str)
def test_conversion_equals_measuring_again(target):
    walks = random_walks(4, frames=5)
    for source in (Convention(), Convention("rms", 2.0, 1)):
        measured = {c: InterpolationStandardDeviation(convention=c).per_prompt(walks) for c in (source, target)}
        for quantity in ("istd", "mean_step", "cv"):
            factor = conversion_factor(source, target, image_size=SIZE, num_distances=4, quantity=quantity)
            torch.testing.assert_close(factor * measured[source][quantity], measured[target][quantity], rtol=1e-12, atol=0)


@pytest.mark.parametrize("value_range", [(0.0, 1.0), (0.0, 255.0), (-3.0, 5.0)])
def test_the_range_that_images_come_in_does_not_matter(value_range):
    low, high = value_range
    walks = random_walks(2).double()
    same = (walks + 1) / 2 * (high - low) + low
    torch.testing.assert_close(step_distances(same, value_range=value_range), step_distances(walks), rtol=1e-12, atol=0)


def test_float32_distances_keep_their_digits():
    """A sum of a million squares in float32 would lose digits: it is taken in float64."""
    walks = (random_walks(1, frames=3, size=(256, 256)) / 100 + 0.9).float()
    torch.testing.assert_close(step_distances(walks), step_distances(walks.double()), rtol=1e-6, atol=0)


def test_batches_single_walks_and_merged_parts_agree():
    walks = random_walks(5)
    at_once, one_by_one, part, rest = (InterpolationStandardDeviation() for _ in range(4))
    at_once.update(walks)
    for walk in walks.split(1):
        one_by_one.update(walk)
    part.update(walks[:2])
    rest.update(walks[2:])
    part.merge_state(rest)
    expected = InterpolationStandardDeviation().per_prompt(walks)
    for metric in (at_once, one_by_one, part):
        for name, value in metric.compute().items():
            torch.testing.assert_close(value, expected[name].mean(), rtol=1e-12, atol=0)
    for name, values in one_by_one.values().items():
        torch.testing.assert_close(values, expected[name], rtol=1e-12, atol=0)
    at_once.reset()
    at_once.update(walks[:1])
    torch.testing.assert_close(at_once.compute()["istd"], expected["istd"][0], rtol=1e-12, atol=0)
    forward = InterpolationStandardDeviation()
    assert forward(walks[:2])["cv"] == expected["cv"][:2].mean() and forward(walks[2:])["cv"] != forward.compute()["cv"]
    torch.testing.assert_close(forward.compute()["cv"], expected["cv"].mean(), rtol=1e-12, atol=0)


def test_synchronisation_joins_the_walks_of_all_processes():
    walks = random_walks(5)
    others = step_distances(walks[1:])
    here = InterpolationStandardDeviation(
        dist_sync_fn=lambda state, group=None: [state, others], distributed_available_fn=lambda: True, sync_on_compute=True
    )
    here.update(walks[:1])
    expected = InterpolationStandardDeviation().per_prompt(walks)
    for name, value in here.compute().items():  # every walk counts once, not every process
        torch.testing.assert_close(value, expected[name].mean(), rtol=1e-12, atol=0)
    assert len(here.values()["istd"]) == 1  # its own again


def test_lpips_distances_are_those_of_adjacent_images():
    walks = random_walks(2, frames=4, size=(32, 40))
    metric, network = InterpolationStandardDeviation(lpips=lpips_network()), LearnedPerceptualImagePatchSimilarity(lpips_network())
    expected = torch.stack([network.per_image(walks[:, i], walks[:, i + 1]) for i in range(3)], dim=1)  # (2, 3)
    torch.testing.assert_close(lpips_step_distances(walks, network), expected.double(), rtol=1e-5, atol=0)
    found, pixels = metric.per_prompt(walks), InterpolationStandardDeviation().per_prompt(walks)
    assert found.keys() == CONVENTIONS.keys() == metric.conventions.keys()
    assert all(torch.equal(found[name], values) for name, values in pixels.items())
    torch.testing.assert_close(found["lpips_istd"], expected.double().std(dim=1, correction=0), rtol=1e-4, atol=0)
    torch.testing.assert_close(found["lpips_cv"], found["lpips_istd"] / expected.double().mean(dim=1), rtol=1e-4, atol=0)
    metric.update(walks)
    assert metric.compute()["lpips_mean_step"].item() == pytest.approx(expected.mean().item(), rel=1e-5)


def test_statistics_take_stored_distances():
    distances = step_distances(random_walks(3))
    stored = step_statistics(distances.numpy())
    for name, values in InterpolationStandardDeviation().per_prompt(random_walks(3)).items():
        assert torch.equal(stored[name], values)
    assert step_statistics(distances[0])["istd"].shape == ()
    assert step_statistics([1.0, 3.0], ddof=1)["istd"].item() == pytest.approx(math.sqrt(2))


def test_the_convention_is_told_in_words():
    assert CONVENTIONS["istd"].startswith("standard deviation (ddof 0)") and "pixels in [0, 1]" in CONVENTIONS["istd"]
    other = InterpolationStandardDeviation(convention=Convention("rms", 2.0, 1)).conventions
    assert "root mean square" in other["istd"] and "[-1, 1]" in other["istd"] and "ddof 1" in other["cv"]
    assert set(other) == {"istd", "mean_step", "cv"}


def test_a_walk_that_stands_still_is_named_and_not_kept():
    metric = InterpolationStandardDeviation()
    moving = random_walks(1)
    metric.update(moving)
    before = metric.compute()
    with pytest.raises(ValueError, match="distances of walk 1 are all 0: its images do not change"):
        metric.update(torch.cat([moving, flat_walk(*[0.25] * 6), moving]))
    metric._computed = None
    assert metric.compute() == before and len(metric.values()["cv"]) == 1


@pytest.mark.parametrize(
    ("walks", "message"),
    [
        (random_walks(2)[0], r"walks has shape \(6, 3, 6, 4\), it must be \(B, F, 3, H, W\)"),
        (random_walks(2)[:, :2], r"F >= 3"),
        (random_walks(2)[:0], r"B >= 1"),
        (random_walks(2)[:, :, :2], r"it must be \(B, F, 3, H, W\)"),
        (random_walks(2).mul(127).byte(), "walks is a tensor of torch.uint8"),
        (random_walks(2).numpy(), "walks is a ndarray"),
        (random_walks(2).index_fill(1, torch.tensor(2), math.nan), "walks contains NaN or infinity"),
        (random_walks(2) * 127.5 + 127.5, r"walks has values from .* must lie in \[-1, 1\]"),
        (random_walks(2, frames=7), "walks has 7 frames, it must have 6 as before"),
    ],
)
def test_faulty_walks_raise_one_sentence_and_leave_the_state(walks, message):
    metric = InterpolationStandardDeviation()
    metric.update(random_walks(3))
    with pytest.raises(ValueError, match=message) as error:
        metric.update(walks)
    assert "\n" not in str(error.value)
    assert len(metric.values()["istd"]) == 3


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Convention("l1"), "norm is 'l1', it must be 'l2' or 'rms'"),
        (lambda: Convention(pixel_scale=0), "pixel_scale is 0"),
        (lambda: Convention(pixel_scale=math.inf), "pixel_scale is inf"),
        (lambda: Convention(ddof=2), "ddof is 2, it must be 0 or 1"),
        (lambda: InterpolationStandardDeviation(value_range=(1, 0)), "value_range"),
        (lambda: InterpolationStandardDeviation().compute(), "has seen 0 walks"),
        (lambda: step_statistics(np.ones((3, 1))), r"distances has shape \(3, 1\)"),
        (lambda: step_statistics([1.0, math.nan]), "distances contains a negative or non-finite number"),
        (lambda: step_statistics([1.0, -1.0]), "distances contains a negative or non-finite number"),
        (lambda: conversion_factor(Convention(), Convention(), image_size=SIZE, quantity="fid"), "quantity is 'fid'"),
        (lambda: conversion_factor(Convention(), Convention(), image_size=SIZE, num_distances=1), "num_distances is 1"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
