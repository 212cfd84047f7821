"""Run every preset of configs/sd15 on random weights of the real architecture: `make sd15-rehearsal`.

    python tools/sd15_rehearsal.py [--folder out/rehearsal] [--width full|slim] [--only table1_istd ...] [--minutes 60] [--again] [--build]

It builds a pipeline folder with Stable Diffusion 1.5's architecture and seeded random weights, an adapter with random weights for each
recipe of configs/adapters_sd15.yaml, and folders in the layouts of COCO, LAION, PIE-Bench and DragBench from the photographs that come with
scikit-image. Then each preset runs in a process of its own, on two images and two sampling steps, and the training preset for one step. The
numbers mean nothing; what is shown is that everything runs, how long it takes here, and how much memory it needs. The exit code is 1 where
one fails.

Each outcome is stored in `WIDTH/rehearsed.json` of the folder at once. A second start runs what does not work yet, or worked with other
code (`--again`: everything), and a page that was ended goes on from the results that it had stored. After a rehearsal at slim width, which
counts what the UNet is given, the other goes from the cheapest preset to the most expensive.

Full width needs 16 GB of memory and 8 GB of disk; all presets take a night on two cores. Slim width takes minutes.
"""

import argparse
import resource
import sys
import traceback
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from companion.base import paths
from companion.base.config import OneSentenceParser, errors_as_exit_codes

sys.path.insert(0, str(paths.ROOT / "tools"))
PRESETS, TRAINING = paths.CONFIGS / "sd15", "training"
DATASETS = {"../coco": "coco", "../DragBench": "DragBench", "../edits": "edits", "../edits10": "PIE-Bench"}  # a preset's -> the rehearsal's
DONE = "built"  # the file that says that a folder is complete
OUTCOMES = "rehearsed.json"  # in the folder of a width


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
    parser.add_argument("--minutes", type=float, help="after which a preset's process is ended (never)")
    parser.add_argument("--again", action="store_true", help="run what works, too")
    parser.add_argument("--build", action="store_true", help="build the folders and run nothing")
    parser.add_argument("--child", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    folder = options.folder.resolve() / options.width
    if options.child:
        return _child(options.child, folder)
    if unknown := [name for name in options.only or () if name not in names()]:
        parser.error(f"--only is {unknown[0]!r}, but must be of {', '.join(names())}")
    if options.minutes is not None and not options.minutes > 0:
        parser.error(f"--minutes is {options.minutes:g}, but must be greater than 0")
    with errors_as_exit_codes(parser.prog):
        build(folder, options.width)
    if options.build:
        return 0
    return print_table(options.only or names(), folder, minutes=options.minutes, again=options.again)


def print_table(chosen: list[str], folder: Path, *, minutes: float | None = None, again: bool = False) -> int:
    """A line for each preset as soon as it is done, the cheapest first where that is known. 1 where one does not work."""
    from rehearsing import outcomes

    file = folder / OUTCOMES
    before, counted = outcomes.stored(file), outcomes.stored(folder.parent / "slim" / OUTCOMES)
    codes = {name: outcomes.code(_files(name)) for name in chosen}
    environment = {"SMOOTHLIB_RUNS": str(folder / "runs"), "SMOOTHLIB_OUT": str(folder / "out")}

    def run_one(name: str) -> outcomes.Outcome:
        command = [sys.executable, __file__, "--folder", str(folder.parent), "--width", folder.name, "--child", name]
        return outcomes.run(command, environment, paths.ROOT / "notebooks", minutes, codes[name])

    kept = {name: one for name, one in before.items() if (one.result, one.code) == (outcomes.WORKS, codes.get(name)) and not again}
    return outcomes.table(outcomes.cheapest_first(chosen, counted), run_one, file, kept)


def _files(name: str) -> list[Path]:
    """What decides, besides the packages, what a preset does."""
    if name == TRAINING:
        return [paths.CONFIGS / "training" / "sd15_smooth_lora.yaml"]
    return [PRESETS / f"{name}.yaml", paths.ROOT / "notebooks" / f"{name}.ipynb"]


def _child(name: str, folder: Path) -> int:
    """Run one preset here, and say what it took."""
    from rehearsing import outcomes

    samples = 0

    def count(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        nonlocal samples
        samples += len(arguments[0]) if arguments and isinstance(module, UNet2DConditionModel) else 0

    try:
        with register_module_forward_pre_hook(count):
            rehearse(name, folder)
        failed = 0
    except Exception:
        traceback.print_exc()
        failed = 1
    scale = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    print(outcomes.report(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e9, samples), flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
