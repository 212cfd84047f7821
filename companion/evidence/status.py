"""Execution statistics of the recorded results: when, from which commit, how long, on which machine; is the code the same?"""

from pathlib import Path
from typing import Any

import pandas as pd

from ..base import paths
from ..base.staleness import UNKNOWN, same_numbers, stale
from .record_checks import SEAL
from .records import load_record, record_files
from .tables import machine_name


def execution_table(*, folder: Path = paths.RESULTS) -> pd.DataFrame:
    """Record -> date, commit, minutes, items, model, machine, device and precision, versions."""
    found = {file.stem: _execution(load_record(file)) for file in record_files(folder)}
    return pd.DataFrame.from_dict(found, orient="index")


def code_table(*, folder: Path = paths.RESULTS) -> pd.DataFrame:
    """Record -> whether the code that made it is the code that is here now, and whether it has a seal, which `load_record` has checked."""
    records = {file.stem: load_record(file) for file in record_files(folder)}
    found = {name: [_code(record), "holds" if SEAL in record else "none: older than seals"] for name, record in records.items()}
    return pd.DataFrame.from_dict(found, orient="index", columns=["Code since", "Seal"])


def _execution(record: dict[str, Any]) -> dict[str, str]:
    made = record["provenance"]
    devices = dict.fromkeys(one["device"] for one in made.get("computed_on") or [made["machine"]])
    versions = {"Python": made["python"], **{name: made["versions"][name] for name in ("torch", "diffusers", "smoothlib")}}
    return {
        "Recorded": made["date"][:10],
        "Commit": "none" if made["commit"] is None else made["commit"][:10] + (" with changes" if made["dirty"] else ""),
        "Minutes": f"{made['duration_seconds'] / 60:.1f}",
        "Items": str(len(record["items"])),
        "Model": record["model"],
        "Machine": machine_name(made),
        "Device": f"{', '.join(devices)}, {made['dtype']}",
        **versions,
    }


def _code(record: dict[str, Any]) -> str:
    changed, others = stale(record), len(same_numbers(record))
    if changed == [UNKNOWN]:
        return "unknown"
    rests = f"{others} {'module' if others == 1 else 'modules'} changed in what is refused, not in a number" if others else ""
    if changed:
        return f"changed: {', '.join(changed)}" + (f"; {rests}" if rests else "")
    return rests or ("moved, same program" if "moved" in record["provenance"] else "the same")
