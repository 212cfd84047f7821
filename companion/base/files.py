"""Files that are whole at every moment, and files that tell whether they are.

What a killed process leaves behind is a temporary file that nobody holds: the first write into its folder by a later process removes it.
"""

import contextlib
import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: nothing is locked, and nothing is swept
    fcntl = None

TEMPORARY = re.compile(r"\.(.+\.[0-9a-f]{32}\.tmp|tmp\w+)")  # the second: what safetensors writes before it renames
SEAL = b"sha256"
DIGEST = hashlib.sha256().digest_size

_swept: set[Path] = set()  # folders that this process has looked through


class DamagedFile(ValueError):
    """The content of a file is not what was written."""


def is_temporary(name: str) -> bool:
    """Is `name` that of a file that is still being written, or was when its process was killed?"""
    return TEMPORARY.fullmatch(name) is not None


def atomic_write(file: Path, content: bytes) -> None:
    """Write so that `file` is at every moment either as before or complete, whatever is killed and whoever else writes it.

    Raises:
        OSError: it cannot be written (a full disk, say); the error names `file`, which stays as it was.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.parent not in _swept:
        _swept.add(file.parent)
        sweep(file.parent)
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
    try:
        with _held(temporary) as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
            if fcntl is not None:
                os.replace(temporary, file)  # while it is locked, or another process would sweep it
        if fcntl is None:
            os.replace(temporary, file)  # Windows renames no open file
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(file: Path) -> Iterator[None]:
    """Lets the errors of what is written in the block name `file`, where they name none: a full disk shows only when a file is closed."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(file)) from error
        raise


@contextlib.contextmanager
def _held(temporary: Path) -> Iterator[IO[bytes]]:
    """A new file, locked: `sweep` leaves it alone. One that was swept between its making and its locking is made again."""
    while True:
        with open(temporary, "xb") as stream:
            _lock(stream, wait=True)
            if os.fstat(stream.fileno()).st_nlink:
                yield stream
                return


def _lock(stream: IO[bytes], *, wait: bool = False) -> bool:
    """Lock an open file until it is closed, or its process ends; False where another process holds it or nothing can be locked."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # held by another, or a file system without locks
        return False
    return True


def sweep(folder: Path) -> list[Path]:
    """Remove what killed processes left in `folder` (not below it) while writing; the removed files."""
    removed = []
    for name in os.listdir(folder):
        if TEMPORARY.fullmatch(name) and name.endswith(".tmp"):
            with contextlib.suppress(OSError), open(folder / name, "rb") as stream:
                if _lock(stream):
                    (folder / name).unlink()
                    removed.append(folder / name)
    return removed


@contextlib.contextmanager
def only_process(file: Path, *, wait: bool = False) -> Iterator[bool]:
    """Holds `file` as a lock; yields False where another process has it, or waits for its end. A killed process holds nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "ab") as stream:
        yield _lock(stream, wait=wait) or fcntl is None


def write_sealed(file: Path, content: bytes) -> None:
    """`atomic_write`, with the SHA-256 of the content behind it."""
    atomic_write(file, b"".join((content, SEAL, hashlib.sha256(content).digest())))


def read_sealed(file: Path) -> bytes:
    """The content that `write_sealed` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: a bit of it has changed, it ends too early, or `write_sealed` did not write it.
    """
    stored = memoryview(file.read_bytes())
    content, seal = stored[: -len(SEAL) - DIGEST], stored[-len(SEAL) - DIGEST :]
    if seal != SEAL + hashlib.sha256(content).digest():
        raise DamagedFile(f"{file} is damaged or was written by an earlier version: it is not what the checksum at its end says")
    return bytes(content)
