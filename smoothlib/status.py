"""Execution statistics of the recorded results: when, from which commit, how long, on which machine; is the code the same?"""

from pathlib import Path
from typing import Any

import pandas as pd

from . import paths
from .results import load_record
from .staleness import UNKNOWN, stale
from .tables import machine_name


def execution_table(*, folder: Path = paths.RESULTS) -> pd.DataFrame:
    """Record -> date, commit, minutes, items, model, machine, device and precision, versions."""
    found = {file.stem: _execution(load_record(file)) for file in sorted(folder.glob("*.json"))}
    return pd.DataFrame.from_dict(found, orient="index")


def code_table(*, folder: Path = paths.RESULTS) -> pd.DataFrame:
    """Record -> whether the code that made it is the code that is here now."""
    found = {file.stem: [_code(load_record(file))] for file in sorted(folder.glob("*.json"))}
    return pd.DataFrame.from_dict(found, orient="index", columns=["Code since"])


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
    changed = stale(record)
    return "unknown" if changed == [UNKNOWN] else f"changed: {', '.join(changed)}" if changed else "the same"
