"""Loading pipelines: what arrives equals what was saved, nothing unverified is used, and every failure is one sentence."""

import os
import re
import shutil

import huggingface_hub.constants
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler
from tiny import assert_one_sentence, generate, ship_tiny_pipeline, tiny_pipeline
from transformers import CLIPTokenizer

from companion.base import paths
from companion.weights.pipelines import blank_modules, default_guidance_scale, fingerprint, load_pipeline, load_vae

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def mini(tmp_path, monkeypatch):
    return ship_tiny_pipeline(tmp_path / "models", monkeypatch)


# Pipelines ------------------------------------------------------------------------------------------------------------------------


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
        ("models/x.safetensors", ValueError, "name is 'models/x.safetensors', but must be .*companion.weights.convert FILE"),
        ("x.safetensors", ValueError, "name is 'x.safetensors', but must be .* a folder with a diffusers pipeline"),
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


@pytest.mark.parametrize("missing", ["tokenizer", "tokenizer/tokenizer_config.json"])
def test_a_pipeline_without_its_tokenizer_is_refused(saved, tmp_path, missing):
    """transformers would make one that knows no words, and the first prompt would fail."""
    folder = tmp_path / "wordless"
    shutil.copytree(saved, folder)
    (shutil.rmtree if (folder / missing).is_dir() else os.remove)(folder / missing)
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer/tokenizer_config\.json: fetch the tokenizer's files") as raised:
        load_pipeline(str(folder))
    assert_one_sentence(raised)


def test_weights_that_are_there_as_a_variant_only_are_named_with_the_remedy(saved, tmp_path):
    folder = tmp_path / "half"
    shutil.copytree(saved, folder)
    files = {"unet": "diffusion_pytorch_model", "text_encoder": "model"}
    for component, stem in files.items():
        (folder / component / f"{stem}.safetensors").rename(folder / component / f"{stem}.fp16.safetensors")
    for load in (load_pipeline, blank_modules):
        with pytest.raises(FileNotFoundError, match=r"unet has its weights as the variant diffusion_pytorch_model\.fp16\.saf") as raised:
            load(str(folder))
        assert_one_sentence(raised)
    assert load_vae(str(folder)).config.scaling_factor == 0.7
    for component, stem in files.items():  # the remedy
        (folder / component / f"{stem}.fp16.safetensors").rename(folder / component / f"{stem}.safetensors")
    assert fingerprint(str(folder)) == fingerprint(str(saved))


def test_a_link_out_of_the_models_does_not_escape_their_cards(mini, saved):
    (mini.parent / "linked").symlink_to(saved)
    with pytest.raises(ValueError, match=r"linked has no card\.json with its files' hashes") as raised:
        load_pipeline("linked")
    assert_one_sentence(raised)
    assert load_pipeline(str(saved)).unet is not None
    shutil.rmtree(mini / "unet")
    (mini / "unet").symlink_to(saved / "unet")
    assert fingerprint("mini") == fingerprint(str(saved))  # the files that the card records, elsewhere
    (saved / "unet" / "notes.txt").write_text("more")
    try:
        with pytest.raises(ValueError, match=r"unet/notes\.txt is not listed in card\.json"):
            load_pipeline("mini")
    finally:
        (saved / "unet" / "notes.txt").unlink()


def test_blank_modules_have_the_pipelines_shapes_and_no_weights(mini):
    state = torch.random.get_rng_state()
    modules, pipe = blank_modules(), tiny_pipeline()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert modules.keys() == {"unet", "text_encoder"}
    for name, module in modules.items():
        weights = getattr(pipe, name).state_dict()
        assert {key: weight.shape for key, weight in module.state_dict().items()} == {key: weight.shape for key, weight in weights.items()}
        assert all(weight.is_meta for weight in module.parameters())


# The autoencoder alone ------------------------------------------------------------------------------------------------------------


def test_the_autoencoder_alone_is_the_pipelines(mini, saved):
    for vae in (load_vae(), load_vae("mini", dtype=torch.float64), load_vae(str(saved))):
        weights = tiny_pipeline().vae.state_dict()
        assert vae.state_dict().keys() == weights.keys() and not vae.training
        assert all(torch.equal(weight, weights[name].to(vae.dtype)) for name, weight in vae.state_dict().items())
        assert vae.config.scaling_factor == 0.7
    assert load_vae("mini", dtype=torch.float64).dtype == torch.float64


def test_the_autoencoder_alone_needs_its_own_folder_and_no_other(mini):
    """As between the two stages of a training, and after one that was killed while it wrote the UNet."""
    (mini / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"half of a")
    (mini / "model_index.json").unlink()
    assert load_vae().config.scaling_factor == 0.7
    with pytest.raises(FileNotFoundError, match=r"has no model_index\.json"):
        load_pipeline()
    shutil.rmtree(mini / "vae")
    with pytest.raises(FileNotFoundError, match=r"mini has no vae/config\.json: it is not the folder of a diffusers pipeline"):
        load_vae()


def test_a_changed_autoencoder_is_found(mini):
    file = mini / "vae/diffusion_pytorch_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"vae/diffusion_pytorch_model\.safetensors is damaged or not the file that card\.json records"):
        load_vae()


def test_a_downloaded_snapshot_has_an_autoencoder(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    shutil.copytree(saved, tmp_path / f"models--someone--model/snapshots/{COMMIT}")
    assert load_vae(f"someone/model@{COMMIT}").config.scaling_factor == 0.7
    with pytest.raises(ValueError, match="revision must be its commit of 40 hex digits"):
        load_vae("someone/model@main")


# Fingerprints ---------------------------------------------------------------------------------------------------------------------


def test_equal_pipelines_have_equal_fingerprints_wherever_they_come_from(mini, saved):
    base = tiny_pipeline()
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
