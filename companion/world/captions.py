"""Captions that say less: the same scene with some of its phrases left out, and which images such a caption is still true of.

Trained on full captions alone, a text encoder would have seen 4,138 of them, each word always in the same company.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .vocabulary import CLASSES, COLOURS, EXTRAS, GROUNDS, SETTINGS, STYLES

# A caption always names these: a caption without a second object says that there is none
STATED: dict[str, tuple] = {"cls": tuple(CLASSES), "extra": (None, *EXTRAS)}
OPTIONAL: dict[str, tuple] = {
    "style": tuple(STYLES),
    "colour": (None, *COLOURS),
    "ground": tuple(GROUNDS),
    "setting": tuple(SETTINGS),
}


def partial_caption(record: Mapping, named: Sequence[bool] = (True,) * len(OPTIONAL)) -> str:
    """The caption of a scene record, with those `OPTIONAL` phrases that `named` marks, e.g. `a red sofa and a plant in an apartment`."""
    style, colour, ground, setting = named
    main = f"{record['colour']} {record['cls']}" if colour and record["colour"] else record["cls"]
    objects = [f"{'an' if words[0] in 'aeiou' else 'a'} {words}" for words in (main, record["extra"]) if words]
    phrases = [
        STYLES[record["style"]] if style else "",
        " and ".join(objects),
        GROUNDS[record["ground"]] if ground else "",
        SETTINGS[record["setting"]] if setting else "",
    ]
    return " ".join(phrase for phrase in phrases if phrase)


def scene_codes(records: Sequence[Mapping]) -> Tensor:
    """What captions can say about each scene, as numbers: (N, 6) long, the columns of `STATED` and then of `OPTIONAL`."""
    fields = (STATED | OPTIONAL).items()
    return torch.tensor([[values.index(record[field]) for field, values in fields] for record in records])


def true_of(codes: Tensor, named: Tensor) -> Tensor:
    """Which captions are true of which scenes of a batch, (B, B) bool: [i, j] for scene i and the caption of scene j.

    `codes` (B, 6) are those of `scene_codes`, `named` (B, 4) bool the phrases that each caption has.
    """
    silent = torch.cat([torch.zeros(len(named), len(STATED), dtype=torch.bool), ~named], dim=1)  # (B, 6)
    return ((codes[:, None] == codes[None]) | silent[None]).all(dim=-1)
