"""The line: pieces of work are done one after the other by one thread, whoever asked for them."""

import queue
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .compute import Result, compute
from .models import Models
from .requests import Ask
from .work import Cancelled, Work

MAX_WAITING = 8
LONGEST = 400  # letters of a sentence

Tell = Callable[[dict[str, Any]], None]  # called from the thread that computes


class Full(ValueError):
    """The line is as long as it may be."""


@dataclass(eq=False)
class Job:
    """One piece of work. `tell` gets messages as the page reads them; `finish` gets the result."""

    ask: Ask
    tell: Tell
    finish: Callable[[Result], None]
    stop: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """It ends at the network's next call; see `Line.leave`."""
        self.stop.set()


class Line:
    """Jobs in the order in which they came."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self._jobs: list[Job] = []  # the first is the one that is computed
        self._lock = threading.Lock()
        self._turn: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="line", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._jobs)

    def join(self, job: Job) -> None:
        """Put a job at the end of the line.

        Raises:
            Full: there are `MAX_WAITING` already.
        """
        with self._lock:
            if len(self._jobs) >= MAX_WAITING:
                raise Full(f"{len(self._jobs)} pieces of work wait already, but at most {MAX_WAITING} may: try again later")
            self._jobs.append(job)
            ahead = len(self._jobs) - 1
        job.tell({"type": "waiting", "ahead": ahead})
        self._turn.put(job)

    def leave(self, job: Job) -> None:
        """Cancel a job: one that waits is out of the line at once, one that is computed ends at the network's next call."""
        job.cancel()
        with self._lock:
            waits = job in self._jobs[1:]
            if waits:
                self._jobs.remove(job)
            others = self._jobs[1:]
        if waits:
            job.tell({"type": "cancelled"})
        for place, other in enumerate(others, start=1):
            other.tell({"type": "waiting", "ahead": place})

    def close(self, seconds: float = 10.0) -> None:
        """Cancel everything and end the thread."""
        with self._lock:
            for job in self._jobs:
                job.cancel()
        self._turn.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while (job := self._turn.get()) is not None:
            with self._lock:
                if job not in self._jobs:  # it has left
                    continue
            try:
                self._do(job)
            except Exception:  # a page's fault must not end the thread that serves the others
                traceback.print_exc()
            with self._lock:
                self._jobs.remove(job)
                others = self._jobs[1:]  # the next one begins now
            for place, other in enumerate(others, start=1):
                other.tell({"type": "waiting", "ahead": place})

    def _do(self, job: Job) -> None:
        work = Work(lambda share, text: job.tell({"type": "progress", "share": share, "text": text}), job.stop)
        try:
            work.check()
            job.tell({"type": "started"})
            result = compute(job.ask, self.models, work)
            work.check()
            job.finish(result)
        except Cancelled:
            job.tell({"type": "cancelled"})
        except (ValueError, RuntimeError) as error:
            if not isinstance(error, ValueError):
                traceback.print_exc()
            job.tell({"type": "refused", "sentence": one_sentence(error)})
        except Exception as error:
            traceback.print_exc()
            job.tell({"type": "refused", "sentence": f"This failed inside the program ({type(error).__name__}); its terminal says where."})


def one_sentence(error: Exception) -> str:
    """An error's first line, ended by a full stop; of a value that would fill the page only the beginning."""
    text = next(iter(str(error).splitlines()), "").strip() or type(error).__name__
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    return text if text.endswith((".", "!", "?")) else text + "."
