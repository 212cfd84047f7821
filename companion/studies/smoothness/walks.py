"""Latent walks as items of a run: what Table 1's ISTD is measured on (Sec. 4.1, A.3)."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

import smoothlib
from smoothlib.interpolation.walk import latent_walk
from smoothlib.metrics.istd import Convention, InterpolationStandardDeviation, step_statistics
from smoothlib.pixels import to_uint8
from smoothlib.sampling import Sampling, encode_prompts

from ...data.items import Split, drawn, noise_seed
from ...judges.networks import lpips_network
from ...runs import runs
from .generation import initial_noise, stored_settings

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

CONVENTIONS = {name: f"{words}; measured before rounding to bytes" for name, words in Convention().describe().items()}
END_SEED_OFFSET = 1_000_000_000  # beyond every start seed


@dataclass(frozen=True)
class WalkPrompt:
    """A caption and the seeds of the two noises between which its walk goes."""

    id: str
    caption: str
    start_seed: int
    end_seed: int


def walk_prompts_from(scenes: Split, limit: int, seed: int = 0) -> list[WalkPrompt]:
    """`limit` captions of a split, chosen by `seed`; the noises depend on `seed` and the image's place in the split alone.

    These are the prompts of `generation.prompts_from`, and a walk starts at the very image that `Generation` makes of its prompt.

    Raises:
        ValueError: `limit` exceeds the split, or `seed` is outside [0, 999].
    """
    chosen = [(scenes.records[i], start) for i, start in drawn(scenes, limit, seed)]
    return [WalkPrompt(record["id"], record["caption"], start, start + END_SEED_OFFSET) for record, start in chosen]


def walk_prompts_of(captions: Sequence[str], seed: int = 0) -> list[WalkPrompt]:
    """Walks of given captions: the noises depend on `seed` and the caption's place alone. Raises ValueError for a single text."""
    if isinstance(captions, str):
        raise ValueError(f"captions is {captions!r:.80}, but must be a list of texts")
    starts = [noise_seed(seed, i) for i in range(len(captions))]
    return [WalkPrompt(f"prompt-{i}", captions[i], start, start + END_SEED_OFFSET) for i, start in enumerate(starts)]


class LatentWalk:
    """The procedure that `runs.run_items` calls: prompts in, a walk and its step distances out.

    Per prompt: `step_distances` (F - 1,) and, with `lpips`, `lpips_distances` (F - 1,), as `CONVENTIONS` says (`metrics.step_statistics`
    makes ISTD, mean step and coefficient of variation of them); `frames` (uint8, (F, 3, H, W)) unless `keep_frames` is off; `seconds`, and
    `forward_seconds` of them inside the UNet's and the decoder's forward passes (a batch's time divided by its prompts).

    Distances are measured on the images as they leave the decoder, float and clamped to [-1, 1], before they are rounded to bytes: rounding
    alone would add about sqrt(3HW / 6) / 255 in quadrature to each.

    Args:
        pipe: the pipeline, with the adapter to be measured.
        sampling: guidance, steps and batch.
        frames: F.
        lpips: images must then be at least 31 x 31.
    """

    def __init__(
        self,
        pipe: "StableDiffusionPipeline",
        sampling: Sampling,
        *,
        frames: int = 11,
        lpips: bool = True,
        keep_frames: bool = True,
    ) -> None:
        self.pipe, self.keep_frames = pipe, keep_frames
        self.sampling, self.frames = sampling, frames
        self.metric = InterpolationStandardDeviation(lpips=lpips_network() if lpips else None)

    def __call__(self, prompts: list[WalkPrompt]) -> list[dict[str, np.ndarray | float]]:
        """Walk for a batch of prompts."""
        started = time.perf_counter()
        start = initial_noise(self.pipe, [prompt.start_seed for prompt in prompts])
        end = initial_noise(self.pipe, [prompt.end_seed for prompt in prompts])
        embeds = encode_prompts(self.pipe, [prompt.caption for prompt in prompts])
        with forward_seconds(self.pipe) as forward:
            walks = latent_walk(self.pipe, start, end, embeds, self.sampling, frames=self.frames)  # (B, F, 3, H, W)
        if walks.device.type == "mps":
            walks = walks.cpu()  # it has no float64
        distances = self.metric.to(walks.device).distances(walks)
        found = {"step_distances": distances["pixel_distances"]}
        found |= {name: values for name, values in distances.items() if name == "lpips_distances"}
        if self.keep_frames:
            found["frames"] = to_uint8(walks)
        found = {name: values.cpu().numpy() for name, values in found.items()}
        seconds = (time.perf_counter() - started) / len(prompts)
        times = {"seconds": seconds, "forward_seconds": sum(forward) / len(prompts)}
        return [{name: values[i] for name, values in found.items()} | times for i in range(len(prompts))]


def run_walks(
    pipe: "StableDiffusionPipeline",
    prompts: Sequence[WalkPrompt],
    *,
    title: str,
    weights: str,
    sampling: Sampling,
    frames: int = 11,
) -> list[runs.Result]:
    """Every prompt's walk (see `LatentWalk`), each stored as soon as its batch is done (runs/smoothness), whatever table or figure asks.

    `weights`: fingerprint of `pipe`; `title`: what the progress line calls it; `sampling`: without null embeddings.
    """
    steps = stored_settings(sampling)
    return runs.run_items(
        prompts,
        LatentWalk(pipe, sampling, frames=frames),
        name="smoothness/walks",
        title=f"walks of {title}",
        config={"weights": weights, **steps, "smoothlib": smoothlib.__version__, "frames": frames, "conventions": CONVENTIONS},
        batch_size=walks_at_once(sampling, frames, len(prompts)),
        device=pipe.device,
    )


def walks_at_once(sampling: Sampling, frames: int, count: int) -> int:
    """How many of `count` walks have all their frames in one call of the network; at least one."""
    return max(1, count if sampling.batch_size is None else sampling.batch_size // frames)


def walk_values(found: Sequence[runs.Result]) -> dict[str, np.ndarray]:
    """`istd`, `cv` and `mean_step` of each walk's pixel distances and `lpips_cv` of its LPIPS distances, (n,)."""
    pixels = step_statistics(np.stack([result["step_distances"] for result in found]))
    perceptual = step_statistics(np.stack([result["lpips_distances"] for result in found]))
    return {name: pixels[name].numpy() for name in ("istd", "cv", "mean_step")} | {"lpips_cv": perceptual["cv"].numpy()}


@contextlib.contextmanager
def forward_seconds(pipe: "StableDiffusionPipeline") -> Iterator[list[float]]:
    """Collects the seconds of every forward pass of the UNet and of the VAE's decoder made inside (CUDA is waited for at both ends)."""
    seconds: list[float] = []

    def clock() -> float:
        if pipe.unet.device.type == "cuda":
            torch.cuda.synchronize(pipe.unet.device)
        return time.perf_counter()

    def enter(module: torch.nn.Module, arguments: tuple) -> None:
        seconds.append(-clock())

    def leave(module: torch.nn.Module, arguments: tuple, output: object) -> None:
        seconds[-1] += clock()

    hooks = [
        hook
        for module in (pipe.unet, pipe.vae.decoder)
        for hook in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave))
    ]
    try:
        yield seconds
    finally:
        for hook in hooks:
            hook.remove()
