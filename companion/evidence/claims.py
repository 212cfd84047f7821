"""The paper's claims (`data/paper/claims.yaml`) and what the recorded results say about each.

    verdicts = evaluate()
    ClaimsTable(verdicts)          # HTML in a notebook, text in print; .markdown() for the README; `python -m companion.evidence.claims`
    prints it

What each verdict says and how chance is counted: `claims_table.LEGEND` and `METHOD`. A verdict never says more than its test: on the
embedded model it is one about that model.
"""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from ..base import config, paths
from ..base.reading import UnreadableFile, of_kind, read_yaml
from ..base.staleness import staleness_note
from .claims_table import CHECKED, LEGEND, METHOD, NOT_TESTABLE, OUTCOMES, ClaimsTable, figures, legend
from .recipes import describe_rows
from .records import record_files, recorded
from .statements import Statement, find_row
from .tables import Record
from .weighing import INCONCLUSIVE, NOT_MEASURED, NOT_REPRODUCED, REPRODUCED, Evidence, decide, measure

__all__ = [
    "CHECKED", "FILE", "LEGEND", "METHOD", "NOT_TESTABLE", "OUTCOMES", "Claim", "ClaimsTable", "Verdict", "evaluate", "legend",
    "load_claims", "verdict",
]  # fmt: skip

FILE = paths.PAPER / "claims.yaml"
MEASURED = (REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE)


@dataclass(frozen=True)
class Claim:
    """One claim in our words: `tests` that must all hold, or why there are none (`mathematics`, `not_testable`, `to_come`).

    `section`, `place`: where the paper makes it. `reading`: how its sentence was made exact. `tried`: what else was tried, shown where the
    claim was not reproduced or remained open. `mathematics`: what came out of a derivation, and `checked_in` where it is computed: names of
    tests ("tests/test_x.py::test_y") or items of Paper versus code ("paper_vs_code 2").
    """

    id: str
    section: str
    place: str
    claim: str
    tests: tuple[Statement, ...] = ()
    reading: str = ""
    tried: str = ""
    mathematics: str = ""
    checked_in: tuple[str, ...] = ()
    not_testable: str = ""
    to_come: str = ""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.tests, self.mathematics, self.not_testable, self.to_come))) != 1:
            raise ValueError(f"The claim {self.id!r} must have exactly one of tests, mathematics, not_testable and to_come.")
        if bool(self.mathematics) != bool(self.checked_in):
            raise ValueError(f"The claim {self.id!r} must have checked_in, where it is computed, if and only if it has mathematics.")

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
    """What is known about a claim: the outcome, on which model, the evidence, and remarks about the records behind it.

    `rows`: what the compared rows are, by record: the training of their adapters, and how images were sampled.
    """

    claim: Claim
    outcome: str
    model: str = ""
    evidence: tuple[Evidence, ...] = ()
    figures: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The outcome and what it is about: "reproduced on the embedded model, one training"."""
        once = any(one.one_training for one in self.evidence) and self.outcome in (REPRODUCED, NOT_REPRODUCED)
        return f"{self.outcome} on {self.model}{', one training' if once else ''}" if self.model else self.outcome

    @property
    def reason(self) -> str:
        """The figures that decided it, or why there are none."""
        claim = self.claim
        if claim.mathematics:
            return f"{claim.mathematics} Checked in {', '.join(claim.checked_in)}."
        return "; ".join(self.figures) or claim.not_testable or claim.to_come or f"waits for {', '.join(claim.records)}"

    @property
    def deciding_figure(self) -> str:
        """The first of the figures whose test has the verdict's own outcome."""
        measured = (one for one in self.evidence if one.outcome != NOT_MEASURED)
        own = (figure for one, figure in zip(measured, self.figures, strict=True) if one.outcome == self.outcome)
        return next(own, self.reason)

    @property
    def measured_on(self) -> list[str]:
        """What the rows are, and which of them were trained once with no spread known: at most a sentence each."""
        once = dict.fromkeys(row for one in self.evidence if one.one_training for row in one.trainings.once)
        said = {"Measured on": "; ".join(self.rows), "Trained once": ", ".join(once)}
        return [f"{name}: {text}." for name, text in said.items() if text]

    @property
    def remarks(self) -> list[str]:
        """`measured_on`, and what else was tried unless the claim was reproduced."""
        tried = self.claim.tried and self.outcome in (NOT_REPRODUCED, INCONCLUSIVE)
        return self.measured_on + [f"Tried: {self.claim.tried}"] * bool(tried)


def load_claims(file: Path = FILE) -> list[Claim]:
    """The claims in the file's order: the paper's, those that are mathematics last.

    Raises ValueError, naming the claim, where one is incomplete or its id is there twice.
    """
    claims = []
    for content in read_yaml(file, list):
        where = f"{file.name}, claim {content.get('id', 'without id') if isinstance(content, dict) else 'without id'}"
        try:
            of_kind(content, dict, where, "restore it")
            tests = tuple(Statement(**test) for test in content.get("tests", []))
            claims.append(Claim(**{**content, "tests": tests, "checked_in": tuple(content.get("checked_in", []))}))
        except UnreadableFile:
            raise
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from error
    if repeated := [name for name, count in Counter(claim.id for claim in claims).items() if count > 1]:
        raise ValueError(f"{file.name} has the id {repeated[0]} twice.")
    return claims


def evaluate(claims: Sequence[Claim] | None = None, *, folder: Path = paths.RESULTS) -> list[Verdict]:
    """A verdict on each claim from the records in `folder`. Raises ConfigurationError where it has none, RecordError for a wrong one."""
    record_files(folder)
    read = cache(lambda name: recorded(name, folder=folder))
    return [verdict(claim, read) for claim in (load_claims() if claims is None else claims)]


def verdict(claim: Claim, read: Callable[[str], Record | None]) -> Verdict:
    """What the records say about one claim; `read` gives a record by name, or None. The claim's tests are one family of Holm's."""
    for reason, outcome in ((claim.mathematics, CHECKED), (claim.not_testable, NOT_TESTABLE), (claim.to_come, NOT_MEASURED)):
        if reason:
            return Verdict(claim, outcome)
    found = [(test.record, one) for test in claim.tests for one in measure(test, read(test.record))]
    evidence = tuple(decide([one for _, one in found]))
    shown = tuple(figures(one, read(name)) for (name, _), one in zip(found, evidence, strict=True) if one.outcome != NOT_MEASURED)
    judged = Verdict(claim, _together([one.outcome for one in evidence]), evidence=evidence, figures=shown)
    if judged.outcome == NOT_MEASURED:
        return judged
    records = [record for name in claim.records if (record := read(name)) is not None]
    stale = tuple(f"{record['name']}: {note}" for record in records if (note := staleness_note(record)))
    return replace(judged, model=_model(records[0]), rows=tuple(_rows(claim, record) for record in records), stale=stale)


def _rows(claim: Claim, record: Record) -> str:
    labels = [find_row(record, row) for test in claim.tests if test.record == record["name"] for row in test.rows]
    return describe_rows(record, [label for label in labels if label is not None])


def _together(outcomes: Sequence[str]) -> str:
    """Of a claim whose parts must all hold: one refuted part refutes it, one missing or open part leaves it so."""
    return next((outcome for outcome in (NOT_REPRODUCED, NOT_MEASURED, INCONCLUSIVE) if outcome in outcomes), REPRODUCED)


def _model(record: Record) -> str:
    name = record["model"]
    return "the embedded model" if name.partition(",")[0] == "mini" else name


def main(arguments: Sequence[str] | None = None) -> int:
    """Print every claim with its verdict."""
    parser = config.OneSentenceParser(prog="python -m companion.evidence.claims", description=main.__doc__)
    parser.add_argument("--records", type=Path, default=paths.RESULTS, help="folder with recorded results (data/results)")
    options = parser.parse_args(arguments)
    with config.errors_as_exit_codes(parser.prog):
        print(ClaimsTable(evaluate(folder=options.records)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
