"""Where a number comes from: code, data, models, machine, versions, settings, time."""

import datetime
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from smoothlib import __version__

from ..base import paths
from ..base.config import config_hash, plain
from ..base.machine import machine
from ..base.staleness import modules_behind, united
from ..runs.stored import Origin, item_key

PACKAGES = (
    "torch torchvision diffusers transformers peft accelerate safetensors torchmetrics lpips scikit-image numpy scipy pillow".split()
)  # those whose version can change a number


def provenance(
    *,
    config: Any,
    models: Mapping[str, str],
    data_hash: str,
    seed: int,
    dtype: torch.dtype | str,
    duration: float,
    origins: Iterable[Origin],
    code: Sequence[str] = (),
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Everything a recorded number must carry, in JSON's types.

    `config`: the resolved configuration (dataclass or dict). `models`: name -> fingerprint of the weights, adapters included. `data_hash`:
    the function of this name says. `duration`: seconds that the computation took. `origins`: those of all per-item results behind the
    record (`runs.origins`). `code`: the modules that turned these into the record's values.

    `modules` of the answer are the record's code: that which computed the per-item results, whenever that was, and that which made values
    of them in this process. A module that was not the same for all has the list of its hashes.
    """
    commit, dirty = revision()
    origins = list(origins)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "dirty": dirty,
        "config": plain(config),
        "config_hash": config_hash(config),
        "models": dict(models),
        "data_hash": data_hash,
        "seed": seed,
        "dtype": str(dtype).removeprefix("torch."),
        "duration_seconds": round(float(duration), 1),
        "machine": machine(device),  # that made the record
        "computed_on": computed_on(origins),  # those that the per-item results come from
        "python": platform.python_version(),
        "modules": united([*(origin.modules for origin in origins), modules_behind("companion.evidence.statistics", *code)]),
        "versions": {"smoothlib": __version__} | {name: metadata.version(name) for name in PACKAGES},
    }


def computed_on(origins: Iterable[Origin]) -> list[dict[str, str]]:
    """Device, its name and torch's version of every machine that computed some of the results."""
    machines = [{"device": origin.device, "name": origin.name, "torch": origin.torch} for origin in origins]
    return [one for i, one in enumerate(machines) if one not in machines[:i]]


def data_hash(items: Iterable[Any]) -> str:
    """Hash of the items that a run used, content and order."""
    return config_hash([item_key(item) for item in items])


def revision(root: Path = paths.ROOT) -> tuple[str | None, bool | None]:
    """Commit of the checkout, and whether tracked files differ from it; (None, None) outside a checkout."""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit, _git(root, "status", "--porcelain", "--untracked-files=no") != ""
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True).stdout.strip()
