"""Smoothness beside quality: what Tables 1, 3 and 4 compare (Sec. 4.1, 4.2, 4.5).

A latent walk of each prompt gives ISTD and its kin; separately generated images give a Frechet distance to real ones; the frames of the
walks give text alignment. Prompts and noises are the same for all models, so that models are compared prompt by prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

import smoothlib
from smoothlib.metrics.frechet import frechet_distance_from_features, frechet_image_values
from smoothlib.metrics.kernel_distance import kernel_distance_from_features, kernel_distance_image_values
from smoothlib.sampling import Sampling

from ...judges.features import features_of
from ...judges.judge import Judge
from ...runs import runs
from ...weights import pipelines as models
from . import walks
from .generation import Generation, Prompt, stored_settings
from .walks import WalkPrompt

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

# beside the paper's ISTD: a model that merely moves less has a lower ISTD without being smoother
COLUMNS = {
    "cv": {"label": "CV", "direction": "down"},
    "mean_step": {"label": "Mean step", "direction": "none"},
    "lpips_cv": {"label": "LPIPS CV", "direction": "down"},
}


def seeds_of(name: str) -> tuple[str, ...]:
    """The adapter `name` and those of its other training seeds, `name-seed1`, `name-seed2`, ..., as far as they are there."""
    return tuple(a for a in models.list_adapters() if a == name or (a.startswith(f"{name}-seed") and a[len(name) + 5 :].isdigit()))


@dataclass(frozen=True)
class Measurement:
    """One model: the values of each prompt, the Fréchet distance, the walks' frames (W, F, 3, H, W) uint8 and pixel steps (W, F - 1).

    kernel: the kernel distance. image_values: "frechet" and "kernel" -> what each image contributes to the distance, (N,); both need as
    many real images as generated ones. num_images: how many were generated. adapter: its name; None for the base model.
    """

    per_prompt: Mapping[str, np.ndarray]
    frechet: float
    frames: np.ndarray
    step_distances: np.ndarray
    fingerprint: str
    seconds: float
    origins: tuple[runs.Origin, ...] = ()
    kernel: float | None = None
    image_values: Mapping[str, np.ndarray] = field(default_factory=dict)
    num_images: int | None = None


def measure(
    pipe: "StableDiffusionPipeline",
    judge: Judge,
    walk_prompts: Sequence[WalkPrompt],
    prompts: Sequence[Prompt],
    real_features: Tensor,
    *,
    weights: str,
    title: str,
    sampling: Sampling,
    frames: int = 11,
) -> Measurement:
    """Walks of `walk_prompts`, images of `prompts`, and their values.

    Items are stored as they are done (runs/smoothness) under the weights and settings, whatever table asks for them. `weights`: fingerprint
    of `pipe`; `title`: what the progress lines call it; `sampling`: without null embeddings.
    """
    walked = walks.run_walks(pipe, walk_prompts, title=title, weights=weights, sampling=sampling, frames=frames)
    made = runs.run_items(
        prompts,
        Generation(pipe, sampling),
        name="smoothness/images",
        title=f"images of {title}",
        config={"weights": weights, **stored_settings(sampling), "smoothlib": smoothlib.__version__},
        batch_size=sampling.batch_size or len(prompts),
        device=pipe.device,
    )
    film = np.stack([w["frames"] for w in walked])  # (W, F, 3, H, W)
    captions = [prompt.caption for prompt in walk_prompts for _ in range(frames)]
    aligned = judge.alignments(film.reshape(-1, *film.shape[2:]), captions).reshape(len(film), frames).mean(1)
    values = walks.walk_values(walked) | {judge.alignment_name: aligned}
    features = features_of(np.stack([m["image"] for m in made]), judge.features)
    frechet = float(frechet_distance_from_features(features, real_features))
    distances = np.stack([w["step_distances"] for w in walked])  # (W, F - 1)
    stored = [*walked, *made]
    return Measurement(
        values,
        frechet,
        film,
        distances,
        weights,
        sum(r["seconds"] for r in stored),
        runs.origins(stored),
        *_in_pairs(features, real_features),
        num_images=len(made),
    )


def _in_pairs(features: Tensor, real: Tensor) -> tuple[float | None, dict[str, np.ndarray]]:
    """The kernel distance and what each image contributes to both distances, where the i-th real image is that of the i-th caption."""
    if len(features) != len(real) or len(real) < 3:
        return None, {}
    found = {"frechet": frechet_image_values(features, real), "kernel": kernel_distance_image_values(features, real)}
    kernel = float(kernel_distance_from_features(features, real, paired=True))
    return kernel, {name: values.numpy(force=True) for name, values in found.items()}


def row_values(measurements: Mapping[str, Sequence[Measurement]]) -> dict[str, dict[str, np.ndarray]]:
    """Row -> metric -> value of each prompt, averaged over training seeds: what `records.make_record` takes."""
    return {
        label: {name: np.mean([m.per_prompt[name] for m in seeds], axis=0) for name in seeds[0].per_prompt}
        for label, seeds in measurements.items()
    }


def seed_means(measurements: Mapping[str, Sequence[Measurement]]) -> dict[str, dict[str, list[float]]]:
    """Row -> metric -> the mean of each training seed: how much of a difference is the training's chance."""
    return {
        label: {name: [float(m.per_prompt[name].mean()) for m in seeds] for name in seeds[0].per_prompt}
        | {"frechet": [m.frechet for m in seeds]}
        | ({"kernel": [m.kernel for m in seeds]} if seeds[0].kernel is not None else {})
        for label, seeds in measurements.items()
    }


def set_values(measurements: Mapping[str, Sequence[Measurement]], judge: Judge) -> dict[str, dict[str, dict[str, Any]]]:
    """Row -> metric -> a number of the whole set of images, averaged over training seeds: what `records.make_record` takes as `totals`.

    `n` is the number of images; `image_values`, to six digits, are what each contributes, from which `chance` gets the images' chance.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for label, seeds in measurements.items():
        found[label] = {judge.frechet_name: {"mean": float(np.mean([m.frechet for m in seeds]))}}
        if seeds[0].kernel is not None:
            found[label][judge.kernel_name] = {"mean": float(np.mean([m.kernel for m in seeds]))}
        for name, values in zip(("frechet", "kernel"), found[label].values(), strict=False):
            values |= {"n": seeds[0].num_images} if seeds[0].num_images else {}
            if name in seeds[0].image_values:
                contributed = np.mean([m.image_values[name] for m in seeds], axis=0)
                values["image_values"] = [float(f"{value:.6g}") for value in contributed]
    return found
