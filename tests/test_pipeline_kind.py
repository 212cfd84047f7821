"""Pipelines of another kind are refused from their settings alone: the weights are not even there."""

import json

import huggingface_hub.constants
import pytest
from tiny import assert_one_sentence

from companion.weights.pipelines import blank_modules, load_pipeline, load_vae

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def without_weights(saved, tmp_path):
    for file in saved.rglob("*.json"):
        (tmp_path / file.relative_to(saved)).parent.mkdir(exist_ok=True)
        (tmp_path / file.relative_to(saved)).write_bytes(file.read_bytes())
    return tmp_path


def change(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    "kind",
    [
        "StableDiffusionXLPipeline",
        "StableDiffusion3Pipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionControlNetPipeline",
        "FluxPipeline",
        None,
    ],
)
def test_another_class_of_pipeline_is_refused(without_weights, kind):
    change(without_weights / "model_index.json", _class_name=kind)
    with pytest.raises(ValueError, match=f"holds a {kind}, but must hold a StableDiffusionPipeline") as raised:
        load_pipeline(str(without_weights))
    assert_one_sentence(raised)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("unet/config.json", dict(in_channels=9), "takes 9 channels, but must take the latent's 4 alone"),
        ("unet/config.json", dict(addition_embed_type="text_time"), "has addition_embed_type 'text_time', but must take latent, timestep"),
        ("unet/config.json", dict(num_class_embeds=10), "has num_class_embeds 10, but must take"),
        ("unet/config.json", dict(time_cond_proj_dim=256), "has time_cond_proj_dim 256, but must take"),
        (
            "scheduler/scheduler_config.json",
            dict(_class_name="FlowMatchEulerDiscreteScheduler", beta_schedule=None),
            "scheduler is FlowMatchEulerDiscreteScheduler with beta_schedule None, but must have DDIM's kind",
        ),
    ],
)
def test_a_network_or_a_schedule_of_another_kind_is_refused(without_weights, file, changes, message):
    change(without_weights / file, **changes)
    with pytest.raises(ValueError, match=message) as raised:
        load_pipeline(str(without_weights))
    assert_one_sentence(raised)


def test_settings_that_are_no_json_are_named(without_weights):
    for content, message in (
        ("{", r"unet/config\.json is not JSON \(.*\): fetch it again"),
        ("[5]", r"unet/config\.json holds \[5\], but must hold facts by name: fetch it again"),
    ):
        (without_weights / "unet/config.json").write_text(content)
        for load in (load_pipeline, blank_modules):
            with pytest.raises(ValueError, match=message) as raised:
                load(str(without_weights))
            assert_one_sentence(raised)


@pytest.mark.parametrize("load", [load_pipeline, blank_modules])
def test_an_index_that_lacks_a_part_is_refused_before_anything_is_read(without_weights, load):
    change(without_weights / "model_index.json", vae=None)
    with pytest.raises(ValueError, match=r"model_index\.json names no vae, but must name scheduler, .*: fetch it again") as raised:
        load(str(without_weights))
    assert_one_sentence(raised)


def test_the_autoencoder_of_another_kind_of_pipeline_is_as_good(saved):
    index = (saved / "model_index.json").read_text()
    try:
        change(saved / "model_index.json", _class_name="StableDiffusionInpaintPipeline")
        assert load_vae(str(saved)).config.scaling_factor == 0.7
    finally:
        (saved / "model_index.json").write_text(index)


def test_a_hub_model_of_another_kind_is_refused_before_its_weights_are_downloaded(without_weights, tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    change(without_weights / "model_index.json", _class_name="StableDiffusionXLPipeline")
    (cache / "models--someone--model/snapshots").mkdir(parents=True)
    without_weights.rename(cache / f"models--someone--model/snapshots/{COMMIT}")
    with pytest.raises(ValueError, match="someone/model holds a StableDiffusionXLPipeline, but must hold") as raised:
        load_pipeline(f"someone/model@{COMMIT}")
    assert_one_sentence(raised)
