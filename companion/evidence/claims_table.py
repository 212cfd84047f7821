"""The verdicts on the paper's claims as a table, and the figures and methods behind them in words."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from ..base import paths
from .chance import Trainings
from .digits import decimals_of, with_interval
from .paper import load_paper_table
from .tables import REGION, Record, markdown_table
from .weighing import INCONCLUSIVE, NOT_MEASURED, NOT_REPRODUCED, REPRODUCED, Evidence

if TYPE_CHECKING:
    from .claims import Verdict

CHECKED, NOT_TESTABLE = "checked as mathematics", "not testable here"
LEGEND = {
    REPRODUCED: "the difference is in the direction that the paper claims, or within the margin: every 95 % interval says so, and the "
    "corrected p-value is below 5 %",
    NOT_REPRODUCED: "the same holds of the other direction, or the difference is beyond the margin",
    INCONCLUSIVE: "an interval includes zero (the margin), the corrected p-value is 5 % or more, or a source of chance was not measured",
    NOT_MEASURED: "a record, or a row or metric of it, is missing",
    CHECKED: "a derivation or identity, not a measurement: a test or a page computes it, and the reason says what came out",
    NOT_TESTABLE: "nothing that is measured here can decide it; the reason says why",
}
OUTCOMES = tuple(LEGEND)
METHOD = """\
**Over prompts or images.** Rows are compared on the same items: an interval of the mean difference (bootstrap, or Student's for
fewer than ten items) and a Wilcoxon signed-rank test. A Fréchet or kernel distance is one number for a whole set of images. What
each image, with the real image of its caption, contributes to it is computed too (infinitesimal jackknife, jackknife), and the
difference of these contributions between two rows gives the interval.

**Over trainings.** The spread of a row's trainings gives an interval of its own (Student's), and the squared half-widths of both
intervals add up to that of the interval over items and trainings. The spread is that of the two compared rows, pooled, if each of
them was trained repeatedly. A row that was trained once says so. Its spread is then taken from the rows of the record that were
trained repeatedly, which are named; if the spread taken over outweighs the items' chance, the verdict stays inconclusive. If no
row was trained repeatedly, a verdict on a distance of sets stays inconclusive, and a verdict over items reads "one training": it
is about these weights.

**Several parts.** All parts of a claim must hold. Their p-values form one family, corrected by Holm's method; margins are decided
by their intervals.

**How many items would do?** An inconclusive part names the number of items at which a difference as large as the one seen would
be found with 80 % power at the corrected level (normal approximation; Wilcoxon's test needs pi / 3 times as many as Student's),
with as many trainings as there are.
"""
HEADINGS = ("Claim", "In the paper", "Verdict", "What decided it")


def legend() -> str:
    """Every verdict and what it says, as a Markdown table, and how chance is counted."""
    return markdown_table([("verdict", "what it says"), *LEGEND.items()]) + f"\n\n{METHOD}"


def figures(found: Evidence, record: Record) -> str:
    """One line: means, difference, intervals, p, n, what is assumed of the trainings, and how many items an open statement would need."""
    label, own = _metric(record, found.metric)
    ends = found.sampled.interval if found.sampled else found.together
    decimals = min(max(decimals_of(ends), 0), 4) if ends else own
    first, second = (f"{mean:.{max(own, decimals) if decimals == 4 else decimals}f}" for mean in found.means)
    label = f"{label} of " if found.rows[0] in record["rows"] else ""
    label = f"{found.asks.part.capitalize()}: {label}" if found.asks and found.asks.part else label
    text = f"{label}{found.rows[0]} {first}, {'of ' if label else ''}{found.rows[1]} {second}: difference "
    if found.sampled:
        text += f"{with_interval(found.difference, found.sampled.interval)}, n = {found.sampled.n}"
        both = with_interval(found.difference, found.together).partition(" ")[2] if found.together else ""
        text += f"; with the trainings' chance ({_trained(found.trainings)}) {both}" if both else ""
    elif found.together:
        text += f"{with_interval(found.difference, found.together)}, of the trainings' chance alone ({_trained(found.trainings)})"
    else:
        text += f"{found.difference:+.3g}"
    text += "" if found.p_adjusted is None else "; p < 0.0001" if found.p_adjusted < 1e-4 else f"; p = {found.p_adjusted:.2g}"
    remarks = [found.note, _power(found)]
    return text + "".join(f" ({remark})" for remark in remarks if remark)


def _trained(trained: Trainings) -> str:
    """ "3 and 3 trainings", and whose spread it is where it is not the rows' own."""
    counts = " and ".join(str(count) for count in trained.counts if count)
    borrowed = f", spread taken from {' and '.join(trained.spread_of)}" if trained.once else ""
    return f"{counts} training{'' if counts == '1' else 's'}{borrowed}"


def _power(found: Evidence) -> str:
    if found.needed is None:
        return ""
    if math.isinf(found.needed):
        return "no number of items would show a difference of this size" + (" with so few trainings" if found.together else "")
    count = int(float(f"{found.needed:.1e}"))
    return f"a difference of this size needs about {count:,} items"


def _metric(record: Record, metric: str) -> tuple[str, int]:
    columns: Mapping[str, Any] = record.get("columns", {})
    if record["table"] is None:
        return columns.get(metric, {}).get("label", metric), columns.get(metric, {}).get("decimals", 3)
    table = load_paper_table(record["table"]).extended(columns)
    return table.metrics[metric].label, table.decimals(metric)


def metric_label(record: Record, metric: str) -> tuple[str, str]:
    """A metric's name in words, and which of its values are better: "up", "down" or "none"."""
    columns: Mapping[str, Any] = record.get("columns") or {}
    names = [record["table"]] if record["table"] else ["table1", "table2"]
    found = [table.metrics[metric] for name in names if metric in (table := load_paper_table(name).extended(columns)).metrics]
    return (found[0].label, found[0].direction) if found else (metric, "none")


class ClaimsTable:
    """Every claim with its verdict and the figures that decided it: HTML in notebooks, text in `print`."""

    def __init__(self, verdicts: "Sequence[Verdict]") -> None:
        self.verdicts = verdicts

    def counts(self) -> str:
        """One sentence: how many claims, how many of each verdict."""
        found = Counter(verdict.outcome for verdict in self.verdicts)
        parts = [f"{found[outcome]} {outcome}" for outcome in OUTCOMES if found[outcome]]
        return f"Of {len(self.verdicts)} claims: {', '.join(parts)}."

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Claim, place in the paper, verdict, what decided it; as text."""
        return [
            (
                f"{one.claim.claim} [{one.claim.reading}]" if one.claim.reading else one.claim.claim,
                one.claim.where,
                one.text,
                " ".join([one.reason, *one.remarks]),
            )
            for one in self.verdicts
        ]

    def notes(self) -> list[str]:
        """Which of the records behind the verdicts are older than the code."""
        return list(dict.fromkeys(note for one in self.verdicts for note in one.stale))

    def __str__(self) -> str:
        lines = [self.counts(), *self.notes(), ""]
        return "\n".join(lines + ["\n    ".join((f"{where}: {claim}", text, reason)) for claim, where, text, reason in self.rows()])

    __repr__ = __str__  # what a notebook stores beside the HTML

    def markdown(self) -> str:
        """The table alone, for a README."""
        return markdown_table([HEADINGS, *self.rows()])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{heading}</th>" for heading in HEADINGS)
        pairs = zip(self.verdicts, self.rows(), strict=True)
        body = "".join(f'<tr id="{escape(one.claim.id)}">{_cells(one, row)}</tr>' for one, row in pairs)
        notes = "".join(f"<li>{escape(note)}</li>" for note in [self.counts(), *self.notes()])
        table = f'<table class="comparison" style="white-space: normal"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        return f'<div class="comparison claims" {REGION}>{table}<ul>{notes}</ul></div>'


def _cells(one: "Verdict", row: Sequence[str]) -> str:
    _, where, text, reason = map(escape, row)
    claim = escape(one.claim.claim) + (f"<br><small>{escape(one.claim.reading)}</small>" if one.claim.reading else "")
    if one.claim.records and (paths.ROOT / "notebooks" / f"{one.claim.records[0]}.ipynb").is_file():
        where = f'<a href="{one.claim.records[0]}.html">{where}</a>'
    small = "".join(f"<br><small>{escape(remark)}</small>" for remark in one.remarks)
    reason = ("<br>".join(map(escape, one.figures)) if one.figures else escape(one.reason)) + small
    return f"<td>{claim}</td><td>{where}</td><td><strong>{text}</strong></td><td>{reason}</td>"
