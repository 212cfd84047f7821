"""What a record of edits answers, in sentences by rule, and the comparisons behind them."""

from collections.abc import Mapping, Sequence

from ...evidence import records as results
from .compare import compare
from .curve import Gain
from .methods import Entry
from .study import AS_PUBLISHED, EditingStudy

Tests = list[tuple[str, str, str, str | None]]
COMPARED = (("lpips", None), ("lpips_outside", "local"), ("followed", None))  # metric and the part that it is compared on


def smooth_groups(study: EditingStudy) -> dict[str, list[str]]:
    """The trainings with the regularizer, under the title of the first of each recipe; of adapters without a card all."""
    return {title: group for title, group in study.groups.items() if study.kind_of(group[0]) in ("smooth", "unknown")}


def label(title: str, entry: Entry) -> str:
    """The label of a method's chosen row with a model."""
    return f"{title}: {entry.title}"


def model_tests(study: EditingStudy) -> Tests:
    """Every method: Smooth against the base model and against the plain LoRA, in what it is compared by."""
    others = ["Base", *(title for title in study.groups if title not in smooth_groups(study))]
    return [
        (label(title, entry), label(other, entry), metric, part)
        for entry in study.entries
        for title in smooth_groups(study)
        for other in others
        for metric, part in COMPARED
    ]


def inversion_tests(study: EditingStudy) -> Tests:
    """The base model with each other inversion against the first."""
    first, *others = study.entries
    return [(label("Base", entry), label("Base", first), metric, part) for entry in others for metric, part in COMPARED]


def published_tests(study: EditingStudy) -> Tests:
    """Null-text inversion as published against this run's, with the base model and with Smooth."""
    switch = Entry("prompt_switch", "null_text")
    rows = [label(title, switch) for title in ("Base", *list(smooth_groups(study))[:1])]
    return [(row + AS_PUBLISHED, row, metric, part) for row in rows for metric, part in COMPARED]


def sheet_labels(study: EditingStudy) -> list[str]:
    """The rows that a sheet shows: every method, with the base model, and with Smooth for the first two."""
    title = next(iter(smooth_groups(study)), None)
    labels = []
    for i, entry in enumerate(study.entries):
        if i and entry.method == "prompt_switch":
            continue  # further inversions have a page of their own
        labels += [label("Base", entry)] + ([label(title, entry)] if title and len(labels) < 4 else [])
    return labels


def ranked_row(study: EditingStudy) -> str:
    """The row by which a sheet is ranked: the first method with Smooth, or with the base model where there is no other."""
    return label(next(iter(smooth_groups(study)), "Base"), study.entries[0])


def answer(study: EditingStudy, record: results.Record, gains: Mapping[Entry, Mapping[str, Gain]]) -> str:
    """Does Smooth move the curve, and is it closer to the truth at equal settings? By intervals and Holm's p-values alone."""
    said = []
    for title in smooth_groups(study):
        moved = {entry.title: _sign(groups[title]) for entry, groups in gains.items() if title in groups}
        said.append(_listed(f"At equal preservation, {title} follows the prompt", moved, ("less often", "more often")))
        tests = [test for test in model_tests(study) if test[0].startswith(f"{title}: ") and test[1].startswith("Base: ")]
        found = compare(record, tests)
        for metric, what in (("lpips", "its edits are"), ("lpips_outside", "outside the edit the pictures are")):
            shown = {one.rows[0].partition(": ")[2]: one.shown for one in found if one.metric == metric}
            ends = (
                ("closer to the truth", "farther from the truth")
                if metric == "lpips"
                else ("closer to the source", "farther from the source")
            )
            said.append(_listed(f"At equal settings {what}", shown, ends))
    return " ".join(said) or "No adapter was compared with the base model in this run."


def inverters_answer(study: EditingStudy, record: results.Record, gains: Mapping[Entry, Mapping[str, Gain]]) -> str:
    """`answer`, and which inversions bring the base model closer to the truth than the first."""
    found = {one.rows[0].partition(": ")[2]: one.shown for one in compare(record, inversion_tests(study)) if one.metric == "lpips"}
    first = study.entries[0].title
    ends = ("closer to the truth", "farther from the truth")
    return f"{answer(study, record, gains)} {_listed(f'Compared with {first}, edits of the base model are', found, ends)}".strip()


def _sign(one: Gain) -> int | None:
    """-1 or 1 where the interval of a gain lies on one side of zero, 0 where it holds it, None where there is none."""
    if one.low is None or one.high is None:
        return None
    return 1 if one.low > 0 else -1 if one.high < 0 else 0


def _listed(start: str, signs: Mapping[str, int | None], ends: Sequence[str]) -> str:
    """ "START more often with A and B, less often with C; no difference is shown with D." """
    said = [
        f"{end} with {_and(names)}" for sign, end in ((1, ends[1]), (-1, ends[0])) if (names := [n for n, s in signs.items() if s == sign])
    ]
    open_ = [name for name, sign in signs.items() if sign == 0]
    if not said and not open_:
        return ""
    none = f"no difference is shown with {_and(open_)}" if open_ else ""
    if not said:
        return f"{start} neither {ends[1]} nor {ends[0]} by what can be shown: {none}."
    return f"{start} {', '.join(said)}{'; ' if none else ''}{none}."


def _and(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
