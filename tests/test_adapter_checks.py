"""Every notebook looks at all its adapters, for the model that it uses, before the first row is computed."""

import re

import pytest
import torch
from lora_files import all_layers, entries, low_rank, peft_key, projections, write_adapter
from tiny import assert_one_sentence, ship_tiny_pipeline, tiny_pipeline

from companion.base import paths
from companion.base.config import ConfigurationError
from companion.studies.setup import check_adapters
from companion.weights import pipelines as models
from companion.weights.cards import write_card


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """data/models with the tiny pipeline as "mini", and a good adapter "smooth"."""
    ship_tiny_pipeline(tmp_path / "models", monkeypatch)
    unet = tiny_pipeline().unet
    write_adapter(paths.ADAPTERS / "smooth", entries(low_rank(unet, projections(unet)), peft_key))
    write_card(paths.ADAPTERS / "smooth")
    return tmp_path


def weights(**changes):
    unet = tiny_pipeline().unet
    return entries(low_rank(unet, all_layers(unet)), peft_key) | changes


def refused(names, model="mini"):
    with pytest.raises(ConfigurationError) as raised:
        check_adapters(names, model)
    assert_one_sentence(raised)
    return str(raised.value)


def test_good_adapters_pass_and_no_pipeline_is_loaded(shipped, monkeypatch):
    monkeypatch.setattr(models, "load_pipeline", None)
    check_adapters([None, "smooth", "smooth"], "mini")
    check_adapters([None], "a model that nothing asks for")


def test_each_adapter_is_looked_at(shipped):
    fits = entries(low_rank(tiny_pipeline().unet, projections(tiny_pipeline().unet)), peft_key)
    wide = {key: torch.ones(2, 5) if "_A." in key else torch.ones(5, 2) for key in fits}
    broken = {"unet.conv_out.lora_B.weight": torch.full((4, 2, 1, 1), float("nan"))}
    for name, content, sentence in (
        ("wide", wide, r"needs \(2, 16\) here"),
        ("broken", weights(**broken), "its entry unet.conv_out.lora_B.weight is not finite"),
        ("more", weights(**{"unet.conv_in.diff": torch.ones(16, 4, 3, 3)}), "its entry unet.conv_in.diff is not applied here"),
    ):
        folder = write_adapter(shipped / name, content)
        assert re.search(sentence, refused(["smooth", str(folder)]))
    check_adapters(["smooth", *(str(write_adapter(shipped / name, fits)) for name in ("lora#2", "a$x$", "train", "base"))], "mini")


def test_an_adapter_of_another_model_is_refused_for_this_one(shipped):
    other = tiny_pipeline()
    other.unet = type(other.unet).from_config(other.unet.config, cross_attention_dim=24)
    other.save_pretrained(shipped / "other")
    check_adapters(["smooth"], "mini")
    assert "smooth/pytorch_lora_weights.safetensors is not a LoRA for this UNet" in refused(["smooth"], str(shipped / "other"))


def test_a_link_to_an_adapter_elsewhere_does_not_escape_the_cards(shipped):
    folder = write_adapter(shipped / "elsewhere", weights())
    check_adapters([str(folder)], "mini")
    (paths.ADAPTERS / "linked").symlink_to(folder)
    assert "linked has no card.json with its files' hashes" in refused(["linked"])
