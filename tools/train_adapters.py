"""Train the adapters that configs/adapters.yaml lists and that are not in data/models/adapters; name some to train only these.

    python tools/train_adapters.py [--again] [--base sd15] [NAME ...]

`--base sd15`: those of configs/adapters_sd15.yaml, as adapters/sd15-NAME; a recipe that the list has under two names is trained once.

An interrupted training goes on from its last checkpoint.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from companion.base import paths
from companion.base.config import OneSentenceParser, errors_as_exit_codes
from companion.studies.trained import LISTS
from companion.training.loop import train
from companion.training.settings import Loader, load_config
from companion.weights.cards import CARD

BASES = {"mini": ("", *LISTS[0]), "sd15": ("sd15-", *LISTS[1])}  # base -> what its adapters' names begin with, list, common settings


def main() -> None:
    """Command line."""
    parser = OneSentenceParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="recipes of the list")
    parser.add_argument("--again", action="store_true", help="train those that are there too, and replace them")
    parser.add_argument("--base", choices=BASES, default="mini", help="whose list it is (mini)")
    arguments = parser.parse_args()
    start, file, common = BASES[arguments.base]
    listed = yaml.load((paths.CONFIGS / file).read_text(encoding="utf-8"), Loader)
    once = [name for place, name in enumerate(listed) if listed[name] not in list(listed.values())[:place]]
    names, again = arguments.names or once, arguments.again
    if unknown := [name for name in names if name not in listed]:
        parser.error(f"NAME must be one of {', '.join(listed)}, got {unknown[0]!r}")
    with errors_as_exit_codes(parser.prog):
        train_missing({start + name: listed[name] for name in names}, paths.CONFIGS / common, again=again)


def train_missing(wanted: Mapping[str, Mapping[str, Any]], common: Path, *, again: bool) -> None:
    """Train those of `wanted` that are not there: name -> changes of `common`. All are read first: a mistake in the last shows at once."""
    settings = {name: load_config(common, name=name, export_to=f"adapters/{name}", overwrite=again, **own) for name, own in wanted.items()}
    for name, setting in settings.items():
        if (paths.ADAPTERS / name / CARD).is_file() and not again:  # weights without a card are half an export
            print(f"{name} is there")
            continue
        print(f"{name}: {setting.steps} steps")
        train(setting)


if __name__ == "__main__":
    main()
