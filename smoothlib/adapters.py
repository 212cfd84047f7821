"""Adapters: Smooth-LoRAs and the differences that full fine-tunes left, found by name and put onto a pipeline's UNet.

Weights come from safetensors, never from pickles; what ships with the repository is compared with the sha256 in its card.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from . import paths
from .cards import CARD, read_card, read_checked
from .differences import FILE as DIFFERENCE
from .differences import add_difference

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

LORA_TARGET_MODULES = ("to_q", "to_k", "to_v", "to_out.0")  # every attention's projections
LOADED_SUFFIXES = {".safetensors", ".json", ".txt"}  # what the libraries read from a model's folder


def list_adapters() -> list[str]:
    """Names of the Smooth-LoRAs and full fine-tunes in `data/models/adapters`, sorted."""
    return sorted({file.parent.name for file in paths.ADAPTERS.glob("*/*.safetensors")})


def load_adapter(pipe: "StableDiffusionPipeline", name_or_folder: str | Path) -> None:
    """Load an adapter of either kind into the UNet: a Smooth-LoRA (`load_smooth_lora`), or the difference that a full fine-tune left.

    Raises FileNotFoundError and ValueError as `load_smooth_lora` does.
    """
    file = adapter_file(name_or_folder)
    if file.name == DIFFERENCE:
        add_difference(pipe.unet, file)
    else:
        load_smooth_lora(pipe, name_or_folder)


def load_smooth_lora(pipe: "StableDiffusionPipeline", name_or_folder: str | Path) -> None:
    """Load a Smooth-LoRA into the UNet and check that every attention projection changed (Eq. 6: W0 + BA with BA != 0).

    Reads diffusers' LoRA files and the layout that the authors released, whose keys lack the `unet.` prefix: diffusers by itself ignores
    those with a warning. After an error the pipeline computes what it did before.

    Args:
        name_or_folder: a name from `list_adapters`, a folder with one safetensors file, or such a file.

    Raises:
        FileNotFoundError: there is no such adapter.
        ValueError: a file that differs from its card, is no LoRA for this UNet, or leaves a projection unchanged.
    """
    file = adapter_file(name_or_folder)
    adapter_name = re.sub(r"\W", "_", Path(name_or_folder).resolve().name.removesuffix(".safetensors"))  # PEFT allows no dots
    others = set(getattr(pipe.unet, "peft_config", {}))
    if adapter_name in others:
        raise ValueError(f"adapter {adapter_name!r} is loaded already")
    try:
        source = dict(weight_name=file.name, use_safetensors=True, return_lora_metadata=True)
        weights, alphas, metadata = pipe.lora_state_dict(str(file.parent), **source)
        weights = {key if key.startswith("unet.") else f"unet.{key}": weight for key, weight in weights.items()}
        pipe.unet.load_lora_adapter(weights, prefix="unet", network_alphas=alphas, metadata=metadata, adapter_name=adapter_name)
        unchanged = _unchanged_projections(pipe.unet, adapter_name)
    except Exception as error:  # the libraries raise many kinds for a file that does not fit
        _remove_adapter(pipe.unet, adapter_name, others)
        raise ValueError(f"{file} is not a LoRA for this UNet: {str(error).splitlines()[0][:200]}") from error
    if unchanged:
        _remove_adapter(pipe.unet, adapter_name, others)
        raise ValueError(f"{file} leaves {len(unchanged)} of the UNet's attention projections unchanged or not finite, e.g. {unchanged[0]}")


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


def check_files(folder: Path, part: str = "") -> None:
    """Raise unless every file whose name begins with `part` is the one in the card; only folders outside `data/models` may lack a card."""
    card = read_card(folder)
    if not card:
        if folder.resolve().is_relative_to(paths.MODELS.resolve()):
            raise ValueError(f"{folder} has no {CARD} with its files' hashes: restore it, or write it with smoothlib.cards")
        return
    there = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.suffix in LOADED_SUFFIXES and file.name != CARD}
    for name in sorted({*card.get("files", ()), *there}):
        if name.startswith(part):
            read_checked(folder, name)


def _unchanged_projections(unet: torch.nn.Module, adapter_name: str) -> list[str]:
    """Names of the attention projections whose weight change BA is absent, zero or not finite."""
    from diffusers.models.attention_processor import Attention
    from peft.tuners.lora import LoraLayer

    attentions = [name for name, module in unet.named_modules() if isinstance(module, Attention)]
    unchanged = []
    for name in (f"{attention}.{projection}" for attention in attentions for projection in LORA_TARGET_MODULES):
        layer = unet.get_submodule(name)
        changed = isinstance(layer, LoraLayer) and adapter_name in layer.lora_A
        if changed:
            delta = layer.get_delta_weight(adapter_name)
            changed = bool(delta.any() and delta.isfinite().all())
        if not changed:
            unchanged.append(name)
    return unchanged


def _remove_adapter(unet: torch.nn.Module, adapter_name: str, others: set[str]) -> None:
    if not others:
        unet.unload_lora()
    elif adapter_name in unet.peft_config:
        unet.delete_adapters(adapter_name)
