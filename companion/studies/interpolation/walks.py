"""Interpolations between real images as items of a run: the rows of Figures 3 and 7 (Sec. 4.2, A.4).

Each row is a method. On every pair it gives a walk, whose step distances are measured as for ISTD, and how close its end frames are to the
two images: a walk that does not reach its ends is not an interpolation.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

import smoothlib
from smoothlib.interpolation.anid import anid, anid_coarse_to_fine, level_steps
from smoothlib.interpolation.real_images import real_image_interpolation, vae_interpolation
from smoothlib.metrics import PeakSignalNoiseRatio
from smoothlib.metrics.istd import InterpolationStandardDeviation
from smoothlib.pixels import to_uint8
from smoothlib.sampling import Sampling, encode_prompts

from ...judges.networks import lpips_network
from ...runs import runs
from ..rows import Row, adapter_titles
from ..smoothness import walks
from ..smoothness.generation import initial_noise, stored_settings
from .pairs import ImagePair

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

KINDS = ("vae", "anid", "anid_coarse_to_fine", "walk")
COLUMNS = {
    "cv": {"label": "CV", "direction": "down"},
    "lpips_cv": {"label": "LPIPS CV", "direction": "down"},
    "mean_step": {"label": "Mean step", "direction": "none"},
    "end_psnr": {"label": "PSNR of the ends", "direction": "up", "decimals": 1},
}
CONVENTIONS = {name: walks.CONVENTIONS[name] for name in ("cv", "lpips_cv", "mean_step")} | {
    "end_psnr": "first and last frame against the two real images, data range 2, mean of the two"
}
NOISE_SEED_STRIDE = 1_000_000_000  # between the noises of one pair; beyond every pair's own seed


@dataclass(frozen=True)
class PairMethod:
    """What a row computes: a way to interpolate, its sampling steps and frames."""

    kind: str
    num_inference_steps: int = 50
    frames: int = 11

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {self.kind!r}")
        if self.kind == "anid_coarse_to_fine":
            level_steps(self.frames, self.num_inference_steps)  # raises where there is no such form


def walk_methods(adapters: Sequence[str] = (), *, num_inference_steps: int = 50, frames: int = 11) -> list[Row]:
    """Stable Diffusion Walk between inverted images, by the base model and with each adapter.

    Raises ValueError where two adapters would give rows of one label.
    """
    method = PairMethod("walk", num_inference_steps, frames)
    return [Row(f"{title} walk", (adapter,), method) for adapter, title in adapter_titles(adapters).items()]


def figure3_methods(
    adapters: Sequence[str] = (),
    *,
    num_inference_steps: int = 50,
    frames: int = 11,
    anid_steps: Sequence[int] = (50, 200),
    coarse_to_fine_frames: int | None = 17,
) -> list[Row]:
    """All rows of Figure 3, baselines first; the coarse-to-fine form of ANID, which has 2^n + 1 frames, at the most of `anid_steps`."""
    rows = [Row("VAE interpolation", settings=PairMethod("vae", frames=frames))]
    rows += [Row(f"ANID one-level, {steps} steps", settings=PairMethod("anid", steps, frames)) for steps in anid_steps]
    if anid_steps and coarse_to_fine_frames is not None:
        steps = max(anid_steps)
        method = PairMethod("anid_coarse_to_fine", steps, coarse_to_fine_frames)
        rows.append(Row(f"ANID coarse to fine, {steps} steps", settings=method))
    return rows + walk_methods(adapters, num_inference_steps=num_inference_steps, frames=frames)


def compared_walks(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What the claim is about: the walk of each adapter against the base model's."""
    base = [row.label for row in rows if row.settings.kind == "walk" and row.adapter is None]
    return [(row.label, label) for row in rows if row.adapter is not None for label in base]


class PairWalk:
    """The procedure that `runs.run_items` calls: pairs in, a walk and its measures out.

    Per pair: `step_distances` and `lpips_distances` (F - 1,), measured before rounding to bytes, `end_psnr` (2,) in dB, `frames`
    (uint8, (F, 3, H, W)), `seconds`, and for `walk` the optimiser steps and the last loss of null-text inversion, mean of both images.

    Args:
        pipe: the pipeline, with the method's adapter.
        sampling: guidance and batch; the number of steps is the method's.
    """

    def __init__(
        self,
        pipe: "StableDiffusionPipeline",
        method: PairMethod,
        sampling: Sampling,
        *,
        num_inner_steps: int = 10,
    ) -> None:
        self.pipe, self.method, self.num_inner_steps = pipe, method, num_inner_steps
        self.sampling = replace(sampling, num_inference_steps=method.num_inference_steps)
        self.metric = InterpolationStandardDeviation(lpips=lpips_network())
        self.psnr = PeakSignalNoiseRatio()

    def __call__(self, pairs: list[ImagePair]) -> list[Mapping[str, float | np.ndarray]]:
        """Interpolate a batch of pairs."""
        started = time.perf_counter()
        first = torch.stack([pair.first.image for pair in pairs])
        second = torch.stack([pair.second.image for pair in pairs])
        frames, facts = self.interpolate(pairs, first, second)  # (B, F, 3, H, W)
        if frames.device.type == "mps":
            frames = frames.cpu()  # it has no float64
        first, second = first.to(frames.device), second.to(frames.device)
        found = {**self.metric.to(frames.device).distances(frames), **facts}
        found["step_distances"] = found.pop("pixel_distances")
        found["end_psnr"] = torch.stack([self.psnr.per_image(frames[:, 0], first), self.psnr.per_image(frames[:, -1], second)], dim=1)
        found["frames"] = to_uint8(frames)
        found = {name: values.numpy(force=True) for name, values in found.items()}
        seconds = (time.perf_counter() - started) / len(pairs)
        return [{name: values[i] for name, values in found.items()} | {"seconds": seconds} for i in range(len(pairs))]

    def interpolate(self, pairs: list[ImagePair], first: Tensor, second: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Walks (B, F, 3, H, W) in [-1, 1] and facts per pair (B,): each image has its own prompt, frames the linear mix of both."""
        method, sampling = self.method, self.sampling
        if method.kind == "vae":
            return vae_interpolation(self.pipe, first, second, frames=method.frames, batch_size=sampling.batch_size), {}
        embeds = encode_prompts(self.pipe, [pair.first.caption for pair in pairs])
        second_embeds = encode_prompts(self.pipe, [pair.second.caption for pair in pairs])
        options = dict(sampling=sampling, second_embeds=second_embeds, frames=method.frames)
        if method.kind == "walk":
            options |= dict(num_inner_steps=self.num_inner_steps)
            frames, found = real_image_interpolation(self.pipe, first, second, embeds, **options)
            return frames, {"inner_steps": found.inner_steps.sum(0), "last_loss": found.losses[-1].mean(1)}
        if method.kind == "anid":
            return anid(self.pipe, first, second, embeds, self._noise(pairs), **options), {}
        levels = level_steps(method.frames, method.num_inference_steps)
        noises = torch.stack([self._noise(pairs, k) for k in range(len(levels))])
        return anid_coarse_to_fine(self.pipe, first, second, embeds, noises, **options), {}

    def _noise(self, pairs: list[ImagePair], k: int = 0) -> Tensor:
        return initial_noise(self.pipe, [pair.noise_seed + k * NOISE_SEED_STRIDE for pair in pairs])


def run_pairs(
    pipe: "StableDiffusionPipeline",
    pairs: Sequence[ImagePair],
    method: PairMethod,
    *,
    title: str,
    weights: str,
    sampling: Sampling,
    num_inner_steps: int = 10,
) -> list[runs.Result]:
    """Every pair's result by `method` (see `PairWalk`), each stored as soon as it is done (runs/pair_walks), whichever figure asks.

    `weights`: fingerprint of `pipe`; `title`: what the progress line says; `sampling`: guidance and batch.
    """
    settings = {"weights": weights, "kind": method.kind, "frames": method.frames, "conventions": CONVENTIONS}
    if method.kind != "vae":
        settings |= stored_settings(replace(sampling, num_inference_steps=method.num_inference_steps))
    if method.kind == "walk":
        settings |= {"num_inner_steps": num_inner_steps}
    return runs.run_items(
        pairs,
        PairWalk(pipe, method, sampling, num_inner_steps=num_inner_steps),
        name=f"pair_walks/{method.kind}",
        title=title,
        config=settings | {"smoothlib": smoothlib.__version__},
        batch_size=walks.walks_at_once(sampling, method.frames, len(pairs)),
        device=pipe.device,
    )


def pair_values(found: Sequence[runs.Result]) -> dict[str, np.ndarray]:
    """`COLUMNS` of each pair, (n,): what `records.make_record` takes."""
    values = walks.walk_values(found) | {"end_psnr": np.array([result["end_psnr"].mean() for result in found])}
    return {name: values[name] for name in COLUMNS}
