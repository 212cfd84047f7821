"""What a training finds in its folder and goes on from: its checkpoint and log, and a lock against a second training of its name."""

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..base.config import ConfigurationError
from ..base.files import DamagedFile, atomic_write, only_process, read_sealed, write_sealed

LOCK = "lock"


@contextlib.contextmanager
def alone(name: str, folder: Path) -> Iterator[None]:
    """No other process trains `name` while this one does; of the processes of one training the first speaks for all.

    Raises:
        ConfigurationError: another process does.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    with only_process(folder / LOCK) as first:
        if not first:
            raise ConfigurationError(f"name is {name!r}, but another process trains {folder} now: wait for its end, or choose another name")
        yield


def write_checkpoint(file: Path, state: dict[str, Any]) -> None:
    """Replace the last checkpoint only when this one is complete."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_sealed(file, buffer.getvalue())


def read_checkpoint(file: Path) -> dict[str, Any]:
    """The state that `write_checkpoint` wrote. Raises DamagedFile unless it is so to the last bit."""
    try:
        content = read_sealed(file)
    except DamagedFile as error:
        raise DamagedFile(f"{error}; delete it to train from the first step") from error
    return torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")


def restore_log(file: Path, kept: str | None, step: int) -> None:
    """Give the log the content that it had at the checkpoint, whatever has become of it; later steps will be run again.

    `kept`: that content; None where the checkpoint of step `step` does not hold it.
    """
    if kept is None:
        truncate_log(file, step)
    elif kept or file.exists():
        atomic_write(file, kept.encode())


def truncate_log(file: Path, step: int) -> None:
    """Drop log lines of steps that the checkpoint does not contain (they will be run again), and a line that a kill cut short."""
    if not file.exists():
        return
    kept = []
    for number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
        if not line.endswith(b"}"):
            continue
        try:
            later = json.loads(line)["step"] > step
        except (ValueError, KeyError, TypeError) as error:  # ValueError: also of another encoding
            raise ValueError(f"{file}, line {number}, is not the record of a step: remove the line to go on with this training") from error
        if not later:
            kept.append(line + b"\n")
    atomic_write(file, b"".join(kept))
