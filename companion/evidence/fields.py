"""Rows of a record by what they are: `row_fields` decides, labels are for show.

A record from before there were fields has none: `statements.find_row`, `chance` and `recipes` read its labels instead.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from ..base import paths
from ..base.config import config_hash
from ..base.reading import read_yaml
from ..weights.cards import read_card
from .tables import Record

FILE = paths.PAPER / "claim_rows.yaml"
SETS = {"frechet_distance": "frechet", "fid": "frechet", "kernel_distance": "kernel", "kid": "kernel"}  # name in facts.training_seeds
PER_TRAINING = ("adapters", "weights", "training_seeds")  # the fields in which trainings of one row differ


@cache
def claim_rows() -> dict[str, dict[str, Any]]:
    """Name of a row in `claims.yaml` -> the fields by which it is found (`claim_rows.yaml`)."""
    return read_yaml(FILE)


def row_of(record: Record, name: str) -> str | None:
    """The label of the record's row that has the fields of the claims' row `name`; None where it has none, or several.

    Trainings of one recipe are one row, called by the first. Of several other rows the one that answers to a row of the paper is meant.
    Raises ValueError for a name that has no fields.
    """
    if name not in claim_rows():
        raise ValueError(f"rows has {name!r}, but must have names of {FILE.name}: {', '.join(claim_rows())}.")
    further = {label for labels in repeated_rows(record).values() for label in labels[1:]}
    found = [label for label, own in record["row_fields"].items() if label not in further and _has(own, claim_rows()[name])]
    if len(found) > 1:
        found = [label for label in found if record["rows"][label]["paper_row"]]
    return found[0] if len(found) == 1 else None


def _has(fields: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    own = dict(fields)
    if "guided" in wanted:
        own["guided"] = fields["guidance_scale"] != 1
    if "recipe" in wanted:
        options = recipe(fields)
        own["recipe"] = {name: options.get(name) for name in wanted["recipe"]}
    return all(own.get(name) == value for name, value in wanted.items())


def recipe(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings of the objective that a row's adapters were trained with, from the first one's card.

    Empty where the card does not say, or no longer holds the training whose hash the record has.
    """
    if not fields.get("adapters") or fields.get("training") is None:
        return {}
    trainings = list(read_card(paths.ADAPTERS / fields["adapters"][0]).get("training", {}).values())
    if len(trainings) != 1:
        return {}
    settings = trainings[0]["settings"]
    same = config_hash({key: value for key, value in settings.items() if key not in ("name", "export_to", "seed")}) == fields["training"]
    return settings["objective_options"] if same else {}


def repeated_rows(record: Mapping[str, Any]) -> dict[str, list[str]]:
    """Rows of a record that were trained once each and differ in the training seed alone: the first by seed -> all of them, by seed.

    Decided by the record's `row_fields`; a record from before there were any has none.
    """
    groups: dict[str, dict[int, str]] = {}
    for label, fields in record.get("row_fields", {}).items():
        if fields["training"] is not None and len(fields["training_seeds"]) == 1:
            same = {name: value for name, value in fields.items() if name not in PER_TRAINING}
            groups.setdefault(config_hash(same), {}).setdefault(fields["training_seeds"][0], label)
    found = ([label for _, label in sorted(seeds.items())] for seeds in groups.values())
    return {labels[0]: labels for labels in found if len(labels) > 1}


def part_of(record: Record, part: str | None) -> Record | None:
    """The record of one of its `parts` alone, as it would be had nothing but these items been measured; None where it has no such part.

    Metrics without values, or without one for these items, are left out; one that is defined for some of them alone has theirs. Intervals
    and tests, which were of all items, are computed where they are asked for. None for `part` is the whole record.
    """
    if part is None:
        return record
    ids = record.get("parts", {}).get(part)
    if ids is None:
        return None
    rows = {}
    for label, row in record["rows"].items():
        metrics = {}
        for metric, measured in row["metrics"].items():
            by_id = dict(zip(measured_ids(record, measured), measured.get("values", ()), strict="values" in measured))
            if values := [by_id[one] for one in ids if one in by_id]:
                metrics[metric] = {"mean": float(np.mean(values)), "low": None, "high": None, "n": len(values), "values": values}
        rows[label] = row | {"metrics": metrics}
    facts = {name: fact for name, fact in record.get("facts", {}).items() if name != "training_seeds"}
    return {**record, "items": list(ids), "rows": rows, "comparisons": [], "facts": facts}


def measured_ids(record: Record, measured: Mapping[str, Any]) -> list[str]:
    """The ids of the items that a metric's values belong to: all of the record's, or those of the part that it is defined for."""
    return record["parts"][measured["part"]] if "part" in measured else record["items"]


def by_training(record: Record) -> Record:
    """The record with trainings of one recipe as one row: values are means over the trainings, whose own means become facts.

    What the record says of a pair with such a row is left out: it compared a single training. Other records are returned as they are.
    """
    groups = repeated_rows(record)
    if not groups:
        return record
    further = {label for labels in groups.values() for label in labels[1:]}
    rows = {label: row for label, row in record["rows"].items() if label not in further}
    fields = {label: own for label, own in record["row_fields"].items() if label not in further}
    seeds = {label: known for label, known in record.get("facts", {}).get("training_seeds", {}).items() if label not in further}
    for first, labels in groups.items():
        measured = [record["rows"][label]["metrics"] for label in labels]
        shared = [metric for metric in measured[0] if all(metric in one for one in measured)]
        rows[first] = rows[first] | {"metrics": {metric: _mean([one[metric] for one in measured]) for metric in shared}}
        seeds[first] = {SETS.get(metric, metric): [one[metric]["mean"] for one in measured] for metric in shared}
        joined = {name: [value for label in labels for value in record["row_fields"][label][name]] for name in PER_TRAINING}
        fields[first] = fields[first] | joined
    compared = [test for test in record["comparisons"] if not {test["a"], test["b"]} & {*groups, *further}]
    facts = record.get("facts", {}) | {"training_seeds": seeds}
    return {**record, "rows": rows, "row_fields": fields, "comparisons": compared, "facts": facts}


def _mean(trainings: list[Mapping[str, Any]]) -> dict[str, Any]:
    """One metric of several trainings as that of one row; without an interval, which is computed where rows are compared."""
    values = {
        name: np.mean([one[name] for one in trainings], axis=0).tolist()
        for name in ("values", "image_values")
        if all(name in one and len(one[name]) == len(trainings[0][name]) for one in trainings)
    }
    mean = float(np.mean([one["mean"] for one in trainings]))
    return {"mean": mean, "low": None, "high": None, "n": min(one["n"] for one in trainings)} | values
