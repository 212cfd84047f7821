"""Pairs of real images to interpolate between (Fig. 3, 7): taken by seed, never picked."""

import dataclasses
import string
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from ...data.items import Item, Split, noise_seed


@dataclass(frozen=True)
class ImagePair:
    """Two images, each with the caption that it is inverted with, and the seed of the noise that ANID gives to both."""

    id: str
    first: Item
    second: Item
    noise_seed: int


def pairs_from(split: Split, limit: int, *, seed: int = 0, skip: int = 0, same: str = "cls", prompt: str | None = None) -> list[ImagePair]:
    """`limit` pairs of different images that agree in the field `same` of their records (all do that lack it), by `seed`.

    No image is in two pairs. A larger `limit` keeps the pairs of a smaller one; `skip` leaves out the first so many, which another figure
    shows.

    Args:
        prompt: one prompt for both images of every pair, as in the paper; names of record fields in braces are filled in, e.g.
            "a photo of a {cls}". None: each image keeps its own caption.

    Raises:
        ValueError: the split has fewer pairs, `seed` is outside [0, 999], or `prompt` names a field that the records lack.
    """
    if limit < 1 or skip < 0:
        raise ValueError(f"limit must be at least 1 and skip at least 0, not {limit} and {skip}")
    indices = seeded_pairs([record.get(same) for record in split.records], seed)
    if len(indices) < skip + limit:
        raise ValueError(f"limit and skip must not exceed {len(indices)} pairs together, not {limit} and {skip}")
    return [_pair(split, i, j, seed, prompt) for i, j in indices[skip : skip + limit]]


def seeded_pairs(groups: list[Hashable], seed: int) -> list[tuple[int, int]]:
    """Disjoint pairs (i, j) with groups[i] == groups[j]: a random order is gone through, and each index joins the last unpaired one."""
    waiting: dict[Hashable, int] = {}
    pairs = []
    for j in np.random.default_rng(seed).permutation(len(groups)).tolist():
        if (i := waiting.pop(groups[j], None)) is None:
            waiting[groups[j]] = j
        else:
            pairs.append((i, j))
    return pairs


def _pair(split: Split, i: int, j: int, seed: int, prompt: str | None) -> ImagePair:
    first, second = (_captioned(split.item(k), split.records[k], prompt) for k in (i, j))
    return ImagePair(f"{first.id}+{second.id}", first, second, noise_seed(seed, i))


def _captioned(item: Item, record: dict, prompt: str | None) -> Item:
    if prompt is None:
        return item
    try:
        parts = list(string.Formatter().parse(prompt))
        if not all(name is None or (name in record and not spec and not kind) for _, name, spec, kind in parts):
            raise ValueError("a brace names more than a field")
        return dataclasses.replace(item, caption=prompt.format(**record))
    except ValueError as error:
        fields = ", ".join(record)
        raise ValueError(f"prompt must be a text in which braces name fields of the records ({fields}), not {prompt!r:.80}") from error
