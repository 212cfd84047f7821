"""Lists of captioned pictures as other programs write them: read in UTF-8, refused in one sentence that names the file."""

import json
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any


class ListingError(ValueError):
    """A listing is not what it should be; one sentence names the file and what is wrong with it."""


def read_text(file: Path) -> str:
    """A UTF-8 file as text, without the byte order mark that some programs put in front.

    Raises:
        ListingError: the file has another encoding.
    """
    content = file.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        found = "is UTF-16" if utf16 else f"has another encoding (byte {error.start} is {content[error.start]:#04x})"
        raise ListingError(f"{file} {found}, but must be UTF-8: save it as that") from None


def parse_json(text: str, where: str) -> Any:
    """`text` as JSON; `where` names it in the error.

    Raises:
        ListingError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ListingError(f"{where} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise ListingError(f"{where} is nested too deeply") from None


def json_lines(file: Path) -> list[tuple[str, Any]]:
    """What each line of a `.jsonl` file holds, after its place ("line 3 of FILE"); empty lines are passed over.

    Only a newline ends a line: U+2028 and its like may stand in a caption.

    Raises:
        ListingError: a line is not JSON, or the file not UTF-8.
    """
    lines = ((f"line {number} of {file}", line) for number, line in enumerate(read_text(file).split("\n"), start=1) if line.strip())
    return [(where, parse_json(line, where)) for where, line in lines]


def inside(name: Any, where: str, field: str = "file_name") -> str:
    """`name` as the name of a file inside its folder; `field` is what the listing calls it.

    Raises:
        ListingError: it is no text, absolute, or leads out of the folder by `..`.
    """
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise ListingError(f"{where} has the {field} {name!r}, but must name a picture")
    for path in (PurePosixPath(name), PureWindowsPath(name)):
        if path.is_absolute() or path.drive or path.root or ".." in path.parts:
            raise ListingError(f"{where} has the {field} {name!r}, but must name a picture inside the folder")
    return name
