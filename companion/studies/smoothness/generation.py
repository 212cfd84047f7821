"""Images from captions, each with a noise of its own: what Table 1 and the quality figures measure."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from smoothlib.pixels import to_uint8
from smoothlib.sampling import Sampling, decode_latents, encode_prompts, sample

from ...data.items import Split, drawn

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


@dataclass(frozen=True)
class Prompt:
    """A caption and the seed of its noise."""

    id: str
    caption: str
    noise_seed: int


def prompts_from(scenes: Split, limit: int, seed: int = 0) -> list[Prompt]:
    """`limit` captions of a split, chosen by `seed`; noise i depends on `seed` and the image's place in the split alone.

    Raises:
        ValueError: `limit` exceeds the split, or `seed` is outside [0, 999].
    """
    return [Prompt(scenes.records[i]["id"], scenes.records[i]["caption"], noise) for i, noise in drawn(scenes, limit, seed)]


def initial_noise(pipe: "StableDiffusionPipeline", seeds: Sequence[int]) -> Tensor:
    """x_T ~ N(0, 1), one per seed, (B, 4, h, w) float32: the same whatever the batch."""
    size = pipe.unet.config.sample_size
    shape = (pipe.unet.config.in_channels, size, size)
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def stored_settings(sampling: Sampling) -> dict[str, float]:
    """What images are stored under, by diffusers' names; ValueError for null embeddings, which no name of a stored item tells."""
    if sampling.null_embeds is not None:
        raise ValueError("sampling has null_embeds, but must have none where items are stored")
    return dict(guidance_scale=sampling.guidance_scale, num_inference_steps=sampling.num_inference_steps)


class Generation:
    """The procedure that `runs.run_items` calls: prompts in; per prompt image (uint8, (3, H, W)) and seconds out."""

    def __init__(self, pipe: "StableDiffusionPipeline", sampling: Sampling) -> None:
        self.pipe, self.arguments = pipe, stored_settings(sampling)

    def __call__(self, prompts: list[Prompt]) -> list[dict[str, float | np.ndarray]]:
        """Generate a batch."""
        started = time.perf_counter()
        noise = initial_noise(self.pipe, [prompt.noise_seed for prompt in prompts])
        z = sample(self.pipe, noise, encode_prompts(self.pipe, [prompt.caption for prompt in prompts]), **self.arguments)
        images = to_uint8(decode_latents(self.pipe, z)).numpy(force=True)
        seconds = (time.perf_counter() - started) / len(prompts)
        return [{"image": image, "seconds": seconds} for image in images]
