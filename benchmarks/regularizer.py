"""Cost of the regularizer: time, memory and error of one LoRA training step, plain, as the authors do it, and in each of our ways.

    python -m benchmarks.regularizer --device cuda --price 2.50           # Stable Diffusion 1.5's UNet at 512 pixels on a GPU, all ways
    python -m benchmarks.regularizer                                      # the embedded UNet on the CPU, batch 16, 16 x 16 latents
    python -m benchmarks.regularizer --samples real                       # its trained weights on training images with their captions
    python -m benchmarks.regularizer --unet slim --latents 32 --batch 2   # Stable Diffusion 1.5's layout with few channels

On a CPU every way runs in a process of its own, so that its peak memory is its own; the ways take turns, `--rounds` times, so that a
slow moment of the machine hits all. Memory is the peak above what is resident before the step (weights and libraries). Prints a table in
Markdown, medians and ratios; `--write FILE` keeps it, such as benchmarks/regularizer.md, which the book shows. "passes" are the samples
that went forward and backward through the network, in units of the batch, counted as they ran; those of a second derivative are not in
them.

The steps of the differences are fixed in what is timed, except in "a step that measures", of which a training has one in a hundred. The
error is that of the gradient of L_reg, by a measured step (`auto`), against double backward in float32 without TF32, on two samples with
the weights that are there: `python -m benchmarks.gradient_error` has it for trained weights. "fast" is channels last with compiled blocks
and, in half precision, rounded frozen weights; "fused" has `smoothlib.second_order`'s layers in place of compiled blocks.
"""

import argparse
import gc
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

import torch

from companion.base.config import OneSentenceParser
from companion.base.machine import machine

from .training_cost import table
from .training_steps import HALVES, PRECISIONS, WAYS, measure, no_gradients, possible

ON_A_GPU = dict(unet="sd15", latents=64, precision="fp16")
ELSEWHERE = dict(unet="mini", batch=16, latents=16, precision="float32")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; ends with a sentence where it cannot be."""
    parser = OneSentenceParser(description=__doc__.splitlines()[0], formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where; cuda also means sd15 at 512 pixels, unless told"
    )
    parser.add_argument("--unet", choices=("mini", "slim", "sd15"))
    parser.add_argument("--samples", choices=("noise", "real"), default="noise", help="real: training images, captions and weights")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--authors-batch", type=int, default=3, help="the most for double backward: 4 fill 80 GB; times are per sample")
    parser.add_argument("--latents", type=int, help="height and width of the latents, a multiple of 8")
    parser.add_argument("--precision", choices=PRECISIONS, help="fp16 by default on a GPU")
    parser.add_argument("--backend", default="inductor", help="torch.compile's")
    parser.add_argument("--steps", type=int, default=3, help="timed steps (periods) in each process")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing in every way")
    parser.add_argument("--price", type=float, help="of an hour of this machine, in euros: adds what the paper's training costs")
    parser.add_argument("--write", type=Path, metavar="FILE", help="keep what is printed")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), metavar="WAY", help="all that the precision allows")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device is cuda, but PyTorch finds no GPU here")
    options.device = ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    for name, value in (ON_A_GPU if options.device == "cuda" and options.samples == "noise" else ELSEWHERE).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.batch is None:
        options.batch = 48 if options.precision in HALVES else 12
    for name in ("batch", "authors_batch", "latents", "steps", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    if options.latents % 8:
        parser.error(f"--latents must be a multiple of 8, got {options.latents}")
    if options.price is not None and not 0 < options.price < math.inf:
        parser.error(f"--price must be above 0, got {options.price}")
    if options.samples == "real" and (options.unet, options.latents) != ("mini", 16):
        parser.error(f"--samples real needs --unet mini and --latents 16, got {options.unet} and {options.latents}")
    options.ways = options.ways or [name for name, way in WAYS.items() if possible(way, options.precision, options.checkpointing)]
    if refused := [name for name in options.ways if WAYS[name].gradient in no_gradients(options.precision, options.checkpointing)]:
        with_what = options.precision + " and --checkpointing" * options.checkpointing
        parser.error(f"--ways has {refused[0]!r}, which does not go with --precision {with_what}")
    return options


def child_command(options: argparse.Namespace, way: str, check: bool) -> list[str]:
    """What measures one way in a process of its own."""
    names = ("device", "unet", "samples", "batch", "authors_batch", "latents", "precision", "backend", "steps")
    flags = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in names]
    flags += [flag for flag, wanted in (("--checkpointing", options.checkpointing), ("--check", check)) if wanted]
    return [sys.executable, "-m", "benchmarks.regularizer", "--way", way, *flags]


def measured(options: argparse.Namespace, way: str, check: bool) -> dict | str:
    """What `measure` finds of a way, or what it failed by. On a GPU, whose memory is counted by PyTorch, in this process."""
    if options.device == "cuda":
        try:
            return measure(argparse.Namespace(**vars(options) | {"way": way, "check": check}))
        except torch.OutOfMemoryError:
            return "out of memory"
        finally:
            gc.collect()
            torch.cuda.empty_cache()
    child = subprocess.run(child_command(options, way, check), stdout=subprocess.PIPE, text=True)
    return f"exit code {child.returncode} (-9 is out of memory)" if child.returncode else json.loads(child.stdout.splitlines()[-1])


def main() -> None:
    """Command line."""
    options = parse()
    if options.way:
        print(json.dumps(measure(options)))
        return
    host = machine(options.device)
    note = ", gradient checkpointing" if options.checkpointing else ""
    what = f"UNet {options.unet}, {options.samples}, latents {options.latents}, {options.precision}{note}"
    lines = [f"{host['name']}, {host['threads']} threads, PyTorch {torch.__version__}; {what}", ""]
    print(lines[0], flush=True)
    found: dict[str, list[dict]] = {way: [] for way in options.ways}
    failed = {}
    for number in range(options.rounds):
        for way in options.ways:
            one = measured(options, way, check=number == 0)
            if isinstance(one, str):
                failed[way] = one
                continue
            found[way].append(one)
            print(json.dumps({"way": way, **one}), file=sys.stderr, flush=True)
            if options.write:  # as it grows: nothing is lost with a later way
                options.write.write_text("\n".join([*lines, *result(found, options)]) + "\n", encoding="utf-8")
    print("\n".join(["", *result(found, options)]))
    if failed:
        sys.exit("; ".join(f"{way} failed: {why}" for way, why in failed.items()) + ".")


def result(found: dict[str, list[dict]], options: argparse.Namespace) -> list[str]:
    """The table of medians of what has been found."""
    medians = {}
    for way, runs in ((way, runs) for way, runs in found.items() if runs):
        medians[way] = runs[0] | {key: statistics.median(run[key] for run in runs) for key in ("seconds", "gib")}
    paper = options.unet == "sd15" and options.latents == 64
    return table(medians, plain="plain LoRA", authors="authors' (double backward)", price=options.price, paper=paper)


if __name__ == "__main__":
    main()
