"""The scene dual encoder's training: symmetric InfoNCE between scenes and captions."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from smoothlib.metrics.text_alignment import retrieval

from ...base import paths
from ...base.progress import progress_bar
from ...data.load import SceneSplit, load_scenes
from ...judges.dual_encoder import WEIGHTS, DualEncoder, required_inputs, tokenise
from ...judges.features import SCENE_RESOLUTION, feature_network_sha256, scene_features
from ...weights.cards import write_card
from ...world import mini
from ...world.captions import OPTIONAL, partial_caption, scene_codes, true_of
from ..caches import SUFFIX, kept_tensors
from .base import Objective


def info_nce(image_embeddings: Tensor, caption_embeddings: Tensor, scale: Tensor | float, positives: Tensor) -> Tensor:
    """Symmetric InfoNCE (Radford et al. 2021): cross-entropy of each image's own caption and of each caption's own image.

    Args:
        image_embeddings, caption_embeddings: unit vectors (B, D), pair by pair.
        scale: 1 / temperature.
        positives: (B, B) bool, [i, j] where caption j is true of image i. Off the diagonal such a pair is left out: an equal caption is no
            negative, nor is one that says less.
    """
    logits = scale * image_embeddings @ caption_embeddings.T  # (B, B)
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill(positives.to(logits.device) & ~own, -torch.inf)
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def kept_features(scenes: SceneSplit, *, mirrored: bool = False, limit: int | None = None) -> Tensor:
    """`scene_features` of a split's images, and with `mirrored` then of their mirror images, (N or 2N, 1280) in half precision.

    About 100 images/s on one core; kept in runs/image_features under a hash of the images and the feature network.
    """
    digest = hashlib.sha256(json.dumps([feature_network_sha256(), SCENE_RESOLUTION, mirrored]).encode())
    digest.update(scenes.images[:limit].tobytes())

    def compute() -> dict[str, Tensor]:
        images = scenes.pixels[:limit]
        parts = [images, images.flip(-1)] if mirrored else [images]
        # 100 images at once, as the kept files were made: other batches differ in the last bits
        with progress_bar("image features", total=len(parts) * len(images)) as advance_to:
            features = []
            for part in parts:
                before = len(images) * len(features)
                features.append(scene_features(part, batch_size=100, done=lambda n, before=before: advance_to(before + n)).half())
        return {"features": torch.cat(features)}

    return kept_tensors(paths.RUNS / "image_features" / f"{digest.hexdigest()[:32]}{SUFFIX}", compute)["features"]


class ContrastiveObjective(Objective):
    """The scene dual encoder on the features of scenes and their mirror images (captions name no side).

    An image's negatives are the other captions of its part of the batch: dividing a step among processes or accumulations gives it fewer.

    Args:
        phrase_dropout: probability with which each of style, colour, ground and setting is left out of a caption.
        feature_dropout: share of an image's features that a step does not see.
        split: what it is trained on.
        held_out: splits whose retrieval accuracy is measured at the end and written into the card.
        limit: use only the first so many scenes of every split.

    Raises:
        ValueError: a dropout lies outside [0, 1), or `limit` is below 1.
    """

    def __init__(
        self,
        phrase_dropout: float = 0.1,
        feature_dropout: float = 0.3,
        split: str = "train",
        held_out: Sequence[str] = ("test", "compositional"),
        limit: int | None = None,
    ):
        super().__init__()
        for name, value in (("phrase_dropout", phrase_dropout), ("feature_dropout", feature_dropout)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {value}")
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        self.phrase_dropout, self.feature_dropout = phrase_dropout, feature_dropout
        self.held_out, self.limit = tuple(held_out), limit
        scenes = load_scenes(split)
        self.records = scenes.records[:limit]
        self.codes = scene_codes(self.records)
        self.features = kept_features(scenes, mirrored=True, limit=limit)
        self.tokenizer = mini.build_tokenizer()
        self.encoder = DualEncoder(len(self.tokenizer))
        self.encoder.fit_statistics(self.features.float())

    def __len__(self) -> int:
        return len(self.records)

    def identity(self) -> str:
        """Hash of features, records and the tokens' numbers."""
        digest = hashlib.sha256(self.features.numpy().tobytes())
        digest.update(json.dumps([self.records, required_inputs()], sort_keys=True).encode())
        return digest.hexdigest()

    def draw(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Mirroring (count,), phrases that each caption names (count, 4) and features that are seen (count, 1280), all bool."""
        return {
            "mirrored": torch.rand(count, generator=generator) < 0.5,
            "named": torch.rand(count, len(OPTIONAL), generator=generator) >= self.phrase_dropout,
            "seen": torch.rand(count, self.features.shape[1], generator=generator) >= self.feature_dropout,
        }

    def forward(self, indices: Tensor, draws: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """InfoNCE of a batch of scenes; logs the share of images whose caption scores highest in the batch, and the scale."""
        indices, device = indices.cpu(), self.encoder.log_scale.device
        mirrored, named, seen = (draws[name].cpu() for name in ("mirrored", "named", "seen"))
        rows = indices + len(self) * mirrored  # the mirror images follow the originals
        features = self.encoder.standardise(self.features[rows].float().to(device))
        images = self.encoder.embed_features(features * seen.to(device) / (1 - self.feature_dropout))
        captions = [partial_caption(self.records[i], phrases) for i, phrases in zip(indices.tolist(), named.tolist(), strict=True)]
        texts = self.encoder.embed_tokens(tokenise(self.tokenizer, captions).to(device))
        loss = info_nce(images, texts, self.encoder.scale, true_of(self.codes[indices], named))
        accuracy = retrieval(images.detach(), texts.detach(), captions).accuracy
        return loss, {"batch_accuracy": torch.tensor(accuracy), "scale": self.encoder.scale.detach()}

    @torch.no_grad()
    def measure(self, split: str) -> dict[str, float]:
        """Retrieval accuracy on a split with its full captions, and the mean value of true and of exchanged captions."""
        scenes = load_scenes(split)
        captions = scenes.captions[: self.limit]
        device = self.encoder.log_scale.device
        features = kept_features(scenes, limit=self.limit).float().to(device)
        images = self.encoder.embed_features(self.encoder.standardise(features))
        texts = self.encoder.embed_tokens(tokenise(self.tokenizer, captions).to(device))
        found = {name: value for name, value in asdict(retrieval(images, texts, captions)).items() if name != "correct"}
        values = 100 * images @ texts.T
        other = torch.tensor([[a != b for b in captions] for a in captions]).to(device)
        means = {"matched_mean": values.diagonal().mean().item(), "mismatched_mean": values[other].mean().item()}
        return {"num_images": len(captions), **found, **means}

    def export(self, folder: Path) -> None:
        """Save the dual encoder in half precision and write its accuracy on held-out scenes into the card."""
        weights = {name: tensor.detach().cpu().half().contiguous() for name, tensor in self.encoder.state_dict().items()}
        safetensors.torch.save_file(weights, folder / WEIGHTS)
        self.encoder.load_state_dict({name: tensor.float() for name, tensor in weights.items()})  # measure what was saved
        held_out = {split: self.measure(split) for split in self.held_out}
        for split, numbers in held_out.items():
            print(json.dumps({"split": split, **numbers}), flush=True)
        write_card(
            folder,
            description="Scene dual encoder: images and captions of the rendered scenes in one space. Not CLIP.",
            licence="Apache-2.0 (weights); trained on renders of models under CC0 and CC BY 3.0, see NOTICE",
            inputs=required_inputs(),
            held_out=held_out,
        )
