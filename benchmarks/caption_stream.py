"""Time and peak memory of streaming image-text pairs from tar shards, at the size of the paper's training data and above.

    python -m benchmarks.caption_stream                             # 1,000,000 pairs in 100 shards, written to a temporary folder first
    python -m benchmarks.caption_stream --pairs 50000 --shards 5

The shards are img2dataset's, with pictures of one pixel: what is measured is the reader, not the decoder of pictures. Every part runs in a
process of its own, so that its peak memory is its own; `above` is the peak above what is resident once the libraries are imported.

- index: a first start, which reads every header and caption; kept: a second start.
- order: the shuffled order of one epoch; stream: an epoch's captions, in this order.
- training tokens: the stream in micro-batches, each tokenised when it is due, as a training on shards does.
- tokens in chunks: all captions as tokens in memory, as a training on a folder does; tokens in one call: the same of a tenth of them in a
  single call of the tokenizer, as it was done before.
"""

import argparse
import io
import json
import random
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from companion.base import paths
from companion.base.config import OneSentenceParser
from companion.base.machine import machine
from companion.data.shard_stream import ShardStream, stream_order
from companion.data.shards import Shards
from companion.training.objectives.examples import tokenised
from companion.world import mini

MICRO_BATCH, TOKENS, TENTH = 12, 77, 10  # Stable Diffusion's captions have 77 tokens
STATUS = Path("/proc/self/status")


def write_shards(folder: Path, pairs: int, shards: int) -> None:
    """`pairs` captions of 8 to 16 words with pictures of one pixel."""
    stream = io.BytesIO()
    Image.new("RGB", (1, 1)).save(stream, "JPEG")
    picture, words, generator = stream.getvalue(), mini.world_words(), random.Random(0)
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as archive:
            for number in range(shard * pairs // shards, (shard + 1) * pairs // shards):
                caption = f"{number} {' '.join(generator.choices(words, k=generator.randint(8, 16)))}".encode()
                for ending, content in (("jpg", picture), ("txt", caption)):
                    member = tarfile.TarInfo(f"{number:09d}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
                archive.members.clear()  # a million of them would take a gigabyte


def _stream(folder: Path) -> int:
    return sum(len(pair.caption) > 0 for pair in ShardStream(Shards(folder), size=None, seed=1))


def _training_tokens(folder: Path) -> int:
    tokenizer, waiting, seen = _tokenizer(), [], 0
    for pair in ShardStream(Shards(folder), size=None, seed=1):
        waiting.append(pair.caption)
        if len(waiting) == MICRO_BATCH:
            seen += len(tokenised(tokenizer, waiting))
            waiting = []
    return seen + (len(tokenised(tokenizer, waiting)) if waiting else 0)


def _chunks(folder: Path) -> int:
    return len(tokenised(_tokenizer(), _captions(folder)))


def _one_call(folder: Path) -> int:
    captions = _captions(folder)
    options = dict(padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    return len(_tokenizer()(captions[: len(captions) // TENTH], **options).input_ids)


def _order(folder: Path) -> int:
    return len(stream_order(Shards(folder).counts, 1, 0))


def _captions(folder: Path) -> list[str]:
    shards = Shards(folder)
    return [shards.caption(number) for number in range(len(shards))]


def _tokenizer():
    tokenizer = mini.build_tokenizer()
    tokenizer.model_max_length = TOKENS
    return tokenizer


PARTS: dict[str, Callable[[Path], int]] = {
    "index": lambda folder: len(Shards(folder)),
    "kept": lambda folder: len(Shards(folder)),
    "order": _order,
    "stream": _stream,
    "training tokens": _training_tokens,
    "tokens in chunks": _chunks,
    "tokens in one call": _one_call,
}


def _memory(kind: str) -> float:
    """Memory of this process in MiB: VmRSS now, VmHWM at its peak."""
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith(f"{kind}:")]
    return int(line.split()[1]) / 1024


def measure(part: str, folder: Path) -> dict[str, float]:
    """Pairs, seconds, and peak memory in MiB, of one part in this process."""
    before, started = _memory("VmRSS"), time.perf_counter()
    pairs = PARTS[part](folder)
    return {
        "pairs": pairs,
        "seconds": time.perf_counter() - started,
        "peak": _memory("VmHWM"),
        "above": _memory("VmHWM") - before,
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options; ends in one sentence where one is not allowed."""
    parser = OneSentenceParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for name in ("pairs", "shards"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    if options.shards > options.pairs:
        parser.error(f"--shards must be at most --pairs, {options.pairs}, got {options.shards}")
    return options


def main() -> None:
    """Command line."""
    options = parse()
    if options.part:
        paths.RUNS = options.folder / "runs"
        print(json.dumps(measure(options.part, options.folder / "shards")))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "shards").mkdir()
        started = time.perf_counter()
        write_shards(folder / "shards", options.pairs, options.shards)
        size = sum(file.stat().st_size for file in (folder / "shards").iterdir()) / 2**30
        print(f"{machine()['name']}; {options.pairs} pairs in {options.shards} shards, {size:.2f} GiB, ", end="")
        print(f"written in {time.perf_counter() - started:.0f} s\n\n| part | pairs | seconds | pairs a second | peak MiB | above MiB |")
        print("|---|---|---|---|---|---|", flush=True)
        for part in options.parts:
            command = [sys.executable, "-m", "benchmarks.caption_stream", "--part", part, "--folder", name]
            child = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if child.returncode:
                sys.exit(f"{part} failed with exit code {child.returncode} (-9 is out of memory).")
            found = json.loads(child.stdout.splitlines()[-1])
            rate = found["pairs"] / found["seconds"]
            print(
                f"| {part} | {found['pairs']} | {found['seconds']:.1f} | {rate:.0f} | {found['peak']:.0f} | {found['above']:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
