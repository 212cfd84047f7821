"""Which walks a reader sees first, chosen by rank, and these walks at several strengths of the adapter."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from smoothlib.interpolation.walk import latent_walk
from smoothlib.metrics.istd import InterpolationStandardDeviation
from smoothlib.pixels import to_uint8
from smoothlib.sampling import Sampling, encode_prompts

from ...data.items import Split
from ...evidence.statements import find_row
from ...evidence.tables import Record
from .generation import initial_noise
from .walks import WalkPrompt, walk_prompts_from

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

RANKS = {"largest gain": 0.0, "median": 0.5, "largest loss": 1.0}


def by_rank(record: Record, *, metric: str = "istd", rows: tuple[str, str] = ("Base", "Smooth")) -> dict[str, int]:
    """Rank in words -> place among the record's items: by how much the second row lowers `metric` against the first, item by item.

    Raises:
        ValueError: the record lacks one of the rows or the metric.
    """
    labels = [find_row(record, row) for row in rows]
    for row, label in zip(rows, labels, strict=True):
        if label is None or metric not in record["rows"][label]["metrics"]:
            raise ValueError(f"rows has {row!r}, but must have rows of {record['name']} that hold {metric}.")
    first, second = (np.asarray(record["rows"][label]["metrics"][metric]["values"]) for label in labels)
    order = np.argsort(second - first, kind="stable")
    return {words: int(order[round(share * (len(order) - 1))]) for words, share in RANKS.items()}


def prompts_of(record: Record, split: Split, places: Sequence[int]) -> list[WalkPrompt]:
    """The prompts and noises that the record's walks at these places had."""
    prompts = walk_prompts_from(split, len(record["items"]), seed=record["provenance"]["config"]["seed"])
    if [prompt.id for prompt in prompts] != list(record["items"]):
        raise ValueError(f"record is {record['name']!r}, but must be of this split's prompts: its items are others.")
    return [prompts[place] for place in places]


def walks_at_strengths(
    pipe: "StableDiffusionPipeline", prompts: Sequence[WalkPrompt], sampling: Sampling, *, strengths: Sequence[float], frames: int
) -> list[Mapping[str, np.ndarray]]:
    """One mapping a prompt: `walks` (S, F, 3, H, W) uint8 and `steps` (S, F - 1), the adapter of `pipe` scaled by each strength."""
    (name,) = pipe.get_active_adapters()
    start = initial_noise(pipe, [prompt.start_seed for prompt in prompts])
    end = initial_noise(pipe, [prompt.end_seed for prompt in prompts])
    found: list[tuple[np.ndarray, np.ndarray]] = []
    with torch.inference_mode():
        for strength in strengths:
            pipe.set_adapters([name], adapter_weights=[float(strength)])
            embeds = encode_prompts(pipe, [prompt.caption for prompt in prompts])
            walks = latent_walk(pipe, start, end, embeds, sampling, frames=frames).cpu()
            steps = InterpolationStandardDeviation().distances(walks)["pixel_distances"]
            found.append((to_uint8(walks).numpy(), steps.numpy()))
    return [
        {"walks": np.stack([walks[i] for walks, _ in found]), "steps": np.stack([steps[i] for _, steps in found])}
        for i in range(len(prompts))
    ]


def steps_between(frames: np.ndarray) -> np.ndarray:
    """L2 distances (F - 1,) of neighbouring images (F, 3, H, W) uint8, pixels in [0, 1]: what `metrics.istd` measures before rounding."""
    pixels = frames.astype(np.float64) / 255
    return np.sqrt((np.diff(pixels, axis=0) ** 2).sum(axis=(1, 2, 3)))
