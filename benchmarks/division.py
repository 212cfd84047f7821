"""Time of a table divided between workers, cost of an item, and the paper's size: `python -m benchmarks.division [--workers 1 2]`.

The table is Table 2 without null-text inversion, run as its page runs it, on the embedded model. `trivial` items cost nothing themselves:
what is left is what this library does with an item: its claim, its batch's way to the worker and back, and its file.
"""

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path

import torch

from companion.base import paths
from companion.base.config import OneSentenceParser, configuration
from companion.base.machine import machine
from companion.runs import runs
from companion.runs.division import Here
from companion.runs.executors import SETTING, chosen_executor, start, stop_executor
from companion.studies.reconstruction.study import TABLE_PARAMETERS, ReconstructionStudy, values

# The paper's tables in UNet evaluations of one sample: items x (rows x evaluations of an item); 50 steps, guidance 7.5 takes two a step.
# Null-text inversion: ten optimiser steps, each a forward pass and a backward pass of twice its cost, and two evaluations, a sampling step.
PAPER = {
    "Table 1: walks of 11 frames, 2 models": 500 * 2 * 11 * 50 * 2,
    "Table 2: DDIM, 2 models": 500 * 2 * (50 + 50 * 2),
    "Table 2: NTI, 2 models": 500 * 2 * (50 + 50 * (10 * 3 + 2)),
}
HERE = 0  # no worker: this process


def trivial(items: list[int]) -> list[dict[str, float]]:
    """Items that cost nothing."""
    return [{"value": float(item)} for item in items]


class Waits:
    """Items that take `seconds` and no processor: what a worker does while its GPU computes."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, items: list[int]) -> list[dict[str, float]]:
        """A batch of them."""
        time.sleep(self.seconds * len(items))
        return trivial(items)


def seconds_for(procedure, items: Sequence, batch_size: int, executor: Executor) -> float:
    """Seconds until every item is stored."""
    with tempfile.TemporaryDirectory() as root:
        started = time.perf_counter()
        runs.run_items(items, procedure, name="division", config={}, batch_size=batch_size, root=root, executor=executor, progress=False)
        return time.perf_counter() - started


@contextmanager
def workers(count: int) -> Iterator[tuple[Executor, float]]:
    """An executor of `count` worker processes, or this process for `HERE`; and the seconds that they took to start."""
    if count == HERE:
        yield Here(), 0.0
        return
    started = time.perf_counter()
    executor, stop = start(f"local:{count}", threads=1)
    try:
        yield executor, time.perf_counter() - started
    finally:
        stop()


@contextmanager
def setting(name: str | None, root: str) -> Iterator[None]:
    """In the block studies compute where `name` says (None: here), and store in `root`; what was started for it ends with the block."""
    before, runs_before = os.environ.pop(SETTING, None), paths.RUNS
    os.environ |= {} if name is None else {SETTING: name}
    paths.RUNS = Path(root)
    try:
        yield
    finally:
        stop_executor()
        paths.RUNS = runs_before
        os.environ.pop(SETTING, None)
        os.environ |= {} if before is None else {SETTING: before}


def study(model: str, images: int, seed: int, batch_size: int, steps: int) -> ReconstructionStudy:
    """Table 2 without null-text inversion: the autoencoder, and the model without and with its adapter at two guidance scales each."""
    chosen = dict(model=model, adapters=None, dataset="scenes", split="test", num_images=images, num_inference_steps=steps)
    rest = dict(guidance_scale=7.5, null_text=False, num_inner_steps=1, null_text_lr=0.1, batch_size=batch_size, seed=seed, device="cpu")
    return ReconstructionStudy(configuration(chosen | rest, **TABLE_PARAMETERS))


def table(model: str, counts: Sequence[int], images: int, batch_size: int, steps: int) -> tuple[list[str], float]:
    """The lines of a table whose models and items are divided, as its page measures it, and the UNet evaluations a second of one worker.

    The clock has everything: models are loaded and hashed here, weights travel, items are computed and stored, and each model's row ends
    before the next begins. Only the start of the workers, with their first imports, is apart.
    """
    lines = ["| Workers | Start | Seconds | An item | Times as fast | Of the workers |", "|---|---|---|---|---|---|"]
    first, found = None, []
    for count in counts:
        with tempfile.TemporaryDirectory() as root, setting(None if count == HERE else f"local:{count}", root):
            started = time.perf_counter()
            chosen_executor(threads=1)
            few = study(model, max(2, 2 * count * batch_size), 1, batch_size, 2)
            few.measure(few.rows)
            start_seconds, started = time.perf_counter() - started, time.perf_counter()
            whole = study(model, images, 0, batch_size, steps)
            found.append(values(whole.measure(whole.rows)))
            seconds = time.perf_counter() - started
        first = first or seconds
        ratio, items = first / seconds, images * len(whole.rows)
        shown = f"{ratio:.2f} | {ratio / max(1, count) * max(1, counts[0]):.0%}".replace("%", " %")
        name = "this process" if count == HERE else count
        lines.append(f"| {name} | {start_seconds:.1f} s | {seconds:.1f} | {1000 * seconds / items:.0f} ms | {shown} |")
    equal = all(one == found[0] for one in found)
    lines += ["", f"{len(whole.rows)} rows; the results are {'equal, bit for bit' if equal else 'DIFFERENT'}."] if len(counts) > 1 else []
    return lines, evaluations(whole, counts[0]) / first


def evaluations(whole: ReconstructionStudy, count: int) -> int:
    """UNet evaluations of one sample behind a table: rows share inversions in one process alone; two a step if guided."""
    rows = [row for row in whole.rows if row.settings.kind != "vae"]
    inversions = len({row.adapter for row in rows}) if count == HERE else len(rows)
    samplings = sum(1 if row.settings.guidance_scale == 1 else 2 for row in rows)
    return len(whole.items) * whole.cfg.num_inference_steps * (inversions + samplings)


def waits(counts: Sequence[int], size: int, seconds: float) -> list[str]:
    """The lines of `size` items that wait: how much of each worker's time the division leaves unused."""
    lines = ["| Workers | Seconds | At best | Times as fast as one |", "|---|---|---|---|"]
    first = None
    for count in counts:
        with workers(count) as (executor, _):
            seconds_for(trivial, range(16), 1, executor)
            found = seconds_for(Waits(seconds), range(size), 1, executor)
        first = first or found * max(1, count)
        lines.append(f"| {count} | {found:.2f} | {size * seconds / max(1, count):.2f} | {first / found:.2f} |")
    return lines


def costs(counts: Sequence[int], sizes: Sequence[int], repeats: int) -> list[str]:
    """Milliseconds of a trivial item, by number of items: by the clock, and of processors, which the load of the machine does not change.

    Each size has as many items in all as the largest, in turns, so that each meets the same load: the least of few short runs would
    flatter them. The median of `repeats` turns.
    """
    lines = [f"| Workers | {' | '.join(f'{size:,} items' for size in sizes)} |", "|---" * (len(sizes) + 1) + "|"]
    for count in [HERE, *(count for count in counts if count != HERE)]:
        with workers(count) as (executor, _):
            seconds_for(trivial, range(16), 1, executor)
            turns = [[_cost(size, max(sizes), executor) for size in sizes] for _ in range(repeats)]
        cells = [[1000 * statistics.median(part) for part in zip(*column, strict=True)] for column in zip(*turns, strict=True)]
        shown = (f"{clock:.2f} ms, {processor:.2f} of a processor" for clock, processor in cells)
        lines.append(f"| {'this process' if count == HERE else count} | {' | '.join(shown)} |")
    return lines


def _cost(size: int, total: int, executor: Executor) -> tuple[float, float]:
    """Seconds an item by the clock and of processors, of as many runs of `size` items as make `total`."""
    runs_of_it = max(1, total // size)
    used = _processor_seconds()
    seconds = sum(seconds_for(trivial, range(size), 1, executor) for _ in range(runs_of_it))
    return seconds / (runs_of_it * size), (_processor_seconds() - used) / (runs_of_it * size)


def _processor_seconds() -> float:
    """Of this process and its workers so far."""
    own = sum(os.times()[:2])
    try:
        import psutil
    except ImportError:  # comes with Dask, without which there are no workers
        return own
    return own + sum(sum(process.cpu_times()[:2]) for process in psutil.Process().children(recursive=True))


def paper_size(evaluations_per_second: float, counts: Sequence[int], share: float) -> list[str]:
    """Hours of the paper's tables for numbers of workers, of whose time `share` counts."""
    lines = [f"| | Evaluations | {' | '.join(f'{count} workers' for count in counts)} |", "|---" * (len(counts) + 2) + "|"]
    for name, evaluations in PAPER.items():
        hours = [evaluations / evaluations_per_second / 3600 / (count * share) for count in counts]
        lines.append(f"| {name} | {evaluations:,} | {' | '.join(f'{one:.3g} h' for one in hours)} |")
    return lines


def _check(parser: OneSentenceParser, options: argparse.Namespace) -> None:
    """Ends with one sentence where an option is out of range."""
    least = {"workers": 0, "images": 0, "waiting": 0, "seconds": 0, "batch_size": 1, "steps": 1, "trivial": 1, "repeats": 1}
    for name, minimum in (least | {"paper_workers": 1, "evaluations_per_second": 1e-9, "share": 1e-9}).items():
        given = getattr(options, name)
        for value in given if isinstance(given, list) else [given]:
            if value is not None and not minimum <= value < math.inf:
                parser.error(f"--{name.replace('_', '-')} is {value}, but must be a number of at least {minimum:g}")
    if options.share > 1:
        parser.error(f"--share is {options.share}, but must be at most 1")


def main() -> None:
    """Command line."""
    parser = OneSentenceParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="0: this process")
    parser.add_argument("--images", type=int, default=48, help="of the table; 0: no table")
    parser.add_argument("--waiting", type=int, default=40, help="items that wait; 0: none")
    parser.add_argument("--seconds", type=float, default=0.2, help="that each of them waits")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--trivial", type=int, nargs="*", default=[100, 300, 1000], metavar="ITEMS")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--paper-workers", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--evaluations-per-second", type=float, help="of one worker, for the paper's size (what is measured here)")
    parser.add_argument("--share", type=float, default=0.9, help="of a worker's time that counts, for the paper's size")
    options = parser.parse_args()
    _check(parser, options)
    os.environ.pop(SETTING, None)
    torch.set_num_threads(1)
    host, rate = machine(), options.evaluations_per_second
    print(f"{host['name']}, {host['cores']} cores; one thread a worker; load {os.getloadavg()[0]:.1f} before", end="\n\n")
    if options.images:
        print(f"Table 2 of {options.images} images in batches of {options.batch_size}, {options.steps} steps:", end="\n\n")
        lines, measured = table(options.model, options.workers, options.images, options.batch_size, options.steps)
        print("\n".join(lines), end="\n\n", flush=True)
        rate = rate or measured
    if options.waiting:
        print(f"{options.waiting} items that wait {1000 * options.seconds:.0f} ms, as for a GPU:", end="\n\n")
        print("\n".join(waits(options.workers, options.waiting, options.seconds)), end="\n\n", flush=True)
    if options.trivial:
        print("Items that take no time, an item:", end="\n\n")
        print("\n".join(costs(options.workers, options.trivial, options.repeats)), end="\n\n", flush=True)
    if rate:
        print(
            f"The paper's size at {rate:.3g} UNet evaluations a second and worker, of which {options.share:.0%} count:".replace("%", " %")
        )
        print("", *paper_size(rate, options.paper_workers, options.share), sep="\n")


if __name__ == "__main__":
    main()
