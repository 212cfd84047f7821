"""What every notebook's study does first: find device and adapters, and say in one sentence what is not there."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch

from . import models
from .config import Choice, ConfigurationError

DEVICE = Choice("auto", "cpu", "cuda")


def chosen_device(device: str) -> str:
    """`device`, or for `auto` cuda where there is one, else cpu."""
    return device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def chosen_adapters(adapters: Sequence[str] | None) -> tuple[str, ...]:
    """`adapters`; for None the default one, `smooth`, where it has been trained."""
    return tuple({"smooth"} & set(models.list_adapters())) if adapters is None else tuple(adapters)


def check_adapters(names: Iterable[str | None]) -> None:
    """Is each adapter there (None: the base model), and is it the file that its card records? Before hours of work."""
    with errors_in_one_sentence():
        for name in names:
            if name:
                models.adapter_file(name)


@contextlib.contextmanager
def errors_in_one_sentence() -> Iterator[None]:
    """What is missing or does not fit becomes a ConfigurationError, which a notebook shows without a traceback."""
    try:
        yield
    except (ValueError, OSError, RuntimeError, ModuleNotFoundError) as error:
        raise ConfigurationError(str(error)) from None
