"""Is a record older than the code? Hashes of sources, and the status page."""

import json

import pytest
import torch
from sample_records import make

from companion.base import paths, same_numbers, staleness
from companion.base.config import ConfigurationError
from companion.base.staleness import modules_behind, package_modules, source_hash, staleness_note, united
from companion.evidence import status
from companion.evidence.records import comparison_table, load_record, record_files, save_record, stale

RUNS, STATISTICS = "companion.runs.runs", "companion.evidence.statistics"
SOURCE = '''"""A module."""

import math  # for pi


class A:
    """Doc."""

    def area(self, r: float) -> str:
        # a comment
        return f"{math.pi * r**2:.{2}f} {{cm}}"
'''


@pytest.mark.parametrize(
    "changed",
    [
        SOURCE.replace('"""Doc."""', '"""Another.\n\n    Longer.\n    """'),
        SOURCE.replace("        # a comment\n", ""),
        SOURCE.replace("  # for pi", "").replace("\n\n\n", "\n"),
        SOURCE.replace("    ", "  "),
        SOURCE.replace("(self, r: float)", "(\n        self,\n        r: float\n    )"),
        SOURCE.replace('"""A module."""\n', ""),
    ],
    ids=["docstring", "comment", "blank lines", "indentation", "line breaks", "no docstring"],
)
def test_editing_prose_makes_nothing_stale(changed):
    assert changed != SOURCE and source_hash(changed) == source_hash(SOURCE)


@pytest.mark.parametrize(
    "changed",
    [
        SOURCE.replace("r**2", "r**3"),
        SOURCE.replace("{2}", "{3}"),
        SOURCE.replace("cm", "mm"),
        SOURCE.replace("r: float", "r: float = 1"),
        SOURCE.replace("        return", "        self.x = 1\n        return"),
        SOURCE.replace('"""Doc."""', 'doc = """Doc."""'),
        SOURCE.replace("    def", "def").replace("        return", "    return"),
    ],
    ids=["number", "in a format", "in an f-string", "default", "statement", "not a docstring", "block"],
)
def test_editing_code_does(changed):
    assert changed != SOURCE and source_hash(changed) != source_hash(SOURCE)


def test_a_hash_is_the_same_on_every_python():
    """f-strings are one token on Python 3.11 and several from 3.12 on; these were computed on 3.11, 3.12 and 3.13."""
    assert source_hash(SOURCE) == "545ca4f9ccb9e376"
    assert source_hash('x = f"""a {1\n + 2}\n b""" + rf\'\\d{x!r:{3}}\'\n') == "9ce9b82678256e58"


@pytest.fixture
def sources_as_now(monkeypatch):
    """As if this process had begun now: someone may edit the code while the tests run."""
    monkeypatch.setattr(staleness, "_AT_IMPORT", staleness._all_sources())


def test_a_record_names_the_modules_that_have_changed_since(sources_as_now):
    record = make()
    modules = record["provenance"]["modules"]
    assert modules == modules_behind("companion.evidence.statistics")
    assert stale(record) == [] and staleness_note(record) == ""
    assert modules[STATISTICS] == source_hash(staleness._file(STATISTICS).read_text())
    modules[STATISTICS] = modules["walks"] = "0" * 16  # names of records from before there were two packages lead nowhere
    assert stale(record) == [STATISTICS, "walks"]
    note = f"Recorded with older code: {STATISTICS}, walks have changed since."
    assert staleness_note(record) == note
    modules |= {"smoothlib.gone": "0" * 16, "companion.gone": "0" * 16, "companion.also": "0" * 16}
    assert staleness_note(record) == (
        f"Recorded with older code: smoothlib.gone, {STATISTICS}, walks and 2 other modules have changed since."
    )
    for name in ("smoothlib.gone", "companion.gone", "companion.also"):
        del modules[name]
    assert note in str(comparison_table("table2", recorded=record)) and note in comparison_table("table2", recorded=record)._repr_html_()
    del record["provenance"]["modules"]
    assert stale(record) == ["unknown"] and staleness_note(record).endswith("the record does not say which code made it.")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of a few lines; the function writes a module and lets a new process begin."""

    def write(name, source):
        file = tmp_path / "house" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
        monkeypatch.setattr(staleness, "_AT_IMPORT", staleness._all_sources())

    monkeypatch.setattr(staleness, "HOME", tmp_path)
    monkeypatch.setattr(staleness, "PACKAGES", ("house",))
    monkeypatch.setattr(staleness, "WITHOUT_INFLUENCE", frozenset({"house.figures"}))
    for name, source in {
        "__init__.py": "",
        "walks.py": "from typing import TYPE_CHECKING\nfrom .metrics import Even\nif TYPE_CHECKING:\n    from .never import X\n",
        "metrics/__init__.py": "from .even import Even\nfrom .odd import Odd\n",
        "metrics/even.py": "from .. import figures\nfrom ..sampling import sample\nclass Even: pass\n",
        "metrics/odd.py": "class Odd: pass\n",
        "sampling.py": "def sample():\n    from . import late\n    import torch\n",
        "late.py": "import house.absolute\nfrom house import walks\n",
        "absolute.py": "",
        "never.py": "",
        "figures.py": "from . import behind_figures\n",
        "behind_figures.py": "",
    }.items():
        write(name, source)
    return write


def test_the_modules_behind_a_result_are_those_that_its_own_imports(package):
    found = modules_behind("house.walks")
    assert list(found) == [f"house.{name}" for name in ("absolute", "late", "metrics.even", "sampling", "walks")]
    assert set(modules_behind("house.metrics")) == {"house.metrics.even", "house.metrics.odd", *found}
    assert list(modules_behind("house.absolute", "house.never")) == ["house.absolute", "house.never"]
    assert set(package_modules()) == {*found, *(f"house.{name}" for name in ("metrics.odd", "never", "behind_figures"))}
    with pytest.raises(ValueError, match="names has 'nowhere', but must be modules of"):
        modules_behind("house.walks", "nowhere")


def test_the_hashes_change_with_the_code_of_any_module_behind(package):
    before = modules_behind("house.walks")
    package("late.py", "x = 1\n")
    package("never.py", "x = 1\n")
    after = modules_behind("house.walks")
    assert {name for name, _ in before.items() ^ after.items()} == {"house.late", "house.absolute"}  # `late` imports it no more


def test_the_code_is_that_of_the_start_and_compared_with_that_of_now(package, tmp_path):
    """A module that is edited while a run goes on is not what made the result."""
    record = {"provenance": {"modules": modules_behind("house.absolute")}}
    assert stale(record) == []
    (tmp_path / "house" / "absolute.py").write_text("x = 2\n")
    assert modules_behind("house.absolute") == record["provenance"]["modules"] and stale(record) == ["house.absolute"]


def test_a_record_of_several_codes_is_older_than_the_code(package):
    old = modules_behind("house.walks")
    package("sampling.py", "x = 1\n")
    new = modules_behind("house.walks")
    together = united([old, new, {staleness.OUTSIDE: "0" * 16}])
    assert together["house.sampling"] == sorted([old["house.sampling"], new["house.sampling"]])
    assert together["house.walks"] == new["house.walks"]
    assert united([new]) == new and stale({"provenance": {"modules": united([new])}}) == []
    assert stale({"provenance": {"modules": together}}) == ["house.sampling"]


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Writes the table of versions that compute the same numbers."""

    def write(table):
        (tmp_path / same_numbers.FILE).write_text(table if isinstance(table, str) else json.dumps(table))
        same_numbers.pairs.cache_clear()

    monkeypatch.setattr(paths, "DATA", tmp_path)
    same_numbers.pairs.cache_clear()
    yield write
    same_numbers.pairs.cache_clear()


def test_a_version_that_computes_the_same_numbers_makes_nothing_stale(package, told, tmp_path):
    before = modules_behind("house.absolute", "house.never")
    record = {"provenance": {"modules": before}}
    package("absolute.py", "x = 1\n")
    assert stale(record) == ["house.absolute"] and staleness.same_numbers(record) == {}
    now = modules_behind("house.absolute")["house.absolute"]
    told({"house.absolute": {now: {before["house.absolute"]: "refuses more"}}})
    assert stale(record) == [] and staleness_note(record) == ""
    assert staleness.same_numbers(record) == {"house.absolute": "refuses more"}
    assert stale({"provenance": {"modules": before | {"house.absolute": "0" * 16}}}) == ["house.absolute"]  # another version before
    assert stale({"provenance": {"modules": before | {"house.absolute": [before["house.absolute"], now]}}}) == ["house.absolute"]
    package("never.py", "x = 1\n")
    assert stale(record) == ["house.never"]  # the pair is the other module's
    package("absolute.py", "x = 2\n")
    assert stale(record) == ["house.absolute", "house.never"] and staleness.same_numbers(record) == {}  # another version now


@pytest.mark.parametrize("table", ["[", "[]", "5", {"a": 5}, {"a": {"b": ["c"]}}, {"a": {"b": {"c": ""}}}, {"a": {"b": {"c": None}}}])
def test_a_damaged_table_of_such_versions_is_named(package, told, table):
    record = {"provenance": {"modules": {"house.absolute": "0" * 16}}}
    told(table)
    with pytest.raises(ValueError, match=r"same_numbers\.json (is not the table|must give a reason).*: restore it$"):
        stale(record)


def test_every_pair_that_ships_is_of_the_module_that_is_here_and_of_a_record(sources_as_now):
    """Else it serves nobody, and can go."""
    behind = [record["provenance"]["modules"] for record in map(load_record, record_files(paths.RESULTS))]
    for module, now, before in same_numbers.pairs(paths.DATA / same_numbers.FILE):
        assert staleness._hash_now(module) == now and any(made.get(module) == before for made in behind), module


def test_the_status_page_has_a_row_for_every_record(tmp_path, sources_as_now, monkeypatch):
    record = make()
    save_record(record, tmp_path / "table2_recon.json")
    record["provenance"]["moved"] = {"from": "0" * 40, "recorded_modules": {}}
    save_record(record | {"name": "moved"}, tmp_path / "moved.json")
    record["provenance"]["modules"][STATISTICS] = "0" * 16
    save_record(record | {"name": "train_base"}, tmp_path / "train_base.json")
    del record["provenance"]["modules"]
    (tmp_path / "before.json").write_text(json.dumps(record | {"name": "before"}), encoding="utf-8")  # from before there were seals
    table = status.execution_table(folder=tmp_path)
    assert list(table.index) == ["before", "moved", "table2_recon", "train_base"]
    row, made = table.loc["table2_recon"], record["provenance"]
    assert (row["Recorded"], row["Minutes"], row["Items"]) == (made["date"][:10], "1.0", "12")
    assert row["Commit"].startswith(made["commit"][:10]) if made["commit"] else row["Commit"] == "none"
    assert (row["torch"], row["Device"]) == (torch.__version__.partition("+")[0], "cpu, float32")
    code = status.code_table(folder=tmp_path)
    assert code["Code since"].to_dict() == {
        "before": "unknown",
        "moved": "moved, same program",
        "table2_recon": "the same",
        "train_base": f"changed: {STATISTICS}",
    }
    monkeypatch.setattr(
        status, "same_numbers", lambda record: {"a": "refuses more"} if record["name"] in ("table2_recon", "train_base") else {}
    )
    code_too = status.code_table(folder=tmp_path)["Code since"]
    assert code_too["table2_recon"] == "1 module changed in what is refused, not in a number"
    assert code_too["train_base"] == f"changed: {STATISTICS}; 1 module changed in what is refused, not in a number"
    assert code["Seal"].to_dict() == {"before": "none: older than seals"} | dict.fromkeys(("moved", "table2_recon", "train_base"), "holds")
    with pytest.raises(ConfigurationError, match=r"Parameter records is '.*nope', but must be a folder with recorded results"):
        status.execution_table(folder=tmp_path / "nope")
