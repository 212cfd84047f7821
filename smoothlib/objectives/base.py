"""The interface between an objective and the training loop."""

from pathlib import Path

import torch
from torch import Tensor, nn


class Objective(nn.Module):
    """Base class: `forward(indices, generator) -> (loss, logged numbers)` over `len(objective)` training examples."""

    def __len__(self) -> int:
        raise NotImplementedError

    def forward(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss of the examples `indices` (B,), all randomness from `generator`, and numbers for the log."""
        raise NotImplementedError

    def identity(self) -> str:
        """Hash of everything besides settings and weights that training depends on: a checkpoint goes on with the same one alone."""
        raise NotImplementedError

    def export(self, folder: Path) -> None:
        """Write the trained modules in diffusers' format."""
        raise NotImplementedError
