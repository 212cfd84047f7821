"""Batches of items shared out: between this process and others that work at the same run, and to the workers of an executor."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import replace
from functools import partial
from typing import Any

from .claims import Claims
from .stored import Origin

Batch = Mapping[str, Any]  # item key -> item
PAUSES = 0.05, 2.0  # seconds between looks at what other processes do: the first, and the longest


class Outputs(list[Mapping[str, Any]]):
    """A batch's results from another machine.

    Args:
        machines: kind of device -> the machine's name for it.
        torch: its version there.
    """

    def __init__(self, outputs: Iterable[Mapping[str, Any]], machines: Mapping[str, str], torch: str) -> None:
        super().__init__(outputs)
        self.machines, self.torch = machines, torch


def origin_of(outputs: Sequence[Mapping[str, Any]], here: Origin, more: str = "") -> Origin:
    """Where a batch's results come from: `here`, or the machine that they name and `more` about it."""
    if not isinstance(outputs, Outputs):
        return here
    return replace(here, name=outputs.machines.get(here.device, "unknown") + more, torch=outputs.torch)


class Here(Executor):
    """Computes what is submitted at once, in this process."""

    window = 1

    def submit(self, function: Callable, /, *arguments: Any) -> Future:
        """A future that is done."""
        future: Future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


class Division:
    """The work at one run.

    Args:
        procedure: items -> one result each.
        missing: a batch -> keys of its items without a result; it looks again at what other processes have stored.
        store: checks and stores the results of a batch.
        claims: those of the run's folder.
        executor: who computes. Its attribute `window`, where it has one, is how many batches it wants at a time; others get all at once.
    """

    def __init__(
        self,
        procedure: Callable[[list[Any]], Sequence[Mapping[str, Any]]],
        *,
        missing: Callable[[Batch], Iterable[str]],
        store: Callable[[Batch, Sequence[Mapping[str, Any]]], None],
        claims: Claims,
        executor: Executor | None = None,
    ) -> None:
        self.work = partial(results_of, procedure)
        self.missing, self.store, self.claims = missing, store, claims
        self.executor = executor or Here()
        self.left: deque[Batch] = deque()
        self.under_way: dict[Future, tuple[Batch, list[str]]] = {}  # with the keys that are claimed for it

    def run(self, batches: Iterable[Batch]) -> None:
        """Every batch done, here or by another process.

        A batch that another process computes is left for later, and read then; or computed here, if that process has died or given up.
        After a failure no batch is begun; those under way finish and are stored, and the first error is raised.
        """
        self.left.extend(batches)
        failure, pause = None, PAUSES[0]
        try:
            while self.under_way or (self.left and failure is None):
                if failure is None:
                    self._begin()
                before = len(self.left) + len(self.under_way)
                if self.under_way:
                    failure = self._finish(pause if self.left else None) or failure  # there may be new workers, or free items
                elif self.left:
                    time.sleep(pause)
                pause = min(2 * pause, PAUSES[1]) if len(self.left) + len(self.under_way) == before else PAUSES[0]
                if failure is not None:
                    self._cancel()
        finally:
            self._cancel()
        if failure is not None:
            raise failure

    def _room(self) -> bool:
        window = getattr(self.executor, "window", None)
        return window is None or len(self.under_way) < window

    def _begin(self) -> None:
        """Submit the batches that nobody has, up to the executor's window; drop those that are stored."""
        for _ in range(len(self.left)):
            if not self._room():
                return
            batch = self.left.popleft()
            if not (keys := list(self.missing(batch))):
                continue
            if not self.claims.take(keys):
                self.left.append(batch)
                continue
            try:
                # Its last owner may have stored it between the look and the claim.
                if list(self.missing(batch)):
                    self.under_way[self.executor.submit(self.work, list(batch.values()))] = batch, keys
                    continue
            except BaseException:
                self.claims.release(keys)
                raise
            self.claims.release(keys)

    def _finish(self, seconds: float | None) -> Exception | None:
        """Wait until a batch is done, or for `seconds`; store what is done. The first error."""
        failure = None
        done, _ = wait(self.under_way, timeout=seconds, return_when=FIRST_COMPLETED)
        for future in done:
            batch, keys = self.under_way.pop(future)
            try:
                self.store(batch, future.result())
            except Exception as error:
                failure = failure or error
            finally:
                self.claims.release(keys)
        return failure

    def _cancel(self) -> None:
        """Take back what has not begun."""
        for future in list(self.under_way):
            if future.cancel():
                _, keys = self.under_way.pop(future)
                self.claims.release(keys)


def results_of(procedure: Callable[[list[Any]], Sequence[Mapping[str, Any]]], items: list[Any]) -> list[Mapping[str, Any]]:
    """The procedure's results. Raises ValueError where they are not one for each item."""
    outputs = list(procedure(items))
    if len(outputs) != len(items):
        raise ValueError(f"The procedure returned {len(outputs)} results for {len(items)} items, but must return one for each.")
    return outputs
