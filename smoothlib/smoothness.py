"""Smoothness beside quality: what Tables 1, 3 and 4 compare (Sec. 4.1, 4.2, 4.5).

A latent walk of each prompt gives ISTD and its kin; separately generated images give a Frechet distance to real ones; the frames of the
walks give text alignment. Prompts and noises are the same for all models, so that models are compared prompt by prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

import smoothlib

from . import models, runs, walks
from .generation import Generation, Prompt
from .metrics.features import BATCH, ImageNetFeatures, features_of
from .metrics.frechet import frechet_distance_from_features
from .metrics.text_alignment import CaptionAlignment, CLIPScore, SceneAlignment
from .pixels import from_uint8
from .walks import WalkPrompt

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

# beside the paper's ISTD: a model that merely moves less has a lower ISTD without being smoother
COLUMNS = {
    "cv": {"label": "CV", "direction": "down"},
    "mean_step": {"label": "Mean step", "direction": "none"},
    "lpips_cv": {"label": "LPIPS CV", "direction": "down"},
}


@dataclass(frozen=True)
class Judge:
    """What judges generated images, under their names: features for a Frechet distance, an encoder pair for text alignment."""

    features: nn.Module
    alignment: CaptionAlignment
    frechet_name: str
    alignment_name: str
    trust: Mapping[str, float]  # how good the judges themselves are
    conventions: Mapping[str, str]

    @property
    def columns(self) -> dict[str, dict[str, str]]:
        """The table's columns that are not the paper's."""
        own = {
            "frechet_distance": {"label": "FD (MobileNetV2)", "direction": "down"},
            "scene_alignment": {"label": "Scene alignment", "direction": "up"},
        }
        return COLUMNS | {name: column for name, column in own.items() if name in (self.frechet_name, self.alignment_name)}

    @torch.no_grad()
    def alignments(self, images: np.ndarray, captions: Sequence[str], batch_size: int = BATCH) -> np.ndarray:
        """Text alignment of each uint8 image (N, 3, H, W) with its caption, (N,)."""
        parts = torch.from_numpy(images).split(batch_size)
        starts = range(0, len(images), batch_size)
        values = [self.alignment.per_image(from_uint8(p), captions[s : s + len(p)]) for p, s in zip(parts, starts, strict=True)]
        return torch.cat(values).double().numpy()


def packaged_judge() -> Judge:
    """The judges that ship with the repository, for the embedded model."""
    resolution = 128
    alignment = SceneAlignment()
    held_out = alignment.held_out["test"]
    trust = {f"alignment_{name}": held_out[name] for name in ("accuracy", "num_captions", "matched_mean", "mismatched_mean")}
    return Judge(
        ImageNetFeatures(resolution),
        alignment,
        "frechet_distance",
        "scene_alignment",
        trust,
        {
            "frechet_distance": f"pooled MobileNetV2 features at {resolution} x {resolution}, against real test images; not FID",
            "scene_alignment": "100 cos of the scene dual encoder's embeddings, mean over a walk's frames; not CLIP Score",
        },
    )


def official_judge(clip: str = "openai/clip-vit-base-patch32") -> Judge:
    """FID's InceptionV3 and a CLIP model by hub id, both downloaded."""
    from .metrics.frechet_inception import InceptionFeatures

    conventions = {"fid": "InceptionV3 (torch-fidelity), 2048-d", "clip_score": f"100 cos, {clip}, mean over a walk's frames"}
    return Judge(InceptionFeatures(), CLIPScore(clip), "fid", "clip_score", {}, conventions)


def seeds_of(name: str) -> tuple[str, ...]:
    """The adapter `name` and those of its other training seeds, `name-seed1`, `name-seed2`, ..., as far as they are there."""
    return tuple(a for a in models.list_adapters() if a == name or (a.startswith(f"{name}-seed") and a[len(name) + 5 :].isdigit()))


@dataclass(frozen=True)
class Measurement:
    """One model: the values of each prompt, the Frechet distance, the walks' frames (W, F, 3, H, W) uint8 and pixel steps (W, F - 1)."""

    per_prompt: Mapping[str, np.ndarray]
    frechet: float
    frames: np.ndarray
    step_distances: np.ndarray
    fingerprint: str
    seconds: float
    origins: tuple[runs.Origin, ...] = ()


def measure(
    pipe: "StableDiffusionPipeline",
    judge: Judge,
    walk_prompts: Sequence[WalkPrompt],
    prompts: Sequence[Prompt],
    real_features: Tensor,
    *,
    weights: str,
    title: str,
    guidance_scale: float,
    num_inference_steps: int,
    frames: int = 11,
    batch_size: int = 44,
) -> Measurement:
    """Walks of `walk_prompts`, images of `prompts`, and their values.

    Items are stored as they are done (runs/smoothness) under the weights and settings, whatever table asks for them. `weights`: fingerprint
    of `pipe`; `title`: what the progress lines call it; `batch_size`: images in one call of the network.
    """
    steps = dict(guidance_scale=guidance_scale, num_inference_steps=num_inference_steps)
    walked = walks.run_walks(pipe, walk_prompts, title=title, weights=weights, frames=frames, batch_size=batch_size, **steps)
    made = runs.run_items(
        prompts,
        Generation(pipe, **steps),
        name="smoothness/images",
        title=f"images of {title}",
        config={"weights": weights, **steps, "smoothlib": smoothlib.__version__},
        batch_size=batch_size,
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
    return Measurement(values, frechet, film, distances, weights, sum(r["seconds"] for r in stored), runs.origins(stored))


def row_values(measurements: Mapping[str, Sequence[Measurement]]) -> dict[str, dict[str, np.ndarray]]:
    """Row -> metric -> value of each prompt, averaged over training seeds: what `results.make_record` takes."""
    return {
        label: {name: np.mean([m.per_prompt[name] for m in seeds], axis=0) for name in seeds[0].per_prompt}
        for label, seeds in measurements.items()
    }


def seed_means(measurements: Mapping[str, Sequence[Measurement]]) -> dict[str, dict[str, list[float]]]:
    """Row -> metric -> the mean of each training seed: how much of a difference is the training's chance."""
    return {
        label: {name: [float(m.per_prompt[name].mean()) for m in seeds] for name in seeds[0].per_prompt}
        | {"frechet": [m.frechet for m in seeds]}
        for label, seeds in measurements.items()
    }
