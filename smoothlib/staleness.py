"""Is a recorded result older than the code that made it? A record holds a hash of every module that could influence it.

A hash is of the module's tokens without comments, docstrings, blank lines and line breaks: editing prose makes no result stale. Tokens, not
the syntax tree, because `ast.dump` differs between Python versions; f-strings, which are one token before Python 3.12 and several since,
are taken as one. Needs nothing outside the standard library, so that the book's build can ask too.
"""

import hashlib
import io
import sys
import token
import tokenize
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["UNKNOWN", "module_hashes", "source_hash", "stale", "staleness_note"]

UNKNOWN = "unknown"  # what `stale` answers for a record that holds no hashes
# Modules and packages that cannot change a measured value, and why. Besides these, `__init__` files: they only give names.
WITHOUT_INFLUENCE = frozenset(
    "results tables paper claims claims_table statements evidence chance recipes "  # show, store and judge what was measured
    "status figures provenance machine staleness "
    "config paths progress cards".split()  # settings as resolved and fingerprints of weights are in the record; places; messages
)
PACKAGE = Path(__file__).resolve().parent
FSTRINGS = {  # Python 3.12 on: the token that begins one (t-strings too) -> the token that ends it
    getattr(token, f"{kind}STRING_START"): getattr(token, f"{kind}STRING_END") for kind in "FT" if hasattr(token, f"{kind}STRING_START")
}
DROPPED = {token.COMMENT, token.NL, token.ENCODING, token.ENDMARKER}


def _file(name: str) -> Path:
    return PACKAGE.joinpath(*name.split(".")).with_suffix(".py")


def _all_sources() -> dict[str, str]:
    """Relative dotted name -> source of every module of the package that can influence a value."""
    files = {".".join(file.relative_to(PACKAGE).with_suffix("").parts): file for file in sorted(PACKAGE.rglob("*.py"))}
    counted = {name: file for name, file in files.items() if file.stem != "__init__" and name.partition(".")[0] not in WITHOUT_INFLUENCE}
    return {name: file.read_text(encoding="utf-8") for name, file in counted.items()}


_AT_IMPORT = _all_sources()  # as they were when this process began: a file that is edited during a long run is not what made its result


def module_hashes() -> dict[str, str]:
    """Relative name -> hash of the modules of smoothlib that this process has in use (`sys.modules`); imports nothing."""
    used = sorted(name.partition(".")[2] for name in sys.modules if name.startswith("smoothlib."))
    return {name: source_hash(_AT_IMPORT[name]) for name in used if name in _AT_IMPORT}


def stale(record: Mapping[str, Any]) -> list[str]:
    """The modules that have changed, or gone, since the record was made; ["unknown"] for a record that does not hold their hashes."""
    recorded = record["provenance"].get("modules")
    if recorded is None:
        return [UNKNOWN]
    return [name for name, made_with in recorded.items() if not _file(name).is_file() or _hash_now(name) != made_with]


def _hash_now(name: str) -> str:
    return source_hash(_file(name).read_text(encoding="utf-8"))


def staleness_note(record: Mapping[str, Any]) -> str:
    """One sentence for whoever shows the record; empty where it is as new as the code."""
    changed = stale(record)
    if changed == [UNKNOWN]:
        return "Whether the code has changed since this was recorded is unknown: the record does not say which code made it."
    if not changed:
        return ""
    modules = ", ".join(f"smoothlib.{name}" for name in changed)
    return f"Recorded with older code: {modules} {'has' if len(changed) == 1 else 'have'} changed since."


@cache
def source_hash(source: str) -> str:
    """16 hex digits of SHA-256 over what Python executes of `source`; the same on Python 3.11 to 3.13."""
    digest = hashlib.sha256()
    for statement in _statements(source):
        if statement and all(kind == token.STRING for kind, _ in statement):
            continue  # a docstring
        for kind, text in statement:
            digest.update(f"{token.tok_name[kind]} {len(text)} {text}\n".encode())
        digest.update(b"end\n")
    return digest.hexdigest()[:16]


def _statements(source: str) -> Iterator[list[tuple[int, str]]]:
    """Logical lines as (kind, text); a change of indentation is a line of its own, whatever its width."""
    line: list[tuple[int, str]] = []
    for kind, text in _tokens(source):
        if kind in (token.INDENT, token.DEDENT):
            yield [(kind, "")]
        elif kind == token.NEWLINE:
            yield line
            line = []
        else:
            line.append((kind, text))


def _tokens(source: str) -> Iterator[tuple[int, str]]:
    lines = source.splitlines(keepends=True)
    opened: list[tuple[int, tuple[int, int]]] = []  # f-strings that are being read: the token that ends each, and where it began
    for found in tokenize.generate_tokens(io.StringIO(source).readline):
        if found.type in FSTRINGS:
            opened.append((FSTRINGS[found.type], found.start))
        elif opened and found.type == opened[-1][0]:
            _, start = opened.pop()
            if not opened:
                yield token.STRING, _between(lines, start, found.end)
        elif not opened and found.type not in DROPPED:
            yield found.type, found.string


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """The text from (row, column) to (row, column), rows from 1."""
    if start[0] == end[0]:
        return lines[start[0] - 1][start[1] : end[1]]
    inner = lines[start[0] : end[0] - 1]
    return "".join([lines[start[0] - 1][start[1] :], *inner, lines[end[0] - 1][: end[1]]])
