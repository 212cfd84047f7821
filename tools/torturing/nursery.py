"""A process that has its libraries loaded and forks a child for each piece of work: a kill costs parts of a second, not two imports."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from companion.base import paths

NURSERY = """
import os, pathlib, sys, traceback
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tools"]
from companion.base import paths
{code}
print("ready", flush=True)
for line in sys.stdin:
    folder = pathlib.Path(line.rstrip("\\n"))
    if (child := os.fork()) == 0:
        errors = os.open(f"{folder}.errors", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(errors, 1), os.dup2(errors, 2)
        paths.RUNS, paths.MODELS = folder / "runs", folder / "models"
        try:
            work(folder)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    print(child, flush=True)
    sys.stdin.readline()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """Runs `work(folder)`, which `code` defines, in children that may be killed. Work is begun only when the one before has ended."""

    def __init__(self, code: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY.replace("{code}", code), str(paths.ROOT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._answer("ready")

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def run(self, folder: Path, *, kill_after: float | None = None) -> tuple[int, str]:
        """Exit code and errors of work that comes to its end, or is killed so many seconds after its beginning."""
        folder.mkdir(parents=True, exist_ok=True)
        child = int(self._told(str(folder)))
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)  # one that has ended already keeps its number until it is waited for
        code = int(self._told(""))
        return code, Path(f"{folder}.errors").read_text(encoding="utf-8")

    def _told(self, line: str) -> str:
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self, wanted: str = "") -> str:
        if not (line := self.process.stdout.readline().strip()) or (wanted and line != wanted):
            raise RuntimeError(f"the process that is to be killed has ended, or says {line!r}")
        return line
