"""A LoRA file acts at exactly its strength, W + s B A, whatever program wrote it: keys, alphas, settings, kinds of layer, text encoder."""

import json
import math

import pytest
import torch
from diffusers import StableDiffusionPipeline
from lora_files import (
    added,
    all_layers,
    bare_key,
    change,
    diffusers_key,
    entries,
    kohya_key,
    low_rank,
    named_peft_key,
    peft_folder_key,
    peft_key,
    projections,
    released_key,
    text_layers,
    write_adapter,
)
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from tiny import LATENT_SHAPE, generate, noise, tiny_pipeline

from companion.weights.pipelines import load_adapter
from smoothlib.lora import LORA_TARGET_MODULES

STYLES = [peft_key, peft_folder_key, named_peft_key, bare_key, diffusers_key, released_key, kohya_key]


@pytest.fixture(scope="module")
def base():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def factors(base):
    """On every linear layer and convolution, of two ranks."""
    return low_rank(base.unet, all_layers(base.unet), scale=0.1, ranks=(2, 3))


def assert_adds(pipe, wanted, component="unet"):
    """Every layer of the component gets what is wanted, the others nothing, and the whole computes the sum."""
    module, reference = getattr(pipe, component), tiny_pipeline()
    (adapter,) = pipe.get_active_adapters()
    layers = {name: layer for name, layer in module.named_modules() if hasattr(layer, "get_delta_weight")}
    assert layers.keys() == wanted.keys()
    for name, layer in layers.items():
        torch.testing.assert_close(layer.get_delta_weight(adapter).flatten(1), wanted[name], rtol=1e-5, atol=1e-7)
    change(getattr(reference, component), wanted)
    torch.testing.assert_close(generate(pipe), generate(reference), rtol=1e-4, atol=1e-5)
    assert (generate(pipe) - generate(tiny_pipeline())).abs().max() > 0.01


def rank_of(factors):
    return {name: a.shape[0] for name, (a, _) in factors.items()}


def alphas_of(factors, kind):
    """layer -> alpha: none, the same for all, or a different one for each."""
    return {"none": {}, "one": dict.fromkeys(factors, 1.0), "each": {name: 0.5 + i % 4 for i, name in enumerate(factors)}}[kind]


@pytest.mark.parametrize("kind", ["none", "one", "each"])
@pytest.mark.parametrize("key", STYLES)
def test_every_key_style_and_every_alpha_entry_counts(tmp_path, factors, key, kind):
    alphas = alphas_of(factors, kind)
    weights = entries(factors, key) | {key(name, "alpha"): torch.tensor(alpha) for name, alpha in alphas.items()}
    pipe = tiny_pipeline()
    load_adapter(pipe, write_adapter(tmp_path / "lora", weights))
    strengths = {name: alpha / rank_of(factors)[name] for name, alpha in alphas.items()}
    assert_adds(pipe, added(factors, strengths))


@pytest.mark.parametrize("stabilised", [False, True])
@pytest.mark.parametrize(("prefix", "key"), [("unet.", peft_key), ("", bare_key)])
def test_settings_in_the_header_count(tmp_path, factors, prefix, key, stabilised):
    some = list(factors)[::3]
    settings = dict(r=2, lora_alpha=5, use_rslora=stabilised, rank_pattern={n: 3 for n, r in rank_of(factors).items() if r == 3})
    settings |= dict(alpha_pattern=dict.fromkeys(some, 7))
    header = {"lora_adapter_metadata": json.dumps({prefix + name: value for name, value in settings.items()})}
    pipe = tiny_pipeline()
    load_adapter(pipe, write_adapter(tmp_path / "lora", entries(factors, key), header))
    root = math.sqrt if stabilised else float
    assert_adds(pipe, added(factors, {n: (7 if n in some else 5) / root(r) for n, r in rank_of(factors).items()}))


def test_one_pixel_kernels_may_be_written_out_or_left_out(tmp_path, base):
    """Kohya's scripts write linear layers as convolutions of one pixel in some versions, and the other way round."""
    factors = low_rank(base.unet, [*projections(base.unet), *(n for n in all_layers(base.unet) if "proj_in" in n)])
    turned = {name: tuple(w[..., None, None] if w.ndim == 2 else w.flatten(1) for w in pair) for name, pair in factors.items()}
    pipe = tiny_pipeline()
    load_adapter(pipe, write_adapter(tmp_path / "lora", entries(turned, kohya_key)))
    assert_adds(pipe, added(factors))


@pytest.mark.parametrize("key", [peft_key, diffusers_key, released_key, kohya_key])
def test_the_text_encoders_half_is_loaded_too(tmp_path, base, key):
    unet_half = low_rank(base.unet, projections(base.unet))
    half = low_rank(base.text_encoder, text_layers(base.text_encoder), ranks=(2, 3))
    alphas = alphas_of(half, "each")
    weights = entries(unet_half, key) | entries(half, key, component="text_encoder")
    weights |= {key(name, "alpha", component="text_encoder"): torch.tensor(alpha) for name, alpha in alphas.items()}
    pipe, reference = tiny_pipeline(), tiny_pipeline()
    load_adapter(pipe, write_adapter(tmp_path / "both", weights))
    change(reference.unet, added(unet_half))
    change(reference.text_encoder, added(half, {name: alpha / rank_of(half)[name] for name, alpha in alphas.items()}))
    for part in (lambda p: p.encode_prompt(["a red car"], "cpu", 1, False)[0], generate):
        torch.testing.assert_close(part(pipe), part(reference), rtol=1e-4, atol=1e-5)
        assert (part(pipe) - part(base)).abs().max() > 0.01


# What the libraries save of a trained model ----------------------------------------------------------------------------------------------


def trained_pipeline(**text_options):
    pipe = tiny_pipeline()
    options = dict(init_lora_weights=False, target_modules=list(LORA_TARGET_MODULES))
    pipe.unet.add_adapter(LoraConfig(r=4, lora_alpha=9, use_rslora=True, alpha_pattern={"attn1.to_q": 2}, **options))
    options["target_modules"] = ["q_proj", "fc1"]
    pipe.text_encoder.add_adapter(LoraConfig(**dict(r=2, lora_alpha=3, rank_pattern={"fc1": 4}) | options | text_options))
    return pipe


@pytest.mark.parametrize("text_options", [{}, {"use_dora": True}])
def test_a_saved_pipeline_is_the_trained_one_and_what_diffusers_loads(tmp_path, text_options):
    pipe, trained = tiny_pipeline(), trained_pipeline(**text_options)
    modules = {"unet": trained.unet, "text_encoder": trained.text_encoder}
    layers = {f"{name}_lora_layers": get_peft_model_state_dict(module, adapter_name="default") for name, module in modules.items()}
    settings = {f"{name}_lora_adapter_metadata": module.peft_config["default"].to_dict() for name, module in modules.items()}
    StableDiffusionPipeline.save_lora_weights(tmp_path, **layers, **settings)
    load_adapter(pipe, tmp_path)
    assert torch.equal(generate(pipe), generate(trained))
    assert (generate(pipe) - generate(tiny_pipeline())).abs().max() > 0.01


def test_what_a_unet_saves_of_its_own_is_the_trained_one(tmp_path):
    pipe, trained = tiny_pipeline(), trained_pipeline()
    trained.unet.save_lora_adapter(tmp_path)
    trained.text_encoder = pipe.text_encoder
    load_adapter(pipe, tmp_path)
    assert torch.equal(generate(pipe), generate(trained))


@pytest.mark.parametrize("decomposed", [False, True])
def test_a_folder_of_peft_is_the_trained_one(tmp_path, decomposed):
    """adapter_model.safetensors with its adapter_config.json beside it."""
    pipe, trained = tiny_pipeline(), tiny_pipeline()
    layers = [*LORA_TARGET_MODULES, "conv1", "proj_in", "net.2"]
    config = LoraConfig(r=4, lora_alpha=9, target_modules=layers, init_lora_weights=False, rank_pattern={"conv1": 2}, use_dora=decomposed)
    get_peft_model(trained.unet, config).save_pretrained(tmp_path)
    assert (tmp_path / "adapter_config.json").is_file()
    load_adapter(pipe, tmp_path)
    assert torch.equal(generate(pipe), generate(trained))
    assert (generate(pipe) - generate(tiny_pipeline())).abs().max() > 0.01


@pytest.mark.parametrize("key", [peft_key, kohya_key])
def test_magnitudes_over_the_outputs_are_applied(tmp_path, base, key):
    """DoRA: row i of W + s B A gets the length m_i."""
    factors = low_rank(base.unet, all_layers(base.unet), scale=0.1)
    weights, reference = entries(factors, key), tiny_pipeline()
    change(reference.unet, added(factors))
    for i, name in enumerate(factors):
        weight = reference.unet.get_submodule(name).weight
        rows = weight.data.flatten(1)
        m = rows.norm(dim=1) * (1 + 0.1 * noise(len(rows), seed=i))
        weight.data *= (m / rows.norm(dim=1)).view(-1, *[1] * (weight.ndim - 1))
        weights[key(name, "magnitude")] = m if key is peft_key else m.view(-1, *[1] * (weight.ndim - 1))
    pipe = tiny_pipeline()
    load_adapter(pipe, write_adapter(tmp_path / "decomposed", weights))
    torch.testing.assert_close(generate(pipe), generate(reference), rtol=1e-4, atol=1e-5)
    assert (generate(pipe) - generate(base)).abs().max() > 0.01


def test_half_precision_files_and_models_keep_the_strength(tmp_path, base):
    factors = low_rank(base.unet, projections(base.unet))
    stored = {key: w.to(torch.bfloat16) for key, w in entries(factors, peft_key).items()}
    pipe = tiny_pipeline(dtype=torch.float64)
    load_adapter(pipe, write_adapter(tmp_path / "stored", stored))
    name = projections(base.unet)[5]
    a, b = (w.to(torch.bfloat16).double() for w in factors[name])
    torch.testing.assert_close(pipe.unet.get_submodule(name).get_delta_weight("stored"), b @ a)
    x, text = noise(1, *LATENT_SHAPE).double(), noise(1, 3, 16).double()
    assert pipe.unet(x, 500, text).sample.dtype == torch.float64
