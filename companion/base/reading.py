"""Text, JSON and YAML of the project's own: one sentence names the file, what is wrong with it, and what to do."""

import json
from pathlib import Path
from typing import Any, NoReturn

import yaml

from .config import ConfigurationError, shown

LARGEST = 64_000_000  # bytes: a file that is larger is another one
KINDS = {dict: "facts by name", list: "a list", object: "anything"}


class UnreadableFile(ConfigurationError):
    """The content of a file is not what its reader can take."""


class OnceLoader(yaml.SafeLoader):
    """YAML whose mappings name every key once; PyYAML would take the last and say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """The mapping; raises where a key is there twice."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge"]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(None, None, f"{key} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_text(file: Path, *, remedy: str = "restore it", largest: int = LARGEST) -> str:
    """The content of a UTF-8 file, without the byte order mark that some programs put in front.

    Args:
        remedy: what a reader of the error should do.
        largest: bytes that the file may have; it is looked at before anything is read.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFile: it is too large, or has another encoding.
    """
    if (size := file.stat().st_size) > largest:
        raise UnreadableFile(f"{file} has {size} bytes, but must have at most {largest}: {remedy}")
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        utf16 = error.object[:2] in (b"\xff\xfe", b"\xfe\xff")
        found = "is UTF-16" if utf16 else f"has another encoding (byte {error.start} is {error.object[error.start]:#04x})"
        raise UnreadableFile(f"{file} {found}, but must be UTF-8: {remedy}") from error


def read_json(file: Path, kind: type = dict, *, remedy: str = "restore it", largest: int = LARGEST) -> Any:
    """What a JSON file holds, which must be of `kind`. Numbers are finite: JSON knows no NaN, which Python would read.

    Raises:
        FileNotFoundError, UnreadableFile: as `read_text`, or it is not JSON, or holds something else.
    """
    return of_kind(parse_json(read_text(file, remedy=remedy, largest=largest), str(file), remedy), kind, str(file), remedy)


def parse_json(text: str, where: str, remedy: str = "restore it", *, finite: bool = True) -> Any:
    """`text` as JSON; `where` names it in the error. Raises UnreadableFile. `finite=False`: who asks looks for NaN and says where it is."""
    try:
        return json.loads(text, parse_constant=_no_number if finite else None, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise UnreadableFile(
            f"{where} is not JSON ({error.msg} in line {error.lineno}, column {error.colno}){remedy and f': {remedy}'}"
        ) from error
    except (ValueError, RecursionError) as error:  # ValueError: NaN, a key twice, thousands of digits
        raise UnreadableFile(f"{where} is not JSON ({_reason(error)}){remedy and f': {remedy}'}") from error


def read_yaml(file: Path, kind: type = dict, *, remedy: str = "restore it", loader: Any = OnceLoader) -> Any:
    """What a YAML file holds, which must be of `kind`.

    Raises:
        FileNotFoundError, UnreadableFile: as `read_text`, or it is not YAML, or holds something else.
    """
    return of_kind(parse_yaml(read_text(file, remedy=remedy), str(file), remedy, loader=loader), kind, str(file), remedy)


def parse_yaml(text: str, where: str, remedy: str = "", *, loader: Any = OnceLoader) -> Any:
    """`text` as YAML; `where` names it in the error. Raises UnreadableFile."""
    try:
        return yaml.load(text, loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2026-13-45
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise UnreadableFile(f"{where} is not YAML: {_reason(error)}{line}{remedy and f'; {remedy}'}") from error


def of_kind(value: Any, kind: type, where: str, remedy: str) -> Any:
    """`value`; UnreadableFile unless it is of `kind`."""
    if not isinstance(value, kind):
        raise UnreadableFile(f"{where} holds {shown(value)}, but must hold {KINDS[kind]}: {remedy}")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)} is there twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _reason(error: Exception) -> str:
    said = getattr(error, "problem", None) or next(iter(str(error).splitlines()), "")
    return str(said or type(error).__name__)[:200]
