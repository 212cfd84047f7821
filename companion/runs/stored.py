"""A result of one item as a file that knows whose it is, which code and machine computed it, and whether it is whole."""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..base.files import atomic_write

DIGEST = hashlib.sha256().digest_size
ORIGIN = "origin.json"  # inside a result's file: its item's key, and where it comes from


@dataclass(frozen=True)
class Origin:
    """The code and the machine that computed a result."""

    code: str
    device: str
    name: str
    torch: str
    modules: Mapping[str, str] = field(compare=False, default_factory=dict)


class Result(dict[str, float | np.ndarray]):
    """An item's values by name, and where they come from."""

    origin: Origin


def item_key(item: Any) -> str:
    """The item's `.key` if it has one, else a hash of its content (id, caption and image bytes; any nesting of numbers, texts, arrays)."""
    key = getattr(item, "key", None)
    if isinstance(key, str) and re.fullmatch(r"\w[\w.+-]{0,99}", key):
        return key
    digest = hashlib.sha256()
    _feed(digest, item if key is None else key)
    return digest.hexdigest()[:32]


def _feed(digest: Any, value: Any) -> None:
    """Feed `value` to the hash with type, shape and length in front, so that different values never give the same bytes."""
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        digest.update(f"dict {len(value)}\n".encode())
        value = [entry for pair in sorted(value.items()) for entry in pair]
    if isinstance(value, list | tuple):
        digest.update(f"list {len(value)}\n".encode())
        for entry in value:
            _feed(digest, entry)
    elif value is None or isinstance(value, bool | int | float | str | bytes):
        content = value if isinstance(value, bytes) else str(value).encode()
        digest.update(f"{type(value).__name__} {len(content)}\n".encode() + content)
    else:
        array = np.ascontiguousarray(numeric_array(value, "The item's content"))
        digest.update(f"{array.dtype.str} {array.shape}\n".encode() + array.tobytes())


def read_stored(keys: Iterable[str], folder: Path, modules: Mapping[str, str]) -> dict[str, Result]:
    """What is stored of `keys` in the folder of the code that `modules` are."""
    return {key: result for key in keys if (result := load_result(folder / f"{key}.npz", modules)) is not None}


def store_result(file: Path, result: Result) -> None:
    """Write an item's result as an .npz without pickle: place and origin, its values, and as comment the SHA-256 of all before it."""
    origin = {name: value for name, value in asdict(result.origin).items() if name != "modules"}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # np.savez would refuse keys such as "file"
        archive.comment = bytes(DIGEST)
        archive.writestr(ORIGIN, json.dumps({"place": _place(file), **origin}))
        for name, value in result.items():
            with archive.open(f"{name}.npy", "w") as entry:
                np.lib.format.write_array(entry, np.asarray(value), allow_pickle=False)
    content = buffer.getvalue()[:-DIGEST]
    atomic_write(file, content + hashlib.sha256(content).digest())


def load_result(file: Path, modules: Mapping[str, str] | None = None) -> Result | None:
    """The stored result; None where there is none, any bit of it has changed, or it was stored as another item's, run's or code's.

    `modules`: those of the code that computed it, for its origin.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(content[:-DIGEST]).digest() != content[-DIGEST:]:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        origin = json.loads(stored[ORIGIN]) if ORIGIN in stored.files else {}
        if origin.pop("place", None) != _place(file):
            return None
        names = [name for name in stored.files if name != ORIGIN]
        result = Result({name: float(array) if (array := stored[name]).ndim == 0 else array for name in names})
    result.origin = Origin(**origin, modules=modules or {})
    return result


def _place(file: Path) -> str:
    """Hash of the configuration, id of the code and key of the item: what the file is about."""
    return "/".join([*file.parts[-3:-1], file.stem])


def numeric_array(value: Any, what: str) -> np.ndarray:
    """A number, array or tensor as an array. Raises ValueError, which begins with `what`, where NumPy has no such numbers."""
    try:
        array = value.numpy(force=True) if hasattr(value, "detach") else np.asarray(value)
    except TypeError:  # bfloat16 and the like
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        kind = getattr(value, "dtype", type(value).__name__)
        raise ValueError(f"{what} is {kind}, but must be a number or an array of a type that NumPy has.")
    return array
