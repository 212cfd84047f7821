"""Text alignment of images: 100 times the cosine of an image's and its caption's embeddings, by CLIP or by the scene dual encoder.

Both are means over pairs of a value per pair. `update(images, captions)` and `compute()` give the mean; `per_image(images, captions)` gives
the values themselves (for intervals and paired tests) and leaves the state alone. Values of different encoders do not compare: CLIP's pairs
lie near 20 to 35 whatever they show, so that differences count, not levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .images import check_images
from .reconstruction import ImageMean


@dataclass(frozen=True)
class Retrieval:
    """For each image, whether its own caption scored highest among `num_captions` different ones.

    `accuracy` is the share of such images and `chance` that of a uniform guess, 1 / `num_captions`; `correct` is (N,) bool.
    """

    accuracy: float
    chance: float
    num_captions: int
    correct: Tensor


class CaptionAlignment(ImageMean):
    """Mean over pairs of 100 cos(image embedding, caption embedding), at most 100.

    The sum (float64) and the number of images are the whole state, so that partial results merge and synchronise by addition.

    Args:
        encoder: module with `embed_images(images in [-1, 1]) -> (B, D)` and `embed_captions(captions) -> (B, D)`.
        value_range: lowest and highest value that an image may have.
        batch_size: how many images are embedded at once.
        kwargs: those of `torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = True

    def __init__(self, encoder: nn.Module, value_range: tuple[float, float] = (-1.0, 1.0), *, batch_size: int = 64, **kwargs: Any) -> None:
        super().__init__(value_range, **kwargs)
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, it must be at least 1.")
        self.encoder = encoder.eval().requires_grad_(False)
        self.batch_size = batch_size

    def train(self, mode: bool = True) -> "CaptionAlignment":
        """Keep the encoder in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def per_image(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """Value of each pair of a batch, (B,): images (B, 3, H, W) in `value_range`, B captions; ValueError on anything else."""
        image_embeddings, caption_embeddings = self._embeddings(images, captions)
        return 100 * (image_embeddings * caption_embeddings).sum(dim=-1)

    def update(self, images: Tensor, captions: Sequence[str]) -> None:
        """Add a batch; ValueError as for `per_image`."""
        super().update(images, captions)

    def retrieval_accuracy(self, images: Tensor, captions: Sequence[str]) -> Retrieval:
        """How often an image's own caption scores highest among all different ones of `captions`; ValueError as for `per_image`.

        Equal captions are one candidate, so that an image is right with any of them.
        """
        image_embeddings, caption_embeddings = self._embeddings(images, captions)
        return retrieval(image_embeddings, caption_embeddings, captions)

    @torch.no_grad()
    def _embeddings(self, images: Tensor, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Unit embeddings of images and captions, each (B, D) float32."""
        images = check_images(images, self.value_range).float()
        if isinstance(captions, str) or not all(isinstance(caption, str) for caption in captions) or len(captions) != len(images):
            given = "one string" if isinstance(captions, str) else f"{len(captions)} values"
            raise ValueError(f"captions is {given}, it must be a list of {len(images)} strings, one per image.")
        low, high = self.value_range
        images = ((images - low) * (2 / (high - low)) - 1).clamp(-1, 1)
        embedded = torch.cat([self.encoder.embed_images(batch) for batch in images.split(self.batch_size)])
        parts = [captions[start : start + self.batch_size] for start in range(0, len(captions), self.batch_size)]
        captioned = torch.cat([self.encoder.embed_captions(list(part)) for part in parts])
        return F.normalize(embedded.float(), dim=-1), F.normalize(captioned.float(), dim=-1)


def retrieval(image_embeddings: Tensor, caption_embeddings: Tensor, captions: Sequence[str]) -> Retrieval:
    """Top-1 caption of each image among the different ones of `captions`; unit embeddings (N, D) of images and of their own captions."""
    first: dict[str, int] = {}
    for index, caption in enumerate(captions):
        first.setdefault(caption, index)
    number = {caption: position for position, caption in enumerate(first)}
    own = torch.tensor([number[caption] for caption in captions])
    scores = image_embeddings @ caption_embeddings[list(first.values())].T  # (N, different captions)
    correct = scores.argmax(dim=1).cpu() == own
    return Retrieval(correct.float().mean().item(), 1 / len(first), len(first), correct)
