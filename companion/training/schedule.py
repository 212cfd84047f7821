"""What belongs to the number of a step alone: its examples, its generator, its learning rate, the decay of the average."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from .orders import random_order
from .settings import TrainingConfig


class ExponentialMovingAverage:
    """Average of parameters with decay min(decay, (1 + k) / (10 + k)) at step k."""

    def __init__(self, parameters: list[nn.Parameter], decay: float):
        self.parameters, self.decay = parameters, decay
        self.averages = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages towards the parameters after `step` (0-based)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def copy_to_parameters(self) -> None:
        """Replace the parameters by their averages."""
        for parameter, average in zip(self.parameters, self.averages, strict=True):
            parameter.copy_(average)


def step_generator(seed: int, step: int) -> torch.Generator:
    """The generator of one optimiser step, on all processes."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


def step_indices(length: int, batch: int, seed: int, step: int, order: Callable[[int, int], Tensor] | None = None) -> Tensor:
    """The examples of step `step`: consecutive slices of one order per epoch, (batch,) long.

    `order(seed, epoch)`: the order of an epoch, (length,) long; a random one by default.
    """
    order = order or partial(random_order, length)
    chosen, position, end = [], step * batch, (step + 1) * batch
    while position < end:
        epoch, offset = divmod(position, length)
        chosen.append(order(seed, epoch)[offset : offset + end - position])
        position += len(chosen[-1])
    return torch.cat(chosen)


def learning_rate_at(config: TrainingConfig, step: int) -> float:
    """Linear warm-up, then cosine decay to `final_learning_rate` of the peak."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    progress = torch.tensor(torch.pi * min(1.0, step / max(1, config.steps)))
    decay = config.final_learning_rate + (1 - config.final_learning_rate) * 0.5 * (1 + torch.cos(progress).item())
    return config.learning_rate * warm * decay
