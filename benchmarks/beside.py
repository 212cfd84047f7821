"""Benchmarks that are started together: they load, warm up and compile side by side, and are timed one at a time.

Compiling for a GPU takes longer than timing and needs the processor alone. A file's lock decides: many share it, one has it for itself.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import torch

HELP = "benchmarks that are started together with one such file warm up side by side and are timed one at a time"


@contextlib.contextmanager
def beside(file: Path | None) -> Iterator[Callable[[], AbstractContextManager]]:
    """What is inside runs beside others; what is inside the context that this gives, alone. None: there are no others."""
    if file is None:
        yield contextlib.nullcontext
        return
    import fcntl  # no Windows

    with file.open("a") as held:

        @contextlib.contextmanager
        def alone() -> Iterator[None]:
            _free_memory()
            fcntl.flock(held, fcntl.LOCK_EX)
            try:
                yield
            finally:
                _free_memory()
                fcntl.flock(held, fcntl.LOCK_UN)  # whoever waits to be timed goes first: what compiles next can do so beside the others
                time.sleep(0.1)
                fcntl.flock(held, fcntl.LOCK_SH)

        fcntl.flock(held, fcntl.LOCK_SH)
        yield alone


def _free_memory() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
