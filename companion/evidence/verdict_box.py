"""What a page found, for the place below its title: the verdicts on the claims that its record decides, as HTML."""

from collections import Counter
from collections.abc import Sequence
from html import escape

from .claims import Verdict
from .claims_table import CHECKED, NOT_TESTABLE, OUTCOMES, metric_label
from .digits import in_words, with_interval
from .records import recorded
from .statements import DIRECTIONS
from .tables import Record
from .weighing import INCONCLUSIVE, NOT_MEASURED, NOT_REPRODUCED, REPRODUCED, Evidence

SIGNS = {REPRODUCED: "✓", NOT_REPRODUCED: "✗", INCONCLUSIVE: "?", NOT_MEASURED: "…", CHECKED: "=", NOT_TESTABLE: "–"}
FEW = 3  # claims that are shown without a fold


def of_page(verdicts: Sequence[Verdict], name: str) -> list[Verdict]:
    """The verdicts whose tests use the record of that name: decided ones first, then open ones, in the order of the claims."""
    return sorted((one for one in verdicts if name in one.claim.records), key=lambda one: OUTCOMES.index(one.outcome))


def verdict_box(verdicts: Sequence[Verdict], records: dict[str, Record] | None = None) -> str:
    """The box: counts, and for each claim its verdict, the answer in a sentence with interval and n, all figures under a fold.

    Empty without verdicts. `records`: name -> record, where they are not those of data/results.
    """
    if not verdicts:
        return ""
    found = Counter(one.outcome for one in verdicts)
    counts = ", ".join(f"{found[outcome]} {outcome}" for outcome in OUTCOMES if found[outcome])
    head = "The paper's claim" if len(verdicts) == 1 else f"The paper's {len(verdicts)} claims"
    items = [_item(one, records) for one in verdicts]
    fold = f"<details><summary>{len(items) - FEW} more claims</summary><ul>{''.join(items[FEW:])}</ul></details>" if items[FEW:] else ""
    on = next((one.model for one in verdicts if one.model), "")
    where = f", on {on}" if on else ""
    return (
        f'<aside class="verdicts" aria-label="What was found"><p class="verdicts-head"><strong>What was found.</strong> '
        f"{escape(head)} tested on this page{escape(where)}: {escape(counts)}.</p><ul>{''.join(items[:FEW])}</ul>{fold}"
        '<p class="verdicts-foot"><a href="summary.html">All claims, and how they are decided</a></p></aside>'
    )


def _item(one: Verdict, records: dict[str, Record] | None) -> str:
    kind = one.outcome.replace(" ", "-")
    name = one.outcome + (", one training" if "one training" in one.text else "")
    answer = answer_of(one, records)
    figures = "".join(f"<li>{escape(figure)}</li>" for figure in one.figures)
    more = f"<details><summary>figures of {_tests(one)}</summary><ul>{figures}</ul></details>" if figures else ""
    return (
        f'<li class="verdict {kind}"><span class="verdict-sign" aria-hidden="true">{SIGNS[one.outcome]}</span>'
        f'<div><p><strong class="verdict-name">{escape(name)}</strong> <span class="verdict-claim">{escape(one.claim.claim)}</span> '
        f'<small>{escape(one.claim.where)}</small></p><p class="verdict-answer">{escape(answer)}</p>{more}</div></li>'
    )


def _tests(one: Verdict) -> str:
    return {1: "the test", 2: "both tests"}.get(len(one.figures), f"all {len(one.figures)} tests")


def answer_of(one: Verdict, records: dict[str, Record] | None = None) -> str:
    """The answer in one sentence: the figures of the first test that has the verdict's own outcome, or why there are none."""
    measured = [evidence for evidence in one.evidence if evidence.outcome != NOT_MEASURED]
    pairs = list(zip(measured, one.figures, strict=True))
    deciding = next(((evidence, figure) for evidence, figure in pairs if evidence.outcome == one.outcome), None)
    if deciding is None:
        return one.reason[:1].upper() + one.reason[1:] + ("" if one.reason.endswith(".") else ".")
    evidence, figure = deciding
    record = _record_of(one, evidence, records)
    return sentence(evidence, record) if record is not None else f"{figure}."


def _record_of(one: Verdict, evidence: Evidence, records: dict[str, Record] | None) -> Record | None:
    name = evidence.asks.record
    return recorded(name) if records is None else records.get(name)


def sentence(found: Evidence, record: Record) -> str:
    """One test in words: "ISTD of Smooth is 0.85 better than that of Base [0.69, 1.04], n = 200." """
    own = found.rows[0] in record["rows"]  # not so where two changes are compared
    label, direction = metric_label(record, found.metric) if own else ("", "none")
    ends = found.together or (found.sampled and found.sampled.interval)
    n = f", n = {found.sampled.n}" if found.sampled else ""
    first, second = found.rows
    if found.asks.kind == "within" and ends:
        difference = with_interval(found.difference, ends)
        return f"{label}: {first} less {second} is {difference}{n}; up to {found.limit:g} either way counts as equal."
    if not own and ends:
        means = " and ".join(f"{mean:.2g} ({name})" for name, mean in zip(found.rows, found.means, strict=True))
        return f"Gains: {means}; the first is {in_words(found.difference, ends, 'none')}{n}."
    if ends is None:
        return f"{label}: {first} {found.means[0]:.4g}, {second} {found.means[1]:.4g}; no interval is known{n}."
    number, _, rest = in_words(found.difference, ends, direction).partition(" ")
    word, _, interval = rest.partition(" ")
    text = f"{label}: {first} is {number} {word} than {second} {interval}{n}"
    if found.asks.kind == "no_worse":
        worse = DIRECTIONS[found.asks.direction] * found.difference < 0
        text += f"; up to {found.limit:.3g} worse counts as no cost" if worse else ""
    if found.outcome == INCONCLUSIVE and not text.endswith("no cost"):
        text += "; zero is not excluded" if ends[0] <= 0 <= ends[1] else ""
    if found.outcome == INCONCLUSIVE:
        text += _why_open(found, ends)
    return f"{text}."


def _why_open(found: Evidence, ends: tuple[float, float]) -> str:
    """Why a statement whose interval excludes zero is open nevertheless."""
    reason = found.note.rpartition("; ")[2]
    if reason and not reason.startswith("allowed"):
        return f"; {reason}"
    if ends[0] <= 0 <= ends[1] or found.p_adjusted is None:
        return ""
    return f"; p = {found.p_adjusted:.2g} after Holm's correction"
