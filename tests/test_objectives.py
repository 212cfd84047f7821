"""The two objectives on real scenes: their losses against the formula, what learns and what does not, and what they export."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from small_objectives import LORA, SPLIT, denoising, generator, loss_of

from companion.base import paths
from companion.data.load import load_scenes
from companion.training.objectives import AutoencoderObjective, DenoisingObjective
from companion.training.objectives.latents import restyled
from companion.weights.pipelines import fingerprint, load_pipeline
from companion.world import mini


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RUNS", tmp_path_factory.mktemp("runs"))
        yield


def test_denoising_loss_is_the_min_snr_weighted_error(runs, monkeypatch):
    objective = denoising(runs, caption_dropout=0.0)
    seen = {}

    def predict_nothing(x_t, t, encoder_hidden_states, return_dict):
        seen.update(t=t)
        return (torch.zeros_like(x_t),)

    monkeypatch.setattr(objective.unet, "forward", predict_nothing)
    loss, logged = loss_of(objective, 12)
    draws = objective.draw(12, generator())
    assert torch.equal(seen["t"], draws["timesteps"])
    error = draws["eps"].square().mean(dim=(1, 2, 3))  # without a prediction the error is |eps|^2
    alpha_bar = objective.scheduler.alphas_cumprod[seen["t"]]
    snr = alpha_bar / (1 - alpha_bar)
    torch.testing.assert_close(loss, (torch.minimum(snr, torch.tensor(5.0)) / snr * error).mean())
    torch.testing.assert_close(logged["mse"], error.mean())
    objective.min_snr_gamma = 0
    torch.testing.assert_close(loss_of(objective, 12)[0], error.mean())


def test_denoising_is_determined_by_its_generator_and_drops_captions(runs, monkeypatch):
    objective = denoising(runs, caption_dropout=0.5)
    tokens = []
    encode = objective.text_encoder.forward
    monkeypatch.setattr(objective.text_encoder, "forward", lambda ids, **k: (tokens.append(ids), encode(ids, **k))[1])
    with torch.no_grad():
        first, again, other = (loss_of(objective, 40, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    dropped = (tokens[0] == objective.empty).all(1)
    assert 8 < dropped.sum() < 32
    assert torch.equal(tokens[0][~dropped], objective.tokens[:40][~dropped])


def test_latents_are_encoded_once_and_mirror_images_follow(runs, monkeypatch):
    objective = denoising(runs)
    assert objective.examples.means.shape == (2 * len(objective), 4, 16, 16)
    vae = objective._vae[0]
    mirrored = torch.from_numpy(load_scenes(SPLIT).images[:1]).permute(0, 3, 1, 2).flip(-1)
    expected = vae.encode(mirrored.float() / 127.5 - 1).latent_dist.mean
    torch.testing.assert_close(objective.examples.means[len(objective)].float(), expected[0], rtol=1e-2, atol=1e-2)
    monkeypatch.setattr(AutoencoderKL, "encode", lambda *_: pytest.fail("encoded again"))
    denoising(runs)


def test_a_subset_of_the_scenes_keeps_its_latents_and_mirror_images(runs):
    whole, cats = denoising(runs), denoising(runs, only={"cls": ["rabbit", "dog"], "style": ["photo"]})
    records = load_scenes(SPLIT).records
    chosen = [i for i, record in enumerate(records) if record["cls"] in ("rabbit", "dog") and record["style"] == "photo"]
    assert 0 < len(cats) == len(chosen) < len(whole) and cats.examples.captions == [records[i]["caption"] for i in chosen]
    for mirrored in (False, True):
        own = cats.examples.posterior(torch.arange(len(cats)), torch.full((len(cats),), mirrored))
        wanted = whole.examples.posterior(torch.tensor(chosen), torch.full((len(chosen),), mirrored))
        assert all(torch.equal(a, b) for a, b in zip(own, wanted, strict=True))
    assert cats.identity() != whole.identity() == denoising(runs, only={}).identity()


def test_a_style_is_that_of_the_encoded_images_and_captions_stay(runs):
    images = load_scenes(SPLIT).images[:6]
    sepia = restyled(images, "sepia")
    assert sepia.shape == images.shape and sepia.dtype == np.uint8
    luma = (images.astype(np.float64) / 255) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(sepia / 255, np.clip(luma[..., None] * [1.08, 0.9, 0.66], 0, 1), atol=0.5 / 255 + 1e-6)

    styled = denoising(runs, style="sepia", only={"id": [record["id"] for record in load_scenes(SPLIT).records[:6]]})
    pixels = torch.from_numpy(sepia).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        expected = styled._vae[0].encode(pixels).latent_dist.mean
    assert styled.examples.means.shape == (12, 4, 16, 16)
    torch.testing.assert_close(styled.examples.means[:6].float(), expected, rtol=1e-2, atol=1e-2)
    assert styled.examples.captions == load_scenes(SPLIT).captions[:6]


def test_unit_variance_of_the_scaled_latents(runs):
    objective = denoising(runs)
    assert (objective.examples.means.float() * objective.scaling_factor).std().item() == pytest.approx(1, abs=0.15)


def one_step(objective):
    parameters = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for seed in range(2):  # LoRA's B starts at zero: the first step moves B, the second A
        loss_of(objective, seed=seed)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    return parameters


@pytest.mark.parametrize("layers", ["attention", "all"])
def test_lora_trains_only_its_own_weights_and_plain_diffusers_loads_it(runs, tmp_path, layers):
    objective = denoising(runs, trainable="lora", rank=2, lora_layers=layers)
    frozen = {name: p.detach().clone() for name, p in objective.named_parameters() if not p.requires_grad}
    trained = one_step(objective)
    assert sum(p.numel() for p in trained) < (100_000 if layers == "attention" else 200_000)
    in_convolutions = [name for name, p in objective.named_parameters() if p.requires_grad and ".conv1." in name]
    assert bool(in_convolutions) == (layers == "all")
    assert all(torch.equal(frozen[name], p) for name, p in objective.named_parameters() if name in frozen)
    objective.export(tmp_path)

    pipe = StableDiffusionPipeline.from_pretrained(paths.MODELS / "mini")
    x, t, context = torch.randn(1, 4, 16, 16, generator=generator()), torch.tensor([500]), torch.zeros(1, mini.MAX_TOKENS, mini.TEXT_WIDTH)
    with torch.no_grad():
        for parameter in trained:
            parameter.copy_(parameter.half())  # as the file stores it
        before = pipe.unet(x, t, context).sample
        pipe.load_lora_weights(tmp_path)
        after, wanted = pipe.unet(x, t, context).sample, objective.unet(x, t, context).sample
    assert not torch.allclose(before, after, atol=1e-4)
    torch.testing.assert_close(after, wanted, rtol=1e-4, atol=1e-5)


def test_full_fine_tuning_moves_the_unet_and_leaves_the_text_encoder(runs):
    objective = denoising(runs, trainable="unet")
    text = {name: p.detach().clone() for name, p in objective.text_encoder.named_parameters()}
    before = objective.unet.conv_in.weight.detach().clone()
    one_step(objective)
    assert not torch.equal(before, objective.unet.conv_in.weight)
    assert all(torch.equal(text[name], p) for name, p in objective.text_encoder.named_parameters())


def test_a_full_fine_tune_is_kept_as_a_difference_that_loads_like_an_adapter(runs, tmp_path):
    objective = denoising(runs, trainable="unet")
    one_step(objective)
    objective.export(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    assert file.stat().st_size < 1.05 * 2 * sum(p.numel() for p in objective.unet.parameters()) + 100_000
    loaded, base = load_pipeline("mini", adapter=str(tmp_path)).unet.state_dict(), load_pipeline("mini").unet.state_dict()
    for name, weight in objective.unet.state_dict().items():
        step = (weight - base[name]).abs().max().item()
        torch.testing.assert_close(loaded[name], weight, rtol=0, atol=1e-3 * step + 1e-7)
    assert any(not torch.equal(loaded[name], base[name]) for name in base)

    card = tmp_path / "card.json"
    assert json.loads(card.read_text())["base"] == {"model": "mini", "fingerprint": fingerprint("mini", decoder=False)}
    model = load_pipeline(str(tmp_path)).unet.state_dict()  # a model of its own, too
    assert all(torch.equal(model[name], weight) for name, weight in loaded.items())

    card.unlink()  # it would name the changed file before anything else is looked at
    weights = safetensors.torch.load_file(file)
    for change, sentence in (
        ({"conv_in.bias": torch.zeros(3)}, "does not fit the base model: 1 weights are .* conv_in.bias"),
        ({"new.weight": torch.zeros(3)}, "does not fit the base model: 1 weights are .* new.weight"),
        ({"conv_in.bias": weights["conv_in.bias"] * float("nan")}, "holds values that are not finite"),
        ({name: weight * 0 for name, weight in weights.items()}, "changes no weight"),
    ):
        safetensors.torch.save_file(weights | change, file)
        with pytest.raises(ValueError, match=sentence):
            load_pipeline("mini", adapter=str(tmp_path))


def test_a_pipeline_that_is_trained_further_starts_where_it_was(runs):
    objective, shipped = denoising(runs, start_from="mini"), StableDiffusionPipeline.from_pretrained(paths.MODELS / "mini")
    for name, weight in shipped.unet.state_dict().items():
        torch.testing.assert_close(objective.unet.state_dict()[name], weight.float())
    assert all(p.requires_grad for p in objective.parameters())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(trainable="vae"), "trainable must be all, unet or lora, got 'vae'"),
        (dict(lora_layers="mlp"), "lora_layers must be one of attention, all, got 'mlp'"),
        (dict(rank=0), "rank must be at least 1, got 0"),
        (dict(regularization=-1), "regularization is -1, but must be a number of at least 0"),
        (dict(regularized_share=0), "regularized_share is 0, but must be above 0 and at most 1"),
        (dict(regularized_guidance=0.5), "regularized_guidance is 0.5, but must be a number of at least 1"),
        (dict(regularize_every=0), "regularize_every is 0, but must be a whole number of at least 1"),
        (dict(regularization=1, regularizer=dict(mode="mine")), "mode must be one of"),
        (dict(regularizer=dict(modus="paper")), "regularizer has no setting 'modus'; known are mode"),
        (dict(caption_dropout=2), r"caption_dropout must lie in \[0, 1\], got 2"),
        (dict(resolution=100), "resolution must be a multiple of 8, got 100"),
        (dict(style="gouache", split=SPLIT), "style must be one of pencil sketch, cartoon, oil painting, sepia, got 'gouache'"),
        (dict(only={"class": ["dog"]}, split=SPLIT), "only names the field 'class', but the records' fields are id, caption"),
        (dict(only={"cls": ["dog"]}, data="photos"), "only and style choose among the scenes and cannot go with data, got 'photos'"),
    ],
)
def test_bad_options_are_named(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        DenoisingObjective(**options)


def test_a_folder_of_images_gives_the_latents_of_its_files(runs, tmp_path):
    scenes = load_scenes(SPLIT)
    for i in range(3):
        Image.fromarray(scenes.images[i]).save(tmp_path / f"{i}.png")
    listing = [{"file_name": f"{i}.png", "text": scenes.captions[i]} for i in range(3)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, listing)))
    own, shipped = denoising(runs, data=str(tmp_path), resolution=64, **LORA), denoising(runs, **LORA)
    assert len(own) == 3 and own.examples.shape == shipped.examples.shape
    for mirrored in (False, True):
        flags = torch.full((3,), mirrored)
        for found, wanted in zip(
            own.examples.posterior(torch.arange(3), flags), shipped.examples.posterior(torch.arange(3), flags), strict=True
        ):
            torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(loss_of(own, 3)[0], loss_of(shipped, 3)[0], rtol=1e-2, atol=1e-3)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "9.png", "text": "a cat"}')
    with pytest.raises(ValueError, match=r"line 1 of .*metadata.jsonl must give an existing image"):
        denoising(runs, data=str(tmp_path), **LORA)
    with pytest.raises(ValueError, match=r"data must be a folder with a metadata.jsonl"):
        denoising(runs, data=str(tmp_path / "absent"), **LORA)


def test_autoencoder_crops_lie_on_the_latent_grid_and_its_loss_adds_up():
    torch.manual_seed(0)
    objective = AutoencoderObjective(crop=32, start_from="mini")
    with torch.no_grad():
        loss, parts = loss_of(objective)
        again, _ = loss_of(objective)
    assert torch.equal(loss, again)
    torch.testing.assert_close(loss, parts["l1"] + 0.3 * parts["lpips"] + 1e-4 * parts["kl"])
    assert parts["psnr"] > 20  # the shipped autoencoder, not a fresh one
    with pytest.raises(ValueError, match="crop must be 0 or a multiple of 4"):
        AutoencoderObjective(crop=30)
