"""Training examples that are encoded when they are asked for, and what all kinds of examples have in common."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from os import cpu_count

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from ...data.items import to_tensor
from ...data.shard_stream import BUFFER, stream_order
from ...data.shards import Shards
from ..orders import random_order

CHUNK = 1000  # captions; hundreds of thousands in one call make gigabytes of Python's lists
THREADS = 8  # decode the pictures of a micro-batch


class Examples:
    """Captioned latents by number, 0 to len - 1."""

    captions: list[str] | None = None  # None: too many to hold; `captions_of` reads them

    def __len__(self) -> int:
        raise NotImplementedError

    def order(self, seed: int, epoch: int) -> Tensor:
        """The examples of an epoch as steps take them, (len,) long: a permutation."""
        return random_order(len(self), seed, epoch)

    def readable(self, indices: Tensor) -> Tensor:
        """The examples that are taken where `indices` (B,) are due: others where they cannot be read."""
        return indices

    def take_replaced(self) -> int:
        """How many examples were replaced since this was last asked."""
        return 0


class EncodedPictures(Examples):
    """Pictures that the VAE encodes when they are asked for; `vae` and `resolution` may be set later."""

    vae: AutoencoderKL | None
    resolution: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one latent, (4, h, w)."""
        side = self.resolution // 2 ** (len(self.vae.config.block_out_channels) - 1)
        return (self.vae.config.latent_channels, side, side)

    def picture(self, index: int) -> Tensor:
        """(3, resolution, resolution) float32 in [-1, 1]."""
        raise NotImplementedError

    @torch.no_grad()
    def posterior(self, indices: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations, each (B, 4, h, w) float32; `mirrored` (B,) bool takes the mirror image."""
        images = torch.stack([self.picture(i) for i in indices.tolist()])
        images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
        with torch.autocast(self.vae.device.type, enabled=False):  # the encoder stays in its own precision
            posterior = self.vae.encode(images.to(self.vae.device, self.vae.dtype)).latent_dist
        return posterior.mean.float(), posterior.std.float()


@lru_cache(maxsize=2)
def _stream_order(counts: tuple[int, ...], seed: int, epoch: int, buffer: int) -> Tensor:
    return torch.from_numpy(stream_order(counts, seed, epoch, buffer))


class ShardLatents(EncodedPictures):
    """Pairs of tar shards (see `companion.data.shards`), read in the order of `companion.data.shard_stream.stream_order`.

    Processes agree on that order and take their rows of it: they see different pairs, and together each pair once an epoch. What step k
    takes follows from k alone, so that a resumed training goes on with the pair that was due.

    Args:
        data, bad_images: as `Shards` takes them; None for `bad_images` is `skip`: a picture is not opened before it is due, and one that
            turns out to be damaged must not end a training of days.
        buffer: pairs among which the next one is drawn.

    Raises:
        ListingError: a shard, or `buffer`, is refused.
    """

    def __init__(self, vae: AutoencoderKL | None, data: str, resolution: int, bad_images: str | None = None, buffer: int = BUFFER):
        self.vae, self.resolution, self.buffer = vae, resolution, buffer
        stream_order([1], 0, 0, buffer)  # refuses what is no buffer, before shards are read
        self.shards = Shards(data, bad_images or "skip")
        self._read: dict[int, np.ndarray] = {}
        self._replaced = 0

    def __len__(self) -> int:
        return len(self.shards)

    def order(self, seed: int, epoch: int) -> Tensor:
        return _stream_order(tuple(self.shards.counts.tolist()), seed, epoch, self.buffer)

    def readable(self, indices: Tensor) -> Tensor:
        """Reads the pictures, several at once; `posterior` takes them from here."""
        known = len(self.shards.broken)
        with ThreadPoolExecutor(min(THREADS, cpu_count() or 1)) as pool:
            found = list(pool.map(lambda index: self.shards.picture(index, self.resolution), indices.tolist()))
        self._read = dict(found)
        taken = torch.tensor([number for number, _ in found])
        self._replaced += int((taken != indices).sum())
        for reason in list(self.shards.broken.values())[known:]:
            warnings.warn(f"{reason}; another stands for it (bad_images=skip)", stacklevel=2)
        return taken

    def take_replaced(self) -> int:
        replaced, self._replaced = self._replaced, 0
        return replaced

    def captions_of(self, indices: Tensor) -> list[str]:
        """The captions of some pairs."""
        return [self.shards.caption(i) for i in indices.tolist()]

    def picture(self, index: int) -> Tensor:
        picture = self._read.get(index)
        if picture is None:
            _, picture = self.shards.picture(index, self.resolution)
        return to_tensor(picture)

    def identity(self) -> str:
        """Hash of what the shards hold, the resolution, and the buffer, which decides on the order."""
        return f"{self.shards.identity()} {self.resolution} {self.buffer}"


def tokenised(tokenizer, captions: Sequence[str]) -> Tensor:
    """Token ids of captions, padded and cut to the tokenizer's length: (N, length) int32, made in chunks."""
    tokens = torch.empty(len(captions), tokenizer.model_max_length, dtype=torch.int32)
    options = dict(padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt")
    for start in range(0, len(captions), CHUNK):
        chunk = list(captions[start : start + CHUNK])
        tokens[start : start + len(chunk)] = tokenizer(chunk, **options).input_ids
    return tokens
