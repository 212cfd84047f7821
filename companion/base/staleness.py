"""Which code makes a result, and is a recorded result older than it? Stored results and records hold a hash of every module behind them.

The modules behind a result are found in the source: the module that computes it, those that this one imports, and so on. What a process
happens to have imported besides does not count.

Editing prose makes no result stale (see `source_hash`). Needs nothing outside the standard library, so that the book's build can ask too.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .same_numbers import reason_for
from .source_hash import source_hash

__all__ = [
    "UNKNOWN", "has_no_influence", "modules_behind", "package_modules", "same_numbers", "source_hash", "stale", "staleness_note", "united",
]  # fmt: skip

Modules = Mapping[str, str]  # dotted name -> hash of its source

UNKNOWN = "unknown"  # what `stale` answers for a record that holds no hashes
NAMED = 4  # modules in a sentence; `stale` has them all
OUTSIDE = "(procedure)"  # stands for the source of a procedure from elsewhere
# Modules and packages that cannot change a measured value, and why. Besides these, `__init__` files: they only give names.
WITHOUT_INFLUENCE = frozenset(
    [
        "companion.base",
        "companion.book",
        "companion.data.links",  # refuses, and gives nothing back
        "companion.evidence.chance",
        "companion.evidence.claims",
        "companion.evidence.claims_table",
        "companion.evidence.effects",
        "companion.evidence.fields",
        "companion.evidence.floors",
        "companion.evidence.findings",
        "companion.evidence.models",
        "companion.evidence.paper",
        "companion.evidence.provenance",
        "companion.evidence.published",
        "companion.evidence.recipes",
        "companion.evidence.record_checks",
        "companion.evidence.records",
        "companion.evidence.statements",
        "companion.evidence.status",
        "companion.evidence.stored_records",
        "companion.evidence.tables",
        "companion.evidence.trade",
        "companion.evidence.weighing",
        "companion.runs",  # who computes an item, when, and where it lies; test_runs.py, test_division.py and test_dask.py compare bits
        "companion.studies.rows",
        "companion.weights.cards",
    ]
)
HOME = Path(__file__).resolve().parents[2]  # the folder that holds both packages
PACKAGES = ("companion", "smoothlib")


def _file(name: str) -> Path:
    return HOME.joinpath(*name.split(".")).with_suffix(".py")


def _all_sources() -> dict[str, str]:
    """Dotted name -> source of every module of both packages; a package's is that of its `__init__`."""
    every = [file for package in PACKAGES for file in sorted((HOME / package).rglob("*.py"))]
    files = {file.relative_to(HOME).with_suffix("").parts: file for file in every}
    return {".".join(part for part in parts if part != "__init__"): file.read_text(encoding="utf-8") for parts, file in files.items()}


def has_no_influence(name: str) -> bool:
    """Is a module, or the package that it lies in, one of `WITHOUT_INFLUENCE`?"""
    return any(name == one or name.startswith(f"{one}.") for one in WITHOUT_INFLUENCE)


_AT_IMPORT = _all_sources()  # as they were when this process began: a file that is edited during a long run is not what made its result


def modules_behind(*names: str) -> dict[str, str]:
    """Name -> hash of every module that can influence what the modules `names` compute: they and all that they import, in turn.

    Imports inside functions count, those for type checkers do not. A name that a package hands on ("from .metrics import X") leads to the
    module that defines it. Modules without influence on a value neither count nor lead further. Imports nothing.

    Raises ValueError for a name that is no module of the packages.
    """
    if unknown := [name for name in names if name not in _AT_IMPORT]:
        raise ValueError(f"names has {unknown[0]!r}, but must be modules of {' or '.join(PACKAGES)}.")
    found, waiting = set(), [name for name in names if _counts(name)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _imports(name, _AT_IMPORT[name])
    return {name: source_hash(_AT_IMPORT[name]) for name in sorted(found) if not _is_package(name)}


def package_modules() -> dict[str, str]:
    """Name -> hash of all modules of the packages that can influence a value: what is known of a procedure from elsewhere."""
    return {name: source_hash(source) for name, source in _AT_IMPORT.items() if _counts(name) and not _is_package(name)}


def united(codes: Iterable[Modules]) -> dict[str, str | list[str]]:
    """The modules behind several results; one that was not the same for all has the list of its hashes."""
    together: dict[str, set[str]] = {}
    for modules in codes:
        for name, made_with in modules.items():
            if name != OUTSIDE:
                together.setdefault(name, set()).add(made_with)
    return {name: min(hashes) if len(hashes) == 1 else sorted(hashes) for name, hashes in sorted(together.items())}


def _counts(name: str) -> bool:
    return name in _AT_IMPORT and not has_no_influence(name)


def _is_package(name: str) -> bool:
    return (HOME.joinpath(*name.split(".")) / "__init__.py").is_file()


def _imports(name: str, source: str, wanted: str | None = None) -> list[str]:
    """The modules of the packages that `name` imports and that count; `wanted`: those behind this one of its names alone."""
    found = []
    for node in _statements_that_run(ast.parse(source)):
        if isinstance(node, ast.Import) and wanted is None:
            found += [alias.name for alias in node.names if "." in alias.name and alias.name.partition(".")[0] in PACKAGES]
        elif isinstance(node, ast.ImportFrom) and (origin := _imported_from(name, node)) is not None:
            for alias in node.names:
                if wanted in (None, alias.asname or alias.name):
                    found += _owners(origin, alias.name)
    return [module for module in found if _counts(module)]


def _imported_from(name: str, node: ast.ImportFrom) -> str | None:
    """The module or package that "from ... import" names in module `name`; None for one from elsewhere."""
    if not node.level:
        return node.module if (node.module or "").partition(".")[0] in PACKAGES else None
    parts = name.split(".")
    above = node.level - _is_package(name)  # a package counts from itself
    return ".".join([*parts[: len(parts) - above], *(node.module or "").split(".")]).strip(".")


def _owners(origin: str, name: str) -> list[str]:
    """The modules that "from origin import name" leads to."""
    if (submodule := f"{origin}.{name}") in _AT_IMPORT:
        return [submodule]
    if not _is_package(origin):
        return [origin]
    return _imports(origin, _AT_IMPORT[origin], wanted=name) or [origin]


def _statements_that_run(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those below "if TYPE_CHECKING"."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            yield from (inner for branch in node.orelse for inner in (branch, *_statements_that_run(branch)))
        else:
            yield node
            yield from _statements_that_run(node)


def stale(record: Mapping[str, Any]) -> list[str]:
    """The modules that are not those behind the record: changed, gone, or several; ["unknown"] for a record that holds no hashes.

    A module that is known to be without influence by now is passed over, though the record may list it, and so is one of `same_numbers`.
    """
    if record["provenance"].get("modules") is None:
        return [UNKNOWN]
    changed, same = _changed(record), same_numbers(record)
    return [name for name in changed if name not in same]


def same_numbers(record: Mapping[str, Any]) -> dict[str, str]:
    """Name -> reason: the modules that are others than those behind the record and have been shown to compute the same numbers."""
    made_with = record["provenance"].get("modules") or {}
    there = {name: reason_for(name, _hash_now(name), made_with[name]) for name in _changed(record) if _file(name).is_file()}
    return {name: reason for name, reason in there.items() if reason}


def _changed(record: Mapping[str, Any]) -> list[str]:
    recorded = record["provenance"].get("modules") or {}
    counted = {name: made_with for name, made_with in recorded.items() if not has_no_influence(name)}
    # of a list, which stands for several, no entry is the hash
    return [name for name, made_with in counted.items() if not _file(name).is_file() or _hash_now(name) != made_with]


def _hash_now(name: str) -> str:
    return source_hash(_file(name).read_text(encoding="utf-8"))


def staleness_note(record: Mapping[str, Any]) -> str:
    """One sentence for whoever shows the record; empty where it is as new as the code."""
    changed = stale(record)
    if changed == [UNKNOWN]:
        return "Whether the code has changed since this was recorded is unknown: the record does not say which code made it."
    if not changed:
        return ""
    modules = ", ".join(changed)
    if len(changed) > NAMED:
        first = sorted(changed, key=lambda name: not name.startswith("smoothlib."))[: NAMED - 1]  # the method first
        modules = f"{', '.join(first)} and {len(changed) - len(first)} other modules"
    return f"Recorded with older code: {modules} {'has' if len(changed) == 1 else 'have'} changed since."
