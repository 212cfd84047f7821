"""Train the adapters that configs/adapters.yaml lists and that are not in data/models/adapters; name some to train only these.

    python tools/train_adapters.py [--again] [NAME ...]

An interrupted training goes on from its last checkpoint.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from companion.base import paths
from companion.base.config import OneSentenceParser, errors_as_exit_codes
from companion.base.reading import read_yaml
from companion.training.loop import train
from companion.training.publishing import tidy
from companion.training.resuming import alone
from companion.training.settings import Loader, TrainingConfig, load_config
from companion.weights.cards import CARD, check_files

LIST, COMMON = paths.CONFIGS / "adapters.yaml", paths.CONFIGS / "training" / "smooth_lora.yaml"


def main() -> None:
    """Command line."""
    listed = read_yaml(LIST, loader=Loader)
    parser = OneSentenceParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(listed)}")
    parser.add_argument("--again", action="store_true", help="train those that are there too, and replace them")
    arguments = parser.parse_args()
    names, again = arguments.names or list(listed), arguments.again
    if unknown := [name for name in names if name not in listed]:
        parser.error(f"NAME must be one of {', '.join(listed)}, got {unknown[0]!r}")
    with errors_as_exit_codes(parser.prog):
        train_missing(names, listed, again=again)


def train_missing(names: list[str], listed: Mapping[str, Mapping[str, Any]], *, again: bool) -> None:
    """Train those of `names` that are not there, by the settings in `listed`; all are read first: a mistake in the last shows at once."""
    settings = {name: load_config(COMMON, name=name, export_to=f"adapters/{name}", overwrite=again, **listed[name]) for name in names}
    for name, setting in settings.items():
        if not again and is_there(setting):
            print(f"{name} is there")
            continue
        print(f"{name}: {setting.steps} steps")
        train(replace(setting, overwrite=again or not (paths.ADAPTERS / name / CARD).exists()))  # half an export is replaced


def is_there(setting: TrainingConfig) -> bool:
    """Is the adapter there, whole and with its card? What a kill left of an export is put in order first.

    Raises:
        ValueError, FileNotFoundError: a file is not the one that the card records.
        ConfigurationError: another process trains it now.
    """
    folder = paths.MODELS / setting.export_to
    if not (folder / CARD).is_file():
        with alone(setting.name, setting.folder):
            tidy(folder)
    if not (folder / CARD).is_file():
        return False
    check_files(folder)
    return True


if __name__ == "__main__":
    main()
