"""Records as files: written whole and sealed, read back and checked, found by their names."""

import json
from pathlib import Path
from typing import Any

from ..base import paths
from ..base.config import ConfigurationError, plain
from ..base.files import atomic_write
from ..base.reading import UnreadableFile, parse_json, read_text
from .record_checks import SEAL, RecordError, check_record, seal
from .tables import Record

NAMES = {"sd15": "Stable Diffusion 1.5"}  # folder of data/results -> whose records lie there

REMEDY = "restore it, or run its notebook again"


def save_record(record: Record, file: str | Path) -> Path:
    """Write a record and its seal as JSON, atomically. Raises ValueError, saying where, for NaN or anything else that JSON has not."""
    file = Path(file)
    sealed = plain(record, "record") | {SEAL: seal(record)}
    text = json.dumps(sealed, indent=1, ensure_ascii=False, allow_nan=False)
    atomic_write(file, (text + "\n").encode())
    return file


def load_record(file: str | Path) -> dict[str, Any]:
    """Read a record. Raises FileNotFoundError, or RecordError for a file that is no record or whose numbers contradict each other."""
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"There is no record {file}.")
    try:
        record = parse_json(read_text(file, remedy=REMEDY), str(file), REMEDY, finite=False)
        check_record(record, file.stem)
    except UnreadableFile as error:
        raise RecordError(str(error)) from error
    except RecordError as error:
        raise RecordError(f"{file}: {error}") from error
    return record


def record_files(folder: str | Path | None = None) -> list[Path]:
    """The files with recorded results in `folder` (None: the repository's), sorted. Raises ConfigurationError where there are none.

    The repository's own folder may be empty: nothing has been recorded yet.
    """
    folder = paths.RESULTS if folder is None else Path(folder)
    try:
        files = sorted(folder.glob("*.json"))
    except OSError:  # a name that is too long, say
        files = []
    if folder != paths.RESULTS and not any(map(_may_be_record, files)):
        raise ConfigurationError(f"Parameter records is {str(folder)!r}, but must be a folder with recorded results (.json).")
    return files


def _may_be_record(file: Path) -> bool:
    """Is it a record, whole or damaged, by its name or content? Other folders hold JSON too."""
    return (paths.ROOT / "notebooks" / f"{file.stem}.ipynb").is_file() or b'"schema"' in file.read_bytes()


def recorded(name: str, *, folder: Path = paths.RESULTS) -> dict[str, Any] | None:
    """The repository's record of this name, or None where none has been made."""
    file = folder / f"{name}.json"
    return load_record(file) if file.is_file() else None


def model_folders(folder: Path = paths.RESULTS) -> dict[str, Path]:
    """Model in words -> its folder of records, in `folder`; those of `NAMES` first, whether or not anything lies there."""
    found = [place.name for place in sorted(folder.glob("*/")) if any(place.glob("*.json"))]
    return {NAMES.get(name, name): folder / name for name in dict.fromkeys([*NAMES, *found])}


def of_same_model(record: Record, folder: Path = paths.RESULTS) -> Record | None:
    """The stored record of this name that was measured on the same model; None where there is none."""
    stored = (recorded(record["name"], folder=place) for place in (folder, *model_folders(folder).values()))
    return next((one for one in stored if one is not None and one["model"] == record["model"]), None)


def saved_sentence(name: str) -> str:
    """Where the run of a notebook left its record, as its last cell prints it: from the repository's folder on."""
    file = paths.OUT / f"{name}.json"
    shown = (file.relative_to(paths.ROOT) if file.is_relative_to(paths.ROOT) else file).as_posix()
    return f"Record of this run: {shown}. In the repository's folder, `python -m companion.evidence show {shown}` prints it."
