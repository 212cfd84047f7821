"""Which process computes an item now: several that work at one run share its items instead of computing them twice.

A claim is a file beside the result that is to come, `<item key>.claim`, and names its owner: host, process, and a token of its own. The
owner touches it every `BEAT` seconds for as long as it computes. A claim is abandoned where its owner was a process of this machine that is
gone, or where nobody has touched it for `PATIENCE` seconds by the clock of the process that waits: clocks of other machines do not count.

Claims save work; they decide nothing. Results are whole when they become visible, and equal whoever computed them: where two processes hold
one item after all (a file system that is late, a process that slept), it costs the time of one batch.
"""

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

BEAT = 15.0  # seconds between an owner's signs of life
PATIENCE = 180.0  # without one; network file systems show a change up to a minute late


class Claims:
    """The items of one folder that this process has claimed, with a thread that keeps the claims alive; to be used with `with`.

    Args:
        folder: where the results lie.
        beat, patience: seconds; see above.
    """

    def __init__(self, folder: Path, *, beat: float = BEAT, patience: float = PATIENCE) -> None:
        self.folder, self.beat, self.patience = folder, beat, patience
        owner = {"host": _host(), "pid": os.getpid(), "token": uuid.uuid4().hex}
        self._mine = json.dumps(owner).encode()
        self._held: set[Path] = set()
        self._seen: dict[Path, tuple[tuple[bytes, int], float]] = {}  # claim -> its content and last touch, and when they were first seen
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._live, daemon=True)

    def __enter__(self) -> "Claims":
        self._heart.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._ended.set()
        self._heart.join()
        for file in list(self._held):
            self._give_back(file)

    def take(self, keys: Iterable[str]) -> bool:
        """Claim all items of `keys`; False, and none is claimed, where another owner has one of them."""
        taken = []
        for key in sorted(keys):  # in one order, so that of two processes that want the same one gets all
            file = self.folder / f"{key}.claim"
            if not self._take(file):
                for earlier in taken:
                    self._give_back(earlier)
                return False
            taken.append(file)
        return True

    def release(self, keys: Iterable[str]) -> None:
        """Give the items of `keys` back: they are stored, or will not be."""
        for key in keys:
            self._give_back(self.folder / f"{key}.claim")

    def _take(self, file: Path) -> bool:
        for _ in range(2):
            try:
                with open(file, "xb") as stream:
                    self._held.add(file)
                    stream.write(self._mine)
                return True
            except FileNotFoundError:
                self.folder.mkdir(parents=True, exist_ok=True)
            except FileExistsError:
                if not self._remove_abandoned(file):
                    return False
        return False

    def _give_back(self, file: Path) -> None:
        if file in self._held:
            self._held.discard(file)
            with contextlib.suppress(OSError):
                if file.read_bytes() == self._mine:  # not another's, who took this process for dead
                    file.unlink()

    def _remove_abandoned(self, file: Path) -> bool:
        """Whether the claim of another owner is out of the way now."""
        try:
            found = file.read_bytes(), file.stat().st_mtime_ns
        except FileNotFoundError:
            return True
        if not (self._owner_is_gone(found[0]) or self._silent(file, found)):
            return False
        aside = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
        try:
            os.rename(file, aside)  # one process alone can
            if aside.read_bytes() != found[0]:  # a new claim: someone else was faster
                os.link(aside, file)
                return False
        except FileNotFoundError:
            return True
        except OSError:  # no links here, or claimed again meanwhile
            return False
        finally:
            aside.unlink(missing_ok=True)
        return True

    def _silent(self, file: Path, found: tuple[bytes, int]) -> bool:
        before, since = self._seen.get(file, (None, 0.0))
        if before != found:
            self._seen[file] = found, time.monotonic()
            return False
        return time.monotonic() - since > self.patience

    @staticmethod
    def _owner_is_gone(content: bytes) -> bool:
        """Whether the owner was a process of this machine that has ended; False where that cannot be known."""
        try:
            owner = json.loads(content)
            if owner["host"] != _host() or os.name != "posix":
                return False
            os.kill(owner["pid"], 0)
        except ProcessLookupError:
            return True
        except (OSError, ValueError, KeyError, TypeError):  # another user's process; a claim that is being written
            return False
        return False

    def _live(self) -> None:
        while not self._ended.wait(self.beat):
            for file in list(self._held):
                with contextlib.suppress(OSError):
                    os.utime(file)


def _host() -> str:
    """This machine, and on Linux the namespace of its process ids: containers may share a name."""
    try:
        return f"{platform.node()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()
