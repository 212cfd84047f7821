"""The interface between an objective and the training loop."""

import contextlib
import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...base.config import ConfigurationError
from ..orders import random_order
from ..setting_fields import check_setting, field_of

Draws = dict[str, Tensor]


def known_options(name: str, kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` as arguments for `kind`; ConfigurationError for one that it does not take, or whose value is not of the annotated type."""
    known = inspect.signature(kind).parameters
    for option, value in options.items():
        if option not in known:
            raise ConfigurationError(f"{name} has no setting {option!r}; known are {', '.join(known)}")
        if field := field_of(known[option].annotation):
            check_setting(f"{name}.{option}", value, field)
    return dict(options)


class Objective(nn.Module):
    """Base class: `forward(indices, draws) -> (loss, logged numbers)` over `len(objective)` training examples.

    What is random about an example of a step is drawn by `draw` and handed to `forward`. The loop draws for the whole step at once and
    deals the rows out, so that the number of processes and of gradient accumulations leaves the loss as it is. (The regularizer's running
    mean moves once per micro-batch, so that accumulation changes how fast it follows.)
    """

    step = 0  # the optimiser step that is being taken; the loop sets it
    fused_optimizer = False  # AdamW in one kernel for all weights, which rounds otherwise

    def __len__(self) -> int:
        raise NotImplementedError

    def order(self, seed: int, epoch: int) -> Tensor:
        """The examples of an epoch as steps take them, (len,) long: a permutation."""
        return random_order(len(self), seed, epoch)

    def take_replaced(self) -> int:
        """How many examples this process could not read, and replaced, since it was last asked."""
        return 0

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """Everything random about `count` examples, each tensor (count, ...)."""
        raise NotImplementedError

    def forward(self, indices: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss of the examples `indices` (B,) with their rows of `draw`, and numbers for the log."""
        raise NotImplementedError

    def describe(self, draws: Draws) -> str:
        """What to tell of these draws when their loss is not finite."""
        return ""

    def kernels(self) -> AbstractContextManager:
        """Context of a whole step, backward included."""
        return contextlib.nullcontext()

    def state(self) -> Draws:
        """What a resumed run needs besides weights and optimiser."""
        return {}

    def load_state(self, state: Draws) -> None:
        """Take up what `state` gave."""

    def identity(self) -> str:
        """Hash of everything besides settings and weights that training depends on: a checkpoint goes on with the same one alone."""
        raise NotImplementedError

    def export(self, folder: Path) -> None:
        """Write the trained modules in diffusers' format."""
        raise NotImplementedError
