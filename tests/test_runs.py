"""Each item once: resume after a kill, damaged files, changed settings, failures, executors."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from companion.base.files import atomic_write
from companion.evidence.provenance import computed_on
from companion.runs import runs
from companion.runs.runs import origins, run_folder, run_items
from companion.runs.stored import item_key, load_result


@dataclass(frozen=True)
class Item:
    id: str
    image: torch.Tensor
    caption: str


def make_items(n):
    return [Item(f"{i:03}", torch.full((3, 4, 4), i / 100), f"scene {i}") for i in range(n)]


class Counted:
    """A procedure that remembers which items it was called for."""

    def __init__(self, fail_on=()):
        self.batches, self.fail_on = [], set(fail_on)

    def __call__(self, items):
        self.batches.append([item.id for item in items])
        if self.fail_on & set(self.batches[-1]):
            raise RuntimeError(f"cannot do {self.batches[-1]}")
        return [{"mean": item.image.mean(), "image": item.image, "index": int(item.id)} for item in items]


def squares(items):
    return [{"square": float(int(item.id) ** 2)} for item in items]


def run(items, procedure, root, config=None, **options):
    return run_items(items, procedure, name="test", config=config or {"seed": 0}, root=root, progress=False, **options)


def test_results_remember_the_machines_that_computed_them(tmp_path, monkeypatch):
    items = make_items(4)
    here = computed_on(origins(run(items[:2], Counted(), tmp_path)))
    assert [(m["device"], m["torch"]) for m in here] == [("cpu", torch.__version__)] and here[0]["name"]
    monkeypatch.setattr(runs, "machine", lambda device: {"device": str(device), "name": "Another", "threads": 1})
    assert computed_on(origins(run(items[:2], Counted(), tmp_path))) == here  # read, not made here
    both = run(items, Counted(), tmp_path, device="cuda:1")
    another = {"device": "cuda:1", "name": "Another", "torch": torch.__version__}
    assert computed_on(origins(both)) == [*here, another] and computed_on(origins(both[2:])) == [another]


def test_second_run_reads_what_the_first_stored(tmp_path):
    items, procedure = make_items(7), Counted()
    first = run(items, procedure, tmp_path, batch_size=3)
    assert procedure.batches == [["000", "001", "002"], ["003", "004", "005"], ["006"]]
    second = run(items[::-1], procedure, tmp_path, batch_size=2)[::-1]
    assert len(procedure.batches) == 3
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        assert a.keys() == b.keys() == {"mean", "image", "index"}
        assert a["mean"] == b["mean"] == float(items[i].image.mean()) and type(b["mean"]) is float
        assert a["index"] == b["index"] == i
        np.testing.assert_array_equal(a["image"], b["image"])
        assert b["image"].dtype == np.float32


def test_more_items_do_only_the_batches_that_have_new_ones(tmp_path):
    procedure = Counted()
    run(make_items(3), procedure, tmp_path, batch_size=2)
    run(make_items(6), procedure, tmp_path, batch_size=2)
    assert procedure.batches == [["000", "001"], ["002"], ["002", "003"], ["004", "005"]]  # a batch is always computed whole


def test_changed_config_or_item_recomputes_and_repeated_items_do_not(tmp_path):
    items, procedure = make_items(2), Counted()
    run(items, procedure, tmp_path)
    run(items, procedure, tmp_path, config={"seed": 1})
    assert len(procedure.batches) == 4
    changed = Item(items[0].id, items[0].image + 1e-6, items[0].caption)
    results = run([changed, *items, changed], procedure, tmp_path)
    assert procedure.batches[4:] == [["000"]]
    assert results[0]["mean"] == results[3]["mean"] != results[1]["mean"]


def test_item_key_depends_on_id_caption_and_image_alone():
    base = Item("a", torch.zeros(3, 2, 2), "b")
    others = [
        Item("a", torch.zeros(3, 2, 2), "c"),
        Item("ab", torch.zeros(3, 2, 2), ""),
        Item("a", torch.zeros(3, 4, 1), "b"),
        Item("a", torch.zeros(3, 2, 2, dtype=torch.float64), "b"),
        Item("a", torch.full((3, 2, 2), 1e-30), "b"),
    ]
    assert item_key(base) == item_key(Item("a", torch.zeros(3, 2, 2), "b"))
    assert len({item_key(item) for item in [base, *others]}) == 6
    assert item_key(("a", 1)) != item_key(("a", "1")) and item_key({"a": 1}) != item_key(["a", 1])
    keyed = type("Keyed", (), {"key": "scene-7"})()
    assert item_key(keyed) == "scene-7"
    escaping = type("Keyed", (), {"key": "../scene"})()
    assert "/" not in item_key(escaping)


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "text"])
def test_a_damaged_file_is_recomputed(tmp_path, damage):
    items, procedure = make_items(3), Counted()
    before = run(items, procedure, tmp_path)
    (file,) = run_folder("test", {"seed": 0}, root=tmp_path).glob(f"*/{item_key(items[1])}.npz")
    content = bytearray(file.read_bytes())
    middle = content.index(b"\x0a\xd7\x23\x3c")  # 0.01 as float32, inside the image
    content[middle] ^= 1
    file.write_bytes({"empty": b"", "truncated": bytes(content[:-30]), "flipped": bytes(content), "text": b"not an archive"}[damage])
    after = run(items, procedure, tmp_path)
    assert procedure.batches[3:] == [["001"]]
    np.testing.assert_array_equal(before[1]["image"], after[1]["image"])
    assert load_result(file) is not None


def test_every_flipped_bit_is_noticed_and_numpy_reads_the_file(tmp_path):
    run(make_items(1), lambda items: [{"psnr": 23.5, "z": np.array([1.5, -2.0], dtype=np.float32)}], tmp_path)
    (file,) = tmp_path.glob("test/*/*/*.npz")
    content = file.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        file.write_bytes(damaged)
        assert load_result(file) is None, position
    file.write_bytes(content)
    assert load_result(file).keys() == {"psnr", "z"}
    with np.load(file) as stored:
        assert stored["psnr"] == 23.5 and stored["z"].tolist() == [1.5, -2.0]


def test_a_failing_batch_loses_nothing_that_was_done(tmp_path):
    items, procedure = make_items(6), Counted(fail_on={"003"})
    with pytest.raises(RuntimeError, match="cannot do"):
        run(items, procedure, tmp_path, batch_size=2)
    mended = Counted()
    results = run(items, mended, tmp_path, batch_size=2)
    assert mended.batches == [["002", "003"], ["004", "005"]]
    assert [result["index"] for result in results] == list(range(6))


def test_a_failing_batch_in_an_executor_loses_nothing_that_was_done(tmp_path):
    all_under_way = threading.Barrier(3)

    class Together(Counted):
        def __call__(self, items):
            all_under_way.wait(timeout=30)
            return super().__call__(items)

    with ThreadPoolExecutor(3) as executor, pytest.raises(RuntimeError, match="cannot do"):
        run(make_items(3), Together(fail_on={"000"}), tmp_path, executor=executor)
    all_under_way = threading.Barrier(1)
    mended = Together()
    run(make_items(3), mended, tmp_path)
    assert mended.batches == [["000"]]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (float("nan"), r"^The result psnr of item 001 is nan, but must be finite\.$"),
        (torch.tensor([1.0, float("inf")]), r"^The result psnr of item 001 is not finite everywhere, but must be finite\.$"),
        ("text", r"^The result psnr of item 001 is str, but must be a number or an array"),
        (torch.zeros(2, dtype=torch.bfloat16), r"^The result psnr of item 001 is torch\.bfloat16, but must be"),
    ],
)
def test_bad_results_are_named_and_the_batch_keeps_its_sound_ones(tmp_path, value, sentence):
    items = make_items(3)
    with pytest.raises(ValueError, match=sentence):
        run(items, lambda batch: [{"psnr": value if item.id == "001" else 20.0} for item in batch], tmp_path, batch_size=3)
    assert len(list(tmp_path.glob("test/*/*/*.npz"))) == 2


def test_nonfinite_results_are_kept_on_request(tmp_path):
    (result,) = run(make_items(1), lambda batch: [{"psnr": np.inf}], tmp_path, allow_nonfinite=True)
    assert result == {"psnr": float("inf")}


def test_bad_arguments_are_named_before_any_work(tmp_path):
    procedure = Counted()
    with pytest.raises(ValueError, match="batch_size is 0, but must be at least 1"):
        run(make_items(1), procedure, tmp_path, batch_size=0)
    with pytest.raises(ValueError, match=r"name is '\.\./x', but must be a folder name"):
        run_items(make_items(1), procedure, name="../x", config={}, root=tmp_path)
    with pytest.raises(ValueError, match=r"config\['scale'\] is nan"):
        run(make_items(1), procedure, tmp_path, config={"scale": float("nan")})
    assert procedure.batches == [] and list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="returned 1 results for 2 items"):
        run(make_items(2), lambda items: [{"x": 1}], tmp_path, batch_size=2)


@pytest.mark.parametrize("name", ["table2_recon/Base + DDIM, guidance 1", "quality/generated 7.5", "lambda=0.1 (rank 8)"])
def test_names_may_have_words_and_numbers(tmp_path, name):
    assert run_items(make_items(1), squares, name=name, config={}, root=tmp_path, progress=False) == [{"square": 0.0}]
    assert len(list((tmp_path / name).glob("*/*/*.npz"))) == 1


@pytest.mark.parametrize("name", ["", "/x", "x/../y", ".hidden", "a\\b", "a:b"])
def test_other_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="but must be a folder name"):
        run_folder(name, {}, root=tmp_path)


def test_a_process_pool_gives_the_same_results_in_order(tmp_path):
    items = make_items(5)
    with ProcessPoolExecutor(2) as executor:
        parallel = run(items, squares, tmp_path / "parallel", batch_size=2, executor=executor)
    assert parallel == run(items, squares, tmp_path / "serial", batch_size=2) == [{"square": float(i**2)} for i in range(5)]


def test_keys_may_be_any_text(tmp_path):
    results = run(make_items(1), lambda items: [{"file": 1.0, "allow_pickle": 2.0, "nti/steps": np.arange(3)}], tmp_path)
    (file,) = tmp_path.glob("test/*/*/*.npz")
    again = load_result(file)
    assert results[0]["file"] == again["file"] == 1.0 and again["allow_pickle"] == 2.0 and again["nti/steps"].tolist() == [0, 1, 2]


WORKER = """
import sys, time
from pathlib import Path
from companion.runs.runs import run_items
folder, pause, n = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])

def procedure(items):
    with open(folder / "calls.txt", "a") as calls:
        calls.write("".join(f"{item}\\n" for item in items))
    time.sleep(pause)
    return [{"square": float(item**2)} for item in items]

print([result["square"] for result in run_items(list(range(n)), procedure, name="kill", config={}, root=folder, progress=False)])
"""


def worker(folder, pause, n):
    (folder / "worker.py").write_text(textwrap.dedent(WORKER))
    command = [sys.executable, str(folder / "worker.py"), str(folder), str(pause), str(n)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})


def stored(folder):
    return sorted(folder.glob("kill/*/*/*.npz"))


def test_a_killed_run_continues_without_redoing_anything(tmp_path):
    process = worker(tmp_path, 0.1, 60)
    deadline = time.monotonic() + 120
    while len(stored(tmp_path)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = len(stored(tmp_path))
    assert 3 <= done < 60
    before = (tmp_path / "calls.txt").read_text().split()
    assert len(before) <= done + 1  # the one that was under way

    output, _ = worker(tmp_path, 0, 60).communicate(timeout=300)
    after = (tmp_path / "calls.txt").read_text().split()[len(before) :]
    assert [*before[:done], *after] == [str(i) for i in range(60)]
    assert output.strip() == str([float(i**2) for i in range(60)])


def test_atomic_write_leaves_the_old_content_when_interrupted(tmp_path, monkeypatch):
    file = tmp_path / "record.json"
    atomic_write(file, b"old")

    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(file, b"new")
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]


def test_progress_counts_what_is_done_and_what_was(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    run_items(make_items(2), squares, name="bar", config={}, root=tmp_path)
    run_items(make_items(4), squares, name="bar", config={}, root=tmp_path)
    text = capsys.readouterr().err
    assert "2/2" in text and "4/4" in text and "0/4" not in text
