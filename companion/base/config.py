"""Validated notebook parameters, and the hash that keys everything computed from them.

A notebook's `parameters` cell holds plain literals; the next cell turns them into a frozen configuration:

    config = configuration(
        globals(),
        num_images=Integer(2, 1000),
        guidance_scale=Number(1, 30, optional=True),
        methods=ListOf(Choice("vae", "ddim", "nti")),
    )

A wrong value ends in one sentence before any work is done.
"""

import abc
import argparse
import ast
import contextlib
import dataclasses
import difflib
import hashlib
import json
import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import numpy as np


class ConfigurationError(ValueError):
    """A parameter is missing, unknown or not allowed; a notebook shows the sentence alone, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class OneSentenceParser(argparse.ArgumentParser):
    """A command line that ends in one sentence, without the usage before it, where an argument is wrong."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's own; no path and no name can hold a null byte."""
        given = sys.argv[1:] if args is None else list(args)
        if odd := [text for text in given if "\0" in text]:
            self.error(f"{shown(odd[0])} holds a null byte, but must not")
        return super().parse_known_args(given, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; --help shows how.\n")


@contextlib.contextmanager
def errors_as_exit_codes(program: str) -> Iterator[None]:
    """For command lines: one sentence, no traceback. Exit code 2: what was given is wrong or not there; 1: the run failed."""
    try:
        yield
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, ValueError | FileNotFoundError) else 1) from error


def shown(value: Any) -> str:
    """`value` as Python writes it, cut where it would fill a page."""
    written = repr(value)
    return written if len(written) <= 80 else f"{written[:80]} ..."


class Field(abc.ABC):
    """What one parameter may be: `check` returns the value as stored, or raises ConfigurationError; `optional` allows None."""

    def __init__(self, *, optional: bool = False) -> None:
        self.optional = optional

    def check(self, name: str, value: Any) -> Any:
        if value is None and self.optional:
            return None
        if not self.accepts(value):
            allowed = self.allowed() + (" or None" if self.optional else "")
            raise ConfigurationError(f"Parameter {name} is {shown(value)}, but must be {allowed}.")
        return self.stored(value)

    @abc.abstractmethod
    def accepts(self, value: Any) -> bool:
        """Whether `value` (never None) is allowed."""

    @abc.abstractmethod
    def allowed(self) -> str:
        """What is allowed, in words that follow "must be"."""

    def stored(self, value: Any) -> Any:
        return value


class _Range(Field):
    def __init__(self, minimum: float | None = None, maximum: float | None = None, *, optional: bool = False) -> None:
        super().__init__(optional=optional)
        self.minimum, self.maximum = minimum, maximum

    def _inside(self, value: float) -> bool:
        return (self.minimum is None or value >= self.minimum) and (self.maximum is None or value <= self.maximum)

    def _range(self) -> str:
        bounds = [f"{word} {bound}" for word, bound in (("at least", self.minimum), ("at most", self.maximum)) if bound is not None]
        return " of " + " and ".join(bounds) if bounds else ""


class Integer(_Range):
    """A whole number between `minimum` and `maximum`, both included, that 64 bits hold; True and 8.0 are not whole numbers."""

    def check(self, name: str, value: Any) -> Any:
        """As of every field; without a maximum, what no tensor and no seed can hold is refused here."""
        if isinstance(value, int) and self.maximum is None and abs(value) >= 2**63:
            raise ConfigurationError(f"Parameter {name} is {shown(value)}, but must be a whole number between -2**63 and 2**63.")
        return super().check(name, value)

    def accepts(self, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self._inside(value)

    def allowed(self) -> str:
        return "a whole number" + self._range()


class Number(_Range):
    """A finite number between `minimum` and `maximum`, both included; stored as float."""

    def accepts(self, value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and self._inside(value)

    def allowed(self) -> str:
        return "a number" + self._range()

    def stored(self, value: Any) -> float:
        return float(value)


class Boolean(Field):
    """True or False."""

    def accepts(self, value: Any) -> bool:
        return isinstance(value, bool)

    def allowed(self) -> str:
        return "True or False"


class Text(Field):
    """A text that is not empty."""

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and value.strip() != ""

    def allowed(self) -> str:
        return "a text that is not empty"


class Choice(Field):
    """One of the listed values; with none listed (no adapter found, say) only an empty list of them or None passes."""

    def __init__(self, *choices: Any, optional: bool = False) -> None:
        super().__init__(optional=optional)
        self.choices = choices

    def accepts(self, value: Any) -> bool:
        return any(type(value) is type(choice) and value == choice for choice in self.choices)

    def allowed(self) -> str:
        return "one of " + (", ".join(repr(choice) for choice in self.choices) or "those available (there are none)")


class ListOf(Field):
    """A list of at least `minimum` entries, none twice, that each satisfy `field`; stored as a tuple."""

    def __init__(self, field: Field, *, minimum: int = 0, optional: bool = False) -> None:
        super().__init__(optional=optional)
        self.field, self.minimum = field, minimum

    def accepts(self, value: Any) -> bool:
        if not isinstance(value, list | tuple) or len(value) < self.minimum:
            return False
        distinct = all(entry not in value[:i] for i, entry in enumerate(value))
        return distinct and all(self.field.accepts(entry) for entry in value)

    def allowed(self) -> str:
        length = f" of {self.minimum} or more" if self.minimum else ""
        return f"a list{length} without repeats, each entry {self.field.allowed()}"

    def stored(self, value: Any) -> tuple:
        return tuple(self.field.stored(entry) for entry in value)


def configuration(namespace: Mapping[str, Any], /, **fields: Field) -> Any:
    """Frozen dataclass of the parameters named in `fields`, read from `namespace` and checked.

    `namespace` is a dict of parameters, or a notebook's `globals()`. In a dict, every name must be known; in a notebook, every name that
    papermill injected (it only warns about unknown ones, so a misspelt `-p` would silently run the default).

    Raises ConfigurationError, one sentence that names parameter, value and what is allowed.
    """
    for name in _given_names(namespace):
        if name not in fields:
            close = difflib.get_close_matches(name, fields, n=1)
            hint = f"did you mean {close[0]}?" if close else f"the parameters are {', '.join(fields)}."
            raise ConfigurationError(f"Parameter {name} is unknown: {hint}")
    values = {}
    for name, field in fields.items():
        if name not in namespace:
            raise ConfigurationError(f"Parameter {name} is missing: it must be {field.allowed()}.")
        values[name] = field.check(name, namespace[name])
    return dataclasses.make_dataclass("Configuration", list(values), frozen=True)(**values)


def _given_names(namespace: Mapping[str, Any]) -> list[str]:
    """Names set on purpose: a dict's keys, or what papermill's injected cell (first line "# Parameters") assigns in a notebook."""
    if "__name__" not in namespace:
        return list(namespace)
    injected = [cell for cell in namespace.get("In", []) if cell.lstrip().startswith("# Parameters\n")]
    statements = [statement for cell in injected for statement in ast.parse(cell).body if isinstance(statement, ast.Assign)]
    return [target.id for statement in statements for target in statement.targets if isinstance(target, ast.Name)]


def plain(value: Any, where: str = "config") -> Any:
    """`value` in JSON's types: dataclasses become dicts, tuples and arrays lists. NaN or anything else: ValueError that says where."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        if odd := [key for key in value if not isinstance(key, str)]:
            raise ValueError(f"{where} has the key {odd[0]!r}, but keys must be text.")
        return {key: plain(entry, f"{where}[{key!r}]") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry, f"{where}[{i}]") for i, entry in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}, but must be finite.")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{where} is a {type(value).__name__}, but must be a text, number, True, False, None, or a list or dict of these.")


def config_hash(config: Any) -> str:
    """20 hex digits of SHA-256 over the canonical JSON of `config`: sorted keys, floats as repr, nothing that JSON lacks.

    Tuples equal lists and a dataclass equals its dict; 1 differs from 1.0.
    """
    canonical = json.dumps(plain(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:20]
