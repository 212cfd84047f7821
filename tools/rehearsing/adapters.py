"""Adapters with random weights, one for each recipe of a list; their cards say which recipe they stand for, and that none was trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from companion.base import paths
from companion.studies.trained import LISTS
from companion.training.exports import LORA
from companion.weights.cards import write_card
from companion.weights.fine_tune import FILE as DIFFERENCE
from companion.weights.pipelines import blank_modules
from smoothlib.lora import LORA_TARGET_MODULES

SCALE = 0.02  # of the random factors: small enough that nothing overflows


def write_adapters(folder: Path, pipeline: Path, seed: int = 0) -> dict[str, Path]:
    """Recipe -> folder of an adapter for this pipeline; recipes that name the same settings share one."""
    listed, common = (yaml.safe_load((paths.CONFIGS / name).read_text(encoding="utf-8")) for name in LISTS[-1])
    unet, found = blank_modules(str(pipeline))["unet"], {}
    for place, (name, changes) in enumerate(listed.items()):
        same = next((other for other in found if listed[other] == changes), None)
        found[name] = folder / name if same is None else found[same]
        if same is None:
            settings = _changed(common, {**changes, "name": name, "seed": 0, "objective_options.pipeline": str(pipeline)})
            _write(folder / name, unet, settings, seed + place)
    return found


def _changed(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with those of `changes`, whose names have dots."""
    changed = yaml.safe_load(yaml.safe_dump(dict(settings)))
    for name, value in changes.items():
        *outer, last = name.split(".")
        place = changed
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = value
    return changed


def _write(folder: Path, unet: nn.Module, settings: Mapping[str, Any], seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    chance = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return (SCALE * torch.randn(*shape, generator=chance)).half()

    options = settings["objective_options"]
    if options["trainable"] == "unet":
        weights = {name: random(*weight.shape) for name, weight in unet.state_dict().items()}
        save_file(weights, folder / DIFFERENCE)
    else:
        save_file(_lora(unet, options["rank"], random), folder / LORA, metadata={"format": "pt"})
    about = "Random weights for a rehearsal: nothing was trained. `training` names the recipe that they stand for."
    write_card(folder, description=about, training={settings["name"]: {"settings": dict(settings)}})


def _lora(unet: nn.Module, rank: int, random: Any) -> dict[str, torch.Tensor]:
    """Both factors of every attention projection, by PEFT's keys."""
    weights = {}
    for name, module in unet.named_modules():
        if isinstance(module, nn.Linear) and name.endswith(LORA_TARGET_MODULES) and "attn" in name:
            weights[f"unet.{name}.lora_A.weight"] = random(rank, module.in_features)
            weights[f"unet.{name}.lora_B.weight"] = random(module.out_features, rank)
    return weights
