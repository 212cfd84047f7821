"""Tensors that are made once and kept: a kept file that is not whole is made again."""

import warnings
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
from torch import Tensor

from ..base.files import DamagedFile, read_sealed, write_sealed

SUFFIX = ".tensors"  # safetensors with a checksum behind them


def kept_tensors(file: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `file` holds; where it is missing, or not whole, what `make` gives, which it then holds."""
    try:
        return safetensors.torch.load(read_sealed(file))
    except FileNotFoundError:
        pass
    except DamagedFile as error:
        warnings.warn(f"{error}; it is made again", stacklevel=2)
    made = make()
    write_sealed(file, safetensors.torch.save(made))
    return made
