"""Loading Smooth-LoRAs: every known format changes every projection, and what does not fit is refused without a trace."""

import re
import shutil

import pytest
import torch
from lora_files import diffusers_key, entries, peft_key, projections, released_key, text_layers, write_adapter
from lora_files import low_rank as low_rank_of
from safetensors.torch import load_file, save_file
from tiny import assert_one_sentence, generate, noise, ship_tiny_pipeline, tiny_pipeline

from companion.base import paths
from companion.weights.cards import write_card
from companion.weights.fine_tune import save_difference
from companion.weights.pipelines import fingerprint, list_adapters, load_adapter, load_pipeline
from smoothlib.lora import load_smooth_lora


def low_rank(pipe):
    return low_rank_of(pipe.unet, projections(pipe.unet))


def peft_format(factors):
    return entries(factors, peft_key)


def diffusers_format(factors):
    return entries(factors, diffusers_key)


def released_format(factors):
    return entries(factors, released_key)


@pytest.fixture(scope="module")
def base():
    return tiny_pipeline()


@pytest.mark.parametrize("as_stored", [peft_format, diffusers_format, released_format])
def test_every_format_adds_ba_to_every_projection(base, tmp_path, as_stored):
    factors = low_rank(base)
    assert len(factors) == 32  # 4 transformer blocks, 2 attentions each, 4 projections each
    pipe = tiny_pipeline()
    load_adapter(pipe, write_adapter(tmp_path / "smooth", as_stored(factors)))
    reference = tiny_pipeline()
    for name, (a, b) in factors.items():
        reference.unet.get_submodule(name).weight.data += b @ a  # Eq. 6
    torch.testing.assert_close(generate(pipe), generate(reference), rtol=1e-4, atol=1e-5)
    assert (generate(pipe) - generate(base)).abs().max() > 0.01


def test_diffusers_alone_ignores_the_released_format(base, tmp_path):
    """The reason for the repair; when this fails, diffusers has learnt it."""
    pipe = tiny_pipeline()
    pipe.load_lora_weights(
        write_adapter(tmp_path / "smooth", released_format(low_rank(base))), weight_name="pytorch_lora_weights.safetensors"
    )
    assert torch.equal(generate(pipe), generate(base))


def without_one_projection(factors):
    return peft_format(dict(list(factors.items())[1:]))


def with_a_zero(factors):
    name, (a, b) = next(iter(factors.items()))
    return released_format(factors | {name: (a, 0 * b)})


def with_a_nan(factors):
    name, (a, b) = next(iter(factors.items()))
    return released_format(factors | {name: (a, b * float("nan"))})


def of_another_width(factors):
    return peft_format({name: (torch.ones(2, 5), torch.ones(5, 2)) for name in factors})


def of_another_model(factors):
    return {f"unet.nowhere.{i}.to_q.lora_{part}.weight": torch.ones(2, 2) for i in range(2) for part in "AB"}


def no_lora(factors):
    return {"something.weight": torch.ones(2)}


@pytest.mark.parametrize(
    "stored, message",
    [
        (without_one_projection, "leaves 1 of the UNet's attention projections unchanged, e.g. down_blocks.0"),
        (with_a_zero, "leaves 1 of the UNet's attention projections unchanged"),
        (with_a_nan, "is not a LoRA for this UNet: its entry down_blocks.0.*to_q_lora.up.weight is not finite"),
        (of_another_width, "is not a LoRA for this UNet: "),
        (of_another_model, "is not a LoRA for this UNet: "),
        (no_lora, "is not a LoRA for this UNet: "),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_and_leaves_no_trace(base, tmp_path, stored, message):
    before = fingerprint(base)
    with pytest.raises(ValueError, match=message) as raised:
        load_adapter(base, write_adapter(tmp_path / "smooth", stored(low_rank(base))))
    assert_one_sentence(raised)
    assert fingerprint(base) == before


def test_a_damaged_file_is_refused(base, tmp_path):
    file = write_adapter(tmp_path / "smooth", peft_format(low_rank(base))) / "pytorch_lora_weights.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is not a LoRA for this UNet: "):
        load_adapter(base, file)


def test_the_failure_of_a_second_adapter_keeps_the_first(base, tmp_path):
    pipe, factors = tiny_pipeline(), low_rank(base)
    load_adapter(pipe, write_adapter(tmp_path / "first.v1", peft_format(factors)))
    one = generate(pipe)
    with pytest.raises(ValueError, match="adapter 'first_v1' is loaded already"):
        load_adapter(pipe, tmp_path / "first.v1")
    with pytest.raises(ValueError, match="leaves 1 of"):
        load_adapter(pipe, write_adapter(tmp_path / "second", with_a_zero(factors)))
    assert torch.equal(generate(pipe), one)


def test_adapters_are_found_by_name_and_checked_against_their_card(base, tmp_path, monkeypatch):
    ship_tiny_pipeline(tmp_path / "models", monkeypatch)
    assert list_adapters() == []
    for name in ("smooth", "other"):
        write_card(write_adapter(paths.ADAPTERS / name, released_format(low_rank(base))))
    (paths.ADAPTERS / "empty").mkdir()
    assert list_adapters() == ["other", "smooth"]
    pipe = load_pipeline("mini", adapter="smooth")
    assert pipe.get_active_adapters() == ["smooth"]
    assert (generate(pipe) - generate(base)).abs().max() > 0.01
    with pytest.raises(FileNotFoundError, match=r"there is no adapter 'rough': .* \(other, smooth\)"):
        load_pipeline("mini", adapter="rough")
    file = paths.ADAPTERS / "smooth/pytorch_lora_weights.safetensors"
    save_file({key: 2 * w for key, w in load_file(file).items()}, file)
    with pytest.raises(ValueError, match=r"pytorch_lora_weights\.safetensors is damaged or not the file that card\.json records"):
        load_pipeline("mini", adapter="smooth")


def test_pickled_and_ambiguous_adapters_are_refused_with_the_remedy(base, tmp_path):
    folder = tmp_path / "pickled"
    folder.mkdir()
    torch.save(released_format(low_rank(base)), folder / "pytorch_model.bin")
    for path in (folder, folder / "pytorch_model.bin"):
        with pytest.raises(ValueError, match=re.escape("pickles (.bin, .pt) are not loaded: convert one once with")) as raised:
            load_adapter(base, path)
        assert_one_sentence(raised)
    folder = write_adapter(tmp_path / "two", peft_format(low_rank(base)))
    shutil.copy(folder / "pytorch_lora_weights.safetensors", folder / "another.safetensors")
    with pytest.raises(ValueError, match=r"exactly one \.safetensors file"):
        load_adapter(base, folder)


def test_the_fingerprint_follows_the_adapter_and_its_strength(base, tmp_path):
    pipe = tiny_pipeline()
    prints = [fingerprint(pipe)]
    load_adapter(pipe, write_adapter(tmp_path / "smooth", peft_format(low_rank(base))))
    prints.append(fingerprint(pipe))
    pipe.set_adapters("smooth", 0.5)
    prints.append(fingerprint(pipe))
    pipe.disable_lora()
    prints.append(fingerprint(pipe))
    assert len(set(prints)) == 4


# Names, repetition, order ---------------------------------------------------------------------------------------------------------


NAMES = [
    "train",
    "float",
    "half",
    "cpu",
    "type",
    "weight",
    "to_q",
    "lora_A",
    "lora#2",
    "a$x$",
    "base",
    "größe",
    "蓝",
    "v1.5",
    "my lora",
    "1",
    "-",
]


def test_a_folder_may_have_any_name(base, tmp_path):
    """Also names that PEFT's containers use themselves."""
    weights, first = peft_format(low_rank(base)), None
    for name in NAMES:
        pipe = tiny_pipeline()
        load_adapter(pipe, write_adapter(tmp_path / name, weights))
        first = generate(pipe) if first is None else first
        assert torch.equal(generate(pipe), first), name
        (used,) = pipe.get_active_adapters()
        pipe.set_adapters(used, 0.0)
        torch.testing.assert_close(generate(pipe), generate(base))
    assert (first - generate(base)).abs().max() > 0.01


def test_adapters_of_one_folder_name_are_told_apart(base, tmp_path):
    pipe, factors = tiny_pipeline(), low_rank(base)
    load_adapter(pipe, write_adapter(tmp_path / "x" / "smooth", peft_format(factors)))
    one = generate(pipe)
    twice = {name: (a, 2 * b) for name, (a, b) in factors.items()}
    load_adapter(pipe, write_adapter(tmp_path / "y" / "smooth", peft_format(twice)))
    assert (generate(pipe) - one).abs().max() > 0.01
    assert len(pipe.get_active_adapters()) == 1 and len(pipe.get_list_adapters()["unet"]) == 2
    pipe.set_adapters("smooth")
    assert torch.equal(generate(pipe), one)


def test_the_same_adapter_twice_is_refused_under_any_name(base, tmp_path):
    pipe = tiny_pipeline()
    folder = write_adapter(tmp_path / "one", peft_format(low_rank(base)))
    load_adapter(pipe, folder)
    one = fingerprint(pipe)
    shutil.copytree(folder, tmp_path / "other")
    for again in (folder, tmp_path / "other", folder / "pytorch_lora_weights.safetensors"):
        with pytest.raises(ValueError, match="adapter 'one' is loaded already") as raised:
            load_adapter(pipe, again)
        assert_one_sentence(raised)
    assert fingerprint(pipe) == one
    pipe.unload_lora_weights()
    load_adapter(pipe, folder)
    assert fingerprint(pipe) == one


def test_a_full_difference_twice_is_refused(base, tmp_path):
    trained = tiny_pipeline()
    trained.unet.conv_in.weight.data += 0.1 * noise(*trained.unet.conv_in.weight.shape)
    save_difference(trained.unet, base.unet, tmp_path / "full")
    pipe = tiny_pipeline()
    load_adapter(pipe, tmp_path / "full")
    once = fingerprint(pipe)
    with pytest.raises(ValueError, match="is loaded already: its difference would be added twice") as raised:
        load_adapter(pipe, tmp_path / "full")
    assert_one_sentence(raised)
    assert fingerprint(pipe) == once


def test_a_difference_and_a_lora_go_onto_one_unet_in_either_order(base, tmp_path):
    trained = tiny_pipeline()
    trained.unet.conv_in.weight.data += 0.1 * noise(*trained.unet.conv_in.weight.shape)
    save_difference(trained.unet, base.unet, tmp_path / "full")
    factors = low_rank_of(base.unet, ["conv_in", *projections(base.unet)])
    write_adapter(tmp_path / "lora", peft_format(factors))
    first, second = tiny_pipeline(), tiny_pipeline()
    for pipe, order in ((first, ("full", "lora")), (second, ("lora", "full"))):
        for name in order:
            load_adapter(pipe, tmp_path / name)
    assert torch.equal(generate(first), generate(second))


@pytest.mark.parametrize("disable", ["disable_lora", "disable_adapters"])
def test_an_adapter_acts_alone_whatever_was_loaded_or_disabled_before(base, tmp_path, disable):
    """The first has a half for the text encoder, the second none."""
    text = low_rank_of(base.text_encoder, text_layers(base.text_encoder))
    first = peft_format(low_rank(base)) | entries(text, peft_key, component="text_encoder")
    write_adapter(tmp_path / "first", first)
    write_adapter(tmp_path / "second", released_format({name: (2 * a, b) for name, (a, b) in low_rank(base).items()}))
    pipe, alone = tiny_pipeline(), tiny_pipeline()
    load_adapter(pipe, tmp_path / "first")
    getattr(pipe.unet, disable)()
    load_adapter(pipe, tmp_path / "second")
    load_adapter(alone, tmp_path / "second")
    assert torch.equal(generate(pipe), generate(alone))
    assert (generate(alone) - generate(base)).abs().max() > 0.01


def test_a_file_is_loaded_by_its_path_alone(base, tmp_path, monkeypatch):
    """Names, folders and cards are the repository's business: `load_smooth_lora` knows a file and a pipeline."""
    folder = write_adapter(tmp_path / "one", peft_format(low_rank(base)))
    (folder / "pytorch_lora_weights.safetensors").rename(folder / "my lora.safetensors")
    by_name, by_path, renamed = tiny_pipeline(), tiny_pipeline(), tiny_pipeline()
    load_adapter(by_name, folder)
    assert load_smooth_lora(by_path, folder / "my lora.safetensors") == "my_lora"
    assert load_smooth_lora(renamed, folder / "my lora.safetensors", name="other") == "other"
    assert renamed.get_active_adapters() == ["other"] and by_name.get_active_adapters() == ["one"]
    assert torch.equal(generate(by_path), generate(by_name)) and torch.equal(generate(renamed), generate(by_name))
    monkeypatch.setattr(paths, "ADAPTERS", tmp_path)
    for path, error, message in (
        ("one", ValueError, "file is one, but must be a .safetensors file"),
        (folder, ValueError, "but must be a .safetensors file"),
        (folder / "none.safetensors", FileNotFoundError, "none.safetensors, but must be a .safetensors file that exists"),
    ):
        with pytest.raises(error, match=re.escape(message)) as raised:
            load_smooth_lora(tiny_pipeline(), path)
        assert_one_sentence(raised)
