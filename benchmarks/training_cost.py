"""What measured steps mean for the paper's training: hours, and euros at a price for an hour of the machine."""

import math
from collections.abc import Mapping

STEPS, SAMPLES = 30_000, 96  # Sec. 4.1: 3 samples x 4 GPUs x 8 accumulations
HEAD = ("way", "batch", "passes forward + backward", "calls", "ms a sample", "/ plain", "GiB above weights", "error of L_reg's gradient")
VERSUS = ("authors / this: time", "memory")


def hours(seconds: float, gpus: int = 1) -> float:
    """Of the paper's training at so many seconds a sample, on one machine or divided without loss between several."""
    return seconds * SAMPLES * STEPS / 3600 / gpus


def shown(value: float, digits: int = 3) -> str:
    """A number to so many digits, without an exponent; a dash where there is none."""
    if not math.isfinite(value):
        return "-"
    return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}" if value else "0"


def table(found: Mapping[str, Mapping[str, float]], plain: str, authors: str, price: float | None, paper: bool = True) -> list[str]:
    """Lines of Markdown: `found` by way, with `seconds` a sample, `gib`, `error` and the counted passes; relative to two of the ways.

    Args:
        price: euros for an hour of the machine; None leaves the column out.
        paper: whether the network is the paper's, so that its time is that of the paper's training.
    """
    base, theirs = found.get(plain), found.get(authors)
    head = [
        *HEAD,
        *(VERSUS if theirs else ()),
        *(["hours for the paper's training"] if paper else []),
        *(["euros"] if price and paper else []),
    ]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for way, value in found.items():
        passes = f"{shown(value['forward'])} + {shown(value['backward'])}"
        error = "-" if math.isnan(value["error"]) else f"{shown(100 * value['error'], 2)} %"
        relative = f"{value['seconds'] / base['seconds']:.2f}" if base else "-"
        cells = [
            way,
            f"{value['batch']:.0f}",
            passes,
            shown(value["calls"]),
            shown(1000 * value["seconds"]),
            relative,
            shown(value["gib"]),
            error,
        ]
        if theirs:
            memory = theirs["gib"] / theirs["batch"] / (value["gib"] / value["batch"]) if value["gib"] > 0 else math.nan
            cells += [f"{theirs['seconds'] / value['seconds']:.2f}", shown(memory)]
        if paper:
            time = hours(value["seconds"])
            cells += [shown(time), *([shown(time * price)] if price else [])]
        lines.append(f"| {' | '.join(cells)} |")
    memory = "Memory is compared per sample."
    if not paper:
        return [*lines, "", memory]
    kept = f"{STEPS:,} steps of {SAMPLES} samples at the measured time of a sample, without optimiser, encoders and reading"
    note = f"Hours: {kept}; n machines need one n-th, less what they lose by waiting for each other. {memory}"
    return [*lines, "", note + (f" Euros: {price:g} an hour." if price else "")]
