"""A stored result knows its code, place and batch: edits are computed again, copies refused, and a killed run ends as an unbroken one."""

import shutil

import numpy as np
import pytest
from sample_records import make

from companion.base import staleness
from companion.base.staleness import modules_behind
from companion.evidence import records as results
from companion.runs import runs
from companion.runs.runs import code_of, origins, run_folder, run_items
from companion.studies.smoothness.walks import LatentWalk

SAMPLING = "smoothlib.sampling"


class Procedure:
    """Says which code computed a result, and depends on the batch as kernels do: by rounding."""

    def __init__(self, says=0.0):
        self.says, self.done = says, []

    def __call__(self, items):
        self.done.append(items)
        return [{"value": item, "says": self.says, "rounding": np.float32(item) + sum(items) * 1e-6} for item in items]


@pytest.fixture
def edit(monkeypatch):
    """As if a new process began after a module has been edited."""

    def to(**sources):
        now = {**staleness._all_sources(), **sources}
        monkeypatch.setattr(staleness, "_AT_IMPORT", now)

    return to


def run(items, procedure, root, **options):
    return run_items(items, procedure, name="test", config={}, root=root, progress=False, **options)


def test_an_edited_procedure_is_run_again_and_the_edit_taken_back_finds_its_results(tmp_path, edit, capsys):
    first = run([1, 2, 3], Procedure(1.0), tmp_path)
    assert capsys.readouterr().err == ""
    edit(**{"smoothlib.inversion": "x = 1\n", SAMPLING: "y = 1\n"})
    second = run([1, 2, 3, 4], Procedure(2.0), tmp_path)
    assert [one["says"] for one in second] == [2.0] * 4
    said = capsys.readouterr().err
    assert said == (
        "test: 3 of 4 missing results were computed by other code (smoothlib.inversion, smoothlib.sampling have changed) "
        "and are computed again; SMOOTHLIB_REUSE=1 takes them as they are.\n"
    )
    edit()
    unused = Procedure(3.0)
    assert run([1, 2, 3], unused, tmp_path) == first and unused.done == [] and capsys.readouterr().err == ""


def test_a_comment_is_no_edit(tmp_path, edit):
    first = run([1], Procedure(1.0), tmp_path)
    edit(**{SAMPLING: "# a comment\n" + staleness._all_sources()[SAMPLING]})
    assert run([1], Procedure(2.0), tmp_path) == first


def test_results_of_other_code_are_taken_on_request_and_make_the_record_older_than_the_code(tmp_path, edit, capsys, monkeypatch):
    run([1, 2], Procedure(1.0), tmp_path)
    old = modules_behind(SAMPLING)[SAMPLING]
    edit(**{SAMPLING: "x = 1\n"})
    monkeypatch.setenv(runs.REUSE, "1")
    both = run([1, 2, 3], Procedure(2.0), tmp_path)
    assert [one["says"] for one in both] == [1.0, 1.0, 2.0]
    assert "taken as they are, because SMOOTHLIB_REUSE is set" in capsys.readouterr().err
    assert {origin.modules[SAMPLING] for origin in origins(both)} == {old, modules_behind(SAMPLING)[SAMPLING]}

    provenance = results.provenance(config={}, models={}, data_hash="", seed=0, dtype="float32", duration=1, origins=origins(both))
    record = make(provenance=provenance)
    assert len(record["provenance"]["modules"][SAMPLING]) == 2 and SAMPLING in results.stale(record)
    assert SAMPLING in results.staleness_note(record)
    alone = results.provenance(config={}, models={}, data_hash="", seed=0, dtype="float32", duration=1, origins=origins(both[:2]))
    assert alone["modules"][SAMPLING] == old  # stamped with the code of its items, not of the process that assembles it


@pytest.mark.parametrize("value", ["", "0"])
def test_an_empty_or_zero_request_is_none(tmp_path, edit, monkeypatch, value):
    run([1], Procedure(1.0), tmp_path)
    edit(**{SAMPLING: "x = 1\n"})
    monkeypatch.setenv(runs.REUSE, value)
    assert run([1], Procedure(2.0), tmp_path)[0]["says"] == 2.0


def test_a_list_of_modules_that_is_damaged_or_of_another_code_is_not_believed(tmp_path, edit, monkeypatch):
    run([1], Procedure(1.0), tmp_path)
    (file,) = tmp_path.glob(f"test/*/*/{runs.CODE}")
    edit(**{SAMPLING: "x = 1\n"})
    monkeypatch.setenv(runs.REUSE, "1")
    for content in ("", "{", "[]", file.read_text().replace("sampling", "sampled")):
        file.write_text(content)
        assert run([1], Procedure(2.0), tmp_path)[0]["says"] == 2.0


TRAINING, REGULARIZER, INVERSION = "companion.training.loop", "smoothlib.regularizer.variation", "smoothlib.inversion"
PROCEDURES = [
    f"companion.studies.{name}"
    for name in ("smoothness.walks", "smoothness.generation", "reconstruction.reconstruct", "interpolation.walks")
]


def test_the_code_of_a_procedure_is_what_its_module_imports():
    found = code_of(LatentWalk.__new__(LatentWalk))
    assert found == modules_behind("companion.studies.smoothness.walks")
    assert {"smoothlib.interpolation.walk", "smoothlib.metrics.istd"} <= found.keys()
    assert not {TRAINING, REGULARIZER} & found.keys()
    for name in PROCEDURES:  # weights and images are in the key by their content
        behind = modules_behind(name)
        assert not [module for module in behind if module.startswith(("companion.weights.", "companion.training."))], name
        assert "companion.data.load" not in behind, name
    own = code_of(Procedure())
    assert {TRAINING, REGULARIZER, staleness.OUTSIDE} <= own.keys() and own != code_of(lambda items: items)


def test_an_edit_reaches_the_procedures_that_import_it_and_no_others(edit):
    names = ("reconstruction.reconstruct", "smoothness.walks", "smoothness.generation")
    names = [f"companion.studies.{name}" for name in names]
    before = {name: modules_behind(name) for name in names}
    edit(**{INVERSION: staleness._all_sources()[INVERSION].replace("z", "y")})
    assert [modules_behind(name) == before[name] for name in names] == [False, True, True]


def test_a_copied_file_is_not_taken_for_another_item_run_or_code(tmp_path, edit):
    first = run([1, 2], Procedure(1.0), tmp_path)
    one, two = sorted(tmp_path.glob("test/*/*/*.npz"), key=lambda file: runs.item_key(2) == file.stem)
    shutil.copy(one, two)
    assert run([1, 2], Procedure(1.0), tmp_path) == first
    other = run_folder("test", {"seed": 1}, root=tmp_path)
    shutil.copytree(one.parents[1], other)
    calls = Procedure(2.0)
    run_items([1, 2], calls, name="test", config={"seed": 1}, root=tmp_path, progress=False)
    assert calls.done == [[1], [2]]
    edit(**{SAMPLING: "x = 1\n"})
    run([1], Procedure(3.0), tmp_path)
    (newer,) = (file for file in tmp_path.glob(f"test/{one.parts[-3]}/*/{one.name}") if file.parent != one.parent)
    shutil.copy(one, newer)
    assert run([1], Procedure(3.0), tmp_path)[0]["says"] == 3.0


class KilledError(BaseException):
    """Ends a run as a signal would: nobody catches it."""


@pytest.mark.parametrize("stored", [1, 2, 4, 5])
def test_a_run_that_is_killed_in_the_middle_of_a_batch_ends_as_an_unbroken_one(tmp_path, monkeypatch, stored):
    items = list(range(7))
    unbroken = run(items, Procedure(), tmp_path / "unbroken", batch_size=3)
    store, count = runs.store_result, iter(range(100))

    def killed(file, result):
        if next(count) == stored:
            raise KilledError
        store(file, result)

    monkeypatch.setattr(runs, "store_result", killed)
    with pytest.raises(KilledError):
        run(items, Procedure(), tmp_path / "killed", batch_size=3)
    monkeypatch.setattr(runs, "store_result", store)
    assert len(list((tmp_path / "killed").rglob("*.npz"))) == stored
    resumed = run(items, Procedure(), tmp_path / "killed", batch_size=3)
    assert [one["rounding"] for one in resumed] == [one["rounding"] for one in unbroken]
    alone = run(items, Procedure(), tmp_path / "alone", batch_size=1)
    assert [one["rounding"] for one in alone] != [one["rounding"] for one in unbroken]  # this procedure would show a smaller batch


def test_an_item_that_comes_twice_belongs_to_its_first_batch(tmp_path):
    procedure = Procedure()
    found = run([1, 2, 1, 3, 2], procedure, tmp_path, batch_size=2)
    assert procedure.done == [[1, 2], [3]] and [one["value"] for one in found] == [1, 2, 1, 3, 2]
