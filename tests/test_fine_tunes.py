"""Full fine-tunes as models of their own: base plus difference, under the base's exact weights, and adapters on top."""

import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import assert_one_sentence, generate, noise, ship_tiny_pipeline, tiny_pipeline

from companion.base import paths
from companion.weights.cards import write_card
from companion.weights.fine_tune import FILE, save_difference
from companion.weights.pipelines import (
    blank_modules,
    check_adapter,
    default_guidance_scale,
    fingerprint,
    list_adapters,
    list_fine_tunes,
    load_adapter,
    load_pipeline,
)
from smoothlib.lora import LORA_TARGET_MODULES


def changed_unet():
    """The tiny UNet with one weight moved."""
    unet = tiny_pipeline().unet
    unet.conv_in.weight.data += 0.1 * noise(*unet.conv_in.weight.shape)
    return unet


@pytest.fixture
def oil(tmp_path, monkeypatch):
    """data/models with the tiny pipeline as "mini" and a fine-tune of it as "mini-oil"."""
    ship_tiny_pipeline(tmp_path / "models", monkeypatch)
    folder = tmp_path / "models" / "mini-oil"
    save_difference(changed_unet(), tiny_pipeline().unet, folder)
    write_card(folder, base={"model": "mini", "fingerprint": fingerprint("mini", decoder=False)})
    return folder


def test_a_fine_tune_outlives_another_decoder_but_no_other_latents(oil):
    file = paths.MODELS / "mini" / "vae" / "diffusion_pytorch_model.safetensors"
    for part, refused in (("decoder.", False), ("post_quant_conv.", False), ("encoder.", True), ("quant_conv.", True)):
        weights = load_file(file)
        name = next(name for name in weights if name.startswith(part))
        save_file(weights | {name: weights[name] + 1}, file)
        write_card(paths.MODELS / "mini")
        if refused:
            with pytest.raises(ValueError, match="fine-tune of other weights"):
                load_pipeline("mini-oil")
        else:
            load_pipeline("mini-oil")
        save_file(weights, file)


def test_a_fine_tune_is_its_base_with_the_difference(oil):
    pipe, base = load_pipeline("mini-oil"), tiny_pipeline()
    step = (changed_unet().conv_in.weight - base.unet.conv_in.weight).abs().max().item()
    torch.testing.assert_close(pipe.unet.conv_in.weight, changed_unet().conv_in.weight, rtol=0, atol=1e-3 * step)  # half precision
    assert torch.equal(pipe.unet.conv_out.weight, base.unet.conv_out.weight)
    assert not pipe.unet.training and (generate(pipe) - generate(base)).abs().max() > 1e-3
    assert fingerprint(pipe) == fingerprint("mini-oil") == fingerprint(load_pipeline(str(oil))) != fingerprint("mini")
    assert load_pipeline("mini-oil", dtype=torch.bfloat16).unet.dtype == torch.bfloat16
    assert list_fine_tunes() == ["mini-oil"] and list_adapters() == []
    assert default_guidance_scale("mini-oil") == 3.0  # its base's
    write_card(oil, guidance_scale=2.0)
    assert default_guidance_scale("mini-oil") == 2.0


def test_fewer_fraction_bits_round_the_difference_to_nearest(tmp_path):
    trained, base = changed_unet(), tiny_pipeline().unet
    for bits in (4, 10):
        save_difference(trained, base, tmp_path, bits)
        stored = load_file(tmp_path / FILE)["conv_in.weight"]
        exact = trained.conv_in.weight - base.conv_in.weight
        relative = ((stored.float() - exact) / exact).abs().max()
        assert 2.0 ** -(bits + 3) < relative <= 2.0 ** -(bits + 1)
        assert not (stored.view(torch.int16) & (2 ** (10 - bits) - 1)).any()  # zeros, which compress
    with pytest.raises(ValueError, match="fraction_bits must lie in"):
        save_difference(trained, base, tmp_path, 0)


def test_an_adapter_of_the_base_goes_onto_the_fine_tune(oil):
    """Figure 8: W0 + difference + BA."""
    ends = tuple(f".{attention}.{projection}" for attention in ("attn1", "attn2") for projection in LORA_TARGET_MODULES)
    reference = load_pipeline("mini-oil")
    weights = {}
    for i, (name, layer) in enumerate((name, layer) for name, layer in reference.unet.named_modules() if name.endswith(ends)):
        a, b = 0.3 * noise(2, layer.in_features, seed=2 * i), 0.3 * noise(layer.out_features, 2, seed=2 * i + 1)
        weights |= {f"unet.{name}.lora_A.weight": a, f"unet.{name}.lora_B.weight": b}
        layer.weight.data += b @ a
    (paths.ADAPTERS / "smooth").mkdir(parents=True)
    save_file(weights, paths.ADAPTERS / "smooth" / "pytorch_lora_weights.safetensors")
    write_card(paths.ADAPTERS / "smooth")
    pipe = load_pipeline("mini-oil", adapter="smooth")
    torch.testing.assert_close(generate(pipe), generate(reference), rtol=1e-4, atol=1e-5)
    assert (generate(pipe) - generate(load_pipeline("mini", adapter="smooth"))).abs().max() > 1e-3


def test_a_fine_tune_belongs_to_the_weights_that_it_was_trained_from(oil):
    other = tiny_pipeline(seed=1)
    other.save_pretrained(oil.parent / "mini")
    write_card(oil.parent / "mini")
    with pytest.raises(ValueError, match="mini-oil is a fine-tune of other weights than those that 'mini' has now") as raised:
        load_pipeline("mini-oil")
    assert_one_sentence(raised)


def test_a_difference_without_a_base_or_damaged_is_named(oil):
    content = (oil / FILE).read_bytes()
    (oil / FILE).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=rf"{FILE} is damaged or not the file that card\.json records"):
        load_pipeline("mini-oil")
    (oil / "card.json").write_text("{}")
    with pytest.raises(ValueError, match=re.escape(f"{oil} has no card.json")):
        load_pipeline("mini-oil")
    (oil / "card.json").unlink()
    write_card(oil, made="by hand")
    with pytest.raises(ValueError, match=r"mini-oil needs a card\.json that names the base model") as raised:
        load_pipeline("mini-oil")
    assert_one_sentence(raised)


def test_cards_that_lead_in_a_circle_are_named(oil):
    write_card(oil, base={"model": "mini-oil", "fingerprint": ""})
    for ask in (load_pipeline, default_guidance_scale, blank_modules):
        with pytest.raises(ValueError, match=r"the card\.json of .*mini-oil names 'mini-oil' as the base model") as raised:
            ask("mini-oil")
        assert_one_sentence(raised)


def test_the_difference_of_a_fine_tune_is_checked_without_weights(oil):
    assert {name: weight.shape for name, weight in blank_modules("mini-oil")["unet"].state_dict().items()} == {
        name: weight.shape for name, weight in tiny_pipeline().unet.state_dict().items()
    }
    check_adapter(blank_modules("mini"), oil)
    difference = load_file(oil / FILE)
    difference["conv_in.bias"][0] = float("nan")
    save_file(difference, oil / FILE)
    write_card(oil)
    pipe = load_pipeline("mini")
    for refuse in (lambda: check_adapter(blank_modules("mini"), oil), lambda: load_adapter(pipe, oil)):
        with pytest.raises(ValueError, match=r"holds values that are not finite in 1 of its weights, e\.g\. conv_in\.bias") as raised:
            refuse()
        assert_one_sentence(raised)
