"""The hash of a module's source: of its tokens without comments, docstrings, blank lines and line breaks.

Tokens, not the syntax tree, because `ast.dump` differs between Python versions; f-strings, which are one token before Python 3.12 and
several since, are taken as one.
"""

import hashlib
import io
import token
import tokenize
from collections.abc import Iterator
from functools import cache

FSTRINGS = {  # Python 3.12 on: the token that begins one (t-strings too) -> the token that ends it
    getattr(token, f"{kind}STRING_START"): getattr(token, f"{kind}STRING_END") for kind in "FT" if hasattr(token, f"{kind}STRING_START")
}
DROPPED = {token.COMMENT, token.NL, token.ENCODING, token.ENDMARKER}


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
