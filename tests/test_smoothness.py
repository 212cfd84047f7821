"""Walks and images measured together: what depends on the weights does, what is stored is not measured again, seeds are averaged."""

import numpy as np
import pytest
import torch
from torch import nn

from companion.base import paths
from companion.data.load import load_scenes
from companion.judges.judge import Judge
from companion.studies.base import load_row
from companion.studies.smoothness import measure as smoothness
from companion.studies.smoothness.generation import Generation, prompts_from
from companion.studies.smoothness.walks import walk_prompts_from
from companion.weights import pipelines as models
from smoothlib.metrics.text_alignment import CaptionAlignment
from smoothlib.sampling import Sampling


class MeanColours(nn.Module):
    """Features and embeddings that can be computed by hand: an image's mean colour; a caption's is white."""

    def forward(self, images):
        return images.mean(dim=(2, 3))

    def embed_images(self, images):
        return nn.functional.normalize(images.mean(dim=(2, 3)) + 2, dim=-1)

    def embed_captions(self, captions):
        return nn.functional.normalize(torch.ones(len(captions), 3), dim=-1)


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    scenes = load_scenes("compositional")
    real = torch.rand(6, 3, generator=torch.Generator().manual_seed(0))
    return dict(
        judge=Judge(MeanColours(), CaptionAlignment(MeanColours()), "frechet_distance", "scene_alignment", {}, {}),
        walk_prompts=walk_prompts_from(scenes, 2),
        prompts=prompts_from(scenes, 5),
        real_features=real,
        sampling=Sampling(1.0, 2, batch_size=6),
        frames=3,
    )


def test_values_of_each_prompt_and_of_the_whole_set(arguments, monkeypatch):
    pipe = models.load_pipeline("mini")
    found = smoothness.measure(pipe, weights="w", title="base", **arguments)
    assert set(found.per_prompt) == {"istd", "cv", "mean_step", "lpips_cv", "scene_alignment"}
    assert all(values.shape == (2,) and np.isfinite(values).all() for values in found.per_prompt.values())
    np.testing.assert_allclose(found.per_prompt["cv"], found.per_prompt["istd"] / found.per_prompt["mean_step"])
    assert found.frames.shape == (2, 3, 3, 64, 64) and found.frechet > 0
    # alignment of a walk is the mean over its frames
    colours = torch.from_numpy(found.frames[0]).float().div(127.5).sub(1).mean(dim=(2, 3)) + 2
    by_hand = 100 * torch.cosine_similarity(colours, torch.ones(3, 3)).mean()
    assert found.per_prompt["scene_alignment"][0] == pytest.approx(by_hand.item(), rel=1e-5)

    monkeypatch.setattr(Generation, "__call__", lambda *_: pytest.fail("generated again"))
    again = smoothness.measure(pipe, weights="w", title="base", **arguments)
    np.testing.assert_array_equal(again.per_prompt["istd"], found.per_prompt["istd"])


def test_rows_average_their_training_seeds_prompt_by_prompt():
    def measurement(values, frechet):
        return smoothness.Measurement(
            {"istd": np.array(values)}, frechet, frames=np.zeros(0), step_distances=np.zeros(0), fingerprint="", seconds=0.0
        )

    measured = {"Base": [measurement([1.0, 2.0], 5.0)], "Smooth": [measurement([1.0, 2.0], 5.0), measurement([3.0, 6.0], 7.0)]}
    values = smoothness.row_values(measured)
    np.testing.assert_array_equal(values["Smooth"]["istd"], [2.0, 4.0])
    np.testing.assert_array_equal(values["Base"]["istd"], [1.0, 2.0])
    assert smoothness.seed_means(measured)["Smooth"] == {"istd": [1.5, 4.5], "frechet": [5.0, 7.0]}


def test_what_each_image_contributes_goes_into_the_record(arguments):
    """As many real images as generated ones: both distances, their number of images, and values whose mean is the distance."""
    arguments["real_features"] = arguments["real_features"][:5]
    found = {}
    for label, adapter in (("Base", None), ("Smooth", "smooth")):
        pipe, weights = load_row("mini", adapter)
        found[label] = [smoothness.measure(pipe, weights=weights, title=label, **arguments)]
    values = smoothness.set_values(found, arguments["judge"])
    for label in ("Base", "Smooth"):
        assert set(values[label]) == {"frechet_distance", "kernel_distance"}
        for value in values[label].values():
            assert value["n"] == 5 and np.mean(value["image_values"]) == pytest.approx(value["mean"], rel=1e-4, abs=1e-6)
        assert values[label]["frechet_distance"]["mean"] == found[label][0].frechet
        assert smoothness.seed_means(found)[label]["kernel"] == [values[label]["kernel_distance"]["mean"]]
    assert {"frechet_distance", "kernel_distance"} <= set(arguments["judge"].columns)


def test_training_seeds_of_an_adapter_are_found_by_name(monkeypatch):
    there = ["plain", "smooth", "smooth-seed1", "smooth-seed2", "smooth-seedling", "smoother"]
    monkeypatch.setattr(models, "list_adapters", lambda: there)
    assert smoothness.seeds_of("smooth") == ("smooth", "smooth-seed1", "smooth-seed2")
    assert smoothness.seeds_of("plain") == ("plain",) and smoothness.seeds_of("rough") == ()
