"""Time of an ISTD run against its bare UNet and decoder forwards.

    python -m benchmarks.istd                                                              # the embedded model on the CPU
    python -m benchmarks.istd --device cuda --model random-sd15 --compile                  # no weights are needed for time

"run" is everything: text encoding, noises, walk, distances, LPIPS, storage. "bare" is the same number of forward passes at the same sizes,
and nothing else. Both are timed alternately, and the fastest of each counts. "within" takes both from within the run (`seconds` /
`forward_seconds` of the items). `--write FILE` keeps the table, such as benchmarks/istd.md.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from companion.base.config import OneSentenceParser
from companion.base.machine import machine
from companion.data import load as datasets
from companion.runs import runs
from companion.studies.smoothness.generation import initial_noise
from companion.studies.smoothness.walks import LatentWalk, walk_prompts_from
from smoothlib.execution import compile_blocks
from smoothlib.sampling import Sampling, decode_latents, encode_prompts

from . import random_model
from .beside import HELP, beside

HEAD = ("UNet", "run (s)", "bare (s)", "run / bare", "within")


def run_seconds(pipe, prompts, sampling: Sampling, frames: int, batch_size: int) -> tuple[float, float]:
    """Seconds of a whole run, and its items' seconds / forward_seconds."""
    with tempfile.TemporaryDirectory() as root:
        started = time.perf_counter()
        procedure = LatentWalk(pipe, sampling, frames=frames)
        found = runs.run_items(prompts, procedure, name="istd", config={}, batch_size=batch_size, root=root, progress=False)
        seconds = time.perf_counter() - started
    return seconds, sum(item["seconds"] for item in found) / sum(item["forward_seconds"] for item in found)


@torch.no_grad()
def bare_seconds(pipe, prompts, sampling: Sampling, frames: int, batch_size: int) -> float:
    """Seconds of the forward passes that the run needs, on ready inputs."""
    total = 0.0
    for start in range(0, len(prompts), batch_size):
        count = min(batch_size, len(prompts) - start) * frames
        x = initial_noise(pipe, range(count)).to(pipe.unet.device, pipe.unet.dtype)
        embeds = encode_prompts(pipe, [prompts[0].caption]).to(x).expand(count, -1, -1)
        guided = sampling.guidance_scale != 1
        both, both_embeds = (torch.cat([x, x]), torch.cat([embeds, embeds])) if guided else (x, embeds)
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        started = time.perf_counter()
        for _ in range(sampling.num_inference_steps):
            pipe.unet(both, 500, encoder_hidden_states=both_embeds, return_dict=False)
        decode_latents(pipe, x).cpu()  # waits for the device
        total += time.perf_counter() - started
    return total


def compare(pipe, prompts, sampling: Sampling, options: argparse.Namespace, alone: Callable) -> tuple[float, float, float]:
    """Seconds of the fastest run and of the fastest bare forwards, and the least ratio from within a run; after a warm-up."""
    size = (options.frames, options.batch_size)
    few = replace(sampling, num_inference_steps=2)
    started = time.perf_counter()
    for seconds in (bare_seconds, run_seconds):  # compiles for every size of a batch
        seconds(pipe, prompts, few, *size)
    print(f"warm after {time.perf_counter() - started:.1f} s", flush=True)
    found = []
    with alone():
        for _ in range(options.repeats):
            bare = bare_seconds(pipe, prompts, sampling, *size)
            run, within = run_seconds(pipe, prompts, sampling, *size)
            found.append((run, bare, within))
            print(f"run {run:.2f} s, bare {bare:.2f} s; within the run {within:.3f}x", flush=True)
    run, bare, within = map(min, zip(*found, strict=True))
    return run, bare, within


def table(found: dict[str, tuple[float, float, float]]) -> list[str]:
    """Lines of Markdown."""
    rows = [f"| {name} | {run:.2f} | {bare:.2f} | {run / bare:.3f} | {within:.3f} |" for name, (run, bare, within) in found.items()]
    return [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD), *rows]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; ends with a sentence where it cannot be."""
    parser = OneSentenceParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mini", help=random_model.HELP)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=4, help="prompts in one batch (times the frames)")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--frames", type=int, default=11)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="then the same with the UNet's blocks compiled, in the run and bare")
    parser.add_argument("--beside", type=Path, metavar="FILE", help=HELP)
    parser.add_argument("--write", type=Path, metavar="FILE", help="keep the table")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device is cuda, but PyTorch finds no GPU here")
    for name, least in (("prompts", 1), ("batch_size", 1), ("steps", 1), ("frames", 3), ("repeats", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(options, name)}")
    return options


def main() -> None:
    """Command line."""
    options = parse()
    with beside(options.beside) as alone:
        measure(options, alone)


def measure(options: argparse.Namespace, alone: Callable) -> None:
    """Print and keep the table, as it is and compiled."""
    pipe = random_model.load(options.model, options.device)
    prompts = walk_prompts_from(datasets.load_scenes("test"), options.prompts)
    sampling = Sampling(random_model.guidance_scale(options.model), options.steps)
    host = machine(options.device)
    title = f"{host['name']}, {host['threads']} threads, PyTorch {torch.__version__}; {options.model}, {random_model.image_size(pipe)} px"
    title += f", {options.prompts} prompts x {options.frames} frames, {options.batch_size} prompts at once, {options.steps} steps"
    title += f", guidance {sampling.guidance_scale:g}, float32"
    print(title, flush=True)
    found: dict[str, tuple[float, float, float]] = {}
    for name in ("as it is", "compiled") if options.compile else ("as it is",):
        if name == "compiled":  # in place
            compile_blocks(pipe.unet, dynamic=False if options.prompts % options.batch_size == 0 else None)
        found[name] = compare(pipe, prompts, sampling, options, alone)
        if options.write:  # at once: whoever ends it early has what was measured
            options.write.write_text("\n".join([title, "", *table(found)]) + "\n", encoding="utf-8")
    print("\n".join(["", *table(found)]))


if __name__ == "__main__":
    main()
