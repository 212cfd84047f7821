"""Full fine-tunes as what they add to their base: one half-precision file that is applied like an adapter."""

from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from .runs import atomic_write

FILE = "unet_difference.safetensors"


@torch.no_grad()
def save_difference(trained: nn.Module, base: nn.Module, folder: Path) -> None:
    """Write trained - base of every weight to `folder`/unet_difference.safetensors in half precision (relative rounding 5e-4).

    Raises:
        ValueError: the modules differ in their weights' names or shapes, or a difference is not finite.
    """
    weights, origin = trained.state_dict(), base.state_dict()
    _check_names("trained", weights, origin)
    difference = {name: (weight.float().cpu() - origin[name].float().cpu()).half().contiguous() for name, weight in weights.items()}
    if wrong := [name for name, tensor in difference.items() if not tensor.isfinite().all()]:
        raise ValueError(f"trained has weights that are not finite, e.g. {wrong[0]}")
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / FILE, safetensors.torch.save(difference))


@torch.no_grad()
def add_difference(module: nn.Module, file: Path) -> None:
    """Add the stored difference to the weights of `module`, in place; all is checked before anything changes.

    Raises:
        ValueError: the file's names or shapes are not the module's, it holds a value that is not finite, or it changes nothing.
    """
    difference, weights = safetensors.torch.load_file(file), module.state_dict()
    _check_names(str(file), difference, weights)
    if not all(tensor.isfinite().all() for tensor in difference.values()):
        raise ValueError(f"{file} holds values that are not finite")
    if not any(tensor.any() for tensor in difference.values()):
        raise ValueError(f"{file} changes no weight")
    for name, weight in weights.items():
        weight.add_(difference[name].to(weight))


def _check_names(what: str, found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    if wrong := sorted(found.keys() ^ wanted.keys()) or [name for name in wanted if found[name].shape != wanted[name].shape]:
        raise ValueError(f"{what} does not fit the base model: {len(wrong)} weights are missing, new or of another shape, e.g. {wrong[0]}")
