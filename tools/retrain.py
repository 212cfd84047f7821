"""Train everything that ships from the data on: `make retrain YES=1`, hours on a CPU; the third stage of the UNet wants a GPU.

    python tools/retrain.py [--yes] [--from STAGE] [--without-scenes]

The plan is printed first; without `--yes` nothing else happens. Finished stages are noted in runs/retrain.json, so that after an
interruption the same command goes on with the stage that was interrupted, from its checkpoint. When all are done the note goes, and
`make results` records the pages again. `git restore data` brings the shipped data and weights back.
"""

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass

import torch

from companion.base import paths
from companion.base.config import OneSentenceParser
from companion.base.files import atomic_write
from companion.base.reading import read_json

NOTE = paths.RUNS / "retrain.json"
PARTS = ("train", "test", "compositional", "edits", "drags", "card")


@dataclass(frozen=True)
class Stage:
    """One step of the way, as arguments of Python; `minutes` on two cores, None where nobody has waited for it on a CPU."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    minutes: float | None
    needs_gpu: bool = False


def training(name: str, minutes: float | None, needs_gpu: bool = False) -> Stage:
    """A stage that one file of configs/training describes."""
    file = paths.CONFIGS / "training" / f"{name}.yaml"
    return Stage(name, (("-m", "companion.training", "--config", str(file), *OVERWRITE),), minutes, needs_gpu)


OVERWRITE = ("--overwrite",)
STAGES = (
    Stage("scenes", tuple(("-m", "companion.world.build", part) for part in PARTS), 60),
    training("vae", 21),
    training("base", 30),
    training("base_continued", 108),
    training("base_gpu", None, needs_gpu=True),
    training("decoder", 45),
    training("decoder_continued", 20),
    training("dual_encoder", 10),
    training("scene_attributes", 8),
    training("variant_classes", 5),
    training("variant_style", 5),
    Stage("adapters", (("tools/train_adapters.py", "--again"),), 600),
)


def missing(stage: Stage) -> str:
    """Why a stage cannot be done on this machine; empty where it can."""
    if stage.needs_gpu and not torch.cuda.is_available():
        return "left out: it needs a GPU"
    if stage.name == "scenes" and importlib.util.find_spec("mitsuba") is None:
        return "left out: the renderer is missing (pip install -c constraints.txt -e '.[render]')"
    return ""


def main() -> None:
    """Command line."""
    names = [stage.name for stage in STAGES]
    parser = OneSentenceParser(description=__doc__.splitlines()[0])
    parser.add_argument("--yes", action="store_true", help="replace what ships; without it the plan is printed")
    parser.add_argument("--from", dest="first", choices=names, default=names[0], help="begin here; earlier stages stay")
    parser.add_argument("--without-scenes", action="store_true", help="keep the rendered scenes")
    arguments = parser.parse_args()
    done = read_json(NOTE, remedy="delete it to begin with the first stage").get("done", []) if NOTE.exists() else []
    todo = [stage for stage in STAGES[names.index(arguments.first) :] if not (arguments.without_scenes and stage.name == "scenes")]
    for stage in todo:
        minutes = "?" if stage.minutes is None else f"{stage.minutes:g}"
        print(f"{stage.name:16s} {'done' if stage.name in done else missing(stage) or f'about {minutes} min on two cores'}", flush=True)
    if not arguments.yes:
        print("This replaces data and weights in data/: say --yes (make retrain YES=1) to begin.")
        return
    for stage in todo:
        if stage.name in done or missing(stage):
            continue
        for command in stage.commands:
            if (code := subprocess.run([sys.executable, *command], cwd=paths.ROOT).returncode) != 0:
                sys.exit(f"The stage {stage.name} ended with exit status {code}, see above. The same command goes on from there.")
        done.append(stage.name)
        atomic_write(NOTE, json.dumps({"done": done}).encode())
    NOTE.unlink(missing_ok=True)
    print("All stages are done. `make results` records the pages with the new weights.")


if __name__ == "__main__":
    main()
