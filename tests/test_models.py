"""Loading: what arrives equals what was saved, nothing unverified is used, and every failure is one sentence."""

import re
import shutil

import huggingface_hub.constants
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler
from safetensors.torch import load_file, save_file
from tiny import LATENT_SHAPE, noise, tiny_pipeline
from transformers import CLIPTokenizer

from smoothlib import paths
from smoothlib.cards import write_card
from smoothlib.models import PROJECTIONS, default_guidance_scale, fingerprint, list_adapters, load_pipeline, load_smooth_lora

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def mini(saved, tmp_path, monkeypatch):
    """A `data/models` with the tiny pipeline as "mini", with its card."""
    monkeypatch.setattr(paths, "MODELS", tmp_path / "models")
    monkeypatch.setattr(paths, "ADAPTERS", tmp_path / "models/adapters")
    folder = tmp_path / "models/mini"
    shutil.copytree(saved, folder)
    write_card(folder, guidance_scale=3.0)
    return folder


def generate(pipe):
    settings = dict(num_inference_steps=2, guidance_scale=3.0, output_type="latent")
    return pipe(["a red car"], latents=noise(1, *LATENT_SHAPE), **settings).images


def assert_one_sentence(raised):
    message = str(raised.value)
    assert "\n" not in message and len(message) < 450, message


# --- pipelines


def test_what_is_loaded_computes_what_was_saved(mini):
    pipe = load_pipeline()
    assert torch.equal(generate(pipe), generate(tiny_pipeline()))
    assert pipe.safety_checker is None and not (pipe.unet.training or pipe.vae.training or pipe.text_encoder.training)
    assert pipe.vae.config.scaling_factor == 0.7


def test_the_scheduler_becomes_ddim_with_stable_diffusions_conventions(saved, tmp_path):
    folder = tmp_path / "other"
    pipe = tiny_pipeline()
    pipe.scheduler = PNDMScheduler.from_config(pipe.scheduler.config, steps_offset=0, set_alpha_to_one=True)
    pipe.save_pretrained(folder)
    scheduler = load_pipeline(str(folder)).scheduler
    assert isinstance(scheduler, DDIMScheduler)
    assert (scheduler.config.steps_offset, scheduler.config.set_alpha_to_one, scheduler.config.clip_sample) == (1, False, False)
    torch.testing.assert_close(scheduler.alphas_cumprod, tiny_pipeline().scheduler.alphas_cumprod)


def test_weights_stored_in_half_precision_load_in_the_dtype_that_is_asked_for(tmp_path):
    pipe = tiny_pipeline(dtype=torch.float16)
    pipe.save_pretrained(tmp_path / "half")
    loaded = load_pipeline(str(tmp_path / "half"))
    assert {loaded.unet.dtype, loaded.vae.dtype, loaded.text_encoder.dtype} == {torch.float32}
    assert torch.equal(loaded.unet.conv_in.weight, pipe.unet.conv_in.weight.float())
    assert load_pipeline(str(tmp_path / "half"), dtype=torch.bfloat16).text_encoder.dtype == torch.bfloat16


def test_a_changed_byte_is_found_and_the_file_named(mini):
    file = mini / "unet/diffusion_pytorch_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"unet/diffusion_pytorch_model\.safetensors is not the file that card\.json records") as raised:
        load_pipeline()
    assert_one_sentence(raised)


def test_missing_and_unlisted_files_and_a_missing_card_are_found(mini):
    (mini / "vae/extra.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"vae/extra\.safetensors is not listed in card\.json"):
        load_pipeline()
    (mini / "vae/extra.safetensors").unlink()
    (mini / "training.log").write_text("not read by anyone")
    load_pipeline()
    (mini / "vae/config.json").unlink()
    with pytest.raises(ValueError, match=r"vae/config\.json is missing, but card\.json lists it"):
        load_pipeline()
    (mini / "card.json").unlink()
    with pytest.raises(ValueError, match=r"mini has no card\.json"):
        load_pipeline()


def test_the_default_guidance_scale_is_the_cards_or_the_papers(mini, saved):
    assert default_guidance_scale() == 3.0
    assert default_guidance_scale(str(saved)) == 7.5
    assert default_guidance_scale("stable-diffusion-v1-5/stable-diffusion-v1-5") == 7.5


@pytest.mark.parametrize(
    "name, kind, message",
    [
        ("maxi", FileNotFoundError, "the model 'maxi' is not in .*models: restore the folder from the repository, train it"),
        ("adapters", FileNotFoundError, "has no model_index.json"),
        ("a/b/c", ValueError, "name must be a model in .* not 'a/b/c'"),
        ("someone/model", ValueError, "'someone/model' is not a folder here, .* revision must be its commit of 40 hex digits .* not ''"),
        ("someone/model@main", ValueError, "not 'main'"),
    ],
)
def test_a_name_that_means_nothing_is_one_sentence(mini, name, kind, message):
    paths.ADAPTERS.mkdir()
    with pytest.raises(kind, match=message) as raised:
        load_pipeline(name)
    assert_one_sentence(raised)


@pytest.mark.parametrize("arguments", [dict(name=f"someone/model@{COMMIT}"), dict(name="someone/model", revision=COMMIT)])
def test_a_failed_download_says_what_to_get_and_where_to_put_it(tmp_path, monkeypatch, arguments):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=f"could not download 'someone/model' at commit {COMMIT} from the Hugging Face hub"
    ) as raised:
        load_pipeline(**arguments)
    assert "pass that folder's path as the model" in str(raised.value)
    assert_one_sentence(raised)


def test_a_downloaded_snapshot_is_used_at_its_pinned_commit(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    shutil.copytree(saved, tmp_path / f"models--someone--model/snapshots/{COMMIT}")
    pipe = load_pipeline(f"someone/model@{COMMIT}")
    assert fingerprint(pipe) == fingerprint(load_pipeline(str(saved)))
    with pytest.raises(FileNotFoundError, match="could not download"):
        load_pipeline(f"someone/model@{COMMIT[::-1]}")


def test_pickled_weights_are_never_opened(saved, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(saved, folder)
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    torch.save(tiny_pipeline().unet.state_dict(), folder / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_pipeline(str(folder))


# --- adapters


def projections(unet):
    """Names of the attention projections, found by their names alone."""
    ends = tuple(f".{attention}.{projection}" for attention in ("attn1", "attn2") for projection in PROJECTIONS)
    return [name for name, _ in unet.named_modules() if name.endswith(ends)]


def low_rank(pipe, rank=2):
    """projection name -> (A, B), random."""
    shapes = {name: pipe.unet.get_submodule(name).weight.shape for name in projections(pipe.unet)}
    return {
        name: (0.3 * noise(rank, width, seed=2 * i), 0.3 * noise(height, rank, seed=2 * i + 1))
        for i, (name, (height, width)) in enumerate(shapes.items())
    }


def peft_format(factors):
    return {f"unet.{name}.lora_{part}.weight": w for name, pair in factors.items() for part, w in zip("AB", pair, strict=True)}


def diffusers_format(factors):
    parts = ("down", "up")
    return {f"unet.{name}.lora.{part}.weight": w for name, pair in factors.items() for part, w in zip(parts, pair, strict=True)}


def released_format(factors):
    """The authors' file: attention processors' keys, without the `unet.` prefix."""
    weights = {}
    for name, pair in factors.items():
        attention, projection = name.replace("to_out.0", "to_out").rsplit(".", 1)
        for part, w in zip(("down", "up"), pair, strict=True):
            weights[f"{attention}.processor.{projection}_lora.{part}.weight"] = w
    return weights


def write_adapter(folder, weights):
    folder.mkdir(parents=True)
    save_file({key: w.contiguous() for key, w in weights.items()}, folder / "pytorch_lora_weights.safetensors")
    return folder


@pytest.fixture(scope="module")
def base():
    return tiny_pipeline()


@pytest.mark.parametrize("as_stored", [peft_format, diffusers_format, released_format])
def test_every_format_adds_ba_to_every_projection(base, tmp_path, as_stored):
    factors = low_rank(base)
    assert len(factors) == 32  # 4 transformer blocks, 2 attentions each, 4 projections each
    pipe = tiny_pipeline()
    load_smooth_lora(pipe, write_adapter(tmp_path / "smooth", as_stored(factors)))
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
        (without_one_projection, "leaves 1 of the UNet's attention projections unchanged or not finite, e.g. down_blocks.0"),
        (with_a_zero, "leaves 1 of the UNet's attention projections unchanged"),
        (with_a_nan, "leaves 1 of the UNet's attention projections unchanged or not finite"),
        (of_another_width, "is not a LoRA for this UNet: "),
        (of_another_model, "is not a LoRA for this UNet: "),
        (no_lora, "is not a LoRA for this UNet: "),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_and_leaves_no_trace(base, tmp_path, stored, message):
    before = fingerprint(base)
    with pytest.raises(ValueError, match=message) as raised:
        load_smooth_lora(base, write_adapter(tmp_path / "smooth", stored(low_rank(base))))
    assert_one_sentence(raised)
    assert fingerprint(base) == before


def test_a_damaged_file_is_refused(base, tmp_path):
    file = write_adapter(tmp_path / "smooth", peft_format(low_rank(base))) / "pytorch_lora_weights.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is not a LoRA for this UNet: "):
        load_smooth_lora(base, file)


def test_the_failure_of_a_second_adapter_keeps_the_first(base, tmp_path):
    pipe, factors = tiny_pipeline(), low_rank(base)
    load_smooth_lora(pipe, write_adapter(tmp_path / "first.v1", peft_format(factors)))
    one = generate(pipe)
    with pytest.raises(ValueError, match="adapter 'first_v1' is loaded already"):
        load_smooth_lora(pipe, tmp_path / "first.v1")
    with pytest.raises(ValueError, match="leaves 1 of"):
        load_smooth_lora(pipe, write_adapter(tmp_path / "second", with_a_zero(factors)))
    assert torch.equal(generate(pipe), one)


def test_adapters_are_found_by_name_and_checked_against_their_card(mini, base):
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
    with pytest.raises(ValueError, match=r"pytorch_lora_weights\.safetensors is not the file that card\.json records"):
        load_pipeline("mini", adapter="smooth")


def test_pickled_and_ambiguous_adapters_are_refused_with_the_remedy(base, tmp_path):
    folder = tmp_path / "pickled"
    folder.mkdir()
    torch.save(released_format(low_rank(base)), folder / "pytorch_model.bin")
    for path in (folder, folder / "pytorch_model.bin"):
        with pytest.raises(ValueError, match=re.escape("pickles (.bin, .pt) are not loaded: convert one once with")) as raised:
            load_smooth_lora(base, path)
        assert_one_sentence(raised)
    folder = write_adapter(tmp_path / "two", peft_format(low_rank(base)))
    shutil.copy(folder / "pytorch_lora_weights.safetensors", folder / "another.safetensors")
    with pytest.raises(ValueError, match=r"exactly one \.safetensors file"):
        load_smooth_lora(base, folder)


# --- fingerprints


def test_equal_pipelines_have_equal_fingerprints_wherever_they_come_from(mini, saved, base):
    first = fingerprint(base)
    generate(base)  # use changes nothing
    assert re.fullmatch("[0-9a-f]{64}", first) and fingerprint(base) == first
    assert fingerprint("mini") == fingerprint(load_pipeline(str(saved))) == first


def scale_latents(pipe):
    pipe.vae.register_to_config(scaling_factor=0.8)


def change_one_weight(pipe):
    next(pipe.text_encoder.parameters()).data.view(-1)[0] += 1


def change_schedule(pipe):
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, beta_end=0.02)


def change_precision(pipe):
    pipe.unet.to(torch.float64)


def change_merges(pipe):
    """The same vocabulary, joined by other rules."""
    pipe.tokenizer = CLIPTokenizer(vocab=pipe.tokenizer.get_vocab(), merges=[], model_max_length=pipe.tokenizer.model_max_length)


@pytest.mark.parametrize("change", [scale_latents, change_one_weight, change_schedule, change_precision, change_merges])
def test_the_fingerprint_follows_everything_that_matters(change):
    pipe = tiny_pipeline()
    before = fingerprint(pipe)
    change(pipe)
    assert fingerprint(pipe) != before


def test_the_fingerprint_follows_the_adapter_and_its_strength(base, tmp_path):
    pipe = tiny_pipeline()
    prints = [fingerprint(pipe)]
    load_smooth_lora(pipe, write_adapter(tmp_path / "smooth", peft_format(low_rank(base))))
    prints.append(fingerprint(pipe))
    pipe.set_adapters("smooth", 0.5)
    prints.append(fingerprint(pipe))
    pipe.disable_lora()
    prints.append(fingerprint(pipe))
    assert len(set(prints)) == 4
