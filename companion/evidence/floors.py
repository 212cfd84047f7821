"""The Fréchet distance of real images from as many other real ones: what no model can undercut."""

from collections.abc import Mapping
from typing import Any

from ..base import paths
from ..weights.cards import read_card

FACT = "frechet_floor"  # in the data's card: number of images -> the distance, by `benchmarks.frechet_floor`


def frechet_floor(record: Mapping[str, Any]) -> float:
    """That of the record's own images; for a record that used all test scenes that of the data's card, at its number; else 0.

    A run measures it on scenes of its split that it did not use, and a run with all of them has none left.
    """
    facts, config = record.get("facts", {}), record.get("provenance", {}).get("config", {})
    own = facts.get("judges", {}).get(FACT)
    if own is not None:
        return own
    if [config.get(name) for name in ("dataset", "split", "judge")] != ["scenes", "test", "packaged"]:
        return 0.0
    return read_card(paths.SCENES).get(FACT, {}).get(str(facts.get("num_images")), {}).get("mean", 0.0)
