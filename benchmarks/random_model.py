"""The models that benchmarks are run on: any pipeline by name, and Stable Diffusion 1.5's architecture with random weights, made in memory.

Time and memory do not depend on what the weights are. Those who have none measure all the same; only the pictures mean nothing then.
"""

import sys
from typing import TYPE_CHECKING

import torch

from companion.base import paths
from companion.weights import pipelines

sys.path.insert(0, str(paths.ROOT / "tools"))
from rehearsing.pipeline import build_pipeline

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

WIDTHS = {"random-sd15": "full", "random-sd15-slim": "slim"}
HELP = (
    "a model by name or folder (mini); or random-sd15, Stable Diffusion 1.5's architecture at 512 pixels with seeded random weights, which"
    " needs no files; random-sd15-slim has few channels and 128 pixels"
)


def load(name: str, device: torch.device | str = "cpu") -> "StableDiffusionPipeline":
    """The pipeline that `name` means, in float32."""
    if name in WIDTHS:
        return build_pipeline(WIDTHS[name], device=device)
    return pipelines.load_pipeline(name, device=device)


def guidance_scale(name: str) -> float:
    """As `pipelines.default_guidance_scale`; the paper's where the weights are random."""
    return pipelines.PAPER_GUIDANCE_SCALE if name in WIDTHS else pipelines.default_guidance_scale(name)


def image_size(pipe: "StableDiffusionPipeline") -> int:
    """Side in pixels of the images that it was made for."""
    return pipe.unet.config.sample_size * pipe.vae_scale_factor
