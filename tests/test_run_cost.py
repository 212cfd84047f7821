"""What an item costs a run besides its procedure: the same number of calls, however many items there are and whoever computes them.

Calls of Python and of C are counted instead of seconds, so that the load of the machine does not matter.
"""

import gc
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from companion.runs import division, runs
from companion.runs.claims import Claims
from companion.runs.stored import item_key

NUMBERS = 40, 80, 160  # of items; what the later ones cost is compared, so that what a run costs once does not count
EVENLY = 0.05


def calls(work):
    """Calls of functions during `work()`, in this thread and those that it begins."""
    counted = [0]

    def count(frame, event, argument):
        counted[0] += event in ("call", "c_call")

    gc.collect()
    gc.disable()  # it would call finalizers now and then
    threading.setprofile(count)
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        gc.enable()
    return counted[0]


def cost(folder, count, procedure=None, **options):
    """Calls of a run of `count` items that cost nothing."""
    arguments = dict(name="cost", config={}, root=folder / str(count), progress=False) | options
    return calls(lambda: runs.run_items(range(count), procedure or trivial, **arguments))


def trivial(items):
    return [{"value": item} for item in items]


def growth(run):
    """How much more an item costs among the later ones than among the first, of runs of `NUMBERS` items: 0 where it costs the same."""
    few, some, many = map(run, NUMBERS)
    first, later = ((b - a) / (n - m) for (a, m), (b, n) in pairwise(zip((few, some, many), NUMBERS, strict=True)))
    return later / first - 1


class Ahead(ThreadPoolExecutor):
    """Wants a few batches at a time, as a cluster does."""

    window = 4


@pytest.fixture(autouse=True)
def warm(tmp_path):
    cost(tmp_path, 2)


def test_an_item_costs_the_same_among_few_and_many(tmp_path):
    assert growth(lambda count: cost(tmp_path, count)) < EVENLY


def test_a_cost_that_grows_is_seen(tmp_path):
    """A procedure that looks five times at each item before it."""
    seen = []

    def growing(items):
        seen.extend(items)
        return [{"value": sum(len(str(one)) for one in seen for _ in range(5))} for _ in items]

    def run(count):
        seen.clear()
        return cost(tmp_path, count, growing)

    assert growth(run) > EVENLY


def test_an_item_costs_the_same_where_an_executor_computes_it(tmp_path):
    """Waiting is counted too, and depends on chance: half as much again is allowed, which a cost that grows with the items exceeds."""
    with Ahead(1) as executor:
        cost(tmp_path, 3, executor=executor)
        assert growth(lambda count: cost(tmp_path, count, executor=executor)) < 0.5


def test_an_item_that_is_stored_costs_the_same_among_few_and_many(tmp_path):
    def again(count):
        cost(tmp_path, count)
        return cost(tmp_path, count)

    assert growth(again) < EVENLY


def test_an_item_costs_the_same_while_another_process_holds_some(tmp_path, monkeypatch):
    """The other one holds eight, from the middle on, and gives them back when this process has nothing else to do."""

    def run(count):
        folder = runs.run_folder("cost", {}, root=tmp_path / str(count)) / runs._Run(tmp_path, trivial, "cpu", False, "").origin.code
        with Claims(folder) as other:
            keys = [item_key(item) for item in range(count // 2, count // 2 + 8)]
            assert other.take(keys)
            monkeypatch.setattr(division.time, "sleep", lambda _: other.release(keys))
            return cost(tmp_path, count)

    assert growth(run) < EVENLY
