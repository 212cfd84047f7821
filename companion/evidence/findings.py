"""Three results in words, written from the verdicts: what got better, what it costs, what is open."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .claims_table import decimals_of
from .statements import DIRECTIONS
from .tables import Record
from .weighing import FRECHET, INCONCLUSIVE, NOT_MEASURED, NOT_REPRODUCED, REPRODUCED, Evidence

if TYPE_CHECKING:
    from .claims import Verdict

BETTER = (("table1-istd", "istd"), ("table2-ddim", "psnr"))  # claim, and the metric of it that is told
COST, OPEN = "table1-no-cost", "table1-evenness"
TOLD = {
    "istd": "the spread of the steps along a walk (interpolation standard deviation, ISTD)",
    "psnr": "the fidelity of images after plain inversion (peak signal-to-noise ratio, PSNR, in dB)",
    "cv": "the spread of the steps over their mean (coefficient of variation, CV)",
    "lpips_cv": "the same with the perceptual distance LPIPS (learned perceptual image patch similarity)",
    "kernel_distance": "the kernel distance of the images from real ones",
    "kid": "the kernel distance of the images from real ones",
    "scene_alignment": "the agreement with the prompt (alignment score)",
}


def findings(verdicts: Sequence["Verdict"], read: Callable[[str], Record | None]) -> dict[str, tuple[str, str]]:
    """ "better", "cost" and "open" -> a heading and a sentence. All that depends on a result follows the verdicts."""
    known = {one.claim.id: one for one in verdicts}
    return {"better": _better(known, read), "cost": _cost(known), "open": _open(known, verdicts, read)}


def _better(known: dict[str, "Verdict"], read: Callable[[str], Record | None]) -> tuple[str, str]:
    said = []
    for claim, metric in BETTER:
        verdict = known.get(claim)
        found = _of_metric(verdict, metric)
        if found is None:
            continue
        state = {REPRODUCED: "better", NOT_REPRODUCED: "not better", INCONCLUSIVE: "undecided"}[found.outcome]
        said.append(f"{TOLD[metric]} is {state}, {_change(found)}{_share(found, read(verdict.claim.records[0]))}")
    return _sentence("What got better", said, "nothing that was measured here.")


def _cost(known: dict[str, "Verdict"]) -> tuple[str, str]:
    verdict = known.get(COST)
    measured = [one for one in (verdict.evidence if verdict else ()) if one.outcome != NOT_MEASURED]
    said = []
    for found in measured:
        undecided = f"not settled (margin {found.limit:.2g})"
        state = {REPRODUCED: "within the margin allowed", NOT_REPRODUCED: "beyond the margin allowed", INCONCLUSIVE: undecided}
        if found.metric in FRECHET:
            excess = [mean - found.floor for mean in found.means]
            said.append(
                f"the images' distance from real ones (Fréchet distance, less that of real images from each other) goes from "
                f"{excess[1]:.0f} to {excess[0]:.0f}{_interval(found)}: {state[found.outcome]}"
            )
        else:
            said.append(f"{TOLD.get(found.metric, found.metric)} goes {_change(found)}: {state[found.outcome]}")
    return _sentence("What it costs", said, "nothing was measured yet.")


def _open(known: dict[str, "Verdict"], verdicts: Sequence["Verdict"], read: Callable[[str], Record | None]) -> tuple[str, str]:
    count = sum(one.outcome == INCONCLUSIVE for one in verdicts)
    rest = f"In all, {count} of {len(verdicts)} claims are inconclusive."
    verdict = known.get(OPEN)
    if verdict is None or verdict.outcome == NOT_MEASURED:
        return _sentence("What is open", [], rest)
    parts = [one for one in verdict.evidence if one.metric != "istd" and one.outcome != NOT_MEASURED]
    said = [f"{TOLD.get(one.metric, one.metric)} goes {_change(one)}{_share(one, read(verdict.claim.records[0]))}" for one in parts]
    answers = {REPRODUCED: "The verdict is yes", NOT_REPRODUCED: "The verdict is no", INCONCLUSIVE: "Undecided (all must improve)"}
    question = "are the steps more even for their size, and not merely smaller?"
    return "What is open", f"{question} {answers[verdict.outcome]}: {'; '.join(said)}. {rest}"


def _sentence(heading: str, said: Sequence[str], otherwise: str) -> tuple[str, str]:
    return heading, f"{'; '.join(said)}." if said else otherwise


def _of_metric(verdict: "Verdict | None", metric: str) -> Evidence | None:
    return next((one for one in verdict.evidence if one.metric == metric and one.outcome != NOT_MEASURED), None) if verdict else None


def _ends(found: Evidence) -> tuple[float, float] | None:
    return found.together or (found.sampled.interval if found.sampled else None)


def _change(found: Evidence) -> str:
    """ "from 2.76 to 1.91 (95 % interval of the difference -1.07 to -0.64)": the base model's value first."""
    ends = _ends(found)
    decimals = min(max(decimals_of(ends), 0), 4) if ends else 2
    return f"from {found.means[1]:.{decimals}f} to {found.means[0]:.{decimals}f}{_interval(found)}"


def _interval(found: Evidence) -> str:
    if (ends := _ends(found)) is None:
        return ""
    decimals = max(decimals_of(ends), 0)
    low, high = (f"{round(value, decimals) + 0.0:+.{decimals}f}".replace("-", "−") for value in ends)
    return f" (difference {low} to {high})"


def _share(found: Evidence, record: Record | None) -> str:
    """ ", lower in 159 of 200 cases": how many items lie on the side of the claimed direction."""
    rows = record["rows"] if record else {}
    if any("values" not in rows.get(row, {}).get("metrics", {}).get(found.metric, {}) for row in found.rows):
        return ""
    first, second = (np.asarray(rows[row]["metrics"][found.metric]["values"]) for row in found.rows)
    count = int((DIRECTIONS[found.asks.direction] * (first - second) > 0).sum())
    return f", {'lower' if found.asks.direction == 'lower' else 'higher'} in {count} of {len(first)} cases"
