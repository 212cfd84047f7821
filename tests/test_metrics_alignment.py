"""Text alignment: the cosine by hand, batching, retrieval, damaged and missing weights, and CLIP through transformers' own forward."""

import json
import math
import re
import shutil

import huggingface_hub.constants
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from tiny import tiny_tokenizer
from torch import Tensor, nn
from torchmetrics import MetricCollection
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from companion.data.load import load_scenes
from companion.judges.alignment import CLIPScore, SceneAlignment
from companion.judges.clip import PINNED_REVISIONS, load_clip_encoder
from companion.judges.dual_encoder import WEIGHTS, DualEncoder, load_scene_encoder, required_inputs
from companion.judges.features import ImageNetFeatures
from companion.weights.cards import write_card
from companion.world.mini import build_tokenizer
from smoothlib.metrics.text_alignment import CaptionAlignment, retrieval

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def seeded(build, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def assert_one_sentence(raised):
    message = str(raised.value)
    assert "\n" not in message and len(message) < 450, message


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A scene dual encoder with seeded random weights, stored as training stores it."""
    target = tmp_path_factory.mktemp("dual_encoder")
    encoder = seeded(lambda: DualEncoder(len(build_tokenizer())))
    encoder.fit_statistics(torch.rand(50, 1280, generator=generator()))
    weights = {name: tensor.half().contiguous() for name, tensor in encoder.state_dict().items()}
    safetensors.torch.save_file(weights, target / WEIGHTS)
    write_card(target, inputs=required_inputs(), held_out={"test": {"accuracy": 0.25}})
    return target


@pytest.fixture(scope="module")
def pairs() -> tuple[Tensor, list[str]]:
    """Six scenes (6, 3, 64, 64) in [-1, 1] with their captions."""
    scenes = load_scenes("compositional")
    items = [scenes.item(index) for index in range(6)]
    return torch.stack([item.image for item in items]), [item.caption for item in items]


@pytest.fixture(scope="module")
def alignment(folder) -> SceneAlignment:
    return SceneAlignment(weights_folder=folder)


# --- the value


def test_value_is_a_hundred_times_the_cosine(alignment, folder, pairs):
    """Again in numpy from the file: standardise, linear, GELU, linear; captions through transformers' text tower alone."""
    images, captions = pairs
    weights = {name: tensor.double().numpy() for name, tensor in safetensors.torch.load_file(folder / WEIGHTS).items()}
    features = ImageNetFeatures(128)(images).double().numpy()
    x = (features - weights["feature_mean"]) / weights["feature_std"]
    x = x @ weights["image_head.0.weight"].T + weights["image_head.0.bias"]
    x = x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
    x = x @ weights["image_head.2.weight"].T + weights["image_head.2.bias"]
    tower = alignment.encoder.dual_encoder.text_tower
    y = np.stack([tower(build_tokenizer()(c, return_tensors="pt").input_ids).text_embeds[0].double().numpy() for c in captions])
    expected = 100 * (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    values = alignment.per_image(images, captions)
    assert values.shape == (6,)
    np.testing.assert_allclose(values.numpy(), expected, atol=1e-3)
    assert np.ptp(expected) > 1


def test_batches_single_images_and_merged_parts_agree(alignment, folder, pairs):
    images, captions = pairs
    values = alignment.per_image(images, captions)
    single = torch.cat([alignment.per_image(image[None], [caption]) for image, caption in zip(images, captions, strict=True)])
    torch.testing.assert_close(single, values, rtol=1e-4, atol=1e-4)
    first, second = SceneAlignment(weights_folder=folder, batch_size=2), SceneAlignment(weights_folder=folder)
    torch.testing.assert_close(first.per_image(images, captions), values, rtol=1e-4, atol=1e-4)
    first.update(images[:4], captions[:4])
    second.update(images[4:], captions[4:])
    first.merge_state(second)
    torch.testing.assert_close(first.compute(), values.double().mean(), rtol=1e-5, atol=0)
    first.train()
    assert not first.encoder.training and first.num_images == 6


def test_value_range_is_mapped(folder, alignment, pairs):
    images, captions = pairs
    unit = SceneAlignment((0, 1), weights_folder=folder)
    torch.testing.assert_close(unit.per_image((images + 1) / 2, captions), alignment.per_image(images, captions), rtol=1e-3, atol=1e-3)


def test_the_order_of_words_and_the_words_matter(alignment):
    embeddings = alignment.encoder.embed_captions(["a cat and a dog on snow", "a dog and a cat on snow", "a dog and a cat on sand"])
    assert embeddings.shape == (3, 128) and (embeddings @ embeddings.T)[~torch.eye(3, dtype=torch.bool)].max() < 0.99999
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(3))
    alignment.encoder.embed_captions(["zyx " * 40])  # spelled in letters and cut at 24 tokens


# --- retrieval


class Lookup(nn.Module):
    """Embeds an image by its first pixel's channels, a caption by the colour that it names."""

    def embed_images(self, images: Tensor) -> Tensor:
        return images[:, :, 0, 0]

    def embed_captions(self, captions: list[str]) -> Tensor:
        return torch.eye(3)[[("red", "green", "blue").index(caption) for caption in captions]]


def test_retrieval_counts_an_image_right_with_any_caption_equal_to_its_own():
    images = torch.tensor([[0.9, 0.1, 0], [0.8, 0, 0.1], [0.6, 0.5, 0], [0, 0, 0.7]]).view(4, 3, 1, 1)
    metric = CaptionAlignment(Lookup())
    found = metric.retrieval_accuracy(images, ["red", "red", "green", "blue"])
    assert found.correct.tolist() == [True, True, False, True]
    assert (found.accuracy, found.num_captions, found.chance) == (0.75, 3, pytest.approx(1 / 3))
    assert metric.retrieval_accuracy(images, ["blue", "blue", "red", "red"]).correct.tolist() == [False, False, True, False]
    values = metric.per_image(images, ["red", "red", "green", "blue"])
    expected = torch.tensor([90 / math.hypot(0.9, 0.1), 80 / math.hypot(0.8, 0.1), 50 / math.hypot(0.6, 0.5), 100])
    torch.testing.assert_close(values, expected)
    assert metric.num_images == 0  # neither touches the state


def test_retrieval_of_random_embeddings_is_at_chance():
    images, captions = (torch.nn.functional.normalize(torch.randn(4000, 16, generator=generator(seed)), dim=-1) for seed in (1, 2))
    candidates = [f"caption {i % 20}" for i in range(4000)]
    found = retrieval(images, captions[:20].repeat(200, 1), candidates)
    assert found.chance == 0.05 and found.num_captions == 20
    assert found.accuracy == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 4000))


# --- faults


def test_bad_input_is_named(alignment, pairs):
    images, captions = pairs
    for bad, message in (
        (captions[:5], "captions is 5 values, it must be a list of 6 strings"),
        ("a dog", "captions is one string, it must be a list of 6 strings"),
        ([*captions[:5], 3], "captions is 6 values"),
    ):
        with pytest.raises(ValueError, match=message):
            alignment.update(images, bad)
    with pytest.raises(ValueError, match="images has values from"):
        alignment.per_image(images * 3, captions)
    with pytest.raises(ValueError, match="batch_size is 0"):
        CaptionAlignment(Lookup(), batch_size=0)
    with pytest.raises(ValueError, match="CaptionAlignment has seen 0 images"), pytest.warns(UserWarning, match="before the ``update``"):
        CaptionAlignment(Lookup()).compute()


def test_damaged_or_foreign_weights_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    copy = tmp_path / "copy"
    assert SceneAlignment(weights_folder=copy).held_out == {"test": {"accuracy": 0.25}}
    content = bytearray((copy / WEIGHTS).read_bytes())
    content[100_000] ^= 1
    (copy / WEIGHTS).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{re.escape(WEIGHTS)} is damaged or not the file that card\.json records") as raised:
        SceneAlignment(weights_folder=copy)
    assert_one_sentence(raised)
    shutil.copy(folder / WEIGHTS, copy / WEIGHTS)
    card = json.loads((copy / "card.json").read_text())
    card["inputs"]["vocabulary_sha256"] = "0" * 64
    (copy / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="trained with another vocabulary_sha256 than this version has: train it again") as raised:
        load_scene_encoder(copy)
    assert_one_sentence(raised)
    with pytest.raises(FileNotFoundError, match=r"is missing: restore it .* or train it with .*dual_encoder\.yaml") as raised:
        load_scene_encoder(tmp_path)
    assert_one_sentence(raised)


# --- CLIP


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A CLIP of 30,000 seeded random weights in transformers' layout: images at 32 x 32, captions of 16 tokens."""
    target = tmp_path_factory.mktemp("clip")
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    tokenizer = tiny_tokenizer()
    text = dict(sizes, vocab_size=len(tokenizer), max_position_embeddings=16, bos_token_id=0, eos_token_id=1, pad_token_id=1)
    config = CLIPConfig(text_config=text, vision_config=dict(sizes, image_size=32, patch_size=8), projection_dim=24)
    seeded(lambda: CLIPModel(config)).save_pretrained(target)
    tokenizer.save_pretrained(target)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(target)
    return target


def test_clip_score_equals_transformers_own_forward_on_pil_images(clip_folder):
    levels = torch.randint(256, (4, 3, 40, 50), generator=generator(), dtype=torch.uint8)
    captions = ["a red cat", "dog", "two birds", "a car, a cat and a long tail of words"]  # the last is cut at 16 tokens
    model, processor = CLIPModel.from_pretrained(clip_folder).eval(), CLIPImageProcessor.from_pretrained(clip_folder)
    pixels = processor(images=[Image.fromarray(image.permute(1, 2, 0).numpy()) for image in levels], return_tensors="pt").pixel_values
    tokens = tiny_tokenizer()(captions, padding=True, truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        outputs = model(pixel_values=pixels, **tokens)
    expected = 100 * (outputs.logits_per_image / model.logit_scale.exp()).diagonal()
    metric = CLIPScore(clip_folder)
    values = metric.per_image(levels.float() / 127.5 - 1, captions)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-3)
    assert values.max() - values.min() > 0.5
    single = torch.cat([metric.per_image(image[None].float() / 127.5 - 1, [text]) for image, text in zip(levels, captions, strict=True)])
    torch.testing.assert_close(single, values, rtol=1e-4, atol=1e-3)
    metric.update(levels.float() / 127.5 - 1, captions)
    torch.testing.assert_close(metric.compute(), values.double().mean(), rtol=1e-5, atol=0)


def test_both_metrics_go_into_one_collection(clip_folder, alignment, folder, pairs):
    images, captions = pairs
    words = [caption.split()[-1] for caption in captions]
    collection = MetricCollection({"clip": CLIPScore(clip_folder), "scene": SceneAlignment(weights_folder=folder)})
    collection.update(images, words)
    found = collection.compute()
    torch.testing.assert_close(found["scene"], alignment.per_image(images, words).double().mean(), rtol=1e-4, atol=1e-4)
    assert abs(found["clip"] - found["scene"]) > 1e-3


@pytest.fixture
def offline(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize("name", ["openai/clip-vit-base-patch32", "openai/clip-vit-large-patch14", f"someone/clip@{COMMIT}"])
def test_a_failed_download_says_what_to_get_and_where_to_put_it(offline, name):
    hub_id, _, commit = name.partition("@")
    expected = f"could not download '{hub_id}' at commit {commit or PINNED_REVISIONS[hub_id]} .* pass that folder's path as the model"
    with pytest.raises(FileNotFoundError, match=expected) as raised:
        CLIPScore(name)
    assert_one_sentence(raised)


def test_a_downloaded_snapshot_is_used_at_its_pinned_commit(offline, clip_folder):
    shutil.copytree(clip_folder, offline / f"models--someone--clip/snapshots/{COMMIT}")
    images, words = torch.rand(2, 3, 32, 32, generator=generator()), ["cat", "dog"]
    found = CLIPScore(f"someone/clip@{COMMIT}").per_image(images, words)
    assert torch.equal(found, CLIPScore(clip_folder).per_image(images, words))


def test_unpinned_names_and_pickles_are_refused(clip_folder, tmp_path):
    for name, message in (("someone/clip", "needs its commit of 40 hex digits"), ("clip", "model must be an existing folder or a hub id")):
        with pytest.raises(ValueError, match=message) as raised:
            load_clip_encoder(name)
        assert_one_sentence(raised)
    pickled = tmp_path / "pickled"
    shutil.copytree(clip_folder, pickled)
    torch.save(safetensors.torch.load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        load_clip_encoder(pickled)
