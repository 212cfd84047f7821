"""How exactly the UNet computes, as the environment says: `SMOOTHLIB_PRECISION`; empty: in float32, as everything that is recorded here.

    float16     products in float16 wherever no gradient is taken: cards with tensor cores and little memory, such as a T4
    bfloat16    the same in bfloat16: cards since 2020, and processors

Weights stay in float32, and so does all that lies between two calls of the UNet: latents, the sampler's steps, autoencoder, and measures.
A call that is to be differentiated is computed in float32, too: the losses of null-text inversion lie below float16's resolution.
Results of half precision are stored apart from the others, and their origin says what they are.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from ..base.config import ConfigurationError
from ..base.staleness import source_hash

SETTING = "SMOOTHLIB_PRECISION"
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_open = threading.local()  # the contexts of the calls that this thread is in


def check_precision() -> str:
    """The setting. Raises ConfigurationError where it is none of `DTYPES` and not empty."""
    setting = os.environ.get(SETTING, "").strip()
    if setting and setting not in DTYPES:
        raise ConfigurationError(f"{SETTING} is {setting!r}, but must be empty, {' or '.join(DTYPES)}.")
    return setting


def code_of_precision() -> dict[str, str]:
    """This module and its hash: what half precision is here, stands behind the results that are computed in it."""
    return {__name__: source_hash(Path(__file__).read_text(encoding="utf-8"))}


class Half:
    """A procedure whose UNets compute in half precision.

    Args:
        precision: a key of `DTYPES`.
    """

    def __init__(self, procedure: Callable[[list[Any]], Sequence[Mapping[str, Any]]], precision: str) -> None:
        self.procedure, self.precision = procedure, precision

    def __call__(self, items: list[Any]) -> Sequence[Mapping[str, Any]]:
        """The procedure's results."""
        with half_precision(DTYPES[self.precision]):
            return self.procedure(items)


@contextmanager
def half_precision(dtype: torch.dtype) -> Iterator[None]:
    """In the block each call of a UNet without gradients multiplies in `dtype`, and answers in the type of its weights."""
    from diffusers import UNet2DConditionModel

    def begin(module: nn.Module, arguments: Any) -> None:
        if isinstance(module, UNet2DConditionModel):
            context = torch.autocast(module.device.type, dtype, enabled=not torch.is_grad_enabled())
            context.__enter__()
            _open.contexts = [*getattr(_open, "contexts", []), context]

    def end(module: nn.Module, arguments: Any, output: Any) -> Any:
        if isinstance(module, UNet2DConditionModel):
            _open.contexts.pop().__exit__(None, None, None)
            if isinstance(output, tuple):
                return (output[0].to(module.dtype), *output[1:])
            if output is not None:  # None: it has raised
                output.sample = output.sample.to(module.dtype)
        return output

    hooks = register_module_forward_pre_hook(begin), register_module_forward_hook(end, always_call=True)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
