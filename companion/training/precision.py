"""Training in float16: the objective under autocast, and a loss that is scaled up, so that small gradients are not rounded to nothing.

PyTorch's own autocast and GradScaler, because accelerate refuses float16 on a CPU, where it is tested; both work the same on a GPU. What is
trained stays in float32, and so do the optimiser's moments.
"""

import torch
from torch import Tensor

from .objectives import Objective

LEAST = 1.0  # a gradient that overflows without any scale is not the scale's fault


def computes_in_float16(objective: Objective, device: torch.device) -> None:
    """Put the objective's forward under autocast, in place; its loss and numbers leave in float32. The backward pass stays outside."""
    forward = objective.forward

    def in_float16(indices: Tensor, draws: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast(device.type, torch.float16):
            loss, numbers = forward(indices, draws)
        return loss.float(), {name: value.float() for name, value in numbers.items()}

    objective.forward = in_float16


def loss_scaler(mixed_precision: str, device: torch.device) -> torch.amp.GradScaler:
    """For `fp16` a scale that starts at 65536, halves when a gradient overflows, and doubles after 2000 steps without; else none at all."""
    return torch.amp.GradScaler(device.type, enabled=mixed_precision == "fp16")
