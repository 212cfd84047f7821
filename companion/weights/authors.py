"""The authors' Smooth-LoRA: recognised by its layout, and put where its rows get the paper's names.

    python -m companion.weights.authors pytorch_lora_weights.safetensors models/authors/smooth

A folder of the name `smooth` gives the rows "Smooth ..." and the paper's own rows beside them. The sha256 of the authors' release is not
known to this repository, which had no file of it: what is recognised is the layout of its keys, the layers and the sizes. Whoever has a
sha256 from the authors gives it with `--sha256`, and it is compared before anything else.
"""

import hashlib
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError

from ..base.config import OneSentenceParser, errors_as_exit_codes
from ..base.files import atomic_write
from .cards import write_card

KEY = re.compile(r"(?:down_blocks\.\d+|up_blocks\.\d+|mid_block)\.attentions\.\d+\.transformer_blocks\.0\.attn[12]\.processor\.(.+)")
END = re.compile(r"to_(?:q|k|v|out)_lora\.(?:down|up)\.weight")
LAYERS, RANK, NUMBERS = 128, 8, 1_594_368  # of Stable Diffusion 1.5 at the paper's rank
NAME = "smooth"  # the folder's, after which rows are called
FILE = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class Recognised:
    """What a file says of itself: its sha256, and why it is not the authors' release ("" where nothing speaks against it)."""

    sha256: str
    problem: str


def recognise(content: bytes) -> Recognised:
    """Is the safetensors `content` in the layout of the authors' release?

    Their training script kept LoRAs in the attention's processors, and wrote keys without a prefix and without alphas: 128 layers of Stable
    Diffusion 1.5 at rank 8, 1,594,368 numbers.
    """
    digest = hashlib.sha256(content).hexdigest()
    try:
        entries = safetensors.torch.load(content)
    except SafetensorError as error:
        return Recognised(digest, f"it is damaged ({error})")
    strange = [key for key in sorted(entries) if not ((found := KEY.fullmatch(key)) and END.fullmatch(found[1]))]
    if strange:
        return Recognised(digest, f"{len(strange)} of its {len(entries)} entries have other keys, e.g. {strange[0]}")
    if len(entries) != 2 * LAYERS:
        return Recognised(digest, f"it has {len(entries)} entries, but must have {2 * LAYERS}, two for each of {LAYERS} layers")
    if wrong := [key for key, value in entries.items() if value.ndim != 2 or value.shape[".up." in key] != RANK]:
        return Recognised(digest, f"its entry {min(wrong)} has not rank {RANK}")
    if (count := sum(value.numel() for value in entries.values())) != NUMBERS:
        return Recognised(digest, f"it has {count:,} numbers, but must have {NUMBERS:,}, as for Stable Diffusion 1.5")
    return Recognised(digest, "")


def install(file: Path, folder: Path, sha256: str | None = None) -> Path:
    """Copy the authors' file to `folder`, with a card that says how it was recognised; `folder`.

    Args:
        folder: called `smooth`, and not there yet.
        sha256: what the authors say their file has; None: it is recognised by its layout alone, and the card says so.

    Raises:
        FileNotFoundError, FileExistsError: `file` is not there, `folder` is.
        ValueError: another name of the folder, another sha256, or another layout.
    """
    if folder.name != NAME:
        raise ValueError(f"folder is {folder}, but must be called {NAME}: rows get the paper's names by it")
    if folder.exists():
        raise FileExistsError(f"folder is {folder}, but must not be there yet")
    if not file.is_file():
        raise FileNotFoundError(f"file is {file}, but must be a file that is there")
    content = file.read_bytes()
    found = recognise(content)
    if sha256 is not None and found.sha256 != sha256.lower():
        raise ValueError(f"{file} has the sha256 {found.sha256}, but must have {sha256}")
    if found.problem:
        raise ValueError(f"{file} is not in the layout of the authors' release: {found.problem}")
    how = "by the sha256 that was given" if sha256 is not None else "by its keys, layers and sizes; the authors' sha256 was not at hand"
    try:
        atomic_write(folder / FILE, content)
        about = "Smooth-LoRA in the layout of the authors' release"
        write_card(folder, description=about, recipe=NAME, recognised=how, sha256=found.sha256)  # the recipe: so that tables know its row
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = OneSentenceParser(prog="python -m companion.weights.authors", description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="the authors' safetensors file")
    parser.add_argument("folder", type=Path, help=f"where to, a folder called {NAME}")
    parser.add_argument("--sha256", help="what the authors say their file has")
    given = parser.parse_args(arguments)
    with errors_as_exit_codes(parser.prog):
        folder = install(given.file, given.folder, given.sha256)
        print(f'{folder} is an adapter now: -y "adapters: [{folder.resolve()}]"')
    return 0


if __name__ == "__main__":
    sys.exit(main())
