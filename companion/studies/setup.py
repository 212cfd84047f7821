"""What every notebook's study does first: find device and adapters, and say in one sentence what is not there."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch

from ..base.config import Choice, ConfigurationError
from ..weights import pipelines as models

DEVICE = Choice("auto", "cpu", "cuda")


def chosen_device(device: str) -> str:
    """`device`, or for `auto` cuda where there is one, else cpu. On cuda convolutions are computed in float32, as records say.

    cuDNN's default rounds their factors to TF32's 10 bits; matrix products are in float32 already.

    Raises:
        ConfigurationError: cuda was asked for, and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("Parameter device is 'cuda', but must be 'auto' or 'cpu': PyTorch finds no CUDA device here.")
    chosen = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if chosen == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    return chosen


def chosen_adapters(adapters: Sequence[str] | None) -> tuple[str, ...]:
    """`adapters`; for None the default one, `smooth`, where it has been trained."""
    return tuple({"smooth"} & set(models.list_adapters())) if adapters is None else tuple(adapters)


def check_adapters(names: Iterable[str | None], model: str) -> None:
    """Is each adapter there (None: the base model), the file that its card records, and one for `model`? Before hours of work.

    Files, entries, shapes and values are looked at; no weight of the model is read.

    Raises:
        ConfigurationError: the first adapter that `pipelines.load_adapter` would refuse.
    """
    adapters = list(dict.fromkeys(name for name in names if name))
    with errors_in_one_sentence():
        modules = models.blank_modules(model) if adapters else {}
        for adapter in adapters:
            models.check_adapter(modules, adapter)


@contextlib.contextmanager
def errors_in_one_sentence() -> Iterator[None]:
    """What is missing or does not fit becomes a ConfigurationError, which a notebook shows without a traceback."""
    try:
        yield
    except (ValueError, OSError, RuntimeError, ModuleNotFoundError) as error:
        raise ConfigurationError(str(error)) from None
