"""Adapters: Smooth-LoRAs and the differences that full fine-tunes left, found by name, checked, and put onto a pipeline.

Weights come from safetensors, never from pickles; what ships with the repository is compared with the sha256 in its card.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from smoothlib.lora import fitting_lora, load_smooth_lora, lora_modules

from ..base import paths
from .cards import check_files
from .fine_tune import FILE as DIFFERENCE
from .fine_tune import add_difference, check_difference

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


def list_adapters() -> list[str]:
    """Names of the Smooth-LoRAs and full fine-tunes in `data/models/adapters`, sorted."""
    return sorted({file.parent.name for file in paths.ADAPTERS.glob("*/*.safetensors")})


def load_adapter(pipe: "StableDiffusionPipeline", name_or_folder: str | Path) -> None:
    """Load an adapter of either kind: a Smooth-LoRA (`smoothlib.lora.load_smooth_lora`), or the difference that a full fine-tune left.

    Args:
        name_or_folder: a name from `list_adapters`, a folder with one safetensors file, or such a file.

    Raises:
        FileNotFoundError: there is no such adapter.
        ValueError: a file that differs from its card, or what `load_smooth_lora` and `fine_tune.add_difference` refuse.
    """
    file = adapter_file(name_or_folder)
    if file.name == DIFFERENCE:
        add_difference(pipe.unet, file)
    else:
        load_smooth_lora(pipe, file, Path(name_or_folder).resolve().name.removesuffix(".safetensors"))


def check_adapter(target: "StableDiffusionPipeline | nn.Module | Mapping[str, nn.Module]", name_or_folder: str | Path) -> None:
    """Raise what `load_adapter` would raise for this adapter and model, and change nothing.

    Args:
        target: a pipeline, a UNet, or {"unet": ..., "text_encoder": ...}. Only names, shapes and types of their weights count, so that
            modules without storage do (`pipelines.blank_modules`).

    Raises:
        FileNotFoundError, ValueError: as for `load_adapter`; that an adapter is loaded already is no matter here.
    """
    file, modules = adapter_file(name_or_folder), lora_modules(target)
    if file.name == DIFFERENCE:
        check_difference(modules["unet"], file)
    else:
        fitting_lora(file, file.read_bytes(), modules)


def adapter_file(name_or_folder: str | Path) -> Path:
    """The safetensors file of an adapter, its folder checked against its card."""
    path = Path(name_or_folder)
    if (paths.ADAPTERS / path).is_dir():
        path = paths.ADAPTERS / path
    if not path.exists():
        available = ", ".join(list_adapters()) or "none"
        raise FileNotFoundError(f"there is no adapter {str(name_or_folder)!r}: pass a folder, or a name in {paths.ADAPTERS} ({available})")
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if len(files) != 1 or files[0].suffix != ".safetensors":
        raise ValueError(
            f"{path} must be or contain exactly one .safetensors file; pickles (.bin, .pt) are not loaded: convert one once with "
            "`safetensors.torch.save_file(torch.load(file, weights_only=True), 'pytorch_lora_weights.safetensors')`"
        )
    check_files(files[0].parent)
    return files[0]
