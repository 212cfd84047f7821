"""How far are real scenes from as many other real scenes by the Fréchet distance of Table 1? Print it, or note it in the data's card.

    python -m benchmarks.frechet_floor [--write]    # about a minute on one core

All test scenes and as many training scenes, chosen by seed, are pooled and split at random: both are drawn alike.
"""

from dataclasses import asdict

import torch

from companion.base import paths
from companion.base.config import OneSentenceParser
from companion.data.load import load_scenes, seeded_choice
from companion.evidence.floors import FACT
from companion.judges.features import scene_features
from companion.weights.cards import read_card, write_card
from smoothlib.metrics.frechet import frechet_floor


def main() -> None:
    """Command line."""
    parser = OneSentenceParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="note it in the card of data/scenes")
    options = parser.parse_args()
    test, train = load_scenes("test"), load_scenes("train")
    chosen = seeded_choice(len(train), len(test), 0)
    floor = frechet_floor(torch.cat([scene_features(test.pixels), scene_features(train.pixels[chosen])]), len(test))
    found = {name: round(value, 3) for name, value in asdict(floor).items() if name in ("mean", "low", "high")}
    print(f"{floor.n} against {floor.n} real scenes: {found['mean']} ({found['low']} to {found['high']} over {len(floor.values)} splits)")
    if options.write:
        write_card(paths.SCENES, **{FACT: {**read_card(paths.SCENES).get(FACT, {}), str(floor.n): found}})


if __name__ == "__main__":
    main()
