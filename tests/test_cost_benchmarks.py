"""The benchmarks of training and inversion: what they count, what they compare with, and what they make of a measured second."""

import math
import sys
import threading
import time

import pytest
import torch
from tiny import noise, smooth_tiny_pipeline, tiny_unet

from benchmarks import istd, null_text, random_model, regularizer, training_cost, training_steps
from benchmarks.beside import beside
from companion.weights import pipelines
from smoothlib.execution import in_half_precision
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
    way, unet = training_steps.WAYS[name], training_steps.build_unet("mini", False)
    passes, samples = training_steps.Passes(unet), training_steps.noise_samples(unet, 2, 8)
    penalty = StepwiseVariation(**way.regularizer) if way.regularizer else None
    training_steps.training_step(unet, way, penalty, samples, 0)
    assert (passes.calls, passes.forward / 2, passes.backward / 2) == (calls, forward, backward)


def test_the_error_of_a_way_is_measured_against_double_backward():
    arguments = ["--unet", "mini", "--latents", "8", "--batch", "2", "--steps", "1"]
    found = {}
    for way in ("ours, double backward", "ours, paired"):
        options = regularizer.parse([*arguments, "--way", way, "--check"])
        found[way] = training_steps.measure(options)
    assert found["ours, double backward"]["error"] < 1e-5 and 0 < found["ours, paired"]["error"] < 0.02
    assert found["ours, paired"]["seconds"] > 0


def test_fast_ways_do_to_the_network_what_they_say(monkeypatch):
    unet, compiled = training_steps.build_unet("mini", False), []
    monkeypatch.setattr(training_steps, "compile_blocks", lambda *arguments: compiled.append(arguments))
    way = training_steps.WAYS["ours, paired, fast"]
    training_steps.make_fast(unet, way, "bf16", "eager")
    assert compiled == [(unet, "eager")]
    kernel = unet.conv_in.weight
    assert kernel.dtype == torch.bfloat16 and kernel.is_contiguous(memory_format=torch.channels_last)
    assert training_steps.options_of(way, "bf16")["difference_precision"] == "network"
    penalty = StepwiseVariation(**training_steps.options_of(way, "bf16"))
    training_steps.training_step(unet, way, penalty, training_steps.noise_samples(unet, 2, 8), 0, "bf16")
    assert all(p.grad.isfinite().all() for p in training_steps.trained_parameters(unet))


@pytest.mark.parametrize("way", ["ours, fused double backward", "ours, fused double backward, checkpointing"])
def test_the_fused_way_is_exact_and_half_precision_costs_it_less_than_a_percent(way):
    arguments = ["--unet", "mini", "--latents", "8", "--batch", "2", "--steps", "1", "--check", "--way", way, "--precision"]
    single, half = (training_steps.measure(regularizer.parse([*arguments, precision])) for precision in ("float32", "fp16"))
    assert single["error"] < 1e-5 < half["error"] < 0.01


def test_half_precision_has_no_one_sided_way_and_a_gpu_that_is_not_there_is_named(capsys, monkeypatch):
    options = regularizer.parse(["--precision", "bf16"])
    assert "ours, paired, fast" in options.ways and not {way for way in options.ways if "one-sided" in way or "forward" in way}
    assert regularizer.parse(["--precision", "fp16", "--ways", "ours, central"]).ways == ["ours, central"]
    with pytest.raises(SystemExit):
        regularizer.parse(["--precision", "fp16", "--ways", "plain LoRA", "ours, one-sided"])
    assert "--ways has 'ours, one-sided', which does not go with --precision fp16" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for parse in (regularizer.parse, null_text.parse, istd.parse):
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


def test_inversions_are_timed_and_compared_on_the_images_that_both_had():
    pipe = smooth_tiny_pipeline()
    task = null_text.Task(noise(3, 3, 16, 16).clamp(-1, 1), ["a", "b", "c"], 2, 2, 3.0)
    one = null_text.invert(null_text.Way(pipe, 1, null_text.published, images=2), task)
    batch = null_text.invert(null_text.Way(pipe, 2, null_text.ours), task)
    assert one.pictures.shape == (2, 3, 16, 16) and batch.pictures.shape == (3, 3, 16, 16) and batch.latents.shape == (3, 4, 8, 8)
    assert one.per_image == one.seconds / 2 and batch.per_image == batch.seconds / 3
    *_, first, second = null_text.table({"one": one, "batch": batch}, task.images)
    _, _, images, rate, ratio, *_, psnr, decibels, error, _ = [cell.strip() for cell in second.split("|")]
    assert first.endswith("| - | - |") and images == "3" and float(decibels) > 40 and float(error.removesuffix(" %")) < 0.1
    assert float(ratio) == pytest.approx(one.per_image / batch.per_image, abs=0.006) and float(rate) == pytest.approx(
        1 / batch.per_image, rel=0.01
    )
    assert float(psnr) == pytest.approx(null_text.psnr(batch.pictures, task.images), abs=0.006)


def test_a_network_in_bfloat16_is_one_of_its_own_and_gives_the_bits_of_autocast():
    pipe = smooth_tiny_pipeline()
    pipe.unet.requires_grad_(False)
    rounded, exact = null_text.in_bfloat16(pipe), in_half_precision(pipe)
    assert rounded.unet.module.conv_in.weight.dtype == torch.bfloat16 and pipe.unet.dtype == rounded.unet.dtype == torch.float32
    inputs = noise(2, 4, 8, 8), torch.tensor(500), encode_prompts(pipe, ["a", "b"])
    assert torch.equal(*(one.unet(*inputs, return_dict=False)[0] for one in (rounded, exact)))


def test_calls_with_a_gradient_are_compiled_and_others_are_not():
    network, graphs = tiny_unet().mid_block.attentions[0].requires_grad_(False), []
    x, context = noise(2, network.config.in_channels, 4, 4), noise(2, 16, 16, seed=5)
    wanted = network(x, context, return_dict=False)[0]
    null_text.compile_inner_steps(network, lambda graph, examples: graphs.append(len(examples)) or graph.forward)
    with torch.no_grad():
        torch.testing.assert_close(network(x, context, return_dict=False)[0], wanted)
    assert not graphs
    for _ in range(2):
        torch.testing.assert_close(network(x, context.clone().requires_grad_(True), return_dict=False)[0], wanted)
        assert len(graphs) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--steps", "0"], "--steps must be at least 1, got 0"),
        (["--images", "4", "--batch", "2", "5"], "--batch must lie in [1, 4], the images, got 5"),
        (["--images", "4", "--published-images", "5"], "--published-images must lie in [1, 4], the images, got 5"),
        (["--batch", "2", "--float32-batches", "3"], "--float32-batches must be of --batch, 2, got 3"),
    ],
)
def test_an_inversion_of_nothing_is_refused(capsys, arguments, sentence):
    with pytest.raises(SystemExit) as raised:
        null_text.parse(arguments)
    assert raised.value.code == 2 and capsys.readouterr().err.endswith(f": {sentence}; --help shows how.\n")


def test_the_ways_are_those_that_are_asked_for():
    options = null_text.parse("--images 8 --published-images 2 --batch 8 4 --batches 1 --float32-batches 4 --compile none".split())
    ways = null_text.uncompiled("pipe", "half", options)
    assert [(name, way.pipe, way.batch, way.images) for name, way in ways.items()] == [
        ("published loop, one image at a time", "pipe", 1, 2),
        ("ours, one image at a time", "pipe", 1, 2),
        ("ours, batch 8, bfloat16", "half", 8, 8),
        ("ours, batch 4", "pipe", 4, 4),
        ("ours, batch 4, bfloat16", "half", 4, 4),
    ]
    assert null_text.compiled("pipe", "half", options) == {}


@pytest.mark.parametrize(
    ("benchmark", "arguments", "rows"),
    [
        (null_text, "--images 2 --published-images 1 --steps 2 --inner-steps 1 --every-step --repeats 1 --compile none", 4),
        (istd, "--prompts 1 --steps 2 --frames 3 --repeats 1", 1),
    ],
)
def test_random_weights_of_the_real_layout_are_measured_and_the_table_is_kept(monkeypatch, tmp_path, benchmark, arguments, rows):
    file = tmp_path / "table.md"
    monkeypatch.setattr(sys, "argv", ["benchmark", "--model", "random-sd15-slim", *arguments.split(), "--write", str(file)])
    benchmark.main()
    title, empty, head, line, *found = file.read_text(encoding="utf-8").splitlines()
    assert "random-sd15-slim" in title and not empty and len(found) == rows
    assert {one.count("|") for one in (head, line, *found)} == {head.count("|")}


def test_a_random_model_has_the_size_of_its_pictures_and_the_papers_guidance():
    pipe = random_model.load("random-sd15-slim")
    assert random_model.image_size(pipe) == 128 and random_model.guidance_scale("random-sd15") == 7.5
    assert encode_prompts(pipe, ["a red sofa"]).shape[1] == 77
    assert random_model.image_size(random_model.load("mini")) == pipelines.image_size("mini")
    again = random_model.load("random-sd15-slim")
    assert all(torch.equal(one, other) for one, other in zip(pipe.unet.parameters(), again.unet.parameters(), strict=True))


def test_benchmarks_that_start_together_are_timed_one_at_a_time(tmp_path):
    """Two that warm up at once: neither is timed before both are warm, and who has been timed lets the other go first."""
    file, said, ready = tmp_path / "lock", [], threading.Event()

    def other():
        with beside(file) as alone:
            ready.set()
            time.sleep(0.2)
            said.append("the other is warm")
            with alone():
                said.append("timed")
                time.sleep(0.1)
                said.append("done")

    thread = threading.Thread(target=other)
    with beside(file) as alone:
        thread.start()
        assert ready.wait(5)
        with alone():
            said.append("timed")
            time.sleep(0.1)
            said.append("done")
        said.append("compiles")
    thread.join()
    assert said == ["the other is warm", "timed", "done", "timed", "done", "compiles"]


def test_a_benchmark_without_others_waits_for_none():
    with beside(None) as alone, alone():
        pass
