"""Which pipelines can be run here: Stable Diffusion's text-to-image kind, told from settings before any weights are read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smoothlib.diffusion import noise_schedule

from ..base.reading import read_json

PIPELINE = "StableDiffusionPipeline"
OTHERS = "pages and commands run no other kind, and companion.weights.bases.load_base loads a few for your own code"
PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
# Settings of UNets that need another input than latent, timestep and prompt: size and pooled text (SDXL), class, image, guidance scale
UNSUPPORTED_INPUTS = ("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "time_cond_proj_dim")


def not_runnable(where: Path | str, index: Mapping[str, Any]) -> ValueError:
    """What to raise for a pipeline in `where` whose `model_index.json`, as `index`, names another class than `PIPELINE`."""
    return ValueError(f"{where} holds a {index.get('_class_name')}, but must hold a {PIPELINE}: {OTHERS}")


def check_pipeline_kind(folder: Path) -> None:
    """ValueError unless the settings of the pipeline in `folder`, of its UNet and of its scheduler are of the kind that can be run.

    A file that is missing is left to diffusers, which names it; but for the tokenizer's, without which it makes one that knows no words.
    """
    index = _settings(folder / "model_index.json")
    if index.get("_class_name") != PIPELINE:
        raise not_runnable(folder, index)
    if absent := [part for part in PARTS if not index.get(part)]:
        raise ValueError(f"{folder / 'model_index.json'} names no {absent[0]}, but must name {', '.join(PARTS)}: fetch it again")
    if not (folder / "tokenizer" / "tokenizer_config.json").is_file():
        raise FileNotFoundError(f"{folder} has no tokenizer/tokenizer_config.json: fetch the tokenizer's files of this pipeline")
    unet, vae = _settings(folder / "unet/config.json"), _settings(folder / "vae/config.json")
    channels, latents = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if channels != latents:
        extra = "inpainting's mask and image, for one, cannot be given"
        raise ValueError(f"the UNet in {folder} takes {channels} channels, but must take the latent's {latents} alone: {extra}")
    for name in UNSUPPORTED_INPUTS:
        if unet.get(name) is not None:
            raise ValueError(f"the UNet in {folder} has {name} {unet[name]!r}, but must take latent, timestep and prompt alone")
    if scheduler := _settings(folder / "scheduler/scheduler_config.json"):
        noise_schedule(scheduler)


def _settings(file: Path) -> dict[str, Any]:
    return read_json(file, remedy="fetch it again") if file.is_file() else {}
