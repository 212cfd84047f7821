"""The scene dual encoder: images and captions of the scene world in one space, the stand-in for CLIP where nothing can be downloaded.

The image tower is a small head on frozen ImageNet features; the text tower is a transformer of its own, which shares no weights with the
model that it judges. It knows the words of the scene world only and is never called CLIP. `configs/training/dual_encoder.yaml` trains it.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from ..base import paths
from ..weights.cards import read_card
from ..world import mini
from .features import SCENE_RESOLUTION, ImageNetFeatures, feature_network_sha256
from .networks import load_network_weights

EMBEDDING, IMAGE_WIDTH, TEXT_WIDTH = 128, 384, 96
LARGEST_SCALE = 100.0  # CLIP's limit on 1 / temperature
FOLDER, WEIGHTS = "scene_alignment", "dual_encoder.safetensors"


def build_text_tower(vocab_size: int) -> CLIPTextModelWithProjection:
    """A causal CLIP text transformer of width 96, 2 layers, that reads a caption out at its end token."""
    config = CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=EMBEDDING,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=mini.MAX_TOKENS,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return CLIPTextModelWithProjection(config)


class DualEncoder(nn.Module):
    """What is trained and stored: image head, text tower, temperature, and the statistics that standardise the image features.

    Embeddings are unit vectors (B, 128); logits are `scale` times their cosine.
    """

    def __init__(self, vocab_size: int):
        super().__init__()
        self.register_buffer("feature_mean", torch.zeros(ImageNetFeatures.num_features))
        self.register_buffer("feature_std", torch.ones(ImageNetFeatures.num_features))
        self.image_head = nn.Sequential(nn.Linear(ImageNetFeatures.num_features, IMAGE_WIDTH), nn.GELU(), nn.Linear(IMAGE_WIDTH, EMBEDDING))
        self.text_tower = build_text_tower(vocab_size)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def scale(self) -> Tensor:
        """1 / temperature, at most 100 as in CLIP."""
        return self.log_scale.clamp(max=math.log(LARGEST_SCALE)).exp()

    def fit_statistics(self, features: Tensor) -> None:
        """Take mean and standard deviation of training features (N, 1280); rare features count as at least a tenth of the usual spread."""
        std = features.std(dim=0)
        self.feature_mean.copy_(features.mean(dim=0))
        self.feature_std.copy_(std.clamp_min(0.1 * std.mean()))

    def standardise(self, features: Tensor) -> Tensor:
        """ImageNet features (B, 1280) with the training set's mean and spread removed."""
        return (features - self.feature_mean) / self.feature_std

    def embed_features(self, standardised: Tensor) -> Tensor:
        """Unit embeddings (B, 128) of standardised ImageNet features (B, 1280)."""
        return F.normalize(self.image_head(standardised), dim=-1)

    def embed_tokens(self, input_ids: Tensor) -> Tensor:
        """Unit embeddings (B, 128) of token ids (B, L); what follows the first end token is not read."""
        return F.normalize(self.text_tower(input_ids).text_embeds, dim=-1)


def tokenise(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """Token ids (B, L) of captions, L the longest of them; captions of more than `mini.MAX_TOKENS` tokens are cut."""
    return tokenizer(list(captions), padding=True, truncation=True, max_length=mini.MAX_TOKENS, return_tensors="pt").input_ids


class SceneEncoder(nn.Module):
    """The dual encoder with its frozen feature network and its tokenizer: images and strings in, unit vectors (B, 128) out."""

    def __init__(self, dual_encoder: DualEncoder, held_out: dict[str, dict[str, float]] | None = None):
        super().__init__()
        self.held_out = held_out or {}  # split -> retrieval accuracy and the like, from the card
        self.features = ImageNetFeatures(SCENE_RESOLUTION)
        self.dual_encoder = dual_encoder.eval().requires_grad_(False)
        self.tokenizer = mini.build_tokenizer()

    def embed_images(self, images: Tensor) -> Tensor:
        """Embeddings of images (B, 3, H, W) in [-1, 1]."""
        return self.dual_encoder.embed_features(self.dual_encoder.standardise(self.features(images)))

    def embed_captions(self, captions: Sequence[str]) -> Tensor:
        """Embeddings of captions."""
        return self.dual_encoder.embed_tokens(tokenise(self.tokenizer, captions).to(self.dual_encoder.log_scale.device))


def required_inputs() -> dict[str, Any]:
    """What a trained dual encoder is tied to: the feature network, the resolution that it sees, and the tokens' numbers."""
    vocabulary = json.dumps(mini.build_tokenizer().get_vocab(), sort_keys=True)
    return {
        "feature_network_sha256": feature_network_sha256(),
        "feature_resolution": SCENE_RESOLUTION,
        "vocabulary_sha256": hashlib.sha256(vocabulary.encode()).hexdigest(),
    }


def load_scene_encoder(folder: Path | str | None = None) -> SceneEncoder:
    """The trained scene dual encoder in `folder` (default: the shipped one), in evaluation mode.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: the file is not the one that its card records, or it was trained on another feature network or vocabulary.
    """
    folder = Path(folder) if folder is not None else paths.MODELS / FOLDER
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(
            f"{folder / WEIGHTS} is missing: restore it from the repository, or train it with "
            "`python -m companion.training --config configs/training/dual_encoder.yaml`"
        )
    weights = {name: tensor.float() for name, tensor in load_network_weights(WEIGHTS, folder).items()}
    card = read_card(folder)
    for name, value in required_inputs().items():
        if card.get("inputs", {}).get(name) != value:
            raise ValueError(f"{folder / WEIGHTS} was trained with another {name} than this version has: train it again")
    dual_encoder = DualEncoder(len(mini.build_tokenizer()))
    dual_encoder.load_state_dict(weights, strict=True)
    return SceneEncoder(dual_encoder, card.get("held_out"))
