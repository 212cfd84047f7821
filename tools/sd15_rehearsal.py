"""Run every preset of configs/sd15 on random weights of the real architecture: `make sd15-rehearsal`.

    python tools/sd15_rehearsal.py [--folder out/rehearsal] [--width full|slim] [--only table1_istd ...] [--build]

It builds a pipeline folder with Stable Diffusion 1.5's architecture and seeded random weights, an adapter with random weights for each
recipe of configs/adapters_sd15.yaml, and folders in the layouts of COCO, LAION, PIE-Bench and DragBench from the photographs that come with
scikit-image. Then each preset runs in a process of its own, on two images and two sampling steps, and the training preset for one step. The
numbers mean nothing; what is shown is that everything runs, how long it takes here, and how much memory it needs. The exit code is 1 where
one fails.

Full width needs 16 GB of memory and 8 GB of disk; all presets take a night on two cores. Slim width takes minutes.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from companion.base import paths
from companion.base.config import OneSentenceParser, errors_as_exit_codes

sys.path.insert(0, str(paths.ROOT / "tools"))
PRESETS, TRAINING = paths.CONFIGS / "sd15", "training"
DATASETS = {"../coco": "coco", "../DragBench": "DragBench", "../edits": "edits", "../edits10": "PIE-Bench"}  # a preset's -> the rehearsal's
DONE = "built"  # the file that says that a folder is complete


def build(folder: Path, width: str, seed: int = 0) -> None:
    """Everything that the presets run on, in `folder`; what is there of the same width and seed stays."""
    from rehearsing import adapters, folders, pipeline

    wanted = f"{width} {seed}"
    if (folder / DONE).is_file() and (folder / DONE).read_text(encoding="utf-8") == wanted:
        return
    pipeline.write_pipeline(folder / "sd15", width, words=folders.words(), seed=seed)
    adapters.write_adapters(folder / "adapters", folder / "sd15", seed)
    folders.write_coco(folder / "coco")
    folders.write_laion(folder / "laion")
    folders.write_pie_bench(folder / "PIE-Bench")
    folders.write_edits(folder / "edits")
    folders.write_drag_bench(folder / "DragBench")
    (folder / DONE).write_text(wanted, encoding="utf-8")


def names() -> list[str]:
    """The presets, and the training."""
    return [*sorted(file.stem for file in PRESETS.glob("*.yaml")), TRAINING]


def rehearse(name: str, folder: Path) -> list[str]:
    """Run one preset on what `build` made; what its page shows."""
    if name == TRAINING:
        return _train(folder)
    from rehearsing.pages import run_page

    return run_page(name, parameters(name, folder))


def parameters(name: str, folder: Path) -> dict[str, Any]:
    """The preset's parameters on the rehearsal's folders, made small."""
    from rehearsing.pages import small_parameters

    file, adapters = PRESETS / f"{name}.yaml", sorted(str(card.parent) for card in (folder / "adapters").glob("*/card.json"))
    model, smooth = str(folder / "sd15"), str(folder / "adapters" / "smooth")
    found = small_parameters(name, file, {"model": model, "checkpoints": [model], "adapter": smooth})
    if "dataset" in found:
        found["dataset"] = str(folder / DATASETS[found["dataset"]])
    if "adapters" in found:
        found["adapters"] = adapters if "training_seeds" in found or "num_prompts" in found else [smooth]
    return found


def _train(folder: Path) -> list[str]:
    from companion.training.loop import train
    from companion.training.settings import load_config

    changes = {
        "name": "rehearsal",
        "export_to": str(paths.RUNS / "trained"),
        "overwrite": True,
        "steps": 1,
        "batch_size": 1,
        "gradient_accumulation_steps": 1,
        "objective_options.pipeline": str(folder / "sd15"),
        "objective_options.data": str(folder / "laion" / "shards"),
        "objective_options.resolution": 128,
    }
    train(load_config(paths.CONFIGS / "training" / "sd15_smooth_lora.yaml", **changes))
    return [str(paths.RUNS / "trained")]


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = OneSentenceParser(prog="sd15_rehearsal", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=paths.OUT / "rehearsal", help="where all is built and computed (out/rehearsal)")
    parser.add_argument("--width", choices=("full", "slim"), default="full", help="full, the real number of channels; slim, a few")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"presets: {', '.join(names())}")
    parser.add_argument("--build", action="store_true", help="build the folders and run nothing")
    parser.add_argument("--child", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    folder = options.folder.resolve()
    if options.child:
        return _child(options.child, folder)
    if unknown := [name for name in options.only or () if name not in names()]:
        parser.error(f"--only is {unknown[0]!r}, but must be of {', '.join(names())}")
    with errors_as_exit_codes(parser.prog):
        build(folder, options.width)
    if options.build:
        return 0
    return print_table(options.only or names(), folder)


def print_table(chosen: list[str], folder: Path) -> int:
    """Each preset in its own process; a line for each as soon as it is done. 1 where one failed."""
    failed = 0
    print(f"{'preset':24}{'result':10}{'seconds':>9}{'peak GB':>9}", flush=True)
    for name in chosen:
        environment = os.environ | {"SMOOTHLIB_RUNS": str(folder / "runs"), "SMOOTHLIB_OUT": str(folder / "out")}
        started = time.monotonic()
        command = [sys.executable, __file__, "--folder", str(folder), "--child", name]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=paths.ROOT / "notebooks")
        seconds, lines = time.monotonic() - started, (done.stdout + done.stderr).strip().splitlines()
        peak = next((line.removeprefix("peak ") for line in lines if line.startswith("peak ")), "")
        works = done.returncode == 0
        failed += not works
        error = "" if works else "  " + next((line for line in reversed(lines) if line and not line.startswith("peak ")), "killed")
        print(f"{name:24}{'works' if works else 'FAILED':10}{seconds:9.0f}{peak:>9}{error}", flush=True)
    print(f"{len(chosen) - failed} of {len(chosen)} presets work.")
    return int(failed > 0)


def _child(name: str, folder: Path) -> int:
    try:
        rehearse(name, folder)
        code = 0
    except Exception:
        traceback.print_exc()
        code = 1
    scale = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e9:.1f}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
