"""The benchmarks' command lines: bad values end with a sentence and an exit code before anything is measured."""

import subprocess
import sys

import pytest

from benchmarks import gradient_error, gradient_notes, regularizer


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
    assert raised.value.code == 2 and capsys.readouterr().err.splitlines()[-1].endswith(f"error: {sentence}")


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


def test_a_way_that_fails_makes_the_benchmark_fail(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["regularizer", "--rounds", "1", "--ways", "plain LoRA", "ours, central"])
    failing = subprocess.CompletedProcess([], 3, stdout="")
    monkeypatch.setattr(subprocess, "run", lambda command, **options: failing)
    with pytest.raises(SystemExit, match="plain LoRA failed with exit code 3; ours, central failed with exit code 3"):
        regularizer.main()


def test_real_samples_are_measured_too():
    options = regularizer.parse(["--samples", "real", "--batch", "1", "--steps", "1"])
    options.way = "ours, one-sided"
    found = regularizer.measure(options)
    assert found["seconds"] > 0 and found.keys() == {"seconds", "gib"}


def test_a_note_is_about_the_step_that_the_training_had():
    assert gradient_notes.settings_of("smooth")["regularizer"] == {
        "mode": "paper",
        "weighting": "multiply",
        "gradient": "one_sided",
        "difference": 0.003,  # its card names none
    }
    assert gradient_notes.settings_of("plain") is None
