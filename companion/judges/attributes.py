"""Does an image show what its caption says? Linear classifiers of class, ground and setting on frozen ImageNet features.

They are trained on real training scenes only, each as it is and a little blurred: a latent diffusion model's decoder blurs, which says
nothing about what an image shows. Their accuracy on real test scenes is the ceiling for generated ones and reported with them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from .features import SCENE_RESOLUTION

FIELDS = ("cls", "ground", "setting")
BLUR = (0.4, 1.0)  # standard deviations in pixels of 64
WEIGHT_DECAY = (
    3.0  # best of .1, 1, 3 and 10 on 1,000 held-out training scenes, sharp and blurred; with .01 the training scenes are learnt by heart
)
CONVENTIONS = {
    field: f"1 where the classifier's {field} is the caption's, else 0; linear, on MobileNetV2 features at "
    f"{SCENE_RESOLUTION} x {SCENE_RESOLUTION} of real training images, sharp and blurred"
    for field in FIELDS
}


def blurred(images: np.ndarray | Tensor, seed: int = 0) -> Tensor:
    """uint8 images (N, 3, H, W), each under a Gaussian blur whose standard deviation is drawn from `BLUR`."""
    pixels = torch.as_tensor(images)
    low, high = BLUR
    sigmas = low + (high - low) * torch.rand(len(pixels), generator=torch.Generator().manual_seed(seed))
    made = [gaussian_blur(image, 5, sigma) for image, sigma in zip(pixels, sigmas.tolist(), strict=True)]
    return torch.stack(made)


@dataclass(frozen=True)
class AttributeClassifier:
    """One linear classifier per field of the scene record on standardised features."""

    mean: Tensor
    std: Tensor
    heads: Mapping[str, nn.Linear]
    names: Mapping[str, tuple[str, ...]]

    @torch.no_grad()
    def predict(self, features: Tensor) -> dict[str, list[str]]:
        """The most likely word of each field for features (N, 1280)."""
        x = (features - self.mean) / self.std
        return {field: [self.names[field][i] for i in head(x).argmax(-1).tolist()] for field, head in self.heads.items()}

    def agreement(self, features: Tensor, records: Sequence[Mapping]) -> dict[str, np.ndarray]:
        """For each field, 1.0 where the prediction is the record's word and 0.0 elsewhere, (N,)."""
        predicted = self.predict(features)
        return {
            field: np.array([float(word == record[field]) for word, record in zip(words, records, strict=True)])
            for field, words in predicted.items()
        }


def train_classifier(
    features: Tensor, records: Sequence[Mapping], *, steps: int = 400, weight_decay: float = WEIGHT_DECAY, seed: int = 0
) -> AttributeClassifier:
    """Fit the classifiers by cross-entropy, full batch, AdamW 1e-2 with cosine decay; everything random from `seed`."""
    mean, std = features.mean(0), features.std(0).clamp_min(1e-6)
    x = (features - mean) / std
    heads, names = {}, {}
    for field in FIELDS:
        words = tuple(sorted({record[field] for record in records}))
        labels = torch.tensor([words.index(record[field]) for record in records])
        head = nn.Linear(x.shape[1], len(words))
        with torch.no_grad():
            head.weight.copy_(0.01 * torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(seed)))
            head.bias.zero_()
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2, weight_decay=weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(x), labels).backward()
            optimizer.step()
            schedule.step()
        heads[field], names[field] = head.requires_grad_(False), words
    return AttributeClassifier(mean, std, heads, names)
