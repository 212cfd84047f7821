"""Do each item once: per-item results that survive a kill, are shared between processes, and are recomputed only when something that
determines them has changed.

A result is one file, `root/name/<config hash>/<item key>.npz`, written under a temporary name, flushed and moved into place: under its
final name it is always complete. Everything besides the item that determines a result belongs in `config`: fingerprints, settings, seed.
"""

import hashlib
import io
import json
import os
import re
import uuid
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future, as_completed
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import paths
from .config import config_hash, plain
from .machine import machine
from .progress import progress_bar

Result = dict[str, float | np.ndarray]
Procedure = Callable[[list[Any]], Sequence[Mapping[str, Any]]]
Batch = dict[str, Any]  # item key -> item
Store = Callable[[Batch, list], None]
DIGEST = hashlib.sha256().digest_size
MACHINES = "machines.json"  # beside a run's results: the machines that computed them
_machines_seen: list[dict[str, str]] = []


def run_items(
    items: Sequence[Any],
    procedure: Procedure,
    *,
    name: str,
    config: Mapping[str, Any],
    batch_size: int = 1,
    root: str | Path | None = None,
    executor: Executor | None = None,
    progress: bool = True,
    allow_nonfinite: bool = False,
    device: torch.device | str = "cpu",
) -> list[Result]:
    """Results of `procedure` for `items`, in their order; what an earlier run stored is read, the rest is computed and stored.

    `procedure` takes a list of up to `batch_size` items and returns one dict per item, of numbers and numeric arrays (tensors too); it runs
    in this process, or through any `concurrent.futures` executor (then it and the items must be picklable; storage stays here).
    Batches have fixed positions in `items`: a resumed run forms the same batches as an unbroken one, less the items already done.
    A batch that raises ends the run, after the results of all other batches that were done or under way are stored.
    `device`: where `procedure` computes; it is kept with the results (`computed_on`) and does not determine them.

    Raises ValueError where the procedure returns the wrong number of results, something not numeric, or (unless `allow_nonfinite`) NaN or
    infinity; the sentence names item and key, and the batch's sound results are stored first.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, but must be at least 1.")
    keys = [item_key(item) for item in items]
    folder = run_folder(name, config, root=root)
    results = _read_stored(dict.fromkeys(keys), folder)
    spans = [range(start, min(start + batch_size, len(keys))) for start in range(0, len(keys), batch_size)]
    batches = [batch for span in spans if (batch := {keys[i]: items[i] for i in span if keys[i] not in results})]
    if batches:
        atomic_write(folder / "config.json", json.dumps(plain(config), indent=1, sort_keys=True).encode())
        _note_machine(folder, device)
    with progress_bar(name, total=len(set(keys)), initial=len(results), enabled=progress) as advance_to:

        def store(batch: Batch, outputs: list) -> None:
            try:
                _store_batch(batch, outputs, folder, results, allow_nonfinite)
            finally:
                advance_to(len(results))

        if executor is None:
            _run_here(batches, procedure, store, folder, results)
        else:
            _run_elsewhere(batches, procedure, store, executor)
    _machines_seen.extend(known for known in _machines_of(folder) if known not in _machines_seen)
    return [results[key] for key in keys]


def computed_on() -> list[dict[str, str]]:
    """Device, its name and torch's version of every machine that computed results which this process has had from `run_items`."""
    return list(_machines_seen)


def _machines_of(folder: Path) -> list[dict[str, str]]:
    file = folder / MACHINES
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []


def _note_machine(folder: Path, device: torch.device | str) -> None:
    here = {name: value for name, value in machine(device).items() if name in ("device", "name")} | {"torch": torch.__version__}
    known = _machines_of(folder)
    if here not in known:
        atomic_write(folder / MACHINES, json.dumps([*known, here], indent=1).encode())


def run_folder(name: str, config: Mapping[str, Any], *, root: str | Path | None = None) -> Path:
    """Where the results of this name and configuration lie."""
    if not re.fullmatch(r"\w[\w .,+=()-]*(/\w[\w .,+=()-]*)*", name):
        raise ValueError(f"name is {name!r}, but must be a folder name of letters, digits, spaces and . , + = ( ) - _.")
    return Path(root or paths.RUNS) / name / config_hash(config)


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
        value = [entry for pair in sorted(value.items()) for entry in pair]
    if isinstance(value, list | tuple):
        digest.update(f"list {len(value)}\n".encode())
        for entry in value:
            _feed(digest, entry)
    elif value is None or isinstance(value, bool | int | float | str | bytes):
        content = value if isinstance(value, bytes) else str(value).encode()
        digest.update(f"{type(value).__name__} {len(content)}\n".encode() + content)
    else:
        array = np.ascontiguousarray(_numeric_array(value, "The item's content"))
        digest.update(f"{array.dtype.str} {array.shape}\n".encode() + array.tobytes())


def _run_here(batches: list[Batch], procedure: Procedure, store: Store, folder: Path, results: dict[str, Result]) -> None:
    for batch in batches:
        # Another process may be at the same run: what it has stored since is read, not done again.
        results |= _read_stored(batch, folder)
        missing = {key: item for key, item in batch.items() if key not in results}
        if missing:
            store(missing, _outputs(procedure, list(missing.values())))


def _run_elsewhere(batches: list[Batch], procedure: Procedure, store: Store, executor: Executor) -> None:
    futures: dict[Future, Batch] = {executor.submit(_outputs, procedure, list(batch.values())): batch for batch in batches}
    failure = None
    try:
        for future in as_completed(futures):
            if future.cancelled():
                continue
            try:
                store(futures[future], future.result())
            except Exception as error:
                failure = failure or error
                _cancel(futures)  # those under way finish, and are stored
    finally:
        _cancel(futures)
    if failure is not None:
        raise failure


def _cancel(futures: Mapping[Future, Batch]) -> None:
    for future in futures:
        future.cancel()


def _outputs(procedure: Procedure, items: list[Any]) -> list[Mapping[str, Any]]:
    outputs = list(procedure(items))
    if len(outputs) != len(items):
        raise ValueError(f"The procedure returned {len(outputs)} results for {len(items)} items, but must return one for each.")
    return outputs


def _store_batch(batch: Batch, outputs: list, folder: Path, results: dict[str, Result], allow_nonfinite: bool) -> None:
    problem = None
    for (key, item), output in zip(batch.items(), outputs, strict=True):
        try:
            result = _checked(output, str(getattr(item, "id", key)), allow_nonfinite)
        except ValueError as error:
            problem = problem or error
            continue
        store_result(folder / f"{key}.npz", result)
        results[key] = result
    if problem is not None:
        raise problem


def _checked(output: Mapping[str, Any], item: str, allow_nonfinite: bool) -> Result:
    if not output:
        raise ValueError(f"The procedure returned nothing for item {item}.")
    result: Result = {}
    for key, value in output.items():
        array = _numeric_array(value, f"The result {key} of item {item}")
        if not allow_nonfinite and not np.isfinite(array).all():
            found = array if array.ndim == 0 else "not finite everywhere"
            raise ValueError(f"The result {key} of item {item} is {found}, but must be finite.")
        result[key] = float(array) if array.ndim == 0 else array
    return result


def _numeric_array(value: Any, what: str) -> np.ndarray:
    try:
        array = value.numpy(force=True) if hasattr(value, "detach") else np.asarray(value)
    except TypeError:  # bfloat16 and the like
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        kind = getattr(value, "dtype", type(value).__name__)
        raise ValueError(f"{what} is {kind}, but must be a number or an array of a type that NumPy has.")
    return array


def _read_stored(keys: Iterable[str], folder: Path) -> dict[str, Result]:
    return {key: result for key in keys if (result := load_result(folder / f"{key}.npz")) is not None}


def store_result(file: Path, result: Result) -> None:
    """Write one result as an .npz without pickle, whose archive comment is the SHA-256 of all before it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # np.savez would refuse keys such as "file"
        archive.comment = bytes(DIGEST)
        for key, value in result.items():
            with archive.open(f"{key}.npy", "w") as entry:
                np.lib.format.write_array(entry, np.asarray(value), allow_pickle=False)
    content = buffer.getvalue()[:-DIGEST]
    atomic_write(file, content + hashlib.sha256(content).digest())


def load_result(file: Path) -> Result | None:
    """A stored result, or None where there is none or any bit of it has changed."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(content[:-DIGEST]).digest() != content[-DIGEST:]:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return {key: float(array) if (array := stored[key]).ndim == 0 else array for key in stored.files}


def atomic_write(file: Path, content: bytes) -> None:
    """Write so that `file` is at every moment either as before or complete, whatever is killed and whoever else writes it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
