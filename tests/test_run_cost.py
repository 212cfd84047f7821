"""What an item costs a run besides its procedure: the same number of calls, however many items there are and whoever computes them.

Calls of Python and of C are counted instead of seconds, so that the load of the machine does not matter.
"""

import gc
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from companion.runs import runs
from companion.runs.claims import Claims
from companion.runs.stored import item_key

FEW, MANY, EVENLY = 60, 600, 0.05


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


def cost(folder, count, **options):
    """Calls an item of a run of `count` items that cost nothing."""
    arguments = dict(name="cost", config={}, root=folder / str(count), progress=False) | options
    return calls(lambda: runs.run_items(range(count), trivial, **arguments)) / count


def trivial(items):
    return [{"value": item} for item in items]


def assert_flat(few, many):
    assert many < few * (1 + EVENLY), f"{few:.0f} calls an item of {FEW}, {many:.0f} of {MANY}"


class Ahead(ThreadPoolExecutor):
    """Wants a few batches at a time, as a cluster does."""

    window = 4


@pytest.fixture(autouse=True)
def warm(tmp_path):
    cost(tmp_path, 2)


def test_an_item_costs_the_same_among_few_and_many(tmp_path):
    few, many = (cost(tmp_path, count) for count in (FEW, MANY))
    assert_flat(few, many)


def test_an_item_costs_the_same_where_an_executor_computes_it(tmp_path):
    with Ahead(1) as executor:
        cost(tmp_path, 3, executor=executor)
        few, many = (cost(tmp_path, count, executor=executor) for count in (FEW, MANY))
    assert_flat(few, many)


def test_an_item_that_is_stored_costs_the_same_among_few_and_many(tmp_path):
    again = []
    for count in (FEW, MANY):
        cost(tmp_path, count)
        again.append(cost(tmp_path, count))
    assert_flat(*again)


def test_an_item_costs_the_same_while_another_process_holds_some(tmp_path, monkeypatch):
    """The other one holds eight, from the middle on, and gives them back when this process has nothing else to do."""
    found = []
    for count in (FEW, MANY):
        folder = runs.run_folder("cost", {}, root=tmp_path / str(count)) / runs._Run(tmp_path, trivial, "cpu", False, "").origin.code
        with Claims(folder) as other:
            keys = [item_key(item) for item in range(count // 2, count // 2 + 8)]
            assert other.take(keys)
            monkeypatch.setattr("companion.runs.division.time.sleep", lambda _: other.release(keys))  # noqa: B023
            found.append(cost(tmp_path, count))
    assert_flat(*found)
