"""Adapters: Smooth-LoRAs and the differences that full fine-tunes left, found by name, checked, and put onto a pipeline.

Weights come from safetensors, never from pickles; what ships with the repository is compared with the sha256 in its card.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from smoothlib.lora import LORA_TARGET_MODULES, add_lora, unchanged_layers
from smoothlib.lora_file import Lora, read_lora

from ..base import paths
from .cards import check_files
from .fine_tune import FILE as DIFFERENCE
from .fine_tune import add_difference, check_difference

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["LORA_TARGET_MODULES", "adapter_file", "check_adapter", "list_adapters", "load_adapter", "load_smooth_lora"]


def list_adapters() -> list[str]:
    """Names of the Smooth-LoRAs and full fine-tunes in `data/models/adapters`, sorted."""
    return sorted({file.parent.name for file in paths.ADAPTERS.glob("*/*.safetensors")})


def load_adapter(pipe: "StableDiffusionPipeline", name_or_folder: str | Path) -> None:
    """Load an adapter of either kind: a Smooth-LoRA (`load_smooth_lora`), or the difference that a full fine-tune left in the UNet.

    Raises FileNotFoundError and ValueError as `load_smooth_lora` does.
    """
    file = adapter_file(name_or_folder)
    if file.name == DIFFERENCE:
        add_difference(pipe.unet, file)
    else:
        load_smooth_lora(pipe, name_or_folder)


def load_smooth_lora(pipe: "StableDiffusionPipeline", name_or_folder: str | Path) -> None:
    """Load a LoRA that changes every attention projection of the UNet (Eq. 6: W0 + BA with BA != 0), whole and at the file's strength.

    See `lora_file` for the formats. Its layers of the text encoder, if any, go there. Afterwards it acts alone, enabled, whatever adapters
    were loaded or disabled before. After an error the pipeline computes what it did before.

    Args:
        name_or_folder: a name from `list_adapters`, a folder with one safetensors file, or such a file.

    Raises:
        FileNotFoundError: there is no such adapter.
        ValueError: a file that differs from its card, is loaded already, is no LoRA for this pipeline (see `lora_file.read_lora`), or
            leaves a projection or a layer that it names unchanged.
    """
    file, modules = adapter_file(name_or_folder), _modules(pipe)
    content = file.read_bytes()
    lora = _fitting_lora(file, content, modules)
    name = Path(name_or_folder).resolve().name.removesuffix(".safetensors")
    try:
        add_lora(modules, lora, re.sub(r"\W", "_", name), hashlib.sha256(content).hexdigest())
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def check_adapter(target: "StableDiffusionPipeline | nn.Module | Mapping[str, nn.Module]", name_or_folder: str | Path) -> None:
    """Raise what `load_adapter` would raise for this adapter and model, and change nothing.

    Args:
        target: a pipeline, a UNet, or {"unet": ..., "text_encoder": ...}. Only names, shapes and types of their weights count, so that
            modules without storage do (`pipelines.blank_modules`).

    Raises:
        FileNotFoundError, ValueError: as for `load_smooth_lora`; that an adapter is loaded already is no matter here.
    """
    file, modules = adapter_file(name_or_folder), _modules(target)
    if file.name == DIFFERENCE:
        check_difference(modules["unet"], file)
    else:
        _fitting_lora(file, file.read_bytes(), modules)


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


def _modules(target: "StableDiffusionPipeline | nn.Module | Mapping[str, nn.Module]") -> dict[str, nn.Module]:
    """Component -> module, of those that a LoRA may have layers of."""
    if isinstance(target, nn.Module):
        return {"unet": target}
    if not isinstance(target, Mapping):
        target = {name: getattr(target, name, None) for name in ("unet", "text_encoder")}
    return {name: module for name, module in target.items() if module is not None}


def _fitting_lora(file: Path, content: bytes, modules: Mapping[str, nn.Module]) -> Lora:
    """The LoRA in the file, if it is one for these modules that changes all that it must."""
    try:
        lora = read_lora(file, content, modules)
    except ValueError as error:
        raise ValueError(f"{file} is not a LoRA for this UNet: {error}") from None
    if unchanged := unchanged_layers(lora, modules):
        raise ValueError(f"{file} leaves {unchanged}")
    return lora
