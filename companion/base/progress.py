"""A progress bar that leaves nothing behind: a tqdm bar in a terminal, one line updated in place in a notebook, silence elsewhere."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def progress_bar(description: str, *, total: int, initial: int = 0, enabled: bool = True) -> Iterator[Callable[[int], None]]:
    """Yields `advance_to(done)`. In a notebook the line ends as "description: done of total": stored outputs carry no times."""
    line = _NotebookLine() if enabled and _in_notebook() else None
    disable = False if line else (None if enabled else True)  # tqdm: None = silent unless a terminal
    with tqdm(desc=description, total=total, initial=initial, disable=disable, file=line, ncols=100 if line else None, leave=True) as bar:

        def advance_to(done: int) -> None:
            bar.update(done - bar.n)

        yield advance_to
    if line:
        line.show(f"{description}: {bar.n} of {total}")


def _in_notebook() -> bool:
    """Whether this process is a Jupyter kernel (found without importing IPython where it is not in use)."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


class _NotebookLine:
    """A text file for tqdm that shows the latest line in one display, updated in place (widgets would store megabytes of state)."""

    def __init__(self) -> None:
        from IPython.display import display

        self._display = display({"text/plain": ""}, raw=True, display_id=True)

    def show(self, text: str) -> None:
        self._display.update({"text/plain": text}, raw=True)

    def write(self, text: str) -> None:
        if text.strip():
            self.show(text.strip())

    def flush(self) -> None:
        pass


class _NoNews(logging.Filter):
    """Stable Diffusion's scheduler has a key of PNDM's, of which diffusers warns whenever DDIM's are made of it: in every inversion."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "{'skip_prk_steps': True}" not in record.getMessage()


_no_news = _NoNews()


@contextmanager
def no_library_bars() -> Iterator[None]:
    """The libraries' bars for loading a handful of files say nothing and would be stored in notebooks; neither does `_NoNews`."""
    import diffusers.utils.logging
    import transformers.utils.logging

    logging.getLogger("diffusers.configuration_utils").addFilter(_no_news)
    libraries = [library for library in (diffusers.utils.logging, transformers.utils.logging) if library.is_progress_bar_enabled()]
    for library in libraries:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in libraries:
            library.enable_progress_bar()
