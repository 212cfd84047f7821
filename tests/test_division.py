"""Two processes at one run: an item is computed by one of them, and no death or failure of one keeps the other from the end."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from companion.runs.claims import Claims, _host
from companion.runs.division import Division, Here, Outputs, origin_of
from companion.runs.runs import run_items
from companion.runs.stored import Origin

GONE = 2**22 + 1  # more than any process id that Linux gives


def claim(folder, **owner):
    (folder / "a.claim").write_text(json.dumps({"host": _host(), "pid": os.getpid(), "token": "another", **owner}))


# Claims ---------------------------------------------------------------------------------------------------------------------------


def test_all_keys_are_claimed_or_none(tmp_path):
    with Claims(tmp_path) as first, Claims(tmp_path) as second:
        assert first.take(["b", "c"]) and not second.take(["a", "b"]) and second.take(["a"])
        assert {file.name for file in tmp_path.iterdir()} == {"a.claim", "b.claim", "c.claim"}
        second.release(["b"])
        assert not second.take(["b"]), "only the owner gives a claim back"
        first.release(["b", "c"])
        assert second.take(["b", "c"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("owner", "free"), [({"pid": GONE}, True), ({}, False), ({"host": "another", "pid": GONE}, False)])
def test_a_claim_of_a_process_that_is_gone_is_free(tmp_path, owner, free):
    claim(tmp_path, **owner)
    with Claims(tmp_path) as claims:
        assert claims.take(["a"]) is free
    assert (tmp_path / "a.claim").exists() is not free


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 1}'])
def test_a_claim_that_says_nothing_is_believed_until_it_is_silent(tmp_path, content):
    (tmp_path / "a.claim").write_text(content)
    with Claims(tmp_path, patience=0.1) as claims:
        assert not claims.take(["a"])
        time.sleep(0.15)
        assert claims.take(["a"])


def test_a_claim_lives_for_as_long_as_it_is_touched(tmp_path):
    claim(tmp_path, host="another")
    with Claims(tmp_path, patience=0.3) as claims:
        for _ in range(5):
            assert not claims.take(["a"])
            time.sleep(0.1)
            os.utime(tmp_path / "a.claim")
        time.sleep(0.2)
        assert not claims.take(["a"])
        time.sleep(0.4)
        assert claims.take(["a"])


def test_an_owner_touches_its_claims(tmp_path):
    with Claims(tmp_path, beat=0.02) as claims:
        claims.take(["a"])
        os.utime(tmp_path / "a.claim", (0, 0))
        deadline = time.monotonic() + 30
        while (tmp_path / "a.claim").stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / "a.claim").stat().st_mtime > 0


def test_of_two_that_find_a_dead_owner_one_has_the_claim(tmp_path, monkeypatch):
    """The slower one has judged the old claim, and finds the new one under its name."""
    claim(tmp_path, pid=GONE)
    with Claims(tmp_path) as slow, Claims(tmp_path) as fast:
        rename = os.rename

        def late(*names):
            monkeypatch.setattr(os, "rename", rename)
            assert fast.take(["a"])
            rename(*names)

        monkeypatch.setattr(os, "rename", late)
        assert not slow.take(["a"])
        assert json.loads((tmp_path / "a.claim").read_bytes()) == json.loads(fast._mine)
        assert len(list(tmp_path.iterdir())) == 1


def test_who_was_taken_for_dead_leaves_the_new_owners_claim(tmp_path):
    with Claims(tmp_path) as claims:
        claims.take(["a"])
        claim(tmp_path)
    assert json.loads((tmp_path / "a.claim").read_bytes())["token"] == "another"


# Division -------------------------------------------------------------------------------------------------------------------------


def divide(items, tmp_path, procedure=lambda items: items, *, stored=None, **options):
    stored = {} if stored is None else stored
    with Claims(tmp_path, patience=0.2) as claims:
        division = Division(
            procedure,
            missing=lambda batch: [key for key in batch if key not in stored],
            store=lambda batch, outputs: stored.update(zip(batch, outputs, strict=True)),
            claims=claims,
            **options,
        )
        division.run([{str(i): i} for i in items])
    return stored


def test_what_another_process_gives_up_is_computed_here(tmp_path):
    with Claims(tmp_path) as other:
        other.take(["1"])
        threading.Timer(0.3, other.release, [["1"]]).start()
        assert list(divide(range(3), tmp_path).items()) == [("0", 0), ("2", 2), ("1", 1)]


def test_the_last_owner_may_have_stored_it_between_the_look_and_the_claim(tmp_path):
    looks, computed = [], []
    with Claims(tmp_path) as claims:

        def missing(batch):
            looks.append(batch)
            return ["0"] if len(looks) == 1 else []

        Division(computed.append, missing=missing, store=computed.append, claims=claims).run([{"0": 0}])
    assert len(looks) == 2 and not computed and not list(tmp_path.iterdir())


def test_an_executor_gets_what_it_wants_and_no_more(tmp_path):
    class Two(ThreadPoolExecutor):
        window, most, under_way = 2, 0, 0

        def submit(self, function, /, *arguments):
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            future = super().submit(function, *arguments)
            future.add_done_callback(lambda _: setattr(self, "under_way", self.under_way - 1))
            return future

    with Two(4) as executor:
        assert divide(range(9), tmp_path, lambda items: time.sleep(0.01) or items, executor=executor) == {str(i): i for i in range(9)}
    assert executor.most == 2


def test_nothing_is_begun_after_a_failure_and_what_is_under_way_is_stored(tmp_path):
    begun = []

    class Slow(Here):
        window = 3

        def submit(self, function, /, items):
            begun.append(items)
            future = Future()
            future.set_running_or_notify_cancel()
            if items == [0]:
                future.set_exception(RuntimeError("no"))
            else:
                threading.Timer(0.1, future.set_result, [items]).start()
            return future

    stored = {}
    with pytest.raises(RuntimeError, match="no"):
        divide(range(9), tmp_path, executor=Slow(), stored=stored)
    assert begun == [[0], [1], [2]] and stored == {"1": 1, "2": 2} and not list(tmp_path.iterdir())


def test_results_come_from_the_machine_that_they_name():
    here = Origin("code", "cuda", "A", "2.0", {"x": "y"})
    assert origin_of([{}], here) is here
    there = origin_of(Outputs([{}], {"cpu": "B", "cuda": "C"}, "2.1"), here)
    assert there == Origin("code", "cuda", "C", "2.1") and there.modules == {"x": "y"}


# Two processes --------------------------------------------------------------------------------------------------------------------

WORKER = """
import sys, time
from pathlib import Path
from companion.runs.runs import run_items
folder, who = Path(sys.argv[1]), sys.argv[2]

def procedure(items):
    with open(folder / f"calls-{who}.txt", "a") as calls:
        calls.write("".join(f"{item}\\n" for item in items))
    time.sleep(100 if 0 in items and (folder / "stuck").exists() else 0.05)
    return [{"root": item**0.5} for item in items]

(folder / f"ready-{who}").touch()
while len(list(folder.glob("ready-*"))) < 2:
    time.sleep(0.01)
print(run_items(list(range(24)), procedure, name="two", config={}, batch_size=2, root=folder, progress=False))
"""


def start(folder, who):
    (folder / "worker.py").write_text(textwrap.dedent(WORKER))
    command = [sys.executable, str(folder / "worker.py"), str(folder), who]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})


def calls(folder, who):
    file = folder / f"calls-{who}.txt"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    root = tmp_path_factory.mktemp("alone")
    return str(
        run_items(
            list(range(24)),
            lambda items: [{"root": item**0.5} for item in items],
            name="two",
            config={},
            batch_size=2,
            root=root,
            progress=False,
        )
    )


def test_two_processes_compute_each_item_once_and_have_all(tmp_path, alone):
    processes = [start(tmp_path, who) for who in "ab"]
    assert [process.communicate(timeout=300)[0].strip() for process in processes] == [alone, alone]
    assert sorted(calls(tmp_path, "a") + calls(tmp_path, "b")) == list(range(24))
    assert calls(tmp_path, "a") and calls(tmp_path, "b")
    assert not list(tmp_path.rglob("*.claim")) and not list(tmp_path.rglob("*.tmp"))


def test_the_items_of_a_killed_process_are_computed_by_the_other(tmp_path, alone):
    (tmp_path / "stuck").touch()
    processes = {who: start(tmp_path, who) for who in "ab"}
    deadline = time.monotonic() + 200
    while len(list(tmp_path.glob("two/*/*/*.npz"))) < 22 and time.monotonic() < deadline:
        time.sleep(0.05)
    (dead,) = [who for who in "ab" if calls(tmp_path, who) == [0, 1]]  # stuck in them; the other has done the rest, and waits
    (left,) = {*"ab"} - {dead}
    (tmp_path / "stuck").unlink()
    processes[dead].send_signal(signal.SIGKILL)
    processes[dead].wait()
    assert processes[left].communicate(timeout=300)[0].strip() == alone
    assert calls(tmp_path, left) == [*range(2, 24), 0, 1]
    assert not list(tmp_path.rglob("*.claim"))
