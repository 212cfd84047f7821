"""A piece of work while it runs: how far it is, and whether somebody has cancelled it.

Both are seen at every call of the denoising network, by a hook on it. A method therefore needs to know nothing of the app: each call counts
the latents that it denoises, and a cancelled piece of work ends at the next one.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

EVERY = 0.1  # seconds between two messages to the page


class Cancelled(Exception):
    """The work was cancelled, or its page was closed."""


class Work:
    """Progress of a piece of work over the two sides.

    `tell` gets a share from 0 to 1 of the whole work and a text; `stop` is set from another thread.
    """

    def __init__(self, tell: Callable[[float, str], None], stop: threading.Event, sides: int = 2) -> None:
        self._tell, self._stop, self._sides = tell, stop, sides
        self._side, self._title = -1, ""
        self._done, self._total = 0.0, 0.0
        self._stage, self._latest = -1, 0.0

    def check(self) -> None:
        """Raise Cancelled where somebody has asked for it."""
        if self._stop.is_set():
            raise Cancelled

    @contextlib.contextmanager
    def side(self, title: str, unet: torch.nn.Module, total: float = 0.0) -> Iterator[None]:
        """Inside, one side is computed. `total`: latents that the network denoises at most; 0: only `stages` and `reached` are counted."""
        self._side, self._title, self._total, self._done, self._stage = self._side + 1, title, total, 0.0, -1

        def called(module: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            self.check()
            self._done += len(arguments[0] if arguments else named["sample"])
            if self._total:
                self._say(self._done / self._total, "")

        hook = unet.register_forward_pre_hook(called, with_kwargs=True)
        try:
            self._say(0.0, "", now=True)
            yield
        finally:
            hook.remove()

    def reached(self, done: float, text: str) -> None:
        """The latents denoised so far are taken as `done`: for work that may end earlier than planned."""
        self.check()
        self._done = done
        self._say(done / self._total, text)

    def stages(self, count: int) -> Callable[[Iterable[int]], Iterator[int]]:
        """A `progress` for smoothlib's functions, where they go through `count` series of steps of about the same length."""

        def progress(steps: Iterable[int]) -> Iterator[int]:
            steps = list(steps)
            self._stage += 1
            for i, step in enumerate(steps):
                self.check()
                self._say((self._stage + i / len(steps)) / count, f"part {self._stage + 1}, step {i + 1} of {len(steps)}")
                yield step

        return progress

    def milestones(self, start: float, each: float) -> Callable[[Iterable[int]], Iterator[int]]:
        """A `progress` for one series of steps, planned to begin after `start` latents and to take `each` a step."""

        def progress(steps: Iterable[int]) -> Iterator[int]:
            steps = list(steps)
            for i, step in enumerate(steps):
                self.reached(start + i * each, f"step {i + 1} of {len(steps)}")
                yield step
            self.reached(start + len(steps) * each, f"step {len(steps)} of {len(steps)}")

        return progress

    def _say(self, share: float, text: str, now: bool = False) -> None:
        if not now and time.monotonic() - self._latest < EVERY:
            return
        self._latest = time.monotonic()
        whole = (self._side + min(max(share, 0.0), 0.99)) / self._sides
        self._tell(whole, self._title + (f": {text}" if text else ""))
