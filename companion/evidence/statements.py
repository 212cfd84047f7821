"""Statements about the rows of a record that a program can decide; `companion.evidence.weighing` weighs them."""

from collections.abc import Sequence
from dataclasses import dataclass

from .fields import row_of
from .tables import Record

KINDS = ("paired", "total", "ordering", "gap", "mainly", "within", "no_worse")
DIRECTIONS = {"lower": -1, "higher": 1}
WITH_MARGIN = ("within", "no_worse")


@dataclass(frozen=True)
class Statement:
    """A statement about rows of a record that a program can decide.

    kind: "paired": the first row is lower (higher) than the second, item by item. "total": the same for a number of the whole set.
        "ordering": each row is lower (higher) than the next. "gap": of four rows, the first is better than the second by more than the
        third is than the fourth. "mainly": between the two rows the first of two metrics changes by a larger factor than the second.
        "within": the first row is at most `margin` away from the second. "no_worse": the first row is worse than the second by at most
        `margin` of the second's value; of a Fréchet distance by at most `margin` of its excess over that of real images, where the record
        has this floor: what cannot be undercut is not what a model adds.
    metric: its name in the record; of several, the first that the record has (FID on Stable Diffusion is another metric here).
    direction: which values are better, or what the statement says of the first row: "lower" or "higher".
    part: of the record's `parts` the one whose items the statement is about (local edits, say); None: all items.
    where_recorded: a record that has none of the metrics is judged without this statement: it was made before the metric existed.
    """

    record: str
    kind: str
    metric: str | Sequence[str]
    rows: Sequence[str]
    direction: str = "lower"
    margin: float | None = None
    where_recorded: bool = False
    part: str | None = None

    def __post_init__(self) -> None:
        count = {"gap": (4, 4), "ordering": (3, 99)}.get(self.kind, (2, 2))
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}, but must be one of {', '.join(KINDS)}.")
        if self.direction not in DIRECTIONS:
            raise ValueError(f"direction is {self.direction!r}, but must be 'lower' or 'higher'.")
        if not count[0] <= len(self.rows) <= count[1]:
            raise ValueError(
                f"rows has {len(self.rows)} entries, but kind {self.kind!r} needs {count[0]}{' or more' if count[1] > 4 else ''}."
            )
        if (self.kind in WITH_MARGIN) != (self.margin is not None and self.margin > 0):
            raise ValueError(f"margin is {self.margin}, but must be a positive number for 'within' and 'no_worse', and absent elsewhere.")
        if self.kind == "mainly" and (isinstance(self.metric, str) or len(self.metric) != 2):
            raise ValueError(f"metric is {self.metric!r}, but must be a list of two for 'mainly'.")


def find_row(record: Record, label: str) -> str | None:
    """The record's row that a claim calls `label`: by its fields (`fields.row_of`), whatever the record calls it.

    A record from before there were fields is read by labels, and only such a one: of "A | B" the first that is there; "..., guidance w" is
    the row with guidance, at any scale.
    """
    if "row_fields" in record:
        return row_of(record, label)
    if " | " in label:
        return next((row for one in label.split(" | ") if (row := find_row(record, one))), None)
    if not label.endswith("guidance w"):
        return label if label in record["rows"] else None
    start = label.removesuffix("w")
    found = [row for row in record["rows"] if row.startswith(start) and row.removeprefix(start) != "1"]  # 1 is no guidance
    return found[0] if len(found) == 1 else None
