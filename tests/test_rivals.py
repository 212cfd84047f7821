"""Cheap ways to smaller steps: the shrunken walk, the choice of a setting, and the sentence on what was found."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import tiny_pipeline

from companion.base.config import ConfigurationError
from companion.studies.rows import Row
from companion.studies.smoothness import rivals
from companion.studies.smoothness.generation import initial_noise
from companion.studies.smoothness.rivals import ShrunkenWalk, Walked
from companion.studies.smoothness.walks import LatentWalk, WalkPrompt
from smoothlib.diffusion import slerp
from smoothlib.pixels import to_uint8
from smoothlib.sampling import Sampling, decode_latents, encode_prompts, sample

SAMPLING = Sampling(3.0, 2)
PROMPTS = [WalkPrompt("a", "a red car", 1, 11), WalkPrompt("b", "a dog", 2, 12)]


@pytest.fixture(scope="module")
def pipe():
    pipe = tiny_pipeline()
    pipe.unet.register_to_config(sample_size=16)  # images of 32 x 32, as LPIPS needs
    return pipe


def test_a_shrunken_walk_ends_on_the_way_and_a_whole_one_is_that_of_other_pages(pipe):
    start, end = (initial_noise(pipe, [getattr(p, name) for p in PROMPTS]) for name in ("start_seed", "end_seed"))
    found = ShrunkenWalk(pipe, SAMPLING, frames=3, share=0.4)(PROMPTS)
    embeds = encode_prompts(pipe, [p.caption for p in PROMPTS])
    for frame, eta in ((0, 0.0), (1, 0.2), (2, 0.4)):  # slerp(a, slerp(a, b, s), eta) = slerp(a, b, s eta)
        images = decode_latents(pipe, sample(pipe, slerp(start, end, eta), embeds, guidance_scale=3.0, num_inference_steps=2))
        wanted = to_uint8(images).numpy().astype(int)
        assert all(np.abs(one["frames"][frame].astype(int) - image).max() <= 1 for one, image in zip(found, wanted, strict=True))
    whole, other = ShrunkenWalk(pipe, SAMPLING, frames=3, share=1.0)(PROMPTS), LatentWalk(pipe, SAMPLING, frames=3)(PROMPTS)
    for one, two in zip(whole, other, strict=True):
        torch.testing.assert_close(one["step_distances"], two["step_distances"])
        torch.testing.assert_close(one["lpips_distances"], two["lpips_distances"])


def values(**steps):
    return {label: {"mean_step": np.array([step, step])} for label, step in steps.items()}


def test_the_nearest_setting_is_nearest_by_ratio():
    assert rivals.nearest(values(Smooth=2.0, half=1.0, more=3.2), ["half", "more"]) == "more"
    assert rivals.nearest(values(Smooth=2.0, less=1.2, twice=4.5), ["less", "twice"]) == "less"


class Stand:
    """A study whose measured values are given; it keeps which prompts it was asked for."""

    choosing = "even"

    def __init__(self, given, smooth=True):
        self.given, self.smooth, self.asked = given, smooth, []

    def fixed_rows(self):
        return [Row("Base"), *([Row("Smooth", ("smooth",))] if self.smooth else [])]

    def candidates(self):
        return {"Shrunken walk": [Row("s", settings=Walked(3.0, 0.5)), Row("t", settings=Walked(3.0, 0.9))]}

    def measure(self, rows, prompts):
        self.asked.append((sorted(row.label for row in rows), prompts))

    def values(self, found, prompts):
        return self.given


def test_a_setting_is_chosen_on_the_choosing_prompts_by_the_mean_step_alone():
    study = Stand(values(Smooth=2.0, s=2.1, t=3.0))
    (row,), facts = rivals.choose(study)
    assert study.asked == [(["Smooth", "s", "t"], "even")]
    assert (row.label, row.settings) == ("Shrunken walk: s", Walked(3.0, 0.5))
    assert facts["Shrunken walk"] == {"chosen": "s", "mean_step": {"s": 2.1, "t": 3.0}, "target": 2.0}


def test_without_smooth_there_is_nothing_to_set_rivals_to():
    with pytest.raises(ConfigurationError, match="has no smooth, but must have it"):
        rivals.choose(Stand({}, smooth=False))


def test_even_and_odd_places_are_apart_and_whole():
    cfg = dict(model="mini", dataset="scenes", split="test", num_prompts=5, training_seeds=1, num_inference_steps=2, guidance_scale=None)
    cfg |= dict(guidance_scales=(2.0,), shares=(0.5,), frames=3, batch_size=6, seed=0, device="cpu")
    study = rivals.RivalStudy(SimpleNamespace(**cfg))
    assert len(study.choosing) == 3 and len(study.reported) == 2
    assert {p.id for p in study.choosing} | {p.id for p in study.reported} == {p.id for p in study.prompts}
    assert study.candidates()["Shrunken walk"][0].settings == Walked(study.guidance_scale, 0.5)


def comparison(rival, mean, p, metric="cv"):
    difference = {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}
    return {"a": "Smooth", "b": rival, "metric": metric, "difference": difference, "p_adjusted": p}


def test_the_verdict_says_shown_only_what_the_adjusted_test_shows():
    compared = [comparison("A: x", -0.1, 0.01), comparison("B: y", -0.1, 0.2), comparison("C: z", 0.1, 0.01)]
    compared += [comparison("Base", -0.5, 0.001), comparison("A: x", -3, 0.001, "istd")]
    record = {"comparisons": compared, "columns": {"cv": {"label": "CV"}}, "items": ["i"] * 12}
    first, second, third = rivals.verdict(record).split("; ", 2)
    assert first.startswith("Smooth is smoother than A: x (CV -0.100 [-0.110, -0.090], p = 0.01)")
    assert second.startswith("no difference is shown from B: y") and third.startswith("Smooth is less smooth than C: z")
    assert third.endswith("n = 12.") and "Base" not in rivals.verdict(record)
