"""A cluster of workers: the bits of one process, weights once a worker, deaths that cost nothing, and sentences for what is wrong."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("distributed", reason="the extra [cluster] is not installed")

from companion.base import staleness
from companion.base.config import ConfigurationError
from companion.data import load as datasets
from companion.runs import dask_executor, executors, runs
from companion.runs.division import Here
from companion.runs.runs import origins, run_items
from companion.studies.reconstruction.reconstruct import Method, Reconstruction
from companion.weights import pipelines as models


class Weights(nn.Module):
    """Says where it was loaded."""

    def __init__(self, log):
        super().__init__()
        self.log, self.scale = log, nn.Parameter(torch.tensor([0.1, 0.2]))

    def __setstate__(self, state):
        super().__setstate__(state)
        with open(self.log, "a") as log:
            log.write(f"{os.getpid()}\n")


@dataclass
class Scaled:
    """A procedure with weights; the first to do item `deadly` dies of it, or everyone."""

    weights: Weights
    folder: Path
    deadly: int = -1
    always: bool = False

    def __call__(self, items):
        for item in items:
            with open(self.folder / "calls.txt", "a") as log:
                log.write(f"{item} {os.getpid()}\n")
            if item == self.deadly and (self.always or not (self.folder / "died").exists()):
                (self.folder / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return [{"value": (self.weights.scale * item).detach(), "pid": os.getpid()} for item in items]


@pytest.fixture(scope="module")
def cluster():
    """Two workers, by the setting."""
    os.environ[executors.SETTING] = "local:2"
    try:
        yield executors.chosen_executor()
    finally:
        executors.stop_executor()
        del os.environ[executors.SETTING]


def run(items, procedure, root, **options):
    return run_items(items, procedure, name="dask", config={}, root=root, progress=False, **options)


def scaled(folder, **options):
    folder.mkdir(exist_ok=True)
    return Scaled(Weights(str(folder / "loaded.txt")), folder, **options)


def test_a_table_has_the_bits_of_one_process(cluster, tmp_path):
    scenes = datasets.load_scenes("test")
    procedure = Reconstruction(models.load_pipeline("mini"), Method("ddim", 2.0), num_inference_steps=2)
    items, threads = [scenes.item(i) for i in range(3)], torch.get_num_threads()
    divided = run(items, procedure, tmp_path / "divided", batch_size=2)
    assert procedure.pivots == {}, "nothing was computed here"
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // 2))  # what each worker has
    alone = run(items, procedure, tmp_path / "alone", batch_size=2, executor=Here())
    torch.set_num_threads(threads)
    for a, b in zip(divided, alone, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"seconds"}:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert origins(divided) == origins(alone)  # the workers' machine, which is this one


def test_weights_go_to_each_worker_once_and_each_item_to_one(cluster, tmp_path):
    found = run(list(range(40)), scaled(tmp_path / "a"), tmp_path / "runs")
    assert [one["value"].tolist() for one in found] == [(torch.tensor([0.1, 0.2]) * i).tolist() for i in range(40)]
    loaded = (tmp_path / "a" / "loaded.txt").read_text().split()
    calls = [line.split() for line in (tmp_path / "a" / "calls.txt").read_text().splitlines()]
    assert sorted(int(item) for item, _ in calls) == list(range(40))
    assert sorted(loaded) == sorted({pid for _, pid in calls}) and len(loaded) == 2 and str(os.getpid()) not in loaded


def test_a_worker_that_is_killed_loses_nothing(cluster, tmp_path):
    found = run(list(range(12)), scaled(tmp_path / "a", deadly=4), tmp_path / "runs", batch_size=2)
    assert [one["value"].tolist() for one in found] == [(torch.tensor([0.1, 0.2]) * i).tolist() for i in range(12)]
    assert (tmp_path / "a" / "died").exists() and len(list((tmp_path / "runs").rglob("*.npz"))) == 12
    # a worker that joins afterwards has the weights, too
    cluster.client.wait_for_workers(2, timeout=60)
    again = run(list(range(12, 30)), scaled(tmp_path / "b"), tmp_path / "runs")
    assert len({one["pid"] for one in again}) == 2


def test_a_batch_that_kills_every_worker_is_named_and_the_others_are_stored(cluster, tmp_path):
    cluster.client.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", 0))
    with pytest.raises(RuntimeError, match=r"^Every worker that had a batch died \(1 of them, .*: has it enough memory\?$"):
        run(list(range(4)), scaled(tmp_path / "a", deadly=3, always=True), tmp_path / "runs")
    cluster.client.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", 3))
    assert not list((tmp_path / "runs").rglob("*.claim"))
    cluster.client.wait_for_workers(2, timeout=60)


def fails(items):
    raise ValueError(f"cannot do {items}")


def test_a_failure_is_that_of_the_worker(cluster, tmp_path):
    with pytest.raises(ValueError, match=r"cannot do \[1\]"):
        run([1], fails, tmp_path)


def test_a_worker_with_other_code_refuses(cluster, tmp_path, monkeypatch):
    edited = {**staleness._all_sources(), "smoothlib.sampling": "x = 1\n"}
    monkeypatch.setattr(staleness, "_AT_IMPORT", edited)
    with pytest.raises(RuntimeError, match=r"^A worker has other code \(smoothlib.sampling\): start the workers again"):
        run([1], scaled(tmp_path / "a"), tmp_path)


def test_a_procedure_that_cannot_travel_is_named(cluster, tmp_path):
    procedure = scaled(tmp_path / "a")
    procedure.stream = open(tmp_path / "a" / "x", "wb")
    with pytest.raises(TypeError, match=r"cannot be sent to another process: "):
        run([1], procedure, tmp_path)
    procedure.stream.close()


def test_results_name_the_workers_machine(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "machine", lambda device: {"device": "cpu", "name": "The owner's"})
    (one,) = run([1], scaled(tmp_path / "a"), tmp_path)
    assert one.origin.name == dask_executor._machines()["cpu"] != "The owner's"


SBATCH = """#!/bin/bash
echo "$@" >> {folder}/jobs
cp "${{@: -1}}" {folder}/job.sh
nohup bash {folder}/job.sh > {folder}/out.txt 2>&1 &
echo "Submitted batch job $!"
"""


def test_jobs_of_slurm_are_workers(monkeypatch, tmp_path):
    """With an sbatch that runs what it is given."""
    dask = pytest.importorskip("dask")
    pytest.importorskip("dask_jobqueue", reason="the extra [cluster] is not installed")
    (tmp_path / "jobs").touch()
    for name, script in {"sbatch": SBATCH.format(folder=tmp_path), "scancel": "#!/bin/bash\n"}.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv(executors.SETTING, "slurm:1")
    settings = {"cores": 1, "memory": "8 GB", "processes": 1, "log-directory": str(tmp_path), "local-directory": str(tmp_path)}
    with dask.config.set({f"jobqueue.slurm.{name}": value for name, value in settings.items()}):
        try:
            executors.chosen_executor().client.wait_for_workers(1, timeout=90)
            found = run(list(range(5)), scaled(tmp_path / "a"), tmp_path / "runs")
        finally:
            executors.stop_executor()
    assert [one["value"].tolist() for one in found] == [(torch.tensor([0.1, 0.2]) * i).tolist() for i in range(5)]
    assert len((tmp_path / "jobs").read_text().splitlines()) == 1


@pytest.mark.parametrize("setting", ["2", "local", "local:0", "local:-1", "pbs:4", "tcp://host", "http://host:80", "local:2:3"])
def test_other_settings_are_refused_before_anything_starts(monkeypatch, setting):
    monkeypatch.setenv(executors.SETTING, setting)
    with pytest.raises(ConfigurationError, match=f"^SMOOTHLIB_EXECUTOR is '{setting}', but must be empty, local:N, slurm:N "):
        executors.check_executor()


def test_what_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv(executors.SETTING, str(tmp_path / "scheduler.json"))
    with pytest.raises(ConfigurationError, match="but there is no such file: start `dask scheduler --scheduler-file` first"):
        executors.check_executor()
    monkeypatch.setenv(executors.SETTING, "slurm:2")
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(ConfigurationError, match=r"dask_jobqueue is not installed: pip install -c constraints.txt -e '.\[cluster\]'"):
        executors.check_executor()
    monkeypatch.setenv(executors.SETTING, " ")
    assert executors.chosen_executor() is None
