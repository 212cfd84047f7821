"""The paper's tables, as printed (`data/paper/*.yaml`)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..base import paths
from ..base.reading import UnreadableFile, read_yaml

ARROWS = {"down": "↓", "up": "↑", "none": ""}


@dataclass(frozen=True)
class PaperMetric:
    """A column: its heading, whether lower ("down"), higher ("up") or neither ("none") is better, and decimals if it is not the paper's."""

    label: str
    direction: str
    decimals: int | None = None

    @property
    def heading(self) -> str:
        return f"{self.label} {ARROWS[self.direction]}".strip()


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper: `rows` maps a row's label to its values, each the printed text, by metric."""

    name: str
    number: int
    source: str
    page: int
    section: str
    caption: str
    model: str
    items: str
    row_heading: str
    metrics: Mapping[str, PaperMetric]
    rows: Mapping[str, Mapping[str, str]]

    def decimals(self, metric: str) -> int:
        """How many decimals the paper prints in this column; runs are shown with as many."""
        if (given := self.metrics[metric].decimals) is not None:
            return given
        return max(len(values[metric].partition(".")[2]) for values in self.rows.values())

    def extended(self, columns: Mapping[str, Mapping[str, str]]) -> "PaperTable":
        """With further columns (metric -> label and direction) that were measured beside the paper's: its own rows have none of them."""
        own = {key: PaperMetric(**{"decimals": 3, **column}) for key, column in columns.items() if key not in self.metrics}
        if wrong := [key for key, metric in own.items() if metric.direction not in ARROWS]:
            raise ValueError(f"columns gives {wrong[0]} the direction {own[wrong[0]].direction!r}, but it must be 'up', 'down' or 'none'.")
        rows = {label: {**values, **dict.fromkeys(own, "–")} for label, values in self.rows.items()}
        return replace(self, metrics={**self.metrics, **own}, rows=rows)


def load_paper_table(name: str, *, folder: Path = paths.PAPER) -> PaperTable:
    """One of the paper's tables, "table1" to "table4". Raises ValueError for another name, or where a value is missing or no text."""
    file = folder / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("table*.yaml")))
        raise ValueError(f"name is {name!r}, but the paper's tables are {known}.")
    content = read_yaml(file)
    try:
        return _table(name, file.name, content)
    except (AttributeError, KeyError, TypeError) as error:  # a field is missing, unknown or of another kind
        raise UnreadableFile(f"{file} is not a table of the paper ({type(error).__name__}: {error}): restore it") from error


def _table(name: str, file: str, content: dict[str, Any]) -> PaperTable:
    metrics = {key: PaperMetric(**metric) for key, metric in content.pop("metrics").items()}
    if wrong := [key for key, metric in metrics.items() if metric.direction not in ARROWS]:
        raise ValueError(f"{file} gives {wrong[0]} the direction {metrics[wrong[0]].direction!r}, but it must be 'up' or 'down'.")
    for label, values in content["rows"].items():
        if list(values) != list(metrics) or not all(isinstance(value, str) for value in values.values()):
            raise ValueError(f"{file} gives {label!r} the values {values}, but needs one text for each of {', '.join(metrics)}.")
    return PaperTable(name=name, number=content.pop("table"), metrics=metrics, **content)
