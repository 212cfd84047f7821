"""May a training write where it is told to, and are its weights fit to be written? Asked before it starts, and before it exports."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..base import paths
from ..base.config import ConfigurationError
from ..base.files import atomic_write
from ..judges.dual_encoder import WEIGHTS as DUAL_ENCODER
from ..judges.scene_attributes import WEIGHTS as SCENE_ATTRIBUTES
from ..weights.cards import CARD
from ..weights.fine_tune import FILE as DIFFERENCE

if TYPE_CHECKING:
    from .settings import TrainingConfig

CLAIM = "export_to"  # in a run's folder: where it may write, because nothing was there or it was told to overwrite
LORA = "pytorch_lora_weights.safetensors"  # diffusers' name
HALF_MAX = torch.finfo(torch.half).max  # UNets and LoRAs are stored in half precision


def exported_file(config: "TrainingConfig") -> str:
    """The file of weights that the training writes, below its export folder."""
    if config.objective == "denoising":
        trainable = config.objective_options.get("trainable", "all")
        return {"lora": LORA, "unet": DIFFERENCE}.get(trainable, "unet/diffusion_pytorch_model.safetensors")
    others = {"attributes": SCENE_ATTRIBUTES, "autoencoder": "vae/diffusion_pytorch_model.safetensors", "contrastive": DUAL_ENCODER}
    return others[config.objective]


def claim_export_folder(config: "TrainingConfig") -> None:
    """Raise unless the training may write its weights; remember that it may, so that it can be taken up again.

    It may where the folder has no such weights, where `overwrite` says so, and where its own checkpoint is there: it then takes up the
    training that began when the folder was free. It never may where its weights would stand beside another kind, or inside another folder
    with a card.

    Raises:
        ConfigurationError: one sentence says what is in the way.
    """
    folder, file = paths.MODELS / config.export_to, exported_file(config)
    for outer in folder.parents:
        if outer.is_relative_to(paths.MODELS) and (outer / CARD).exists():
            raise ConfigurationError(f"export_to is {config.export_to!r}, but {outer} is a model of its own: choose a folder beside it")
    if others := _other_kinds(folder, file):
        raise ConfigurationError(
            f"export_to is {config.export_to!r}, but {folder} holds {others[0]}, and {file} beside it could not be loaded: choose another "
            "folder, or remove that one"
        )
    claim = config.folder / CLAIM
    resumed = claim.is_file() and claim.read_text(encoding="utf-8") == str(folder) and (config.folder / "checkpoint.pt").is_file()
    if (folder / file).exists() and not (config.overwrite or resumed):
        raise ConfigurationError(
            f"export_to is {config.export_to!r}, but {folder / file} is there already: choose another folder, or set overwrite=true"
        )
    atomic_write(claim, str(folder).encode())


def _other_kinds(folder: Path, file: str) -> list[str]:
    """Weights that cannot share a folder with `file`: a folder holds a pipeline, or one file of weights."""
    if "/" in file:
        return sorted(other.name for other in folder.glob("*.safetensors"))
    return sorted(
        other.name for pattern in ("*.safetensors", "model_index.json", "vae") for other in folder.glob(pattern) if other.name != file
    )


def check_space(config: "TrainingConfig", trained: Iterable[torch.Tensor]) -> None:
    """Raise unless the disks have room for two checkpoints, the last and the next, and for the folder that is exported.

    A checkpoint holds weights, averages and Adam's two moments. The folder is written whole beside the one that it replaces.

    Raises:
        ConfigurationError: one sentence says how much is missing where.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in trained)
    folder = paths.MODELS / config.export_to
    there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    for place, needed in ((config.folder, 8 * size), (folder, there + size)):
        existing = next(outer for outer in (place, *place.parents) if outer.exists())
        if (free := shutil.disk_usage(existing).free) < needed:
            raise ConfigurationError(
                f"the disk of {place} has {free / 1e6:.0f} MB left, but the training {config.name!r} needs {needed / 1e6:.0f}: "
                "make room, or let SMOOTHLIB_RUNS name a folder on another disk"
            )


def check_weights(name: str, checkpoint: Path, weights: Iterable[torch.Tensor]) -> None:
    """Raise unless all weights are finite, in half precision too: the last update's have not been through a loss.

    Raises:
        FloatingPointError: they are not, and nothing may be exported.
    """
    if any(not (tensor.detach().abs().amax() <= HALF_MAX) for tensor in weights if tensor.numel()):
        raise FloatingPointError(
            f"the weights of {name} are not finite after its last step, so nothing is exported: delete {checkpoint} and train with a "
            "smaller learning_rate"
        )
