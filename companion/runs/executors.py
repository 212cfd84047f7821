"""Where runs compute, as the environment says: `SMOOTHLIB_EXECUTOR`, which `make NAME EXECUTOR=...` sets; empty: in the process itself.

    local:4                          four worker processes on this machine, each with its share of the cores
    slurm:8                          eight jobs of SLURM; partition, cores, memory and time as dask-jobqueue's configuration file says
    tcp://host:8786, tls://...       a Dask scheduler that runs
    scheduler.json                   the same, by the file that `dask scheduler --scheduler-file` writes; relative to the checkout

The cluster starts with the first run of a process that has anything to compute, and ends with the process.
"""

import os
import re
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from ..base import paths
from ..base.config import ConfigurationError

if TYPE_CHECKING:
    from distributed.deploy import Cluster

SETTING = "SMOOTHLIB_EXECUTOR"
_started: dict[str, tuple[Executor, Callable[[], None]]] = {}
ALLOWED = "empty, local:N, slurm:N (N workers), tcp://host:port, tls://host:port, or a scheduler's .json file"


def check_executor() -> str:
    """The setting, without starting anything.

    Raises:
        ConfigurationError: it is none that is allowed, its file is not there, or Dask is not installed.
    """
    setting = os.environ.get(SETTING, "").strip()
    if not setting:
        return ""
    if not re.fullmatch(r"(local|slurm):[1-9]\d{0,4}|(tcp|tls)://\S+:\d+|.+\.json", setting):
        raise ConfigurationError(f"{SETTING} is {setting!r}, but must be {ALLOWED}.")
    if setting.endswith(".json") and not (paths.ROOT / setting).is_file():
        raise ConfigurationError(f"{SETTING} is {setting!r}, but there is no such file: start `dask scheduler --scheduler-file` first.")
    try:
        import distributed  # noqa: F401

        if setting.startswith("slurm"):
            import dask_jobqueue  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            f"{SETTING} is {setting!r}, but {error.name} is not installed: pip install -c constraints.txt -e '.[cluster]' brings it."
        ) from error
    return setting


def chosen_executor(threads: int | None = None) -> Executor | None:
    """The executor that the setting names, started on the first call (`threads` as for `start`); None where it is empty.

    Errors are those of `check_executor`.
    """
    setting = check_executor()
    if setting and setting not in _started:
        _started[setting] = start(setting, threads)
    return _started[setting][0] if setting else None


def stop_executor() -> None:
    """End what `chosen_executor` has started for the setting; a scheduler that it found goes on."""
    _, stop = _started.pop(check_executor(), (None, lambda: None))
    stop()


def start(setting: str, threads: int | None = None) -> tuple[Executor, Callable[[], None]]:
    """The executor of an allowed setting, and what ends it and the cluster that was started for it.

    threads: of each worker of local:N, instead of its share of the cores.

    Raises:
        ConfigurationError: no cluster could be reached or started.
    """
    import dask
    from distributed import Client

    from .dask_executor import DaskExecutor

    # Images go with their batch: a few megabytes are no mistake.
    dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 GB"})
    cluster = None
    try:
        cluster = _cluster(setting, threads)
        client = Client(scheduler_file=str(paths.ROOT / setting)) if setting.endswith(".json") else Client(cluster or setting)
    except (OSError, TimeoutError, ValueError) as error:
        raise ConfigurationError(f"{SETTING} is {setting!r}, but no cluster could be reached or started: {error}") from error

    def stop() -> None:
        client.close()
        if cluster is not None:
            cluster.close()

    return DaskExecutor(client), stop


def _cluster(setting: str, threads: int | None) -> "Cluster | None":
    """A cluster of its own for local:N and slurm:N."""
    kind, _, count = setting.partition(":")
    if kind == "local":
        from distributed import LocalCluster

        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        environment = {
            name: str(threads or max(1, cores // int(count))) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        }
        # Any free port for the dashboard; no memory limit, near which Dask would pause or kill a worker in the middle of a batch.
        return LocalCluster(n_workers=int(count), threads_per_worker=1, dashboard_address=":0", memory_limit=0, env=environment)
    if kind == "slurm":
        from dask_jobqueue import SLURMCluster

        cluster = SLURMCluster(scheduler_options={"dashboard_address": ":0"})  # any free port
        cluster.scale(jobs=int(count))
        return cluster
    return None
