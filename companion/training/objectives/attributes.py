"""The scene judge's training: cross-entropy of each field's word, on features of scenes as they are and a little blurred."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from smoothlib.pixels import from_uint8

from ...base import paths
from ...base.progress import progress_bar
from ...data.load import load_pairs, load_scenes
from ...judges import scene_attributes as judge
from ...judges.attributes import blurred
from ...judges.features import BATCH
from ...weights.cards import write_card
from ..caches import SUFFIX, kept_tensors
from .base import Objective


@torch.no_grad()
def scene_maps(images: Tensor) -> tuple[Tensor, Tensor]:
    """Maps and pooled features (see `SceneFeatures`) of uint8 images (N, 3, H, W), in half precision.

    About 100 images/s on one core; kept in runs/image_features under a hash of the images and the feature network.
    """
    inputs = {name: value for name, value in judge.required_inputs().items() if name != "words"}
    digest = hashlib.sha256(json.dumps(inputs).encode())
    digest.update(images.contiguous().numpy().tobytes())

    def compute() -> dict[str, Tensor]:
        network, found = judge.SceneFeatures(), []
        batches = images.split(BATCH)
        with progress_bar("feature maps", total=len(batches)) as advance_to:
            for batch in batches:
                found.append([features.half() for features in network(from_uint8(batch))])
                advance_to(len(found))
        maps, pooled = (torch.cat(parts).contiguous() for parts in zip(*found, strict=True))
        return {"maps": maps, "pooled": pooled}

    stored = kept_tensors(paths.RUNS / "image_features" / f"maps-{digest.hexdigest()[:32]}{SUFFIX}", compute)
    return stored["maps"], stored["pooled"]


def word_numbers(records: Sequence[Mapping]) -> Tensor:
    """Number of each field's word, (N, 6) long in the order of `WORDS`; -1 where the record has none."""
    numbers = [[words.index(record[field]) if record[field] in words else -1 for field, words in judge.WORDS.items()] for record in records]
    return torch.tensor(numbers)


class AttributesObjective(Objective):
    """The head of the scene judge on features of scenes, each as it is or blurred: a latent model's decoder blurs, which says nothing.

    Args:
        feature_dropout: share of the network's pooled features that a step does not see.
        map_dropout: the same of what is read from the maps: a small second object shows in few of these numbers.
        split: what it is trained on.
        held_out: splits whose accuracy is measured at the end and written into the card.
        limit: use only the first so many scenes of every split.

    Raises:
        ValueError: a dropout lies outside [0, 1), or `limit` is below 1.
    """

    def __init__(
        self,
        feature_dropout: float = 0.5,
        map_dropout: float = 0.1,
        split: str = "train",
        held_out: Sequence[str] = ("test", "compositional"),
        limit: int | None = None,
    ):
        super().__init__()
        for name, value in (("feature_dropout", feature_dropout), ("map_dropout", map_dropout)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {value}")
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        self.held_out, self.limit = tuple(held_out), limit
        self.dropout = torch.full((judge.POOLED,), feature_dropout)  # of each number that the last layer reads
        self.dropout[: 2 * judge.WIDTH] = map_dropout
        scenes = load_scenes(split)
        images = scenes.pixels[:limit]
        self.numbers = word_numbers(scenes.records[:limit])
        self.features = scene_maps(images), scene_maps(blurred(images))
        self.network = judge.AttributeNetwork()
        maps, pooled = self.features[0]
        self.network.fit_statistics(maps[:2000].float(), pooled.float())  # 2,000 images: 128,000 places

    def __len__(self) -> int:
        return len(self.numbers)

    def identity(self) -> str:
        """Hash of features, words and what the judge is tied to."""
        digest = hashlib.sha256(json.dumps([self.numbers.tolist(), judge.required_inputs()], sort_keys=True).encode())
        for maps, pooled in self.features:
            digest.update(maps.numpy().tobytes() + pooled.numpy().tobytes())
        return digest.hexdigest()

    def draw(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Blurring (count,) and what the last layer sees (count, 1472), both bool."""
        return {
            "blurred": torch.rand(count, generator=generator) < 0.5,
            "seen": torch.rand(count, judge.POOLED, generator=generator) >= self.dropout,
        }

    def forward(self, indices: Tensor, draws: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum over fields of the mean cross-entropy; logs each field's accuracy (of colour: among scenes that have one)."""
        indices, device = indices.cpu(), self.network.head.weight.device
        choice = draws["blurred"].cpu()
        maps, pooled = (
            torch.where(choice.view(-1, *[1] * (sharp.ndim - 1)), soft[indices], sharp[indices]).float().to(device)
            for sharp, soft in zip(*self.features, strict=True)
        )
        logits = self.network(maps, pooled, draws["seen"].to(device) / (1 - self.dropout).to(device))
        numbers = self.numbers[indices].to(device)
        loss, logged = torch.zeros((), device=device), {}
        for column, (field, values) in enumerate(logits.items()):
            there = numbers[:, column] >= 0
            if there.any():
                right = numbers[there, column]
                loss = loss + F.cross_entropy(values[there], right)
                logged[field] = (values[there].detach().argmax(-1) == right).float().mean()
        return loss, logged

    @torch.no_grad()
    def predicted(self, images: Tensor) -> dict[str, list[str | None]]:
        """The judge's words for uint8 images (N, 3, H, W)."""
        device = self.network.head.weight.device
        maps, pooled = scene_maps(images)
        parts = [self.network(m.float().to(device), p.float().to(device)) for m, p in zip(maps.split(500), pooled.split(500), strict=True)]
        best = {field: torch.cat([part[field] for part in parts]).argmax(-1).tolist() for field in judge.WORDS}
        return {field: [judge.WORDS[field][i] for i in numbers] for field, numbers in best.items()}

    def measure(self, split: str) -> dict[str, float]:
        """Accuracy of each field on a split, and of the second object among the scenes that have one."""
        scenes = load_scenes(split)
        records = scenes.records[: self.limit]
        found = judge.agreement(self.predicted(scenes.pixels[: self.limit]), records)
        some = torch.tensor([record["extra"] is not None for record in records])
        numbers = {field: values.nanmean().item() for field, values in found.items()}
        return {"num_images": len(records), **numbers, "extra_where_present": found["extra"][some].mean().item()}

    def measure_edits(self) -> dict[str, dict[str, float]]:
        """By kind of edit: how often the asked word is found in the true edit (`ceiling`) and in the untouched source (`floor`)."""
        pairs = load_pairs("edits")
        kinds, targets = [pair.record["edit"] for pair in pairs], [pair.record["target"] for pair in pairs]
        values = {
            name: judge.asked(judge.agreement(self.predicted(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)), targets), kinds)
            for name, images in {"ceiling": [pair.target for pair in pairs], "floor": [pair.source for pair in pairs]}.items()
        }
        of_kind = {kind: torch.tensor([other == kind for other in kinds]) for kind in dict.fromkeys(kinds)}
        return {
            kind: {"num_pairs": int(rows.sum()), **{name: found[rows].mean().item() for name, found in values.items()}}
            for kind, rows in of_kind.items()
        }

    def export(self, folder: Path) -> None:
        """Save the head in half precision and write its accuracy on held-out images into the card."""
        weights = {name: tensor.detach().cpu().half().contiguous() for name, tensor in self.network.state_dict().items()}
        safetensors.torch.save_file(weights, folder / judge.WEIGHTS)
        self.network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})  # measure what was saved
        held_out: dict[str, Any] = {split: self.measure(split) for split in self.held_out}
        held_out["edits"] = self.measure_edits()
        for name, numbers in held_out.items():
            print(json.dumps({name: numbers}), flush=True)
        write_card(
            folder,
            description="Scene judge: class, colour, ground, setting, second object and style of rendered scenes, on frozen MobileNetV2.",
            licence="Apache-2.0 (weights); trained on renders of models under CC0 and CC BY 3.0, see NOTICE",
            inputs=judge.required_inputs(),
            held_out=held_out,
        )
