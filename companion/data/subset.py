"""Some images of a split, chosen by what their records say: classes, styles, whatever field there is."""

from collections.abc import Mapping, Sequence
from typing import Any

from .load import Item, Split


def matching(records: Sequence[Mapping[str, Any]], only: Mapping[str, Sequence[Any]] | None) -> list[int]:
    """Indices of the records that have, in every field of `only`, one of the values listed there; all of them for None.

    Raises:
        ValueError: `only` names a field that the records lack, gives a single value instead of a list, or nothing matches.
    """
    for field, values in (only or {}).items():
        if unlike := [record for record in records if field not in record]:
            raise ValueError(f"only names the field {field!r}, but the records' fields are {', '.join(unlike[0])}")
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise ValueError(f"only must give {field!r} a list of values, not {values!r}")
    found = [i for i, record in enumerate(records) if all(record[field] in values for field, values in (only or {}).items())]
    if not found:
        raise ValueError(f"only is {dict(only or {})}, but none of the {len(records)} records matches")
    return found


class Selection:
    """The images of a split whose records match `only` (see `matching`); itself a split."""

    def __init__(self, split: Split, only: Mapping[str, Sequence[Any]]) -> None:
        self.split, self.indices = split, matching(split.records, only)
        self.records = [split.records[i] for i in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def item(self, index: int) -> Item:
        """Image `index` of the selection as an item."""
        return self.split.item(self.indices[index])
