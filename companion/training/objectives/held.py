"""What a training with frozen encoders computes once and holds on the disk: posteriors of pictures, embeddings of captions."""

import hashlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...base import paths
from ..row_cache import RowCache
from .examples import EncodedPictures, Examples


def _place(kind: str, *parts: str) -> Path:
    return paths.RUNS / kind / hashlib.sha256(" ".join(parts).encode()).hexdigest()[:32]


class HeldLatents(Examples):
    """`examples` whose posteriors are encoded when first due, then read: rounded to half precision, from the first time on.

    A picture whose posterior is held is not opened again.

    Args:
        examples: pictures with their VAE.
        origin: hash of the pipeline that the VAE belongs to.
    """

    def __init__(self, examples: EncodedPictures, origin: str):
        self.examples, self.origin = examples, origin

    @cached_property
    def cache(self) -> RowCache:
        """Opened when first used: means and standard deviations of all pictures, then of their mirror images."""
        place = _place("latents", self.origin, self.examples.identity())
        return RowCache(place, 2 * len(self), (2, *self.examples.shape), np.float16)

    @property
    def captions(self) -> list[str] | None:
        """Those of the pictures."""
        return self.examples.captions

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one latent, (4, h, w)."""
        return self.examples.shape

    def __len__(self) -> int:
        return len(self.examples)

    def order(self, seed: int, epoch: int) -> Tensor:
        return self.examples.order(seed, epoch)

    def captions_of(self, indices: Tensor) -> list[str]:
        """The captions of some pictures."""
        return self.examples.captions_of(indices)

    def take_replaced(self) -> int:
        return self.examples.take_replaced()

    def readable(self, indices: Tensor) -> Tensor:
        """Only pictures of which nothing is held are opened to see."""
        unseen = [place for place, i in enumerate(indices.tolist()) if not (self.cache.holds(i) or self.cache.holds(i + len(self)))]
        found = indices.clone()
        found[unseen] = self.examples.readable(indices[unseen])
        return found

    def posterior(self, indices: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations, each (B, 4, h, w) float32; `mirrored` (B,) bool takes the mirror image."""

        def encode(places: Tensor) -> Tensor:
            moments = self.examples.posterior(indices[places], mirrored[places])
            return torch.stack([moment.cpu().half() for moment in moments], dim=1)

        moments = self.cache.take(indices + len(self) * mirrored, encode).float()  # (B, 2, 4, h, w)
        return moments[:, 0], moments[:, 1]

    def identity(self) -> str:
        return f"{self.examples.identity()} in half precision"


class HeldEmbeddings:
    """The captions' embeddings, computed in float32 when first due, then read.

    Args:
        examples: captions with their pictures.
        origin: hash of the pipeline.
    """

    def __init__(self, examples: Examples, origin: str):
        self.examples, self.origin = examples, origin
        self.cache: RowCache | None = None  # opened when it is known how large an embedding is

    @torch.no_grad()
    def take(self, indices: Tensor, dropped: Tensor, encode: Callable[[Tensor | None], Tensor], device: torch.device) -> Tensor:
        """(B, L, D) on `device`; `encode` gives the embeddings of some indices, or (None) that of the empty caption, for `dropped`."""
        with torch.autocast(device.type, enabled=False):
            empty = encode(None)
            if self.cache is None:
                place = _place("embeddings", self.origin, self.examples.identity())
                self.cache = RowCache(place, len(self.examples), empty.shape[1:], np.float32)
            found = self.cache.take(indices, lambda places: encode(indices[places])).to(device)
            return torch.where(dropped.to(device)[:, None, None], empty, found)
