"""Rows of Figure 3 as items of a run: each method is the function that it names, and its measures are those of its frames."""

import numpy as np
import pytest
import torch
from tiny import noise, smooth_tiny_pipeline

from companion.data.load import Item
from companion.judges.networks import lpips_network
from companion.studies.interpolation.pairs import ImagePair
from companion.studies.interpolation.walks import (
    COLUMNS,
    CONVENTIONS,
    PairMethod,
    PairWalk,
    compared_walks,
    figure3_methods,
    pair_values,
    run_pairs,
)
from companion.studies.smoothness.generation import initial_noise
from smoothlib.interpolation.anid import anid, anid_coarse_to_fine
from smoothlib.interpolation.real_images import real_image_interpolation, vae_interpolation
from smoothlib.metrics import PeakSignalNoiseRatio
from smoothlib.metrics.istd import InterpolationStandardDeviation
from smoothlib.sampling import Sampling, encode_prompts

SIZE = 32  # LPIPS needs 31
CAPTIONS = [("a red car", "a dog"), ("two cats", "two cats")]
SETTINGS = dict(sampling=Sampling(3.0), num_inner_steps=2)
RUN = SETTINGS | dict(title="walk")


@pytest.fixture(scope="module")
def pipe():
    pipe = smooth_tiny_pipeline()
    pipe.unet.register_to_config(sample_size=SIZE // 2)  # latents of these images
    return pipe


@pytest.fixture(scope="module")
def pairs():
    images = torch.tanh(noise(4, 3, SIZE, SIZE, seed=3))
    items = [Item(f"i{k}", image, caption) for k, (image, caption) in enumerate(zip(images, sum(CAPTIONS, ()), strict=True))]
    return [ImagePair("a", items[0], items[1], 7), ImagePair("b", items[2], items[3], 8)]


def stacked(pairs):
    return torch.stack([pair.first.image for pair in pairs]), torch.stack([pair.second.image for pair in pairs])


@pytest.mark.parametrize("kind", ["vae", "anid", "anid_coarse_to_fine", "walk"])
def test_each_kind_is_the_function_that_it_names(pipe, pairs, kind):
    first, second = stacked(pairs)
    embeds, second_embeds = (encode_prompts(pipe, [captions[k] for captions in CAPTIONS]) for k in (0, 1))
    arguments = dict(sampling=Sampling(3.0, 4), second_embeds=second_embeds, frames=3)
    low, high = (initial_noise(pipe, [seed + offset for seed in (7, 8)]) for offset in (0, 1_000_000_000))
    assert not torch.equal(low, high)
    wanted = {
        "vae": lambda: vae_interpolation(pipe, first, second, frames=3),
        "anid": lambda: anid(pipe, first, second, embeds, low, **arguments),
        "anid_coarse_to_fine": lambda: anid_coarse_to_fine(pipe, first, second, embeds, low[None], **arguments),
        "walk": lambda: real_image_interpolation(pipe, first, second, embeds, num_inner_steps=2, **arguments)[0],
    }[kind]()
    found = PairWalk(pipe, PairMethod(kind, 4, 3), **SETTINGS)(pairs)
    distances = InterpolationStandardDeviation(lpips=lpips_network()).distances(wanted)
    psnr = PeakSignalNoiseRatio()
    for i, result in enumerate(found):
        assert result["frames"].dtype == np.uint8 and np.abs(result["frames"] - (wanted[i].numpy() + 1) * 127.5).max() <= 0.51
        np.testing.assert_allclose(result["step_distances"], distances["pixel_distances"][i], rtol=1e-5)
        np.testing.assert_allclose(result["lpips_distances"], distances["lpips_distances"][i], rtol=1e-4)
        ends = [psnr.per_image(wanted[i, [k]], images[[i]]).item() for k, images in ((0, first), (-1, second))]
        np.testing.assert_allclose(result["end_psnr"], ends, rtol=1e-5)
        assert result["seconds"] > 0 and ("last_loss" in result) == (kind == "walk")


def test_levels_of_the_coarse_to_fine_form_have_noises_of_their_own(pipe, pairs):
    first, second = stacked(pairs)
    embeds, second_embeds = (encode_prompts(pipe, [captions[k] for captions in CAPTIONS]) for k in (0, 1))
    noises = torch.stack([initial_noise(pipe, [seed + k * 1_000_000_000 for seed in (7, 8)]) for k in (0, 1)])
    arguments = dict(sampling=Sampling(3.0, 8), second_embeds=second_embeds, frames=5)
    wanted = anid_coarse_to_fine(pipe, first, second, embeds, noises, **arguments)
    found = PairWalk(pipe, PairMethod("anid_coarse_to_fine", 8, 5), **SETTINGS)(pairs)
    for result, walk in zip(found, wanted, strict=True):
        assert np.abs(result["frames"] - (walk.numpy() + 1) * 127.5).max() <= 0.51


def test_results_are_stored_under_what_determines_them(pipe, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("companion.base.paths.RUNS", tmp_path)
    method = PairMethod("walk", 2, 3)
    found = run_pairs(pipe, pairs, method, weights="w", **RUN | dict(sampling=Sampling(3.0, batch_size=6)))
    values = pair_values(found)
    assert values.keys() == COLUMNS.keys() == CONVENTIONS.keys() and all(value.shape == (2,) for value in values.values())
    np.testing.assert_allclose(values["cv"], [r["step_distances"].std() / r["step_distances"].mean() for r in found])
    np.testing.assert_allclose(values["lpips_cv"], [r["lpips_distances"].std() / r["lpips_distances"].mean() for r in found])
    np.testing.assert_allclose(values["end_psnr"], [r["end_psnr"].mean() for r in found])

    called = []
    monkeypatch.setattr(PairWalk, "__call__", lambda self, items: called.extend(items) or [{"x": 1.0}] * len(items))
    smaller = RUN | dict(sampling=Sampling(3.0, batch_size=3))
    assert run_pairs(pipe, pairs, method, weights="w", **smaller)[1]["seconds"] == found[1]["seconds"] and not called
    for change in (dict(weights="v"), dict(sampling=Sampling(4.0)), dict(num_inner_steps=3)):
        run_pairs(pipe, pairs[:1], method, **(dict(weights="w") | RUN | change))
    run_pairs(pipe, pairs[:1], PairMethod("walk", 3, 3), weights="w", **RUN)
    run_pairs(pipe, pairs[:1], PairMethod("walk", 2, 4), weights="w", **RUN)
    assert len(called) == 5


def test_rows_of_figure_3():
    methods = figure3_methods(("somewhere/smooth",), num_inference_steps=25)
    assert [method.label for method in methods] == [
        "VAE interpolation",
        "ANID one-level, 50 steps",
        "ANID one-level, 200 steps",
        "ANID coarse to fine, 200 steps",
        "Base walk",
        "Smooth walk",
    ]
    assert [method.settings.frames for method in methods] == [11, 11, 11, 17, 11, 11]
    assert [method.settings.num_inference_steps for method in methods[-2:]] == [25, 25] and methods[-1].adapter == "somewhere/smooth"
    assert compared_walks(methods) == [("Smooth walk", "Base walk")] and compared_walks(methods[:-1]) == []
    assert [method.settings.kind for method in figure3_methods(anid_steps=())] == ["vae", "walk"]
    assert [method.settings.kind for method in figure3_methods(anid_steps=(50,), coarse_to_fine_frames=None)] == ["vae", "anid", "walk"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PairMethod("edict"), "kind must be one of vae, anid, anid_coarse_to_fine, walk, not 'edict'"),
        (lambda: figure3_methods(coarse_to_fine_frames=11), r"frames must be 2\^n \+ 1"),
    ],
)
def test_bad_rows_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
