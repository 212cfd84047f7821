"""Full fine-tunes as what they add to their base: one half-precision file that is applied like an adapter."""

import hashlib
import re
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from ..base.files import atomic_write

FILE = "unet_difference.safetensors"
FRACTION_BITS = 10  # of a half-precision number


@torch.no_grad()
def save_difference(trained: nn.Module, base: nn.Module, folder: Path, fraction_bits: int = FRACTION_BITS) -> None:
    """Write trained - base of every weight to `folder`/unet_difference.safetensors in half precision.

    Args:
        fraction_bits: bits kept of each value's fraction, 1 to 10; the relative rounding is half of 2 ** -fraction_bits. With the ten of
            half precision the file hardly compresses, with four to three fifths: what git and archives then hold.

    Raises:
        ValueError: the modules differ in their weights' names or shapes, a difference is not finite, or `fraction_bits` is out of range.
    """
    if not 1 <= fraction_bits <= FRACTION_BITS:
        raise ValueError(f"fraction_bits must lie in [1, {FRACTION_BITS}], got {fraction_bits}")
    weights, origin = trained.state_dict(), base.state_dict()
    _check_names("trained", weights, origin)
    difference = {name: _rounded(weight.float().cpu() - origin[name].float().cpu(), fraction_bits) for name, weight in weights.items()}
    if wrong := [name for name, tensor in difference.items() if not tensor.isfinite().all()]:
        raise ValueError(f"trained has weights that are not finite, e.g. {wrong[0]}")
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / FILE, safetensors.torch.save(difference))


def _rounded(x: torch.Tensor, fraction_bits: int) -> torch.Tensor:
    """x in half precision, to the nearest value whose lower fraction bits are zero (smaller ones than 6e-5 more coarsely)."""
    mantissa, exponent = torch.frexp(x)  # x = mantissa * 2 ** exponent, the mantissa in [.5, 1)
    scale = 2.0 ** (fraction_bits + 1)
    return torch.ldexp((mantissa * scale).round() / scale, exponent).half().contiguous()


@torch.no_grad()
def add_difference(module: nn.Module, file: Path) -> None:
    """Add the stored difference to the weights of `module`, in place; all is checked before anything changes.

    Raises:
        ValueError: as `check_difference`, or the same difference has been added before.
    """
    content = file.read_bytes()
    difference, identity = _checked_difference(module, file, content), hashlib.sha256(content).hexdigest()
    added = getattr(module, "_added_differences", ())
    if identity in added:
        raise ValueError(f"{file} is loaded already: its difference would be added twice")
    for name, weight in _own_weights(module).items():
        weight.add_(difference[name].to(weight))
    module._added_differences = (*added, identity)


def check_difference(module: nn.Module, file: Path) -> None:
    """Raise what `add_difference` would, and change nothing; the module's weights may be without storage.

    Raises:
        ValueError: the file is damaged, its names or shapes are not the module's, a value is not finite, or it changes nothing.
    """
    _checked_difference(module, file, file.read_bytes())


def _checked_difference(module: nn.Module, file: Path, content: bytes) -> dict[str, torch.Tensor]:
    try:
        difference, weights = dict(sorted(safetensors.torch.load(content).items())), _own_weights(module)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged ({error})") from None
    _check_names(str(file), difference, weights)
    if wrong := [name for name, tensor in difference.items() if not tensor.to(weights[name].dtype).isfinite().all()]:
        raise ValueError(f"{file} holds values that are not finite in {len(wrong)} of its weights, e.g. {wrong[0]}")
    if not any(tensor.any() for tensor in difference.values()):
        raise ValueError(f"{file} changes no weight")
    return difference


def _own_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of `module` by their names without adapters, which PEFT puts around the layers."""
    weights = module.state_dict()
    return {name.replace(".base_layer.", "."): weight for name, weight in weights.items() if not re.search(r"\.lora_[A-Za-z_]+\.", name)}


def _check_names(what: str, found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    if wrong := sorted(found.keys() ^ wanted.keys()) or [name for name in wanted if found[name].shape != wanted[name].shape]:
        raise ValueError(f"{what} does not fit the base model: {len(wrong)} weights are missing, new or of another shape, e.g. {wrong[0]}")
