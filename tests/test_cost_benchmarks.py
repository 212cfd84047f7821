"""The benchmarks of training and inversion: what they count, what they compare with, and what they make of a measured second."""

import math

import pytest
import torch
from tiny import noise, smooth_tiny_pipeline

from benchmarks import null_text, regularizer, training_cost
from smoothlib.inversion import ddim_invert
from smoothlib.regularizer.variation import StepwiseVariation
from smoothlib.sampling import encode_prompts


@pytest.mark.parametrize(
    ("name", "calls", "forward", "backward"),
    [
        ("plain LoRA", 1, 1, 1),
        ("ours, one-sided", 2, 2, 3),
        ("ours, central", 3, 3, 4),
        ("ours, paired", 2, 3, 3),
    ],
)
def test_passes_are_counted_as_they_run(name, calls, forward, backward):
    way, unet = regularizer.WAYS[name], regularizer.build_unet("mini", False)
    passes, samples = regularizer.Passes(unet), regularizer.noise_samples(unet, 2, 8)
    penalty = StepwiseVariation(**way.regularizer) if way.regularizer else None
    regularizer.training_step(unet, way, penalty, samples, 0)
    assert (passes.calls, passes.forward / 2, passes.backward / 2) == (calls, forward, backward)


def test_the_error_of_a_way_is_measured_against_double_backward():
    arguments = ["--unet", "mini", "--latents", "8", "--batch", "2", "--steps", "1"]
    found = {}
    for way in ("ours, double backward", "ours, paired"):
        options = regularizer.parse([*arguments, "--way", way, "--check"])
        found[way] = regularizer.measure(options)
    assert found["ours, double backward"]["error"] < 1e-6 and 0 < found["ours, paired"]["error"] < 0.02
    assert found["ours, paired"]["seconds"] > 0


def test_fast_ways_do_to_the_network_what_they_say(monkeypatch):
    unet, compiled = regularizer.build_unet("mini", False), []
    monkeypatch.setattr(regularizer, "compile_blocks", lambda *arguments: compiled.append(arguments))
    regularizer.make_fast(unet, "bf16", "eager")
    assert compiled == [(unet, "eager")]
    kernel = unet.conv_in.weight
    assert kernel.dtype == torch.bfloat16 and kernel.is_contiguous(memory_format=torch.channels_last)
    way = regularizer.WAYS["ours, paired, fast"]
    assert regularizer.options_of(way, "bf16")["difference_precision"] == "network"
    penalty = StepwiseVariation(**regularizer.options_of(way, "bf16"))
    regularizer.training_step(unet, way, penalty, regularizer.noise_samples(unet, 2, 8), 0, half=True)
    assert all(p.grad.isfinite().all() for p in regularizer.trained_parameters(unet))


def test_half_precision_has_no_one_sided_way_and_a_gpu_that_is_not_there_is_named(capsys, monkeypatch):
    options = regularizer.parse(["--precision", "bf16"])
    assert "ours, paired, fast" in options.ways and not {way for way in options.ways if "one-sided" in way or "forward" in way}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for parse in (regularizer.parse, null_text.parse):
        with pytest.raises(SystemExit):
            parse(["--device", "cuda"])
        assert "--device is cuda, but PyTorch finds no GPU here" in capsys.readouterr().err


def test_a_second_a_sample_is_so_many_hours_and_euros():
    assert training_cost.hours(0.0125) == pytest.approx(10) and training_cost.hours(0.0125, gpus=4) == pytest.approx(2.5)
    plain = dict(seconds=0.0125, gib=1.0, batch=12, error=math.nan, calls=1, forward=1, backward=1)
    theirs = plain | dict(seconds=0.1, gib=10.0, batch=3)
    _, _, first, second, *_, note = training_cost.table({"plain": plain, "theirs": theirs}, "plain", "theirs", price=2.5)
    assert first.split(" | ") == ["| plain", "12", "1.00 + 1.00", "1.00", "12.5", "1.00", "1.00", "-", "8.00", "40.0", "10.0", "25.0 |"]
    assert second.split(" | ")[5] == "8.00" and "2.5 an hour" in note


@pytest.mark.parametrize("stops", [False, True])
def test_the_published_loop_finds_what_the_library_finds_for_one_image(stops):
    pipe = smooth_tiny_pipeline()
    embeds = encode_prompts(pipe, ["a"])
    pivots = ddim_invert(pipe, noise(1, 4, 8, 8), embeds, num_inference_steps=4)
    threshold = {"tolerance": 1e-3, "growth": 1e-3} if stops else {"tolerance": 0.0, "growth": 0.0}
    task = null_text.Task(torch.zeros(1, 3, 16, 16), ["a"], 4, 5, 3.0, **threshold)
    (theirs, count), (found, same) = (way(pipe, pivots, embeds, task) for way in (null_text.published, null_text.ours))
    torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-5)
    assert count == same and (count < 20 if stops else count == 20)


def test_inversions_are_timed_and_compared():
    pipe = smooth_tiny_pipeline()
    task = null_text.Task(noise(3, 3, 16, 16).clamp(-1, 1), ["a", "b", "c"], 2, 2, 3.0)
    best = null_text.run({"one": (pipe, 1, null_text.published), "batch": (pipe, 2, null_text.ours)}, task, repeats=1)
    assert best["one"][2].shape == best["batch"][2].shape == (3, 3, 16, 16)
    *_, one, batch = null_text.table(best, task.images)
    assert one.split(" | ")[2] == "1.00" and one.endswith("| - |")
    assert float(batch.split(" | ")[5].removesuffix(" |")) > 40
