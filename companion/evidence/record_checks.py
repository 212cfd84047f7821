"""Is a file what `records.save_record` writes, and do its numbers agree with each other? Asked whenever a record is read.

A mean follows from its values, Holm's p-values from the p-values, a difference from two means: a number that was edited contradicts another
one. What no other number determines, such as the ends of an interval, is held by the seal: a hash of the whole content that `save_record`
stores in the record. Records from before there were seals have none; the status page says which.
"""

import datetime
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..base.config import ConfigurationError, config_hash, plain
from .paper import PaperTable, load_paper_table
from .statistics import holm

SCHEMA = 1
KEYS = ("schema", "name", "table", "model", "items", "conventions", "rows", "comparisons", "provenance")
SEAL = "seal"
TOLERANCE = 1e-9  # relative: sums in another order


class RecordError(ConfigurationError):
    """A file is not a record, or its numbers contradict each other; a notebook shows the sentence alone, without a traceback."""


def seal(record: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over the canonical JSON of a record without its seal."""
    content = plain({key: value for key, value in record.items() if key != SEAL}, "record")
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def check_record(record: Any, name: str) -> None:
    """Raises RecordError, one sentence with field, value and what is allowed, unless this is a record `name` without contradictions."""
    missing = [key for key in KEYS if key not in record] if isinstance(record, Mapping) else list(KEYS)
    if missing or record["schema"] != SCHEMA:
        reason = f"lacks {', '.join(missing)}" if missing else f"has schema {record['schema']}"
        raise RecordError(f"{reason}, but must be a record of schema {SCHEMA}.")
    try:
        plain(record, "record")  # finite numbers only
    except ValueError as error:
        raise RecordError(str(error)) from error
    _require(record["name"] == name, "name", record["name"], f"{name!r}, the file's")
    items = record["items"]
    _require(_texts(items) and len(set(items)) == len(items) > 0, "items", items, "a list of different texts that is not empty")
    _check_parts(record)
    paper = _check_table(record)
    _require(isinstance(record["rows"], Mapping) and record["rows"], "rows", record["rows"], "row labels with their metrics, at least one")
    for label, row in record["rows"].items():
        _check_row(f"rows[{label!r}]", row, len(items), paper, record.get("parts", {}))
    _check_comparisons(record)
    _check_provenance(record["provenance"])
    if SEAL in record:
        _require(record[SEAL] == seal(record), SEAL, record[SEAL], f"{seal(record)!r}: the content was changed after it was saved")


def _require(holds: bool, where: str, value: Any, allowed: str) -> None:
    if not holds:
        shown = repr(value)
        raise RecordError(f"{where} is {_cut(shown, 80)}, but must be {_cut(allowed, 200)}.")


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _close(a: float, b: float, scale: float = 0.0) -> bool:
    return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE * scale)


def _check_table(record: Mapping[str, Any]) -> PaperTable | None:
    """The paper's table with the record's own columns; None where it answers to none."""
    if record["table"] is None:
        return None
    try:
        return load_paper_table(str(record["table"])).extended(record.get("columns", {}))
    except (TypeError, ValueError) as error:
        raise RecordError(f"table is {record['table']!r} with the columns {list(record.get('columns', {}))}: {error}") from error


def _check_parts(record: Mapping[str, Any]) -> None:
    parts = record.get("parts", {})
    _require(isinstance(parts, Mapping), "parts", parts, "names with ids of items")
    for name, ids in parts.items():
        known = _texts(ids) and len(set(ids)) == len(ids) > 0 and set(ids) <= set(record["items"])
        _require(known, f"parts[{name!r}]", ids, "different ids of items, at least one")


def _check_row(where: str, row: Any, n: int, paper: PaperTable | None, parts: Mapping[str, Any]) -> None:
    metrics = row.get("metrics") if isinstance(row, Mapping) else None
    _require(isinstance(metrics, Mapping) and len(metrics) > 0, f"{where}['metrics']", metrics, "metrics, at least one")
    answers = row.get("paper_row")
    allowed = [None, *(paper.rows if paper else ())]
    _require(answers in allowed, f"{where}['paper_row']", answers, f"one of {', '.join(map(repr, allowed))}")
    for metric, measured in metrics.items():
        if paper is not None:
            _require(metric in paper.metrics, f"a metric of {where}", metric, f"one of {', '.join(paper.metrics)}")
        part = measured.get("part") if isinstance(measured, Mapping) else None
        _require(part is None or part in parts, f"{where}[{metric!r}]['part']", part, f"one of {', '.join(map(repr, parts))}")
        _check_measured(f"{where}[{metric!r}]", measured, n if part is None else len(parts[part]))


def _check_measured(where: str, measured: Any, n: int) -> None:
    """A mean over the items with its values and interval, or a number of the whole set, which has neither."""
    _require(isinstance(measured, Mapping) and _number(measured.get("mean")), where, measured, "a mean with n, low and high")
    if "values" not in measured:
        count, ends = measured.get("n"), [measured.get("low"), measured.get("high")]
        whole = isinstance(count, int) and not isinstance(count, bool)
        _require(whole and count > 0, f"{where}['n']", count, "a number of items or images")
        _require(ends == [None, None], f"{where}['low'], ['high']", ends, "None: it has no values")
        found = len(measured.get("image_values", range(count)))
        _require(found == count, f"the length of {where}['image_values']", found, f"{count}, its n")
        return
    _require(measured.get("n") == n, f"{where}['n']", measured.get("n"), f"{n}, the number of items")
    values = measured["values"]
    _require(isinstance(values, list) and all(map(_number, values)), f"{where}['values']", values, "a list of numbers")
    _require(len(values) == n, f"the length of {where}['values']", len(values), f"{n}, the number of items")
    mean = float(np.mean(values))
    _require(_close(measured["mean"], mean, max(map(abs, values))), f"{where}['mean']", measured["mean"], f"{mean}, the mean of its values")
    _check_interval(where, measured)


def _check_interval(where: str, interval: Mapping[str, Any]) -> None:
    low, mean, high = (interval.get(key) for key in ("low", "mean", "high"))
    _require(_number(low) and _number(high), f"[low, high] of {where}", [low, high], "two numbers")
    slack = TOLERANCE * max(map(abs, (low, mean, high)))
    _require(low - slack <= mean <= high + slack, f"[low, high] of {where}", [low, high], f"an interval that contains the mean, {mean}")
    _require(0 < interval.get("level", 0.95) < 1, f"{where}['level']", interval.get("level"), "between 0 and 1")


def _check_comparisons(record: Mapping[str, Any]) -> None:
    tests, rows = record["comparisons"], record["rows"]
    _require(isinstance(tests, list) and all(isinstance(test, Mapping) for test in tests), "comparisons", tests, "a list of tests")
    for i, test in enumerate(tests):
        where, metric = f"comparisons[{i}]", test.get("metric")
        for end in ("a", "b"):
            label = test.get(end)
            _require(label in rows, f"{where}[{end!r}]", label, f"one of the rows {', '.join(map(repr, rows))}")
            _require("values" in rows[label]["metrics"].get(metric, {}), f"{where}['metric']", metric, f"a metric of {label!r} with values")
        difference = test.get("difference")
        _require(
            isinstance(difference, Mapping) and _number(difference.get("mean")),
            f"{where}['difference']",
            difference,
            "a mean and its interval",
        )
        first, second = (rows[test[end]]["metrics"][metric]["mean"] for end in ("a", "b"))
        fits = _close(difference["mean"], first - second, max(abs(first), abs(second)))
        _require(fits, f"{where}['difference']['mean']", difference["mean"], f"{first - second}, the first mean minus the second")
        _check_interval(f"{where}['difference']", difference)
        for key in ("p_value", "p_adjusted"):
            _require(_number(test.get(key)) and 0 <= test[key] <= 1, f"{where}[{key!r}]", test.get(key), "a number from 0 to 1")
    _check_family(tests)


def _check_family(tests: Sequence[Mapping[str, Any]]) -> None:
    for i, (test, adjusted) in enumerate(zip(tests, holm([test["p_value"] for test in tests]), strict=True)):
        fits = _close(test["p_adjusted"], adjusted)
        _require(fits, f"comparisons[{i}]['p_adjusted']", test["p_adjusted"], f"{adjusted}, Holm's over all of these tests")


def _check_provenance(provenance: Any) -> None:
    _require(isinstance(provenance, Mapping), "provenance", provenance, "settings, versions and hashes by name")
    if "config_hash" in provenance:
        made = config_hash(provenance.get("config"))
        _require(provenance["config_hash"] == made, "provenance['config_hash']", provenance["config_hash"], f"{made!r}, that of its config")
    if "date" in provenance:
        try:
            datetime.datetime.fromisoformat(provenance["date"])
        except (TypeError, ValueError):
            _require(False, "provenance['date']", provenance["date"], "a date and time such as 2026-01-31T12:00:00+00:00")
