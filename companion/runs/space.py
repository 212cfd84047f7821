"""Does the disk hold what a run will store? Asked before its first item, and again when the size of a result is known."""

import shutil
from pathlib import Path

from ..base.config import ConfigurationError

FLOOR = 8_000_000  # bytes that must be free before anything is known of the results: a batch of pictures, and who else writes there


class Space:
    """The disk of a run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.known = folder, False

    def check(self, missing: int) -> None:
        """Raise unless there is room for `missing` results of the size of one that is stored; without one, for `FLOOR` bytes.

        Looks until it has seen a size, and not after that. A disk that tells no size passes.

        Raises:
            ConfigurationError: one sentence names folder, room and need.
        """
        if self.known or not missing:
            return
        stored = next(self.folder.glob("*.npz"), None)
        self.known = stored is not None
        needed = max(FLOOR, missing * stored.stat().st_size) if stored else FLOOR
        existing = next(outer for outer in (self.folder, *self.folder.parents) if outer.exists())
        disk = shutil.disk_usage(existing)
        if disk.total and disk.free < needed:
            what = f"{missing} missing results of {stored.stat().st_size / 1e6:.2g} MB each" if stored else "a run's first results"
            raise ConfigurationError(
                f"the disk of {self.folder} has {disk.free / 1e6:.0f} MB left, but {what} need {needed / 1e6:.0f}: make room, or let "
                "SMOOTHLIB_RUNS name a folder on another disk"
            )
