"""The benchmarks' command lines: bad values end with a sentence and an exit code before anything is measured."""

import re
import subprocess
import sys

import pytest
from diffusers import UNet2DConditionModel
from torch.nn.modules.module import register_module_forward_pre_hook

from benchmarks import caption_stream, division, gradient_error, gradient_notes, regularizer, training_steps
from companion.base import paths
from companion.base.paths import ROOT


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--batch", "0"], "--batch must be at least 1, got 0"),
        (["--latents", "0"], "--latents must be at least 1, got 0"),
        (["--latents", "7"], "--latents must be a multiple of 8, got 7"),
        (["--steps", "0"], "--steps must be at least 1, got 0"),
        (["--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["--samples", "real", "--unet", "sd15"], "--samples real needs --unet mini and --latents 16, got sd15 and 16"),
    ],
)
def test_the_costs_of_nothing_are_refused(capsys, arguments, sentence):
    with pytest.raises(SystemExit) as raised:
        regularizer.parse(arguments)
    assert raised.value.code == 2 and capsys.readouterr().err.endswith(f": {sentence}; --help shows how.\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--batch", "0"], "--batch must be at least 1, got 0"),
        (["--samples", "0"], "--samples must lie in [1, "),
        (["--samples", "999999"], "the number of training scenes, got 999999"),
    ],
)
def test_the_errors_of_nothing_are_refused(monkeypatch, capsys, arguments, sentence):
    monkeypatch.setattr(sys, "argv", ["gradient_error", *arguments])
    with pytest.raises(SystemExit) as raised:
        gradient_error.main()
    assert raised.value.code == 2 and sentence in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--pairs", "0"], "--pairs must be at least 1, got 0; --help shows how."),
        (["--shards", "0"], "--shards must be at least 1, got 0; --help shows how."),
        (["--pairs", "3", "--shards", "4"], "--shards must be at most --pairs, 3, got 4; --help shows how."),
    ],
)
def test_the_stream_of_nothing_is_refused(capsys, arguments, sentence):
    with pytest.raises(SystemExit) as raised:
        caption_stream.parse(arguments)
    assert raised.value.code == 2 and capsys.readouterr().err.endswith(f": {sentence}\n")


def test_every_part_of_the_stream_sees_every_pair(tmp_path, monkeypatch):
    monkeypatch.setattr(caption_stream.paths, "RUNS", tmp_path / "runs")
    caption_stream.write_shards(tmp_path, 50, 3)
    seen = {part: caption_stream.measure(part, tmp_path)["pairs"] for part in caption_stream.PARTS}
    assert seen == dict.fromkeys(caption_stream.PARTS, 50) | {"tokens in one call": 5}


def test_a_way_that_fails_makes_the_benchmark_fail(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["regularizer", "--rounds", "1", "--ways", "plain LoRA", "ours, central"])
    failing = subprocess.CompletedProcess([], 3, stdout="")
    monkeypatch.setattr(subprocess, "run", lambda command, **options: failing)
    with pytest.raises(SystemExit, match=r"plain LoRA failed: exit code 3 .*; ours, central failed: exit code 3"):
        regularizer.main()


def test_real_samples_are_measured_too():
    options = regularizer.parse(["--samples", "real", "--batch", "1", "--steps", "1"])
    options.way = "ours, one-sided"
    found = training_steps.measure(options)
    assert found["seconds"] > 0 and found.keys() == {"seconds", "gib", "batch", "error", "calls", "forward", "backward"}


def test_a_note_is_about_the_step_that_the_training_had():
    assert gradient_notes.settings_of("smooth")["regularizer"] == {
        "mode": "paper",
        "weighting": "multiply",
        "gradient": "one_sided",
        "difference": 0.003,  # its card names none
    }
    assert gradient_notes.settings_of("plain") is None


def test_the_recorded_errors_are_of_the_ways_that_are_measured_and_within_what_is_promised():
    lines = (ROOT / "benchmarks" / "gradient_error.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")][2:]
    ways = [(kind, way) for kind, ways in gradient_error.KINDS.items() for way in ways]
    assert len(rows) == len(gradient_error.STATES) * len(ways)
    for (_, precision, name, step, error, *_), (kind, way) in zip(rows, ways * len(gradient_error.STATES), strict=True):
        assert precision.startswith(kind) and name == f"`{way['gradient']}`"
        assert step.startswith(str(way.get("difference", "")))
        if kind == "float32" and way.get("difference") == "auto":
            assert float(error.removesuffix(" %")) < {"central": 0.1, "one_sided": 1}[way["gradient"]]
        if kind.startswith("float16"):
            assert float(error.removesuffix(" %")) < 1


def test_the_papers_size_is_divided_by_the_workers():
    _, _, walks, *_ = division.paper_size(10.0, [1, 8], 0.9)
    assert walks.split(" | ")[1:] == ["1,100,000", "34 h", "4.24 h |"]  # 1,100,000 / 10 / 3600 / .9 = 33.95


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--workers", "1", "-1"], "--workers is -1, but must be a number of at least 0"),
        (["--batch-size", "0"], "--batch-size is 0, but must be a number of at least 1"),
        (["--seconds", "nan"], "--seconds is nan, but must be a number of at least 0"),
        (["--evaluations-per-second", "inf"], "--evaluations-per-second is inf, but must be a number of at least 1e-09"),
        (["--share", "2"], "--share is 2.0, but must be at most 1"),
    ],
)
def test_a_division_of_nothing_is_refused(monkeypatch, capsys, arguments, sentence):
    monkeypatch.setattr(sys, "argv", ["division", *arguments])
    with pytest.raises(SystemExit) as raised:
        division.main()
    assert raised.value.code == 2 and capsys.readouterr().err.endswith(f": {sentence}; --help shows how.\n")


def test_an_item_that_costs_nothing_is_timed_in_this_process_without_dask():
    *_, line = division.costs([division.HERE], [3, 6], repeats=1)
    name, *cells = line.strip("| ").split(" | ")
    assert name == "this process" and len(cells) == 2
    for cell in cells:
        clock, processor = map(float, re.fullmatch(r"([\d.]+) ms, ([\d.]+) of a processor", cell).groups())
        assert 0 < clock and 0 <= processor


def test_each_size_has_as_many_items_in_all(monkeypatch):
    sizes = []
    monkeypatch.setattr(division, "seconds_for", lambda procedure, items, batch_size, executor: sizes.append(len(items)) or 0.5)
    *_, line = division.costs([division.HERE], [10, 25, 100], repeats=2)
    assert sizes == [16, *2 * ([10] * 10 + [25] * 4 + [100])]
    assert line.startswith("| this process | 50.00 ms, ") and "| 20.00 ms, " in line and "| 5.00 ms, " in line


def test_a_table_is_measured_as_its_page_measures_it():
    """The whole of it, on two images and three steps, in this process; its evaluations are those that are counted."""
    samples, runs_before = [], paths.RUNS

    def count(module, arguments):
        if isinstance(module, UNet2DConditionModel):
            samples.append(len(arguments[0]))

    hook = register_module_forward_pre_hook(count)
    try:
        lines, rate = division.table("mini", [division.HERE, division.HERE], images=2, batch_size=2, steps=3)
    finally:
        hook.remove()
    with division.setting(None, "nowhere"):
        small, whole = (division.study("mini", 2, 0, 2, steps) for steps in (2, 3))
    assert sum(samples) == 2 * (division.evaluations(small, division.HERE) + division.evaluations(whole, division.HERE))
    _, _, first, second, _, said = lines
    assert first.startswith("| this process | ") and second.count("|") == 7 and rate > 0
    assert said == f"{len(whole.rows)} rows; the results are equal, bit for bit." and paths.RUNS == runs_before
