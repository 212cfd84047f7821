"""Render the scene data set: `python -m companion.world.build train|test|compositional|edits|drags|card`.

Every image is written to a working folder as soon as it is rendered, so a killed build continues; when all of a split's images exist they
are packed into uncompressed tar shards of webp files beside a gzipped file of records.
"""

import gzip
import io
import json
import tarfile
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..base import paths
from ..base.config import OneSentenceParser, errors_as_exit_codes
from ..base.files import atomic_write
from ..runs.stored import item_key
from ..weights.cards import write_card
from . import sources
from .scene import Scene, caption, sample_scene
from .scene_pairs import Pair, drag_pairs, edit_pairs
from .vocabulary import CLASSES, EXTRAS

FIRST_SEED = {"train": 1_000_000, "test": 2_000_000, "compositional": 3_000_000}
COUNT = {"train": 10_000, "test": 1_000, "compositional": 500}
SHARD = 2_500
RENDERER = ("mitsuba", "pyoidn")  # packages
RENDERER_REVISION = 1  # raise it when the renderer or the styles change what they draw
QUALITY = 92  # lossy webp, about 2 kB an image


def work_folder(split: str) -> Path:
    """Where a split's single images wait to be packed."""
    return paths.RUNS / "scenes" / split


def render_key(content: Scene | Pair) -> str:
    """Name of a rendered image: a hash of the record and of what renders it, so that a changed record is never packed with an old image."""
    return item_key((content, {"revision": RENDERER_REVISION, **{name: version(name) for name in RENDERER}}))


def encode(image: np.ndarray, **options) -> bytes:
    """An image array (H, W, 3) or mask (H, W) as webp bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", method=6, **(options or {"quality": QUALITY}))
    return buffer.getvalue()


def _render_one(job: tuple[str, Scene]) -> None:
    from .render import render

    target, scene = job
    atomic_write(Path(target), encode(render(scene).image))


def build_split(split: str, workers: int) -> None:
    """Render and pack one of train, test, compositional."""
    folder = work_folder(split)
    folder.mkdir(parents=True, exist_ok=True)
    scenes = [sample_scene(FIRST_SEED[split] + i, held_out=split == "compositional") for i in range(COUNT[split])]
    jobs = [(str(folder / f"{render_key(scene)}.webp"), scene) for scene in scenes]
    todo = [job for job in jobs if not Path(job[0]).exists()]
    with get_context("spawn").Pool(workers) as pool:
        for _ in tqdm(pool.imap_unordered(_render_one, todo, chunksize=8), total=len(todo), desc=split, mininterval=30):
            pass
    pack(split, scenes)


def write_records(path: Path, records: list[dict]) -> None:
    """JSON lines, gzipped without a time stamp so that equal records give equal bytes."""
    text = "".join(json.dumps(record) + "\n" for record in records)
    atomic_write(path, gzip.compress(text.encode(), mtime=0))


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    """An uncompressed tar whose headers carry nothing but names and sizes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    atomic_write(path, buffer.getvalue())


def pack(split: str, scenes: list[Scene]) -> None:
    """Pack a rendered split into `data/scenes/<split>-NN.tar` and `<split>.jsonl.gz`."""
    folder = work_folder(split)
    paths.SCENES.mkdir(parents=True, exist_ok=True)
    for shard, start in enumerate(range(0, len(scenes), SHARD)):
        part = list(enumerate(scenes))[start : start + SHARD]
        members = [(f"{i:06d}.webp", (folder / f"{render_key(scene)}.webp").read_bytes()) for i, scene in part]
        write_tar(paths.SCENES / f"{split}-{shard:02d}.tar", members)
    records = [{"id": f"{split}-{i:06d}", "caption": caption(scene), **scene.to_dict()} for i, scene in enumerate(scenes)]
    write_records(paths.SCENES / f"{split}.jsonl.gz", records)


def _render_pair(job: tuple[str, Pair]) -> None:
    from .pair_rendering import render_pair

    target, pair = job
    atomic_write(Path(target), npz_bytes(render_pair(pair)))


def npz_bytes(arrays: dict) -> bytes:
    """Arrays as an in-memory npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def build_pairs(kind: str, workers: int) -> None:
    """Render and pack `edits` or `drags`: source, target and mask images per pair, records with both scenes and captions."""
    pairs = edit_pairs() if kind == "edits" else drag_pairs()
    folder = work_folder(kind)
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(str(folder / f"{render_key(pair)}.npz"), pair) for pair in pairs]
    todo = [job for job in jobs if not Path(job[0]).exists()]
    with get_context("spawn").Pool(workers) as pool:
        for _ in tqdm(pool.imap_unordered(_render_pair, todo), total=len(todo), desc=kind, mininterval=30):
            pass
    members, records, kept = [], [], {}
    for path, pair in jobs:
        with np.load(path) as arrays:
            record = pair.to_dict()
            if kind == "drags":
                if len(arrays["handles"]) < 3:
                    continue  # too little is visible in both views to drag
                record |= {"handles": arrays["handles"].tolist(), "targets": arrays["targets"].tolist()}
            elif not 0.01 <= arrays["mask"].mean() / 255:
                continue  # the edited object is hidden
            kept[pair.edit] = kept.get(pair.edit, 0) + 1
            for name in ("source", "target"):
                members.append((f"{pair.id}.{name}.webp", encode(arrays[name])))
            members.append((f"{pair.id}.mask.webp", encode(arrays["mask"], lossless=True)))
        records.append(record)
    write_tar(paths.SCENES / f"{kind}.tar", members)
    write_records(paths.SCENES / f"{kind}.jsonl.gz", records)
    print(f"{kind}: {kept}")


def write_data_card() -> None:
    """`card.json`: counts, sources, versions and file hashes; `models.csv`: every model's creator and licence."""
    catalogue = sources.furniture_catalogue()
    lines = ["model,name,creator,licence"]
    for key in sorted({key for keys in CLASSES.values() for key in keys} | set(EXTRAS.values())):
        entry = catalogue[key]
        lines.append(f'{key},"{entry["name"]}","{entry["creator"]}",{sources.PACK_LICENCES[entry["pack"]]}')
    atomic_write(paths.SCENES / "models.csv", ("\n".join(lines) + "\n").encode())
    records = {path.name.split(".")[0]: len(gzip.open(path).readlines()) for path in sorted(paths.SCENES.glob("*.jsonl.gz"))}
    write_card(
        paths.SCENES,
        description="Photo-like renders of captioned scenes, 64 x 64, with paired edits and drags.",
        counts=records,
        licence="CC BY 3.0: renders of models under CC0 and CC BY 3.0, creators in models.csv",
        sources={archive.file: archive.sha256 for archive in (sources.FURNITURE, sources.LIGHTS)},
        renderer={name: version(name) for name in (*RENDERER, "pillow", "numpy")},
    )


def main() -> None:
    """Command line."""
    parser = OneSentenceParser(description=__doc__.splitlines()[0])
    parser.add_argument("split", choices=[*COUNT, "edits", "drags", "card"])
    parser.add_argument("--workers", type=int, default=1, help="processes that render, at least 1")
    arguments = parser.parse_args()
    if arguments.workers < 1:
        parser.error(f"--workers is {arguments.workers}, but must be at least 1")
    if absent := [name for name in RENDERER if find_spec(name) is None]:
        parser.exit(1, f"{parser.prog}: {absent[0]} is missing: pip install -c constraints.txt -e '.[render]'\n")
    with errors_as_exit_codes(parser.prog):
        if arguments.split == "card":
            write_data_card()
        else:
            (build_split if arguments.split in COUNT else build_pairs)(arguments.split, arguments.workers)


if __name__ == "__main__":
    main()
