"""The paper's claims (`data/paper/claims.yaml`) and what the recorded results say about each.

    verdicts = evaluate()
    ClaimsTable(verdicts)          # HTML in a notebook, text in print; .markdown() for the README; `python -m smoothlib.claims` prints it

A verdict is "reproduced", "not reproduced" (the difference is there, the other way round), "inconclusive" (an interval includes no
difference), "not testable here" or "not measured yet". It never says more than its test: on the embedded model it is one about that model.
"""

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import yaml

from . import config, paths
from .evidence import INCONCLUSIVE, NOT_MEASURED, NOT_REPRODUCED, REPRODUCED, Evidence, Statement, weigh
from .paper import load_paper_table
from .results import record_files, recorded
from .staleness import staleness_note
from .tables import REGION, Record

NOT_TESTABLE = "not testable here"
OUTCOMES = (REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE, NOT_MEASURED, NOT_TESTABLE)
FILE = paths.PAPER / "claims.yaml"
HEADINGS = ("Claim", "In the paper", "Verdict", "What decided it")


@dataclass(frozen=True)
class Claim:
    """One claim in our words: `tests` that must all hold, or why there are none (`not_testable`, `to_come`).

    `section`, `place`: where the paper makes it. `reading`: how its sentence was made exact. `tried`: what else was tried, shown where the
    claim was not reproduced or remained open.
    """

    id: str
    section: str
    place: str
    claim: str
    tests: tuple[Statement, ...] = ()
    reading: str = ""
    tried: str = ""
    not_testable: str = ""
    to_come: str = ""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.tests, self.not_testable, self.to_come))) != 1:
            raise ValueError(f"The claim {self.id!r} must have exactly one of tests, not_testable and to_come.")

    @property
    def where(self) -> str:
        """Where the paper makes it: "Sec. 4.2, Table 1"."""
        section = f"{'Sec.' if self.section[0].isdigit() else 'App.'} {self.section}"
        return f"{section}, {self.place}" if self.place else section

    @property
    def records(self) -> list[str]:
        return list(dict.fromkeys(test.record for test in self.tests))


@dataclass(frozen=True)
class Verdict:
    """What is known about a claim: the outcome, on which model, the evidence, and remarks about the records behind it."""

    claim: Claim
    outcome: str
    model: str = ""
    evidence: tuple[Evidence, ...] = ()
    figures: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The outcome and the model that it is about: "reproduced on the embedded model"."""
        return f"{self.outcome} on {self.model}" if self.model else self.outcome

    @property
    def reason(self) -> str:
        """The figures that decided it, or why there are none."""
        return "; ".join(self.figures) or self.claim.not_testable or self.claim.to_come or f"waits for {', '.join(self.claim.records)}"

    @property
    def deciding_figure(self) -> str:
        """The first of the figures whose test has the verdict's own outcome."""
        measured = (one for one in self.evidence if one.outcome != NOT_MEASURED)
        own = (figure for one, figure in zip(measured, self.figures, strict=True) if one.outcome == self.outcome)
        return next(own, self.reason)

    @property
    def remarks(self) -> list[str]:
        tried = self.claim.tried if self.outcome in (NOT_REPRODUCED, INCONCLUSIVE) else ""
        return [f"Tried: {tried}"] if tried else []


def load_claims(file: Path = FILE) -> list[Claim]:
    """The claims in the file's order: the paper's, those that are mathematics last.

    Raises ValueError, naming the claim, where one is incomplete or its id is there twice.
    """
    claims = []
    for content in yaml.safe_load(file.read_text(encoding="utf-8")):
        name = content.get("id", "without id")
        try:
            claims.append(Claim(**{**content, "tests": tuple(Statement(**test) for test in content.get("tests", []))}))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file.name}, claim {name}: {error}") from None
    if repeated := [name for name, count in Counter(claim.id for claim in claims).items() if count > 1]:
        raise ValueError(f"{file.name} has the id {repeated[0]} twice.")
    return claims


def evaluate(claims: Sequence[Claim] | None = None, *, folder: Path = paths.RESULTS) -> list[Verdict]:
    """A verdict on each claim from the records in `folder`. Raises ConfigurationError where it has none, RecordError for a wrong one."""
    record_files(folder)
    read = cache(lambda name: recorded(name, folder=folder))
    return [verdict(claim, read) for claim in (load_claims() if claims is None else claims)]


def verdict(claim: Claim, read: Callable[[str], Record | None]) -> Verdict:
    """What the records say about one claim; `read` gives a record by name, or None."""
    if claim.not_testable:
        return Verdict(claim, NOT_TESTABLE)
    if claim.to_come:
        return Verdict(claim, NOT_MEASURED)
    evidence, figures = [], []
    for test in claim.tests:
        found = weigh(test, read(test.record))
        evidence += found
        figures += [_figures(one, read(test.record)) for one in found if one.outcome != NOT_MEASURED]
    outcome = _together([one.outcome for one in evidence])
    records = [record for name in claim.records if (record := read(name)) is not None]
    stale = tuple(f"{record['name']}: {note}" for record in records if (note := staleness_note(record)))
    if outcome == NOT_MEASURED:
        return Verdict(claim, outcome, evidence=tuple(evidence), figures=tuple(figures))
    return Verdict(claim, outcome, _model(records[0]), tuple(evidence), tuple(figures), stale)


def _together(outcomes: Sequence[str]) -> str:
    """Of a claim whose parts must all hold: one refuted part refutes it, one missing or open part leaves it so."""
    return next((outcome for outcome in (NOT_REPRODUCED, NOT_MEASURED, INCONCLUSIVE) if outcome in outcomes), REPRODUCED)


def _model(record: Record) -> str:
    name = record["model"]
    return "the embedded model" if name.partition(",")[0] == "mini" else name


def _figures(found: Evidence, record: Record) -> str:
    """One line: means, difference, interval, p, n, and the interval over trainings."""
    label, form = _metric(record, found.metric)
    text = f"{label} of {found.rows[0]} {form(found.means[0])}, of {found.rows[1]} {form(found.means[1])}"
    if found.items:
        p = "" if found.p is None else ", p < 0.0001" if found.p < 1e-4 else f", p = {found.p:.4f}"
        text += f": difference {_interval(found.difference, found.items)}{p}, n = {found.n}"
    if found.trainings:
        trained = " and ".join(f"{count}" for count in found.num_trainings)
        text += f"{';' if found.items else ': difference'} over trainings ({trained}) {_interval(found.difference, found.trainings)}"
    return f"{text} ({found.note})" if found.note else text


def _metric(record: Record, metric: str) -> tuple[str, Callable[[float], str]]:
    columns: Mapping[str, Any] = record.get("columns", {})
    if record["table"] is None:
        label, decimals = (columns.get(metric, {}).get(key, other) for key, other in (("label", metric), ("decimals", 3)))
    else:
        table = load_paper_table(record["table"]).extended(columns)
        label, decimals = table.metrics[metric].label, table.decimals(metric)
    return label, lambda value: f"{value:.{decimals}f}"


def _interval(mean: float, ends: tuple[float, float]) -> str:
    return f"{mean:+.3g} [{ends[0]:+.3g}, {ends[1]:+.3g}]"


@dataclass(frozen=True, repr=False)
class ClaimsTable:
    """Every claim with its verdict and the figures that decided it: HTML in notebooks, text in `print`."""

    verdicts: Sequence[Verdict]

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
        rows = [HEADINGS, ("---",) * len(HEADINGS), *self.rows()]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{heading}</th>" for heading in HEADINGS)
        body = "".join(f"<tr>{self._cells(one, row)}</tr>" for one, row in zip(self.verdicts, self.rows(), strict=True))
        notes = "".join(f"<li>{escape(note)}</li>" for note in [self.counts(), *self.notes()])
        table = f'<table class="comparison" style="white-space: normal"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        return f'<div class="comparison claims" {REGION}>{table}<ul>{notes}</ul></div>'

    @staticmethod
    def _cells(one: Verdict, row: Sequence[str]) -> str:
        _, where, text, reason = map(escape, row)
        claim = escape(one.claim.claim) + (f"<br><small>{escape(one.claim.reading)}</small>" if one.claim.reading else "")
        if one.claim.records and (paths.ROOT / "notebooks" / f"{one.claim.records[0]}.ipynb").is_file():
            where = f'<a href="{one.claim.records[0]}.html">{where}</a>'
        reason = reason if not one.figures else "<br>".join(map(escape, [*one.figures, *one.remarks]))
        return f"<td>{claim}</td><td>{where}</td><td><strong>{text}</strong></td><td>{reason}</td>"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print every claim with its verdict."""
    parser = config.OneSentenceParser(prog="python -m smoothlib.claims", description=main.__doc__)
    parser.add_argument("--records", type=Path, default=paths.RESULTS, help="folder with recorded results (data/results)")
    try:
        print(ClaimsTable(evaluate(folder=parser.parse_args(arguments).records)))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
