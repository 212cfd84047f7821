"""New weights and their card become visible together: they are made in a folder of their own, which then takes the old one's place."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from ..base.files import DamagedFile, naming
from ..weights.card_lists import relisting
from ..weights.cards import CARD, file_hashes, read_card

STAGING = ".new"  # beside the folder that is replaced: in the same file system, and not among the models
FORMER = ".former"


def tidy(folder: Path) -> None:
    """Undo what a training that was killed while it wrote `folder` left: its half-made folder goes, the one that it replaced comes back."""
    former = folder.parent / FORMER / folder.name
    if former.exists() and not folder.exists():
        os.rename(former, folder)
    for place in (STAGING, FORMER):
        shutil.rmtree(folder.parent / place / folder.name, ignore_errors=True)
        with contextlib.suppress(OSError):  # another training's is in it, or there is none
            (folder.parent / place).rmdir()


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A folder with all that `folder` holds, to be written to; at the end of the block, without an error, it becomes `folder`.

    Raises:
        DamagedFile: a file that stays as it was is not the one that the card had recorded: a new card would vouch for the damage.
    """
    tidy(folder)
    new, former = (folder.parent / place / folder.name for place in (STAGING, FORMER))
    new.parent.mkdir(parents=True, exist_ok=True)
    try:
        if folder.exists():
            shutil.copytree(folder, new)
        else:
            new.mkdir()
        with naming(new):
            yield new
        _check_kept(folder, new)
        _let_others_read(new)
        with relisting(folder, (new / CARD).read_bytes()) if (new / CARD).is_file() else contextlib.nullcontext():
            if folder.exists():
                former.parent.mkdir(exist_ok=True)
                os.rename(folder, former)
            os.rename(new, folder)
    except SafetensorError as error:  # how it tells of a full disk, without the file's name
        raise OSError(errno.EIO, str(error), str(new)) from error
    finally:
        tidy(folder)


def _let_others_read(folder: Path) -> None:
    """Every file as readable as the user's new files are: safetensors writes for its owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o666 & ~mask)


def _check_kept(folder: Path, new: Path) -> None:
    recorded = read_card(folder).get("files", {})
    if not recorded:
        return
    before, now = file_hashes(folder), file_hashes(new)
    for name, expected in recorded.items():
        if name in before and before[name] != expected and now.get(name) == before[name]:
            raise DamagedFile(f"{folder / name} is damaged or not the file that {CARD} records: restore it, then train on to export")
