"""`python -m companion.weights.export ADAPTER FOLDER` writes a LoRA in the layouts that other programs read.

`pytorch_lora_weights.safetensors` is for diffusers (`pipe.load_lora_weights(FOLDER)`), `NAME.safetensors` in Kohya's layout for ComfyUI
(`models/loras`) and AUTOMATIC1111's web UI (`models/Lora`). Both do at strength 1 what the adapter does here. Any file that
`smoothlib.lora_file` reads can be exported, also the authors'.
"""

import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from smoothlib.lora import fitting_lora
from smoothlib.lora_file import Lora, LoraLayer

from ..base.config import OneSentenceParser, errors_as_exit_codes
from ..base.files import atomic_write
from .adapters import adapter_file
from .fine_tune import FILE as DIFFERENCE
from .pipelines import blank_modules

DIFFUSERS = "pytorch_lora_weights.safetensors"
KOHYA_PREFIX = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}


def kohya_entries(lora: Lora) -> dict[str, Tensor]:
    """Kohya's layout: `lora_unet_<layer>.lora_down.weight` (A), `.lora_up.weight` (B), `.alpha`, and DoRA's `.dora_scale`.

    Its strength is alpha / rank; a rank-stabilised layer's alpha / sqrt(rank) is written as alpha sqrt(rank).
    """
    entries: dict[str, Tensor] = {}
    for component, layers in lora.items():
        for name, layer in layers.items():
            key = KOHYA_PREFIX[component] + name.removeprefix("text_model.").replace(".", "_")
            alpha = layer.alpha * math.sqrt(len(layer.a)) if layer.rank_stabilised else layer.alpha
            entries |= {f"{key}.lora_down.weight": layer.a, f"{key}.lora_up.weight": layer.b, f"{key}.alpha": torch.tensor(alpha)}
            if layer.magnitude is not None:  # one per output, in the form of the layer's weight
                entries[f"{key}.dora_scale"] = layer.magnitude.reshape(-1, *[1] * (layer.a.ndim - 1))
    return entries


def diffusers_entries(lora: Lora) -> dict[str, Tensor]:
    """PEFT's layout as diffusers has it: `unet.<layer>.lora_A.weight`, `.lora_B.weight`, DoRA's `.lora_magnitude_vector`.

    The layout's strength is 1; another is multiplied into B, because older versions read no other place for it.
    """
    entries: dict[str, Tensor] = {}
    for component, layers in lora.items():
        for name, layer in layers.items():
            key = f"{component}.{name}" if component == "unet" else f"{component}.text_model.{name.removeprefix('text_model.')}"
            strength = strength_of(layer)
            entries |= {f"{key}.lora_A.weight": layer.a, f"{key}.lora_B.weight": layer.b if strength == 1 else strength * layer.b}
            if layer.magnitude is not None:
                convolution = layer.a.ndim > 2  # PEFT keeps its magnitudes in another form
                entries[f"{key}.lora_magnitude_vector"] = layer.magnitude.reshape(1, -1, 1, 1) if convolution else layer.magnitude
    return entries


def strength_of(layer: LoraLayer) -> float:
    """s of W0 + s B A."""
    rank = len(layer.a)
    return layer.alpha / (math.sqrt(rank) if layer.rank_stabilised else rank)


def export(adapter: str | Path, folder: Path, modules: Mapping[str, nn.Module], name: str | None = None) -> list[Path]:
    """Write the LoRA for diffusers and in Kohya's layout; the files.

    Args:
        adapter: a name in `data/models/adapters`, a folder with one safetensors file, or such a file.
        folder: where to.
        modules: {"unet": ..., "text_encoder": ...} of its base model (`pipelines.blank_modules`); names, shapes and types count.
        name: of the file in Kohya's layout; None: the adapter's.

    Raises:
        FileNotFoundError: there is no such adapter.
        FileExistsError: a file of this name is there.
        ValueError: it is a full fine-tune, or no LoRA for these modules, or `name` is none for a file.
    """
    file = adapter_file(adapter)
    if file.name == DIFFERENCE:
        raise ValueError(f"{file} is a full fine-tune, but must be a LoRA: its whole model can be saved by pipe.save_pretrained")
    content = file.read_bytes()
    lora = fitting_lora(file, content, modules)
    stored = next((tensor.dtype for tensor in safetensors.torch.load(content).values() if tensor.ndim > 1), torch.float32)
    name = name or re.sub(r"\W", "_", Path(adapter).resolve().name.removesuffix(".safetensors"))
    written = {folder / DIFFUSERS: diffusers_entries(lora), folder / f"{name}.safetensors": kohya_entries(lora)}
    if not re.fullmatch(r"[^/\\\0]*[^/\\\0.][^/\\\0]*", name):
        raise ValueError(f"name is {name!r}, but must be a file's name alone")
    if len(written) < 2:
        raise ValueError(f"name is {name!r}, but must be another than that of diffusers' file")
    if there := [place for place in written if place.exists()]:
        raise FileExistsError(f"folder is {folder}, but must not hold {there[0].name} yet")
    for place, entries in written.items():
        plain = {key: value.to(stored).contiguous() for key, value in entries.items()}
        atomic_write(place, safetensors.torch.save(plain, metadata={"format": "pt"}))
    return list(written)


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = OneSentenceParser(prog="python -m companion.weights.export", description=__doc__.splitlines()[0])
    parser.add_argument("adapter", help="a name in data/models/adapters, a folder with one safetensors file, or such a file")
    parser.add_argument("folder", type=Path, help="where to")
    parser.add_argument("--model", default="mini", help="its base model: a name, a folder or a hub id (mini)")
    parser.add_argument("--name", help="of the file for ComfyUI and AUTOMATIC1111 (the adapter's)")
    given = parser.parse_args(arguments)
    with errors_as_exit_codes(parser.prog):
        for file in export(given.adapter, given.folder, blank_modules(given.model), given.name):
            print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
