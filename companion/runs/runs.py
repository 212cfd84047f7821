"""Do each item once: per-item results that survive a kill, are shared between processes, and are recomputed only when something that
determines them has changed: an item, a setting, or the code.

A result is one file, `root/name/<config hash>/<code id>/<item key>.npz`, written under a temporary name, flushed and moved into place:
under its final name it is always complete, and it is taken only where it was stored. Everything besides item and code that determines a
result belongs in `config`: fingerprints, settings, seed. The code is the modules behind the procedure (`staleness.modules_behind`);
`code.json` in its folder lists them with their hashes.

What other code has computed stays where it is, and is not taken by default: whoever edits a procedure and runs it again asks for what it
computes now, and a record of several codes' results would be nobody's. Comments and docstrings are no part of the code. An edit that cannot
change a value, such as a refactoring, need not cost hours: with SMOOTHLIB_REUSE=1 in the environment results of other code are taken where
the present one has none. They carry that code into the record, which then says that it is older than the present one.
"""

import functools
import hashlib
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..base import paths
from ..base.config import config_hash, plain
from ..base.files import atomic_write
from ..base.machine import machine
from ..base.progress import progress_bar
from ..base.staleness import OUTSIDE, PACKAGES, modules_behind, package_modules
from .claims import Claims
from .division import Batch, Division, origin_of
from .executors import check_executor, chosen_executor
from .precision import Half, check_precision, code_of_precision
from .space import Space
from .stored import Origin, Result, item_key, numeric_array, read_stored, store_result

REUSE = "SMOOTHLIB_REUSE"
CODE = "code.json"  # beside the results of one code: its modules and their hashes

Procedure = Callable[[list[Any]], Sequence[Mapping[str, Any]]]


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
    title: str | None = None,
    allow_nonfinite: bool = False,
    device: torch.device | str = "cpu",
) -> list[Result]:
    """Results of `procedure` for `items`, in their order; what an earlier run stored is read, the rest is computed and stored.

    `procedure` takes a list of up to `batch_size` items and returns one dict per item, of numbers and numeric arrays (tensors too); it runs
    in this process, or through any `concurrent.futures` executor (then it and the items must be picklable; storage stays here).
    Batches have fixed positions in `items`. One that lacks a result is computed whole, and only what was missing is stored: a run that was
    killed in the middle of a batch ends with bit for bit the results of an unbroken one. (An item that another table had in a batch with
    other items keeps that result; the batch changes it by rounding alone.)
    A batch that raises ends the run, after the results of all other batches that were done or under way are stored.
    `title`: what the progress line says (`name`). `device`: where `procedure` computes; it does not determine the results, but each carries
    it in its `origin`, with the code. `SMOOTHLIB_PRECISION` may ask for half precision (`runs.precision`).

    Raises ConfigurationError where the disk has no room for what is missing: before the first item or, where no stored result tells their
    size, after the first batch. Raises ValueError where the procedure returns the wrong number of results, something not numeric, or
    (unless `allow_nonfinite`) NaN or infinity; the sentence names item and key, and the batch's sound results are stored first.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, but must be at least 1.")
    if executor is None:
        check_executor()
    precision = check_precision()
    config = {**config, "precision": precision} if precision else config
    keys = [item_key(item) for item in items]
    run = _Run(run_folder(name, config, root=root), procedure, device, allow_nonfinite, precision)
    procedure = Half(procedure, precision) if precision else procedure
    results = run.stored(dict.fromkeys(keys))
    results |= run.of_other_code([key for key in dict.fromkeys(keys) if key not in results], title or name)
    first = {key: i for i, key in reversed(list(enumerate(keys)))}  # a repeated item belongs to the batch of its first place
    spans = [range(start, min(start + batch_size, len(keys))) for start in range(0, len(keys), batch_size)]
    batches = [{keys[i]: items[i] for i in span if first[keys[i]] == i} for span in spans]
    batches = [batch for batch in batches if not batch.keys() <= results.keys()]
    total = len(set(keys))
    with progress_bar(title or name, total=total, initial=len(results), enabled=progress) as advance_to:

        def missing(batch: Batch) -> list[str]:
            results.update(run.stored(key for key in batch if key not in results))
            advance_to(len(results))
            return [key for key in batch if key not in results]

        def store(batch: Batch, outputs: Sequence[Mapping[str, Any]]) -> None:
            try:
                run.store(batch, outputs, results)
            finally:
                advance_to(len(results))
            run.space.check(total - len(results))

        if batches:
            run.space.check(total - len(results))
            run.begin(config)
            with Claims(run.folder) as claims:
                Division(procedure, missing=missing, store=store, claims=claims, executor=executor or chosen_executor()).run(batches)
    return [results[key] for key in keys]


def origins(results: Iterable[Result]) -> tuple[Origin, ...]:
    """The different codes and machines that `results` come from."""
    return tuple(dict.fromkeys(result.origin for result in results))


class _Run:
    """The stored results of one name and configuration, and the code that computes here."""

    def __init__(self, folder: Path, procedure: Procedure, device: torch.device | str, allow_nonfinite: bool, precision: str) -> None:
        self.whole, self.allow_nonfinite = folder, allow_nonfinite
        modules = code_of(procedure) | (code_of_precision() if precision else {})
        here = machine(device)
        self.precision = f", {precision} products" if precision else ""
        self.origin = Origin(config_hash(modules), here["device"], here["name"] + self.precision, torch.__version__, modules)
        self.folder = folder / self.origin.code
        self.space = Space(self.folder)

    def stored(self, keys: Iterable[str]) -> dict[str, Result]:
        """What the present code has stored of `keys`."""
        return read_stored(keys, self.folder, self.origin.modules)

    def begin(self, config: Mapping[str, Any]) -> None:
        """Say what the results that follow are of."""
        atomic_write(self.whole / "config.json", json.dumps(plain(config), indent=1, sort_keys=True).encode())
        atomic_write(self.folder / CODE, json.dumps(self.origin.modules, indent=1).encode())

    def store(self, batch: Batch, outputs: Sequence[Mapping[str, Any]], results: dict[str, Result]) -> None:
        """Check the batch's outputs; store those that `results` lacks, and add them to it."""
        problem, origin = None, origin_of(outputs, self.origin, self.precision)
        for (key, item), output in zip(batch.items(), outputs, strict=True):
            try:
                result = _checked(output, str(getattr(item, "id", key)), self.allow_nonfinite)
            except ValueError as error:
                problem = problem or error
                continue
            if key not in results:
                result.origin = origin
                store_result(self.folder / f"{key}.npz", result)
                results[key] = result
        if problem is not None:
            raise problem

    def of_other_code(self, missing: Sequence[str], title: str) -> dict[str, Result]:
        """With `REUSE` what other code has stored of `missing`, the latest first; without, nothing: it is computed again. Says so."""
        reuse, found, there, last = os.environ.get(REUSE, "0") not in ("", "0"), {}, set(), None
        folders = [file.parent for file in sorted(self.whole.glob(f"*/{CODE}"), key=lambda file: -file.stat().st_mtime)] if missing else []
        for folder in folders:
            modules = _modules_in(folder)
            keys = [key for key in missing if key not in there and (folder / f"{key}.npz").is_file()]
            if folder != self.folder and modules is not None and keys:
                stored = read_stored(keys, folder, modules) if reuse else {}
                found, there, last = found | stored, there | set(stored if reuse else keys), last or modules
        if there:
            changed = sorted({name for name, _ in last.items() ^ self.origin.modules.items()})
            said = f"{title}: {len(there)} of {len(missing)} missing results were computed by other code "
            said += f"({', '.join(changed)} {'has' if len(changed) == 1 else 'have'} changed)"
            end = f" and are taken as they are, because {REUSE} is set: their record will say so."
            print(said + (end if reuse else f" and are computed again; {REUSE}=1 takes them as they are."), file=sys.stderr)
        return found


def code_of(procedure: Procedure) -> dict[str, str]:
    """The modules behind a procedure and their hashes; of one from elsewhere its own source, and all modules.

    What a procedure is handed or looks up, its source does not import: it names such modules in an attribute `modules`.
    """
    named = getattr(procedure, "modules", ())
    while isinstance(procedure, functools.partial):
        procedure = procedure.func
    owner = procedure if inspect.isroutine(procedure) else type(procedure)
    module = owner.__module__ or ""
    if module.partition(".")[0] in PACKAGES:
        return modules_behind(module, *named)
    try:
        source = inspect.getsource(owner)
    except (OSError, TypeError):
        source = ""
    return {OUTSIDE: hashlib.sha256(source.encode()).hexdigest()[:16], **package_modules()}


def _modules_in(folder: Path) -> dict[str, str] | None:
    """The modules that `code.json` in the folder of one code lists; None where they are not those that gave the folder its name."""
    try:
        modules = json.loads((folder / CODE).read_text(encoding="utf-8"))
        return modules if config_hash(modules) == folder.name else None
    except (OSError, ValueError):
        return None


def run_folder(name: str, config: Mapping[str, Any], *, root: str | Path | None = None) -> Path:
    """Where the results of this name and configuration lie."""
    if not re.fullmatch(r"\w[\w .,+=()-]*(/\w[\w .,+=()-]*)*", name):
        raise ValueError(f"name is {name!r}, but must be a folder name of letters, digits, spaces and . , + = ( ) - _.")
    return Path(root or paths.RUNS) / name / config_hash(config)


def _checked(output: Mapping[str, Any], item: str, allow_nonfinite: bool) -> Result:
    if not output:
        raise ValueError(f"The procedure returned nothing for item {item}.")
    result = Result()
    for key, value in output.items():
        array = numeric_array(value, f"The result {key} of item {item}")
        if not allow_nonfinite and not np.isfinite(array).all():
            found = array if array.ndim == 0 else "not finite everywhere"
            raise ValueError(f"The result {key} of item {item} is {found}, but must be finite.")
        result[key] = float(array) if array.ndim == 0 else array
    return result
