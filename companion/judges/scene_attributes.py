"""The scene judge: which class, colour, ground, setting, second object and style does an image show?

It decides whether an edit did what it was asked for. A small head reads a frozen ImageNet network at two depths: maps of 8 x 8 places,
fine enough for a small second object, and the pooled features of the last layer, which tell classes. It is trained on the training scenes
(`configs/training/scene_attributes.yaml`). `companion.judges.attributes` judges generated images: it is linear, and trained where it is
used.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..base import paths
from ..weights.cards import read_card
from ..world.vocabulary import CLASSES, COLOURS, EXTRAS, GROUNDS, SETTINGS, STYLES
from .features import SCENE_RESOLUTION, ImageNetFeatures, batch_size_on, device_of, feature_network_sha256
from .networks import load_network_weights

LAYER, CHANNELS, WIDTH = 13, 96, 96  # of the network's layers the last of stride 16; its channels; those of the head
POOLED = 2 * WIDTH + ImageNetFeatures.num_features
FOLDER, WEIGHTS = "scene_attributes", "scene_attributes.safetensors"

# field of the scene record -> what it may be; a colour is judged only where the record has one
WORDS: dict[str, tuple[str | None, ...]] = {
    "cls": tuple(CLASSES),
    "colour": tuple(COLOURS),
    "ground": tuple(GROUNDS),
    "setting": tuple(SETTINGS),
    "extra": (None, *EXTRAS),
    "style": tuple(STYLES),
}
# kind of edit -> the field that it is asked to change
ASKED = {"replace": "cls", "add": "extra", "recolour": "colour", "ground": "ground", "setting": "setting", "style": "style"}
CONVENTION = (
    "1 where the scene judge's most likely word for the field that the edit was asked to change is the target's, else 0; the judge reads "
    f"MobileNetV2 at {SCENE_RESOLUTION} x {SCENE_RESOLUTION} and was trained on real training images, sharp and blurred"
)


class SceneFeatures(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] -> maps (B, 96, 8, 8) and pooled features (B, 1280) of the frozen network, in one pass."""

    def __init__(self) -> None:
        super().__init__()
        self.features = ImageNetFeatures(SCENE_RESOLUTION)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Both, float32."""
        maps = []
        hook = self.features.network[LAYER].register_forward_hook(lambda module, inputs, output: maps.append(output))
        try:
            pooled = self.features(images)
        finally:
            hook.remove()
        return maps[0], pooled


class AttributeNetwork(nn.Module):
    """What is trained and stored: two convolutions on the maps, one linear layer for all words, and the statistics of the features."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("map_mean", torch.zeros(CHANNELS, 1, 1))
        self.register_buffer("map_std", torch.ones(CHANNELS, 1, 1))
        self.register_buffer("pooled_mean", torch.zeros(ImageNetFeatures.num_features))
        self.register_buffer("pooled_std", torch.ones(ImageNetFeatures.num_features))
        self.first = nn.Conv2d(CHANNELS, WIDTH, 3, padding=1)
        self.second = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.head = nn.Linear(POOLED, sum(map(len, WORDS.values())))

    def fit_statistics(self, maps: Tensor, pooled: Tensor) -> None:
        """Take mean and spread of training features; rare features count as at least a tenth of the usual spread."""
        self.map_mean.copy_(maps.mean(dim=(0, 2, 3))[:, None, None])
        self.map_std.copy_(maps.std(dim=(0, 2, 3))[:, None, None])
        std = pooled.std(dim=0)
        self.pooled_mean.copy_(pooled.mean(dim=0))
        self.pooled_std.copy_(std.clamp_min(0.1 * std.mean()))

    def forward(self, maps: Tensor, pooled: Tensor, seen: Tensor | float = 1.0) -> dict[str, Tensor]:
        """Logits (B, words) of each field; `seen` (B, 1472) scales what the last layer reads (dropout, while training)."""
        x = (maps - self.map_mean) / self.map_std  # (B, 96, 8, 8)
        x = self.second(self.first(x).relu()).relu()
        whole = (pooled - self.pooled_mean) / self.pooled_std
        read = torch.cat(
            [x.amax(dim=(2, 3)), x.mean(dim=(2, 3)), whole], dim=1
        )  # (B, 1472): something somewhere, everywhere, and the whole
        logits = self.head(read * seen).split([len(words) for words in WORDS.values()], dim=1)
        return dict(zip(WORDS, logits, strict=True))


class SceneJudge(nn.Module):
    """The trained judge with its feature network: images in, words out.

    `held_out` is what it reached on images that it was not trained on, from its card: accuracy per field by split, and for the edit pairs
    by kind the `ceiling` (how often it finds the asked word in the true edit) and the `floor` (how often in the untouched source).
    """

    def __init__(self, network: AttributeNetwork, held_out: dict[str, Any] | None = None):
        super().__init__()
        self.features = SceneFeatures()
        self.network = network.eval().requires_grad_(False)
        self.held_out = held_out or {}

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> dict[str, Tensor]:
        """Probability of each word of each field, (B, words), for images (B, 3, H, W) in [-1, 1]; ValueError as `check_images`."""
        parts = [self.network(*self.features(batch)) for batch in images.split(batch_size_on(device_of(self)))]
        return {field: torch.cat([part[field] for part in parts]).softmax(dim=-1) for field in WORDS}

    def predict(self, images: Tensor) -> dict[str, list[str | None]]:
        """The most likely word of each field; None as second object where there is none."""
        return {field: [WORDS[field][i] for i in values.argmax(-1).tolist()] for field, values in self.probabilities(images).items()}

    def agreement(self, images: Tensor, records: Sequence[Mapping]) -> dict[str, Tensor]:
        """For each field, 1 where the prediction is the scene record's word and 0 elsewhere, (B,); NaN for a colour that no record has."""
        if len(records) != len(images):
            raise ValueError(f"records has {len(records)} entries, but must have one for each of the {len(images)} images.")
        return agreement(self.predict(images), records)

    def success(self, images: Tensor, kinds: Sequence[str], targets: Sequence[Mapping]) -> Tensor:
        """1 where the image shows what its edit asked for and 0 elsewhere, (B,).

        Args:
            images: edited images (B, 3, H, W) in [-1, 1].
            kinds: kind of each edit, a key of `ASKED`.
            targets: scene record of each true edit.

        Raises:
            ValueError: a kind is unknown, or there is not one of each for every image.
        """
        if unknown := [kind for kind in kinds if kind not in ASKED]:
            raise ValueError(f"kinds has {unknown[0]!r}, but must be of {', '.join(ASKED)}.")
        if len(kinds) != len(images):
            raise ValueError(f"kinds has {len(kinds)} entries, but must have one for each of the {len(images)} images.")
        return asked(self.agreement(images, targets), kinds)


def agreement(predicted: Mapping[str, Sequence[str | None]], records: Sequence[Mapping]) -> dict[str, Tensor]:
    """1 where a predicted word is the record's and 0 elsewhere, NaN where the record's is none that can be predicted; (N,) by field."""
    found = {}
    for field, words in predicted.items():
        rows = zip(words, records, strict=True)
        found[field] = torch.tensor([float(word == r[field]) if r[field] in WORDS[field] else float("nan") for word, r in rows])
    return found


def asked(agreeing: Mapping[str, Tensor], kinds: Sequence[str]) -> Tensor:
    """Of the agreement by field, each image's value of the field that its kind of edit asks for, (N,)."""
    return torch.stack([agreeing[ASKED[kind]][i] for i, kind in enumerate(kinds)])


def required_inputs() -> dict[str, Any]:
    """What a trained judge is tied to: the feature network, where it is read, and the words' numbers."""
    return {
        "feature_network_sha256": feature_network_sha256(),
        "feature_resolution": SCENE_RESOLUTION,
        "feature_layer": LAYER,
        "words": {field: list(words) for field, words in WORDS.items()},
    }


def load_scene_judge(folder: Path | str | None = None) -> SceneJudge:
    """The trained scene judge in `folder` (default: the shipped one), in evaluation mode; no training scenes are needed.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: the file is not the one that its card records, or it was trained with another feature network or other words.
    """
    folder = Path(folder) if folder is not None else paths.MODELS / FOLDER
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(
            f"{folder / WEIGHTS} is missing: restore it from the repository, or train it with "
            "`python -m companion.training --config configs/training/scene_attributes.yaml`"
        )
    weights = {name: tensor.float() for name, tensor in load_network_weights(WEIGHTS, folder).items()}
    card = read_card(folder)
    for name, value in required_inputs().items():
        if card.get("inputs", {}).get(name) != value:
            raise ValueError(f"{folder / WEIGHTS} was trained with another {name} than this version has: train it again")
    network = AttributeNetwork()
    network.load_state_dict(weights, strict=True)
    return SceneJudge(network, card.get("held_out"))
