"""Edits as items: a picture, what it shows, what it should show, and where known the true edit and where it is."""

import hashlib
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from .pictures import square

WITHOUT_OUTSIDE = ("setting", "style", "change style")  # kinds that change every pixel, by rule and whatever the mask says
HALVES = ("even", "odd")


@dataclass(frozen=True)
class EditItem:
    """One edit. Images are (3, H, W) float32 in [-1, 1], the mask (1, H, W) bool, True where the picture should change.

    What is not known is None: the true edit (`target`), the mask, the scene records. `marked` are the words that a benchmark puts in
    brackets in the source's and in the target's caption, `blend_words` those whose attention it suggests as a mask.
    """

    id: str
    kind: str
    source: torch.Tensor
    source_caption: str
    target_caption: str
    target: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    source_record: dict[str, Any] | None = field(default=None, repr=False)
    target_record: dict[str, Any] | None = field(default=None, repr=False)
    marked: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    blend_words: tuple[str, ...] = ()

    @property
    def has_outside(self) -> bool:
        """Whether something must be left alone: there is a mask, and the kind of edit does not change every pixel."""
        return self.mask is not None and self.kind not in WITHOUT_OUTSIDE

    @cached_property
    def key(self) -> str:
        """Hash of the content: everything but the id."""
        digest = hashlib.sha256()
        texts = (self.kind, self.source_caption, self.target_caption, self.source_record, self.target_record, self.marked, self.blend_words)
        for text in map(repr, texts):
            digest.update(f"{len(text.encode())} {text}".encode())
        for tensor in (self.source, self.target, self.mask):
            array = None if tensor is None else np.ascontiguousarray(tensor.numpy())
            digest.update(b"none" if array is None else f"{array.dtype.str} {array.shape}".encode() + array.tobytes())
        return digest.hexdigest()[:32]


class EditSet(Protocol):
    """A set of edits: `records` hold at least id, kind, source_caption and target_caption of each, `item` reads one."""

    records: list[dict[str, Any]]

    def __len__(self) -> int: ...

    def item(self, index: int) -> EditItem:
        """Edit `index` as an item."""


def resized_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """A mask (H, W) bool as `pictures.square` makes pictures; a pixel is in where about half of it is covered."""
    return square(Image.fromarray(mask.astype(np.uint8) * 255), size) > 127


def half_of(identity: str) -> str:
    """The half that an edit belongs to by its id, `even` or `odd`: by the first number in it, or by its hash where it has none."""
    number = re.search(r"\d+", identity)
    value = int(number.group()) if number else hashlib.sha256(identity.encode()).digest()[0]
    return HALVES[value % 2]


def half(edits: EditSet, which: str) -> list[int]:
    """Indices of the edits of one half: the even ones choose settings, the odd ones are reported, and nobody looks at them before.

    Raises:
        ValueError: `which` is neither `even` nor `odd`.
    """
    if which not in HALVES:
        raise ValueError(f"which is {which!r}, but must be one of {', '.join(HALVES)}")
    return [index for index, record in enumerate(edits.records) if half_of(record["id"]) == which]
