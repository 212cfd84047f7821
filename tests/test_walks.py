"""Walks as items of a run: the prompts and noises that belong to a seed, what is stored, and that measuring equals the metric."""

import time

import numpy as np
import pytest
import torch
from tiny import tiny_pipeline

from companion.data import load as datasets
from companion.judges.networks import lpips_network
from companion.runs import runs
from companion.studies.smoothness import measure as smoothness
from companion.studies.smoothness.generation import Generation, Prompt, initial_noise, prompts_from
from companion.studies.smoothness.walks import (
    CONVENTIONS,
    LatentWalk,
    WalkPrompt,
    forward_seconds,
    run_walks,
    walk_prompts_from,
    walk_prompts_of,
    walk_values,
)
from companion.weights import pipelines as models
from smoothlib.interpolation.walk import latent_walk
from smoothlib.metrics.istd import InterpolationStandardDeviation, step_distances, step_statistics
from smoothlib.sampling import Sampling, encode_prompts

SETTINGS = dict(sampling=Sampling(3.0, 2), frames=4)
PROMPTS = [WalkPrompt("a", "a red car", 1, 11), WalkPrompt("b", "a dog", 2, 12), WalkPrompt("c", "a cat", 3, 13)]


@pytest.fixture(scope="module")
def pipe():
    pipe = tiny_pipeline()
    pipe.unet.register_to_config(sample_size=16)  # images of 32 x 32, as LPIPS needs
    return pipe


@pytest.fixture(scope="module")
def walked(pipe):
    return LatentWalk(pipe, **SETTINGS)(PROMPTS)


def split(count):
    records = [{"id": f"s{i}", "caption": f"caption {i}"} for i in range(count)]
    return datasets.SceneSplit(np.zeros((count, 2, 2, 3), np.uint8), records)


def test_prompts_and_noises_belong_to_the_seed():
    scenes = split(50)
    few, many = walk_prompts_from(scenes, 5, seed=2), walk_prompts_from(scenes, 50, seed=2)
    assert set(few) <= set(many) and few == walk_prompts_from(scenes, 5, seed=2)
    seeds = [seed for prompt in many for seed in (prompt.start_seed, prompt.end_seed)]
    assert len(set(seeds)) == 100
    assert not set(few) & set(walk_prompts_from(scenes, 50, seed=3))
    assert [(p.id, p.caption, p.start_seed) for p in few] == [(p.id, p.caption, p.noise_seed) for p in prompts_from(scenes, 5, seed=2)]


@pytest.mark.parametrize(
    ("options", "message"), [(dict(limit=4), r"limit must lie in \[1, 3\]"), (dict(limit=2, seed=1000), "seed must lie")]
)
def test_bad_choices_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        walk_prompts_from(split(3), **options)


def test_distances_are_those_of_the_float_images(pipe, walked):
    start, end = initial_noise(pipe, [1, 2, 3]), initial_noise(pipe, [11, 12, 13])
    walks = latent_walk(pipe, start, end, encode_prompts(pipe, [prompt.caption for prompt in PROMPTS]), **SETTINGS)
    found = InterpolationStandardDeviation(lpips=lpips_network()).per_prompt(walks)
    assert found.keys() == CONVENTIONS.keys() and "before rounding" in CONVENTIONS["istd"]
    for i, result in enumerate(walked):
        assert result["frames"].shape == (4, 3, 32, 32) and result["frames"].dtype == np.uint8
        assert np.abs(result["frames"] - (walks[i].numpy() + 1) * 127.5).max() <= 0.5001
        statistics = step_statistics(result["step_distances"]), step_statistics(result["lpips_distances"])
        for name in ("istd", "mean_step", "cv"):
            assert statistics[0][name].item() == pytest.approx(found[name][i].item(), rel=1e-4)
            assert statistics[1][name].item() == pytest.approx(found[f"lpips_{name}"][i].item(), rel=1e-3)
        rounded = step_distances(torch.from_numpy(result["frames"])[None] / 127.5 - 1)[0].numpy()
        assert 1e-6 < np.abs(rounded - result["step_distances"]).max() < (3 * 32 * 32 / 6) ** 0.5 / 255


def test_a_walk_starts_at_the_generated_image_of_its_prompt(pipe, walked):
    for end, frame in (("start_seed", 0), ("end_seed", -1)):
        made = Generation(pipe, SETTINGS["sampling"])([Prompt(p.id, p.caption, getattr(p, end)) for p in PROMPTS])
        for walk, one in zip(walked, made, strict=True):
            assert np.abs(walk["frames"][frame].astype(int) - one["image"]).max() <= 1


def test_stored_results_are_the_same_whatever_the_batch(pipe, walked, tmp_path):
    procedure = LatentWalk(pipe, Sampling(3.0, 2, batch_size=3), frames=4)
    stored = runs.run_items(PROMPTS, procedure, name="walks", config={}, batch_size=2, root=tmp_path, progress=False)
    for one, other in zip(stored, walked, strict=True):
        assert one.keys() == other.keys()
        for name in ("step_distances", "lpips_distances"):
            assert one[name].shape == (3,)
            np.testing.assert_allclose(one[name], other[name], rtol=1e-3)


def test_lpips_and_frames_are_left_out_on_request(pipe, walked):
    (only,) = LatentWalk(pipe, lpips=False, keep_frames=False, **SETTINGS)(PROMPTS[:1])
    assert only.keys() == {"step_distances", "seconds", "forward_seconds"}
    np.testing.assert_allclose(only["step_distances"], walked[0]["step_distances"], rtol=1e-3)


def test_forward_seconds_are_those_inside_the_networks(pipe, monkeypatch):
    def slow(module):
        forward = module.forward
        monkeypatch.setattr(module, "forward", lambda *arguments, **options: (time.sleep(0.02), forward(*arguments, **options))[1])

    (before,) = LatentWalk(pipe, lpips=False, **SETTINGS)(PROMPTS[:1])
    assert 0 < before["forward_seconds"] < before["seconds"]
    slow(pipe.unet)
    slow(pipe.vae.decoder)
    slow(pipe.text_encoder)  # not counted
    with forward_seconds(pipe) as seconds:
        LatentWalk(pipe, lpips=False, **SETTINGS)(PROMPTS[:1])
    assert len(seconds) == 2 + 1 and min(seconds) >= 0.02
    with forward_seconds(pipe) as seconds:
        pass
    pipe.unet(torch.zeros(1, 4, 8, 8), 1, encoder_hidden_states=torch.zeros(1, 16, 16))
    assert seconds == []  # the hooks are gone


def test_figures_read_the_walks_that_the_tables_store(pipe, monkeypatch):
    class Seen(Exception):
        pass

    def see(items, procedure, **options):
        raise Seen(options | {"sampling": procedure.sampling, "frames": procedure.frames, "items": items})

    monkeypatch.setattr(runs, "run_items", see)
    settings = dict(title="base", weights=models.fingerprint(pipe), sampling=Sampling(3.0, 2, batch_size=12), frames=4)
    with pytest.raises(Seen) as table:
        smoothness.measure(pipe, None, PROMPTS, [], None, **settings)
    with pytest.raises(Seen) as figure:
        run_walks(pipe, PROMPTS, **settings)
    assert table.value.args == figure.value.args and figure.value.args[0]["batch_size"] == 3


def test_null_embeddings_which_no_key_tells_are_not_stored(pipe):
    with pytest.raises(ValueError, match="sampling has null_embeds, but must have none where items are stored"):
        run_walks(pipe, PROMPTS, title="base", weights="w", sampling=Sampling(3.0, 2, null_embeds=torch.zeros(1, 16, 16)))


def test_given_captions_have_noises_of_their_own():
    prompts = walk_prompts_of(["a red car", "a dog"], seed=2)
    assert [prompt.caption for prompt in prompts] == ["a red car", "a dog"] and prompts[0].id != prompts[1].id
    seeds = {seed for found in (prompts, walk_prompts_of(["a cat"], seed=3)) for p in found for seed in (p.start_seed, p.end_seed)}
    assert len(seeds) == 6 and prompts[:1] == walk_prompts_of(["a red car"], seed=2)
    with pytest.raises(ValueError, match="captions is 'a red car', but must be a list of texts"):
        walk_prompts_of("a red car")


def test_values_of_walks_are_the_statistics_of_their_distances(walked):
    values = walk_values(walked)
    assert values.keys() == {"istd", "cv", "mean_step", "lpips_cv"}
    for i, result in enumerate(walked):
        steps = result["step_distances"]
        wanted = [steps.std(), steps.std() / steps.mean(), steps.mean()]
        np.testing.assert_allclose([values[name][i] for name in ("istd", "cv", "mean_step")], wanted)
        np.testing.assert_allclose(values["lpips_cv"][i], result["lpips_distances"].std() / result["lpips_distances"].mean())
