"""Any captioned pictures as a folder in COCO's layout, which every notebook takes as its `dataset`.

    python -m companion.data.as_coco --data photos --out coco --split mine
    python -m companion.data.as_coco --data "laion/*.tar" --out coco --split laion --limit 500 --seed 0

The second writes coco/laion/*.jpg and coco/annotations/captions_laion.json. Pictures are copied as they are. `--limit` of them are drawn by
`--seed`; a damaged one is counted, and the next of the draw stands for it.
"""

import argparse
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..base.config import OneSentenceParser, errors_as_exit_codes
from ..base.files import atomic_write
from ..base.progress import progress_bar
from .captioned import captioned_folder
from .listings import ListingError
from .pictures import PictureError, read_picture
from .shards import Member, Shards
from .sources import LAYOUTS, layout_of

NAME = re.compile(r"\w[\w-]{0,98}")
SMALL = 8  # pixels: a picture is decoded whole whatever size it gets; this one is only looked at


def as_coco(data: str, out: Path, split: str, limit: int | None = None, seed: int = 0, layout: str | None = None) -> tuple[int, list[str]]:
    """Write `limit` of the captioned pictures in `data` (None: all) to `out` in COCO's layout, as the split `split`.

    Returns how many were written, and a list, one entry for each that could not be used, that begins with what was wrong with the first.

    Raises:
        ListingError: `data` is no folder with captions and no shards (see `captioned`, `shards`), `split` is no name or is there already,
            `seed` is negative, or there are fewer than `limit` usable pictures.
    """
    if not NAME.fullmatch(split):
        raise ListingError(f"split is {split!r}, but must be a name of letters, digits, - and _")
    annotations, pictures = out / "annotations" / f"captions_{split}.json", out / split
    for there in (annotations, pictures):
        if os.path.lexists(there):
            raise ListingError(f"split is {split!r}, but {there} is there already: choose another name, or remove it")
    if seed < 0:
        raise ListingError(f"seed is {seed}, but must be at least 0")
    count, read, problems = _source(data, layout)
    wanted = count if limit is None else limit
    if not 1 <= wanted <= count:
        raise ListingError(f"limit is {wanted}, but must lie in [1, {count}], the number of captioned pictures in {data}")
    order = range(count) if limit is None else np.random.default_rng(seed).permutation(count).tolist()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".") as name:
        entries = _write(Path(name) / split, order, wanted, read, problems)
        if (limit is not None and len(entries) < limit) or not entries:
            raise ListingError(f"limit is {wanted}, but only {len(entries)} pictures in {data} can be used: {problems[0]}")
        os.replace(Path(name) / split, pictures)
    images = [{"id": number, "file_name": file} for number, (file, _) in entries.items()]
    captions = [{"id": number, "image_id": number, "caption": caption} for number, (_, caption) in entries.items()]
    atomic_write(annotations, json.dumps({"images": images, "annotations": captions}, ensure_ascii=False, indent=0).encode())
    return len(entries), problems


Read = Callable[[int], tuple[str, str, Member]]  # number -> ending of the name, caption, picture


def _source(data: str, layout: str | None) -> tuple[int, Read, list[str]]:
    """How many pairs `data` has, how to read one, and what is already known to be wrong."""
    kind = layout_of(data, layout)
    if kind == "coco":
        raise ListingError(f"data is {data!r}, which is in COCO's layout already: take it as the dataset")
    if kind == "shards":
        shards = Shards(data, "skip")

        def of_shard(number: int) -> tuple[str, str, Member]:
            member = shards.member(number)
            return Path(member.name).suffix, shards.caption(number), member

        return len(shards), of_shard, shards.problems[:1] * shards.left_out  # only the first is told
    folder = Path(data)
    _, listed = captioned_folder(folder)
    usable = [one for one in listed if not one.problem]

    def of_folder(number: int) -> tuple[str, str, Member]:
        file = folder / usable[number].name
        try:
            return file.suffix, usable[number].caption, Member(str(file), file.read_bytes())
        except OSError as error:
            raise PictureError(f"{file} cannot be read: {error.strerror or error}") from None

    return len(usable), of_folder, [one.problem for one in listed if one.problem]


def _write(folder: Path, order, wanted: int, read: Read, problems: list[str]) -> dict[int, tuple[str, str]]:
    """File name and caption by number of the first `wanted` pictures in `order` that can be decoded, sorted by number."""
    folder.mkdir()
    written = {}
    with progress_bar("pictures written", total=wanted) as advance_to:
        for number in order:
            if len(written) == wanted:
                break
            try:
                ending, caption, member = read(number)
                read_picture(member, SMALL)  # a member stands for a path
            except PictureError as error:
                problems.append(str(error))
                continue
            file = f"{number:012d}{ending}"
            (folder / file).write_bytes(member.content)
            written[number] = file, caption
            advance_to(len(written))
    return dict(sorted(written.items()))


def main() -> None:
    """Command line."""
    parser = OneSentenceParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder of pictures with captions, a folder of tar shards, or a pattern for shards")
    parser.add_argument("--out", type=Path, required=True, help="the folder that is written to")
    parser.add_argument("--split", required=True, help="the name of the split in it")
    parser.add_argument("--limit", type=int, help="how many; without it, all")
    parser.add_argument("--seed", type=int, default=0, help="draws them")
    parser.add_argument("--layout", choices=LAYOUTS, help="what data is, where it looks like several")
    options = parser.parse_args()
    with errors_as_exit_codes(parser.prog):
        written, problems = as_coco(options.data, options.out, options.split, options.limit, options.seed, options.layout)
    print(f"{written} pictures with captions are in {options.out / options.split}")
    if problems:
        print(f"{len(problems)} could not be used: {problems[0]}")


if __name__ == "__main__":
    main()
