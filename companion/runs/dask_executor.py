"""Batches computed by the workers of a Dask cluster; results come back and are stored by the process that asked.

Weights go to each worker once. They are Dask plugins: who joins later gets them from the scheduler, too. A batch whose worker dies is
given to another; after four deaths it fails (Dask's `allowed-failures`), because it may be the batch that kills. A worker computes one
batch at a time, with the threads that it was started with, and refuses to where its code is not that of the process that asked.

What is sent is pickled, as everything in Dask is: whoever reaches the scheduler can run code on its workers. `tls://` closes that door.
"""

import pickle
import platform
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import cache
from typing import Any

import torch
from distributed import Client, KilledWorker, Worker, WorkerPlugin
from distributed import Future as Task

from ..base.machine import machine
from ..base.staleness import package_modules
from .division import Outputs
from .parts import join, load_network, part_name, split

PATIENCE = 300  # seconds that a worker waits for a part that is on its way
AHEAD = 2  # batches that a worker has at a time: one is on its way while one is computed


class DaskExecutor(Executor):
    """An executor for `runs.run_items`.

    Args:
        client: of a cluster with this package on every worker.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self._owner = uuid.uuid4().hex  # another process at the same cluster has parts of its own
        self._sent: set[str] = set()
        self._work: tuple[weakref.ref[Callable], str] | None = None  # the last, and its name
        self._tasks: dict[Future, Task] = {}
        self._lock = threading.Lock()
        self._workers, self._counted = 0, -1.0

    @property
    def window(self) -> int:
        """Batches that it wants at a time; more as workers join. Asks the scheduler once a second."""
        if time.monotonic() - self._counted > 1:
            self._workers, self._counted = len(self.client.nthreads()), time.monotonic()
        return AHEAD * max(1, self._workers)

    def submit(self, work: Callable, /, items: list[Any]) -> Future:
        """A future of `work(items)`, computed by a worker; it cannot be cancelled. `work` is sent when it is another than the last one.

        Raises TypeError where `work` cannot be sent to another process.
        """
        name = self._send(work)
        future: Future = Future()
        future.set_running_or_notify_cancel()
        task = self.client.submit(_compute, name, items, pure=False)
        with self._lock:
            self._tasks[future] = task
        task.add_done_callback(lambda done: self._settle(future, done))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Forget the parts that were sent; the cluster stays."""
        self._keep(set())

    def _send(self, work: Callable) -> str:
        """The name under which workers have `work`; what they lack is sent, what they no longer need is dropped."""
        if self._work is None or self._work[0]() is not work:
            content, networks = split(work)
            content = pickle.dumps((package_modules(), _kernels(), content))
            parts = {**networks, part_name(content): content}
            self._keep(set(parts))
            for name, part in parts.items():
                if name not in self._sent:
                    self.client.register_plugin(Part(name, part), name=f"{name}-{self._owner}")
                    self._sent.add(name)
            self._work = weakref.ref(work), part_name(content)
        return self._work[1]

    def _keep(self, names: set[str]) -> None:
        if not self._tasks:
            for name in self._sent - names:
                self.client.unregister_worker_plugin(f"{name}-{self._owner}")
            self._sent &= names

    def _settle(self, future: Future, task: Task) -> None:
        with self._lock:
            del self._tasks[future]
        try:
            future.set_result(task.result())
        except KilledWorker as error:
            said = f"Every worker that had a batch died ({error.allowed_failures + 1} of them, the last {error.last_worker.address})"
            future.set_exception(RuntimeError(f"{said}: has it enough memory?"))
        except BaseException as error:
            future.set_exception(error)


class Part(WorkerPlugin):
    """A network or a procedure, on a worker for as long as the plugin is registered."""

    def __init__(self, name: str, content: bytes) -> None:
        self.part, self.content = name, content

    def setup(self, worker: Worker) -> None:
        """Keep the bytes; they become an object when a batch asks for it."""
        with _ARRIVED:
            _USERS[self.part] = _USERS.get(self.part, 0) + 1
            if self.part not in _OBJECTS:
                _BYTES[self.part] = self.content
            _ARRIVED.notify_all()
        self.content = b""

    def teardown(self, worker: Worker) -> None:
        """Forget it, unless another process sent it too."""
        with _ARRIVED:
            _USERS[self.part] -= 1
            if not _USERS[self.part]:
                _BYTES.pop(self.part, None)
                _OBJECTS.pop(self.part, None)


# A worker's parts.
_USERS: dict[str, int] = {}
_BYTES: dict[str, bytes] = {}
_OBJECTS: dict[str, Any] = {}
_ARRIVED = threading.Condition()
_ONE_BATCH = threading.Lock()  # a pipeline keeps state while it works


def _compute(name: str, items: list[Any]) -> Outputs:
    with _ONE_BATCH:
        return Outputs(_object(name, _load_work)(items), _machines(), torch.__version__)


def _load_work(content: bytes) -> Callable:
    modules, kernels, content = pickle.loads(content)
    if changed := sorted({name for name, _ in modules.items() ^ package_modules().items()}):
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise RuntimeError(f"A worker has other code ({changed[0]}{more}): start the workers again from this checkout.")
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = kernels
    return join(content, lambda network: _object(network, load_network))


def _object(name: str, load: Callable[[bytes], Any]) -> Any:
    with _ARRIVED:
        if not _ARRIVED.wait_for(lambda: name in _OBJECTS or name in _BYTES, timeout=PATIENCE):
            raise RuntimeError(f"A worker on {platform.node()} has waited {PATIENCE} s for weights that did not come.")
        if name in _OBJECTS:
            return _OBJECTS[name]
        content = _BYTES[name]
    found = load(content)
    with _ARRIVED:
        _OBJECTS[name] = found
        _BYTES.pop(name, None)
    return found


def _kernels() -> tuple[bool, bool]:
    """How this process rounds on cuda: see `studies.setup.chosen_device`."""
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@cache
def _machines() -> dict[str, str]:
    """Kind of device -> its name on this worker."""
    kinds = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return {kind: machine(kind)["name"] for kind in kinds}
