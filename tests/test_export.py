"""An exported LoRA does elsewhere what it does here: back again key by key, and the UNet's output is the original's."""

import json

import pytest
import torch
from lora_files import all_layers, entries, low_rank, peft_key, projections, released_key, text_layers, write_adapter
from safetensors.torch import load_file
from tiny import assert_one_sentence, generate, noise, ship_tiny_pipeline, tiny_pipeline

from companion.weights.adapters import load_adapter
from companion.weights.export import DIFFUSERS, diffusers_entries, export, kohya_entries, main
from smoothlib.lora_file import read_lora


@pytest.fixture(scope="module")
def modules():
    pipe = tiny_pipeline()
    return {"unet": pipe.unet, "text_encoder": pipe.text_encoder}


def adapter(folder, modules, kind):
    """A LoRA file of each kind that is told apart: its strength, its ranks, its layers, its precision."""
    unet, key, header = modules["unet"], peft_key, None
    layers = projections(unet) if kind in ("released", "text", "uniform") else all_layers(unet)
    factors = low_rank(unet, layers, ranks=(4,) if kind == "uniform" else (2, 3), scale=0.1)
    if kind in ("strong", "stabilised"):
        ranks = {name: a.shape[0] for name, (a, _) in factors.items()}
        settings = dict(r=2, lora_alpha=5, use_rslora=kind == "stabilised", rank_pattern={n: 3 for n, r in ranks.items() if r == 3})
        header = {"lora_adapter_metadata": json.dumps({f"unet.{name}": value for name, value in settings.items()})}
    if kind == "released":
        key = released_key
    weights = entries(factors, key)
    if kind == "text":
        weights |= entries(low_rank(modules["text_encoder"], text_layers(modules["text_encoder"])), peft_key, component="text_encoder")
    if kind == "decomposed":
        for i, name in enumerate(factors):
            norms = unet.get_submodule(name).weight.data.flatten(1).norm(dim=1)
            weights[peft_key(name, "magnitude")] = norms * (1 + 0.1 * noise(len(norms), seed=i))
    if kind == "half":
        weights = {name: value.half() for name, value in weights.items()}
    return write_adapter(folder, weights, header)


KINDS = ["plain", "strong", "stabilised", "released", "text", "decomposed", "half"]


def same_layers(found, original, by):
    assert {component: set(layers) for component, layers in found.items()} == {c: set(layers) for c, layers in original.items()}
    for component, layers in original.items():
        for name, layer in layers.items():
            other = found[component][name]
            torch.testing.assert_close(other.a, layer.a, rtol=0, atol=0)
            scale, other_scale = (one.alpha / len(one.a) ** (0.5 if one.rank_stabilised else 1) for one in (layer, other))
            torch.testing.assert_close(other_scale * other.b, scale * layer.b, rtol=by, atol=0)
            assert (other.magnitude is None) == (layer.magnitude is None)
            assert layer.magnitude is None or torch.equal(other.magnitude, layer.magnitude)


@pytest.mark.parametrize("kind", KINDS)
def test_both_files_come_back_key_by_key_and_act_alike(tmp_path, modules, kind):
    source = adapter(tmp_path / "source", modules, kind)
    written = export(source, tmp_path / "out", modules)
    assert [file.name for file in written] == [DIFFUSERS, "source.safetensors"]
    file = source / DIFFUSERS
    original = read_lora(file, file.read_bytes(), modules)
    pipe = tiny_pipeline()
    load_adapter(pipe, source)
    expected = generate(pipe)
    for other in written:
        same_layers(read_lora(other, other.read_bytes(), modules), original, by=1e-6)
        again = tiny_pipeline()
        load_adapter(again, other)
        torch.testing.assert_close(generate(again), expected, rtol=1e-4, atol=1e-5)
    assert (expected - generate(tiny_pipeline())).abs().max() > 0.01
    assert {tensor.dtype for tensor in load_file(written[1]).values()} == {torch.float16 if kind == "half" else torch.float32}


@pytest.mark.parametrize("kind", [*KINDS, "uniform"])
def test_diffusers_itself_loads_them(tmp_path, modules, kind):
    pipe = tiny_pipeline()
    source = adapter(tmp_path / "source", modules, kind)
    load_adapter(pipe, source)
    expected = generate(pipe)
    diffusers_file, kohya_file = export(source, tmp_path / "out", modules)
    for file in (diffusers_file, kohya_file):
        if file is kohya_file and kind != "uniform":
            continue  # diffusers loses the alphas of this layout where ranks differ, and has no DoRA in it
        theirs = tiny_pipeline()
        theirs.load_lora_weights(str(file.parent), weight_name=file.name)
        torch.testing.assert_close(generate(theirs), expected, rtol=1e-4, atol=1e-5)


def test_keys_are_those_that_other_programs_look_for(modules, tmp_path):
    file = adapter(tmp_path / "source", modules, "text") / DIFFUSERS
    lora = read_lora(file, file.read_bytes(), modules)
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
    start = f"lora_unet_{layer.replace('.', '_')}"
    text = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    kohya = kohya_entries(lora)
    assert {f"{name}.{end}" for name in (start, text) for end in ("lora_down.weight", "lora_up.weight", "alpha")} <= set(kohya)
    rank, inputs = kohya[f"{start}.lora_down.weight"].shape
    assert inputs == modules["unet"].get_submodule(layer).in_features and float(kohya[f"{start}.alpha"]) == rank
    assert f"unet.{layer}.lora_A.weight" in diffusers_entries(lora)
    assert "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight" in diffusers_entries(lora)


def test_the_command_writes_both_and_says_where(tmp_path, modules, monkeypatch, capsys):
    ship_tiny_pipeline(tmp_path / "models", monkeypatch)
    source = adapter(tmp_path / "mine", modules, "plain")
    assert main([str(source), str(tmp_path / "out"), "--name", "my_name"]) == 0
    told = capsys.readouterr().out.split()
    assert told == [str(tmp_path / "out" / DIFFUSERS), str(tmp_path / "out" / "my_name.safetensors")]
    with pytest.raises(FileExistsError, match=f"but must not hold {DIFFUSERS} yet") as raised:
        export(source, tmp_path / "out", modules)
    assert_one_sentence(raised)
    with pytest.raises(ValueError, match="but must be another than that of diffusers' file") as raised:
        export(source, tmp_path / "other", modules, "pytorch_lora_weights")
    assert_one_sentence(raised)
    for name in ("../mine", "a/b", "a\\b", "/x", "..", ".", "a\0b"):
        with pytest.raises(ValueError, match="but must be a file's name alone") as raised:
            export(source, tmp_path / "other", modules, name)
        assert_one_sentence(raised)
    assert not (tmp_path / "other").exists() and not list(tmp_path.glob("*.safetensors"))
    source.joinpath(DIFFUSERS).rename(source / "unet_difference.safetensors")
    with pytest.raises(ValueError, match="is a full fine-tune, but must be a LoRA") as raised:
        export(source, tmp_path / "other", modules)
    assert_one_sentence(raised)
