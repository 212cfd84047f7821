"""What the settings of a training may be, as fields of `companion.base.config`; for an objective's options they follow from its
signature."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from ..base import paths
from ..base.config import Boolean, ConfigurationError, Field, Integer, ListOf, Number, Text, shown

FOLDER_NAME = re.compile(r"\w(?:[\w .,+=()-]{0,98}[\w+=()-])?")


class Interval(Field):
    """A finite number in an interval, as mathematics writes it: "[0, 1)" holds 0 but not 1."""

    def __init__(self, written: str) -> None:
        super().__init__()
        self.written = written
        self.low, self.high = (float(bound) for bound in written[1:-1].split(","))

    def accepts(self, value: Any) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool) or value != value or value in (math.inf, -math.inf):
            return False
        above = value >= self.low if self.written[0] == "[" else value > self.low
        return above and (value <= self.high if self.written[-1] == "]" else value < self.high)

    def allowed(self) -> str:
        return f"a number in {self.written}"


class FolderName(Field):
    """The name of one folder: no slash, no `..`."""

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and FOLDER_NAME.fullmatch(value) is not None

    def allowed(self) -> str:
        return "a folder's name of letters, digits, spaces and . , + = ( ) - _, at most 100"


class ExportFolder(Field):
    """A folder below data/models, relative to it, or a whole path below runs; not one that holds other models."""

    def accepts(self, value: Any) -> bool:
        if not isinstance(value, str) or "\0" in value:
            return False
        if Path(value).is_absolute():
            folder, runs = Path(value).resolve(), paths.RUNS.resolve()
            return folder != runs and folder.is_relative_to(runs)
        parts = value.split("/")
        return (
            all(FOLDER_NAME.fullmatch(part) for part in parts) and value != paths.ADAPTERS.name and parts[0] != paths.METRIC_NETWORKS.name
        )

    def allowed(self) -> str:
        return "a folder below data/models, such as adapters/NAME, or the whole path of one below runs"


class Options(Field):
    """Settings of their own, by name."""

    def accepts(self, value: Any) -> bool:
        return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)

    def allowed(self) -> str:
        return "settings by name, {NAME: VALUE}"


class Values(Field):
    """A list of anything."""

    def accepts(self, value: Any) -> bool:
        return isinstance(value, list | tuple)

    def allowed(self) -> str:
        return "a list"


def field_of(annotation: Any) -> Field | None:
    """What an argument may be that is annotated so: `int | None` is a whole number or None. None where nothing is said."""
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    named = [kind for kind in kinds if kind is not NoneType]
    if len(named) != 1:
        return None
    kind, optional = get_origin(named[0]) or named[0], NoneType in kinds
    simple = {int: Integer, float: Number, bool: Boolean, str: Text, dict: Options, list: Values}
    if kind in simple:
        return simple[kind](optional=optional)
    return ListOf(Text(), optional=optional) if named[0] == Sequence[str] else None


def check_setting(name: str, value: Any, field: Field) -> None:
    """Raises ConfigurationError, one sentence that names setting, value and what is allowed."""
    if value is None and field.optional:
        return
    if not field.accepts(value):
        raise ConfigurationError(f"{name} is {shown(value)}, but must be {field.allowed()}{' or null' if field.optional else ''}")
