"""Pickles that hold plain data, read without running anything that they name.

A pickle is a program: it may call any function of any module. This reader knows dicts, lists, tuples, numbers, strings and NumPy's arrays
and scalars of numbers, and refuses a file that names anything else. Of NumPy nothing runs either: what arrays are made of is collected, and
arrays are built from it at the end, after their sizes have been compared with the bytes that are there.
"""

import io
import math
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .listings import ListingError

LARGEST = 64_000_000  # bytes
NUMBER = re.compile(r"[<>|=]?([biuf])([1248])")
CORE = ("numpy.core", "numpy._core")


def read_plain_pickle(file: Path) -> Any:
    """What a pickle holds, if that is nothing but dicts, lists, tuples, numbers, strings, None and arrays of numbers.

    Raises:
        ListingError: one sentence that names the file: it holds anything else, is no pickle, or is larger than 64 MB.
    """
    if (size := file.stat().st_size) > LARGEST:
        raise ListingError(f"{file} has {size // 1_000_000} MB, but must have at most {LARGEST // 1_000_000}")
    try:
        return _plain(_Reader(io.BytesIO(file.read_bytes())).load())
    except _NotPlain as error:
        raise ListingError(f"{file} {error}, but must hold only dicts, lists, tuples, numbers, strings and arrays of numbers") from None
    except RecursionError:
        raise ListingError(f"{file} is nested too deeply") from None
    except Exception as error:  # a broken pickle raises whatever its instructions run into
        raise ListingError(f"{file} is no pickle that can be read ({type(error).__name__})") from None


class _NotPlain(Exception):
    """What is wrong, as the predicate of a sentence."""


class _Reader(pickle.Unpickler):
    """Names lead to the stand-ins below, and to nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        found = {
            ("numpy", "dtype"): _Type,
            ("numpy", "ndarray"): _ARRAY,
            ("_codecs", "encode"): _encode,  # how protocols before 3 write bytes
            **{(home, "bytes"): _no_bytes for home in ("__builtin__", "builtins")},  # and how they write none
            **{(f"{core}.multiarray", "_reconstruct"): _Array for core in CORE},
            **{(f"{core}.multiarray", "scalar"): _scalar for core in CORE},
            **{(f"{core}.numeric", "_frombuffer"): _from_buffer for core in CORE},
        }.get((module, name))
        if found is None:
            raise _NotPlain(f"names {module}.{name}")
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise _NotPlain("refers to objects outside itself")


class _Type:
    """A dtype while it is read: one of the plain kinds of numbers, and its byte order."""

    def __init__(self, name: Any, align: Any = False, copy: Any = False) -> None:
        kind = NUMBER.fullmatch(name) if isinstance(name, str) else None
        if kind is None:
            raise _NotPlain(f"has an array of the type {name!r}")
        self.name, self.order = "".join(kind.groups()), "="

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "=") or any(state[2:5]):
            raise _NotPlain("has an array of a compound type")
        self.order = state[1]

    def read(self, content: Any, shape: Any, fortran: bool) -> np.ndarray:
        """The array of this type that `content`, bytes, is."""
        kind = np.dtype(self.order.replace("|", "=") + self.name)
        sizes = shape if isinstance(shape, tuple) else (-1,)
        if len(sizes) > 32 or any(isinstance(side, bool) or not isinstance(side, int) or side < 0 for side in sizes):
            raise _NotPlain(f"has an array of the shape {shape!r}")
        if not isinstance(content, bytes | bytearray) or len(content) != math.prod(sizes) * kind.itemsize:
            raise _NotPlain("has an array whose size is not that of its content")
        return np.frombuffer(content, kind).reshape(sizes, order="F" if fortran else "C").copy()


_ARRAY = object()  # stands for the class numpy.ndarray, which is named and never called


class _Array:
    """An array while it is read: made empty, then given its state."""

    def __init__(self, kind: Any, shape: Any, letter: Any) -> None:
        if kind is not _ARRAY:
            raise _NotPlain("has an array of another class than NumPy's own")
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _Type):
            raise _NotPlain("has an array without a type of numbers")
        _, shape, kind, fortran, content = state
        self.value = kind.read(content, shape, bool(fortran))


@dataclass
class _Read:
    """An array or scalar that is complete."""

    value: Any


def _scalar(kind: Any, content: Any) -> _Read:
    if not isinstance(kind, _Type):
        raise _NotPlain("has a scalar without a type of numbers")
    return _Read(kind.read(content, (), False)[()])


def _from_buffer(content: Any, kind: Any, shape: Any, order: Any) -> _Read:
    if not isinstance(kind, _Type):
        raise _NotPlain("has an array without a type of numbers")
    return _Read(kind.read(bytes(content), shape, order == "F"))


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise _NotPlain(f"encodes text as {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _plain(value: Any) -> Any:
    """The same with arrays in the place of what stood for them; raises for anything that is not plain."""
    if isinstance(value, _Array | _Read):
        if value.value is None:
            raise _NotPlain("has an array without content")
        return value.value
    if type(value) is dict:
        return {_plain(key): _plain(entry) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(entry) for entry in value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise _NotPlain(f"holds a {type(value).__name__.lstrip('_')}")
