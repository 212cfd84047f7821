"""Files that are whole at every moment."""

import os
import uuid
from pathlib import Path


def atomic_write(file: Path, content: bytes) -> None:
    """Write so that `file` is at every moment either as before or complete, whatever is killed and whoever else writes it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
