"""A training writes where nothing is lost: other weights are replaced only when told to, and never by broken ones."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from tiny import assert_one_sentence

from companion.base import paths
from companion.base.config import ConfigurationError
from companion.training import exports
from companion.training import loop as training
from companion.training.exports import check_space, check_weights, claim_export_folder
from companion.training.objectives import Objective
from companion.training.settings import TrainingConfig, load_config

SETTINGS = dict(objective="denoising", steps=2, batch_size=1, learning_rate=1e-3)


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    for name in ("RUNS", "MODELS"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())


def config(trainable="lora", name="mine", export_to="adapters/mine", **changes):
    return TrainingConfig(**{**SETTINGS, "name": name, "export_to": export_to, "objective_options": {"trainable": trainable}, **changes})


def weights(folder, *names):
    for name in names:
        (paths.MODELS / folder / name).parent.mkdir(parents=True, exist_ok=True)
        (paths.MODELS / folder / name).write_bytes(b"weights")


@pytest.mark.parametrize(
    ("settings", "file"),
    [
        (config(), "pytorch_lora_weights.safetensors"),
        (config("unet"), "unet_difference.safetensors"),
        (config("all"), "unet/diffusion_pytorch_model.safetensors"),
        (config(objective_options={}), "unet/diffusion_pytorch_model.safetensors"),
        (config(objective="autoencoder", objective_options={}), "vae/diffusion_pytorch_model.safetensors"),
        (config(objective="contrastive", objective_options={}), "dual_encoder.safetensors"),
        (config(objective="attributes", objective_options={}), "scene_attributes.safetensors"),
    ],
)
def test_existing_weights_are_replaced_only_when_told_to(settings, file):
    claim_export_folder(settings)  # nothing is there
    weights("adapters/mine", file)
    with pytest.raises(ConfigurationError, match=r"^export_to is 'adapters/mine', but .* is there already: .* overwrite=true$") as raised:
        claim_export_folder(settings)
    assert file in str(raised.value)
    assert_one_sentence(raised)
    claim_export_folder(replace(settings, overwrite=True))


def test_the_files_are_those_that_are_shipped():
    for name, trained in (("full", "unet"), ("smooth", "lora")):
        assert (paths.ROOT / "data" / "models" / "adapters" / name / exports.exported_file(config(trained))).is_file()
    trained = {"denoising": "mini", "autoencoder": "mini", "contrastive": "scene_alignment", "attributes": "scene_attributes"}
    for objective, folder in trained.items():
        file = exports.exported_file(config(objective=objective, objective_options={}))
        assert (paths.ROOT / "data" / "models" / folder / file).is_file()


def test_a_training_that_was_interrupted_may_finish_its_own_export():
    settings = config()
    claim_export_folder(settings)
    (settings.folder / "checkpoint.pt").write_bytes(b"checkpoint")
    weights("adapters/mine", exports.LORA)  # killed between weights and card
    claim_export_folder(settings)
    weights("adapters/other", exports.LORA)
    with pytest.raises(ConfigurationError, match=r"adapters/other.* is there already"):
        claim_export_folder(replace(settings, export_to="adapters/other"))
    claim_export_folder(settings)
    (settings.folder / "checkpoint.pt").unlink()  # a training anew
    with pytest.raises(ConfigurationError, match="is there already"):
        claim_export_folder(settings)


@pytest.mark.parametrize(
    ("settings", "there", "named"),
    [
        (config("unet", overwrite=True), exports.LORA, exports.LORA),
        (config("lora", overwrite=True), "unet_difference.safetensors", "unet_difference.safetensors"),
        (config("lora", overwrite=True), "model_index.json", "model_index.json"),
        (config("lora", overwrite=True), "vae/x.safetensors", "vae"),
        (config("all", overwrite=True), exports.LORA, exports.LORA),
    ],
)
def test_two_kinds_of_weights_never_share_a_folder(settings, there, named):
    weights("adapters/mine", there)
    with pytest.raises(ConfigurationError, match=rf"holds {named}, and .* beside it could not be loaded: choose another folder") as raised:
        claim_export_folder(settings)
    assert_one_sentence(raised)


def test_a_folder_inside_another_model_is_refused():
    weights("adapters/smooth", "card.json")
    with pytest.raises(ConfigurationError, match=r"adapters/smooth is a model of its own: choose a folder beside it"):
        claim_export_folder(config(export_to="adapters/smooth/mine"))


def test_the_stages_of_a_model_go_into_one_folder():
    weights("mini", "vae/diffusion_pytorch_model.safetensors")
    claim_export_folder(config("all", export_to="mini"))


def test_train_asks_before_anything_is_made(monkeypatch):
    weights("adapters/mine", exports.LORA)
    monkeypatch.setattr(training, "Trainer", None)
    with pytest.raises(ConfigurationError, match="is there already"):
        training.train(config(objective_options={"trainable": "lora", "pipeline": "no-such-model"}))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 70000.0, -70000.0])
def test_weights_that_half_precision_does_not_hold_are_not_exported(tmp_path, value):
    good = torch.full((3,), 65504.0)
    check_weights("mine", tmp_path / "checkpoint.pt", [good, torch.zeros(0), torch.tensor(1.0)])
    with pytest.raises(FloatingPointError, match=r"^the weights of mine are not finite after its last step, .* delete .*checkpoint\.pt"):
        check_weights("mine", tmp_path / "checkpoint.pt", [good, torch.tensor([0.0, value])])


def test_a_disk_without_room_is_named_before_the_first_step(monkeypatch):
    weight = torch.zeros(1_000_000)  # 4 MB: two checkpoints of four times as much
    check_space(config(), [weight])
    place = shutil.disk_usage(paths.ROOT)._replace
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: place(free=31_000_000))
    said = r"^the disk of .*runs/training/mine has 31 MB left, but the training 'mine' needs 32: make room, or let SMOOTHLIB_RUNS"
    with pytest.raises(ConfigurationError, match=said) as raised:
        check_space(config(), [weight])
    assert_one_sentence(raised)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: place(free=33_000_000))
    check_space(config(), [weight])
    weights("adapters/mine", "more")
    (paths.MODELS / "adapters/mine/more").write_bytes(bytes(30_000_000))
    with pytest.raises(ConfigurationError, match=r"the disk of .*models/adapters/mine has 33 MB left, but the training 'mine' needs 34: "):
        check_space(config(), [weight])


class Exported(Objective):
    """Two weights that want to be 1."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def __len__(self):
        return 4

    def identity(self):
        return "ones"

    def draw(self, count, generator):
        return {}

    def forward(self, indices, draws):
        return (self.layer(torch.ones(len(indices), 1)) - 1).square().mean(), {}

    def export(self, folder):
        torch.save(self.state_dict(), folder / "weights.pt")


def test_a_last_update_that_breaks_the_weights_exports_nothing(monkeypatch):
    monkeypatch.setitem(training.OBJECTIVES, "autoencoder", Exported)
    settings = dict(objective="autoencoder", objective_options={}, steps=1, warmup_steps=0, export_to="test")
    with pytest.raises(FloatingPointError, match="nothing is exported"):
        training.train(config(**settings, learning_rate=1e30))
    assert not (paths.MODELS / "test").exists()
    assert not (config(**settings).folder / "checkpoint.pt").exists(), "a checkpoint holds weights that are good"
    training.train(config(**settings, name="gentle"))
    assert json.loads((paths.MODELS / "test" / "card.json").read_text())["training"]["gentle"]["last_logged"]["step"] == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "steps=0"], "steps is 0, but must be a whole number of at least 1"),
        (["--set", "steps"], "settings must be NAME=VALUE, got 'steps'"),
        (["--set", "export_to=adapters/mine"], "export_to is 'adapters/mine', but "),
        (["--config", "absent.yaml"], "the settings absent.yaml cannot be read: No such file or directory"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_sentence(monkeypatch, capsys, arguments, sentence):
    weights("adapters/mine", exports.LORA)
    given = [] if "--config" in arguments else ["--config", str(paths.CONFIGS / "training" / "smooth_lora.yaml")]
    monkeypatch.setattr("sys.argv", ["training", *given, *arguments])
    with pytest.raises(SystemExit) as stopped:
        training.main()
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.startswith(f"python -m companion.training: {sentence}") and error.count("\n") == 1


def test_the_command_keeps_every_setting_and_hands_on_overwrite(monkeypatch):
    taken = []
    monkeypatch.setattr(training, "train", taken.append)
    file = str(paths.CONFIGS / "training" / "smooth_lora.yaml")
    given = ["--set", "steps=7", "--set", "seed=3", "log_every=2", "mixed_precision=no", "--overwrite"]
    monkeypatch.setattr("sys.argv", ["training", "--config", file, *given])
    training.main()
    wanted = load_config(file, steps=7, seed=3, log_every=2, overwrite=True)
    assert taken == [wanted] and wanted.mixed_precision == "no"
    assert not yaml.safe_load((paths.CONFIGS / "training" / "smooth_lora.yaml").read_text()).get("overwrite")
