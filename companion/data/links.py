"""Links in a folder of pictures: those that lead out of it are refused, since what they show is not part of the data set."""

import os
from pathlib import Path

from .listings import ListingError


def check_link(folder: Path, name: str, where: str) -> None:
    """Raises ListingError where `name` in `folder` is, or lies behind, a link that leads out of the folder."""
    path = folder / name
    deep = len(Path(name).parts) > 1
    if (deep or path.is_symlink()) and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise ListingError(f"{where} names {name!r}, a link that leads out of the folder: put the picture itself there")
