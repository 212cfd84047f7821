"""Pipelines by name: loaded with Stable Diffusion's DDIM scheduler and in evaluation mode; what their cards and configurations say.

Where their files are, and whether they may be trusted, is decided in `places`.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from smoothlib.diffusion import ddim_scheduler

from ..base import paths
from ..base.progress import no_library_bars
from .adapters import adapter_file, check_adapter, list_adapters, load_adapter
from .cards import check_files, read_card
from .fine_tune import FILE as DIFFERENCE
from .fine_tune import add_difference
from .pipeline_hash import DECODER, pipeline_hash
from .pipeline_kind import check_pipeline_kind
from .places import WITHOUT_CHECKER, fine_tune_folder, lineage, local_folder, trusted_folder, whole_base

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, StableDiffusionPipeline

__all__ = [
    "DECODER", "adapter_file", "blank_modules", "check_adapter", "default_guidance_scale", "fingerprint", "image_size", "list_adapters",
    "list_fine_tunes", "load_adapter", "load_pipeline", "load_vae",
]  # fmt: skip

PAPER_GUIDANCE_SCALE = 7.5


def load_pipeline(
    name: str = "mini",
    *,
    adapter: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    revision: str | None = None,
) -> "StableDiffusionPipeline":
    """A text-to-image latent diffusion pipeline with Stable Diffusion's DDIM scheduler, in evaluation mode, without a safety checker.

    Args:
        name: a model in `data/models` ("mini", the default), a folder with a diffusers pipeline, or a hub id, optionally `id@commit`. A
            folder may also hold a full fine-tune as the difference to the model that its card names: that model is loaded, then changed.
        adapter: a Smooth-LoRA for `load_adapter`, or a full fine-tune's difference; None for the model as it is.
        revision: commit (40 hex digits) of a hub id; known for Stable Diffusion 1.5.

    Raises:
        ValueError: no such kind of name, no pinned commit, a file that differs from its card, an adapter that does not fit, another kind of
            pipeline than Stable Diffusion's text-to-image (SDXL, inpainting, ...) or another kind of noise schedule than DDIM's.
        FileNotFoundError: the model, or a file that its card lists, is not there, or the download failed.
    """
    folder = fine_tune_folder(name)
    pipe = _load_whole(name, dtype, revision) if folder is None else _load_fine_tune(folder)
    if pipe.unet.dtype != dtype:
        pipe.to(dtype)
    pipe.to(device)
    if adapter is not None:
        load_adapter(pipe, adapter)
    return pipe


def _load_whole(name: str, dtype: torch.dtype, revision: str | None) -> "StableDiffusionPipeline":
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    with no_library_bars():
        folder = trusted_folder(name, revision)
        check_pipeline_kind(folder)
        options = dict(dtype=dtype, use_safetensors=True, local_files_only=True, requires_safety_checker=False, **WITHOUT_CHECKER)
        pipe = StableDiffusionPipeline.from_pretrained(str(folder), **options)
    # diffusers' own class, so that what is saved loads without this package; `sampling.sample` chains its steps
    pipe.scheduler = DDIMScheduler.from_config(ddim_scheduler(pipe).config)
    pipe.set_progress_bar_config(disable=None)  # bars in a terminal only
    return pipe


def _load_fine_tune(folder: Path) -> "StableDiffusionPipeline":
    """The base model that the folder's card names, in float32, plus the difference. The base's weights must be those of the training."""
    whole_base(folder)  # the cards lead somewhere
    base = read_card(folder)["base"]
    pipe = load_pipeline(base["model"])
    if fingerprint(pipe, decoder=False) != base["fingerprint"]:
        raise ValueError(f"{folder} is a fine-tune of other weights than those that {base['model']!r} has now: train it again")
    add_difference(pipe.unet, folder / DIFFERENCE)
    return pipe


def blank_modules(name: str = "mini", *, revision: str | None = None) -> dict[str, torch.nn.Module]:
    """{"unet": ..., "text_encoder": ...} of the pipeline that `name` means, without storage: what `check_adapter` needs, at once.

    Arguments and errors are those of `load_pipeline`; no weights are read, but a hub id's files are downloaded where the cache lacks them.
    """
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    fine_tune = fine_tune_folder(name)
    with no_library_bars(), torch.device("meta"):
        folder = trusted_folder(name if fine_tune is None else whole_base(fine_tune), revision)
        check_pipeline_kind(folder)
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(str(folder), subfolder="unet"))
        text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(str(folder), subfolder="text_encoder", local_files_only=True))
    return {"unet": unet, "text_encoder": text_encoder}


def load_vae(
    name: str = "mini", *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", revision: str | None = None
) -> "AutoencoderKL":
    """The autoencoder alone of the pipeline that `name` means, in evaluation mode: arguments and errors are those of `load_pipeline`.

    The folder needs nothing besides `vae`: the second stage is trained where only the first is there yet.
    """
    from diffusers import AutoencoderKL

    with no_library_bars():
        folder = trusted_folder(name, revision, needed="vae/config.json", part="vae/") / "vae"
        vae = AutoencoderKL.from_pretrained(str(folder), dtype=dtype, use_safetensors=True, local_files_only=True)
    return vae.to(device)


def default_guidance_scale(name: str = "mini") -> float:
    """The guidance scale w that the model's card recommends, or its base's; 7.5, the paper's, where there is no card."""
    folders = lineage(fine_tune_folder(name) or local_folder(name, "model_index.json"))
    known = (card["guidance_scale"] for card in map(read_card, folders) if "guidance_scale" in card)
    return float(next(known, PAPER_GUIDANCE_SCALE))


def image_size(name: str = "mini") -> int:
    """Side in pixels of the images that a pipeline was made for, from its configuration files; `name` and errors as in `load_pipeline`."""
    fine_tune = fine_tune_folder(name)
    name = name if fine_tune is None else whole_base(fine_tune)
    folder = trusted_folder(name, None, needed="unet/config.json", part="unet/config.json")
    check_files(folder, "vae/config.json")
    unet, vae = (json.loads((folder / part / "config.json").read_text(encoding="utf-8")) for part in ("unet", "vae"))
    if not isinstance(unet.get("sample_size"), int):
        raise ValueError(f"{folder / 'unet' / 'config.json'} must give one whole number as sample_size, not {unet.get('sample_size')!r}")
    return unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)


def list_fine_tunes() -> list[str]:
    """Names of the full fine-tunes in `data/models`, sorted: models that `load_pipeline` makes of another one and a difference."""
    return sorted(file.parent.name for file in paths.MODELS.glob(f"*/{DIFFERENCE}"))


def fingerprint(pipe_or_name: "StableDiffusionPipeline | str", *, decoder: bool = True) -> str:
    """sha256 (hex) of what determines a pipeline's results: weights, active adapters, configurations, scheduler, tokenizer.

    Equal for equal pipelines wherever they were loaded from and whatever device they are on; a name stands for `load_pipeline(name)`.
    `decoder=False` leaves the autoencoder's decoder out: what remains determines the latents, and so what a fine-tune was trained on.
    """
    pipe = load_pipeline(pipe_or_name) if isinstance(pipe_or_name, str) else pipe_or_name
    return pipeline_hash(pipe, decoder=decoder)
