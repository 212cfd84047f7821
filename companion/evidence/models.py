"""Records of other models than the embedded one: in folders beside it (`data/results/sd15`), and each claim's verdict on every model."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..base import paths
from .claims import Verdict, evaluate
from .stored_records import model_folders
from .tables import markdown_table
from .weighing import NOT_MEASURED


def verdicts_of_others(folder: Path = paths.RESULTS) -> dict[str, list[Verdict]]:
    """Model in words -> a verdict on each claim; empty for one of which nothing is recorded."""
    return {name: evaluate(folder=place) if any(place.glob("*.json")) else [] for name, place in model_folders(folder).items()}


def beside(verdicts: Sequence[Verdict], others: Mapping[str, Sequence[Verdict]]) -> str:
    """Markdown: the verdicts on several models claim by claim, for those measured on another one; a sentence for the rest."""
    return "\n\n".join(_told(verdicts, name, found) for name, found in others.items())


def _told(verdicts: Sequence[Verdict], name: str, found: Sequence[Verdict]) -> str:
    known = {one.claim.id: one for one in found if one.evidence and one.outcome != NOT_MEASURED}
    here = {one.claim.id: one for one in verdicts if one.evidence}
    if not known:
        return f"None of the {len(here)} claims that are measured here has been measured on {name} yet."
    pairs = [(here[claim], one) for claim, one in known.items() if claim in here]
    rows = [("Claim", "Embedded model", name, f"What decided it on {name}")]
    rows += [(ours.claim.claim, ours.outcome, theirs.outcome, theirs.reason) for ours, theirs in pairs]
    missing = len(here) - len(pairs)
    rest = f"\n\nThe other {missing} claims have not been measured on {name}." if missing else ""
    return f"{markdown_table(rows)}{rest}"
