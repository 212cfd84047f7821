"""Rows of tables and figures: a label for show, and the fields that a program goes by."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .trained import file_title, title_of


@dataclass(frozen=True)
class Row:
    """One row: its label, the adapters that answer to it, one per training seed (None: the base model), and what it computes.

    settings: the row's own procedure and settings, a dataclass; None where all rows of the study compute the same.
    paper_row: the paper's row that it answers to. model: the row's own model; None: the study's.
    """

    label: str
    adapters: tuple[str | None, ...] = (None,)
    settings: Any = None
    paper_row: str | None = None
    model: str | None = None

    @property
    def adapter(self) -> str | None:
        """The adapter of a row that has one."""
        (adapter,) = self.adapters
        return adapter


def check_rows(rows: Sequence[Row]) -> None:
    """Raises ValueError, one sentence, where two rows have one label, or a row has no adapter: results are shown by their labels."""
    if repeated := [label for label, count in Counter(row.label for row in rows).items() if count > 1]:
        raise ValueError(f"rows has the label {repeated[0]!r} more than once, but must have different labels.")
    if empty := [row.label for row in rows if not row.adapters]:
        raise ValueError(f"rows must have at least one adapter each (None is the base model), but {empty[0]!r} has none.")


def adapter_titles(adapters: Sequence[str]) -> dict[str | None, str]:
    """Adapter -> how rows are called after it, by what it is (`trained.title_of`); the base model (None) first: "Base", "Smooth".

    Where two would be called alike, all are called by their folders. Raises ValueError where two folders' names are equal.
    """
    titles = {None: "Base"} | {adapter: title_of(adapter) for adapter in adapters}
    if len(set(titles.values())) < len(titles):
        titles = {None: "Base"} | {adapter: file_title(adapter) for adapter in adapters}
    if len(titles) <= len(adapters) or len(set(titles.values())) < len(titles):
        raise ValueError(
            f"adapters is {', '.join(map(str, adapters))}, but must have different folder names, none of them 'base' (the first letter may "
            "be a capital or not): rows are called after them."
        )
    return titles


def glue_key(label: str) -> str:
    """A label as part of a name that prose can quote: "Base + DDIM" gives base___ddim."""
    return "".join(c if c.isalnum() else "_" for c in label.lower())
