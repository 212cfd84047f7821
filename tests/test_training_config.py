"""The settings of a training: each is what it may be, or is refused in one sentence before anything starts."""

import math
import re
from dataclasses import fields, replace

import pytest
import yaml
from tiny import assert_one_sentence

from companion.base import paths
from companion.base.config import ConfigurationError
from companion.training.objectives import OBJECTIVES
from companion.training.objectives.base import known_options
from companion.training.objectives.denoising import DenoisingObjective
from companion.training.objectives.execution import Execution
from companion.training.settings import ALLOWED, Loader, TrainingConfig, load_config, parse_settings
from smoothlib.regularizer.variation import StepwiseVariation

SETTINGS = dict(objective="autoencoder", export_to="test", steps=12, batch_size=4, learning_rate=1e-2)


def configured(**changes):
    return TrainingConfig(**{"name": "x", **SETTINGS, **changes})


def test_every_setting_says_what_it_may_be():
    assert list(ALLOWED) == [field.name for field in fields(TrainingConfig)]


WRONG = {
    "objective": ["gan", None, 5],
    "name": ["a/b", "..", "../x", ".hidden", "", " x", "x.", 5, None, "x" * 101, "a\\b", "a\0"],
    "export_to": [
        "",
        ".",
        "..",
        "../x",
        "adapters/../../x",
        "/tmp/x",
        "adapters",
        "metrics",
        "metrics/x",
        "adapters/",
        "a//b",
        "a\\b",
        5,
        None,
    ],
    "steps": [0, -1, 10.5, 10.0, "10", True, None, math.nan, [10]],
    "batch_size": [0, 1.5, True],
    "gradient_accumulation_steps": [0, 1.5],
    "log_every": [0, 1.5, False],
    "warmup_steps": [-5, math.nan, 0.5, None],
    "learning_rate": [0, -1, math.inf, math.nan, True, "1e-4", None, 1j],
    "max_grad_norm": [0, -1, math.nan],
    "checkpoint_minutes": [0, -1, math.nan],
    "weight_decay": [-1e-9, math.nan, math.inf],
    "final_learning_rate": [-1, 1.1, math.nan],
    "ema_decay": [1, 1.0, -0.1, math.nan],
    "mixed_precision": ["int8", True, None, 0],
    "seed": [-1, 2**70, 0.5, "0", True],
    "overwrite": ["yes", 1, None],
    "objective_options": [None, [], "rank", {5: 1}],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_bad_settings_are_named(name, value):
    with pytest.raises(ConfigurationError, match=f"^{name} is .*, but must be ") as raised:
        configured(**{name: value})
    assert_one_sentence(raised)


def test_the_ends_of_the_ranges_are_allowed():
    configured(final_learning_rate=0, warmup_steps=0, weight_decay=0, ema_decay=0, seed=2**32 - 1, learning_rate=1)
    configured(
        final_learning_rate=1, steps=1, batch_size=1, name="mini-base.2 (b)", export_to="adapters/my smooth_2", mixed_precision="bf16"
    )
    configured(mixed_precision="fp16")
    configured(export_to=str(paths.RUNS / "adapters" / "x"))  # a training that publishes nothing
    with pytest.raises(ConfigurationError, match=r"^export_to is"):
        configured(export_to=str(paths.RUNS / ".." / "x"))


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        ("denoising", {"mirror": "no"}),
        ("denoising", {"regularize_every": 1.5}),
        ("denoising", {"rank": True}),
        ("denoising", {"data": ""}),
        ("denoising", {"min_snr_gamma": "5"}),
        ("denoising", {"regularization": math.nan}),
        ("denoising", {"only": ["dog"]}),
        ("denoising", {"regularizer": "paper"}),
        ("denoising", {"start_from": 5}),
        ("contrastive", {"held_out": "test"}),
        ("contrastive", {"limit": 1.5}),
        ("autoencoder", {"crop": 32.0}),
    ],
)
def test_options_of_another_type_are_named(objective, options):
    (option,) = options
    with pytest.raises(ConfigurationError, match=rf"^objective_options\.{option} is .*, but must be ") as raised:
        configured(objective=objective, objective_options=options)
    assert_one_sentence(raised)


def test_options_that_may_be_null_are_and_numbers_may_be_whole():
    options = {"only": None, "data": None, "min_snr_gamma": 0, "regularizer": {"gradient": None}, "mirror": False}
    configured(objective="denoising", objective_options=options)
    with pytest.raises(ValueError, match="min_snr_gamma is -1, but must be a number of at least 0"):
        DenoisingObjective(min_snr_gamma=-1)
    with pytest.raises(ConfigurationError, match=r"^regularizer\.decay is 'fast', but must be a number$"):
        DenoisingObjective(regularizer={"decay": "fast"})


def test_no_is_a_precision(tmp_path):
    file = tmp_path / "settings.yaml"
    for written in ("no", "'no'", "false", "off"):
        file.write_text(yaml.safe_dump(SETTINGS | {"name": "x"}) + f"mixed_precision: {written}\n")
        assert load_config(file).mixed_precision == "no"
    assert load_config(file, **parse_settings(["mixed_precision=no"])).mixed_precision == "no"
    assert replace(load_config(file), steps=3).mixed_precision == "no"
    with pytest.raises(ConfigurationError, match=r"^mixed_precision is True, but must be one of 'no', 'bf16', 'fp16'$"):
        load_config(file, **parse_settings(["mixed_precision=yes"]))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "holds nothing, but must hold settings"),
        (b"[a, b]", "holds a list, but must hold settings"),
        (b"some text", "holds a str, but must hold settings"),
        (b"name: x\nsteps: [1, 2", "is not YAML: .* in line 2"),
        (b"steps: 2026-13-45", "is not YAML: "),
        (b"\x00\x01", "is not YAML: "),
        (b"\xff\xfe\x00", "is UTF-16, but must be UTF-8"),
        (b"1: 2", "unknown training setting 1 in .*settings.yaml"),
        (None, "cannot be read: No such file"),
    ],
)
def test_files_that_are_no_settings_are_named(tmp_path, content, sentence):
    file = tmp_path / "settings.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=sentence) as raised:
        load_config(file)
    assert str(file) in str(raised.value)
    assert_one_sentence(raised)


def test_numbers_without_a_point_are_numbers(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(SETTINGS | {"name": "x"}) + "objective_options: {kl_weight: 1e-4}\n")
    file.write_text(file.read_text().replace("learning_rate: 0.01", "learning_rate: 1e-2"))
    config = load_config(file)
    assert config.learning_rate == 1e-2
    assert config.objective_options == {"kl_weight": 1e-4}
    assert yaml.load("[1e3, -2E-5, 1e, e5]", Loader) == [1e3, -2e-5, "1e", "e5"]


def test_inner_settings_are_replaced_by_dotted_names_and_bad_entries_are_named(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(
        yaml.safe_dump(SETTINGS | {"name": "x", "objective": "denoising", "objective_options": {"pipeline": "mini", "rank": 8}})
    )
    config = load_config(file, **parse_settings(["objective_options.rank=4", "steps=7"]))
    assert config.steps == 7 and config.objective_options == {"pipeline": "mini", "rank": 4}
    for wrong in ("steps", "=5"):
        with pytest.raises(ValueError, match=f"settings must be NAME=VALUE, got '{wrong}'"):
            parse_settings([wrong])
    with pytest.raises(ValueError, match=r"^steps\.x names a setting inside steps, which is 7 and has none$"):
        load_config(file, **parse_settings(["steps=7", "steps.x=1"]))
    with pytest.raises(ValueError, match=r"^the value of steps, '{a: ', is not YAML: "):
        parse_settings(["steps={a: "])
    file.write_text("name: x\n")
    with pytest.raises(ValueError, match="lacks the training setting objective"):
        load_config(file)
    with pytest.raises(ValueError, match="objective_options has no setting 'lambda_reg'; known are pipeline"):
        configured(objective="denoising", objective_options={"lambda_reg": 1})


@pytest.mark.parametrize("file", sorted((paths.CONFIGS / "training").glob("sd15_*.yaml")), ids=lambda file: file.stem)
def test_the_trainings_of_stable_diffusion_take_the_papers_steps_in_ways_that_go_together(file):
    config, text = load_config(file), file.read_text(encoding="utf-8")
    options = config.objective_options
    way, gradient = Execution(**options.get("execution", {})), options["regularizer"]["gradient"]
    way.check(options["trainable"], "attention", options["data"], gradient, options.get("gradient_checkpointing", False))
    (launched,) = re.findall(r"--num_processes 4 .*", text)
    four = load_config(file, **parse_settings(launched.partition("--set ")[2].split()))
    processes = 1 if "one GPU" in text else 4
    assert config.batch_size * config.gradient_accumulation_steps * processes == 96
    assert four.batch_size * four.gradient_accumulation_steps * 4 == 96
    assert (config.mixed_precision == "fp16") == way.fused_second_order == (way.frozen_dtype == "float16")


def test_the_shipped_training_files_are_valid_and_unknown_settings_are_named(tmp_path):
    for path in sorted((paths.CONFIGS / "training").glob("*.yaml")):
        assert load_config(path).objective in OBJECTIVES
    listed = yaml.load((paths.CONFIGS / "adapters.yaml").read_text(), Loader)
    for name, settings in listed.items():
        config = load_config(paths.CONFIGS / "training" / "smooth_lora.yaml", name=name, **settings)
        options = known_options("objective_options", DenoisingObjective, config.objective_options)
        known_options("regularizer", StepwiseVariation, options["regularizer"])
    assert listed["smooth"] == {}, "the file's own settings are the default's"
    shipped, mended = (
        load_config(paths.CONFIGS / "training" / f"smooth_{name}.yaml", name="x", export_to="x") for name in ("lora", "auto")
    )
    way = {"gradient": "central", "difference": "auto", "difference_every": 50}
    shipped.objective_options["regularizer"].update(way)
    assert mended == shipped, "smooth_auto.yaml differs in the way to the gradient alone"
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: x\nlearningrate: 1\n")
    with pytest.raises(ValueError, match="unknown training setting 'learningrate'"):
        load_config(bad)
