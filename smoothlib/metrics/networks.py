"""The pretrained networks that ship with the repository for measuring: loaded from safetensors, checked against their card."""

import hashlib
import json
from pathlib import Path

import safetensors.torch
from torch import Tensor

from .. import paths


def load_network_weights(filename: str, folder: Path | str | None = None) -> dict[str, Tensor]:
    """Read the weights `filename` from `folder` (default: the shipped metric networks) on the CPU, as stored.

    The file's sha256 must equal the one recorded in the folder's `card.json` under `files`; the hash is taken of the very bytes that are
    then parsed. Raises FileNotFoundError if the card or the file is missing, ValueError if the card does not record the file or the hash
    differs.
    """
    folder = Path(folder) if folder is not None else paths.METRIC_NETWORKS
    card = folder / "card.json"
    for path in (card, folder / filename):
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing, restore it from the repository or write it again with tools/convert_metric_networks.py."
            )
    expected = json.loads(card.read_text(encoding="utf-8"))["files"].get(filename)
    content = (folder / filename).read_bytes()
    if hashlib.sha256(content).hexdigest() != expected:
        raise ValueError(f"{folder / filename} is damaged or not the file that {card.name} records, its sha256 must be {expected}.")
    return safetensors.torch.load(content)
