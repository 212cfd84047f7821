"""The one comparison table: what the paper printed, what the repository recorded, and what this run measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..base.staleness import staleness_note
from .paper import PaperTable

Record = Mapping[str, Any]
INDEX = ("Method", "Source")
REGION = 'tabindex="0" role="region" aria-label="Comparison table"'  # scrolls sideways: the keyboard must reach it, too


@dataclass(frozen=True, repr=False)
class ComparisonTable:
    """A paper table with the measured rows under the printed row that they answer to: HTML in notebooks, text in `print`.

    `headline`: leave out measured rows that answer to no printed one.
    Values of different models are put under each other, never subtracted: what is compared is the order of the rows and their ratios.
    """

    paper: PaperTable
    recorded: Record | None = None
    this_run: Record | None = None
    headline: bool = False

    def dataframe(self) -> pd.DataFrame:
        """Cells as text: as printed for the paper, "mean [low, high]" with as many decimals for runs. Index: method, source."""
        lines = []
        for label, values in self.paper.rows.items():
            lines.append(((label, "Paper"), [values[metric] for metric in self.paper.metrics]))
            lines += self._measured(label)
        lines += [] if self.headline else self._measured(None)
        index = pd.MultiIndex.from_tuples([key for key, _ in lines], names=INDEX)
        headings = [metric.heading for metric in self.paper.metrics.values()]
        return pd.DataFrame([cells for _, cells in lines], index=index, columns=headings)

    def _records(self) -> dict[str, Record]:
        records = {"Recorded": self.recorded, "This run": self.this_run}
        return {source: record for source, record in records.items() if record is not None}

    def _measured(self, paper_row: str | None) -> list[tuple[tuple[str, str], list[str]]]:
        records = self._records()
        labels = dict.fromkeys(label for record in reversed(records.values()) for label in record["rows"])
        return [
            ((label, source), [self._cell(record["rows"][label]["metrics"].get(metric), metric) for metric in self.paper.metrics])
            for label in labels
            for source, record in records.items()
            if label in record["rows"] and record["rows"][label].get("paper_row") == paper_row
        ]

    def _cell(self, interval: Mapping[str, Any] | None, metric: str) -> str:
        if interval is None:
            return "–"
        if interval["low"] is None:  # a number of the whole set
            return f"{interval['mean']:.{self.paper.decimals(metric)}f}"
        mean, low, high = (f"{interval[key]:.{self.paper.decimals(metric)}f}" for key in ("mean", "low", "high"))
        return f"{mean} [{low}, {high}]"

    def notes(self) -> list[str]:
        """What each source is, and in which settings, weights and data this run differs from the recorded one."""
        paper = self.paper
        notes = [f"Paper: Table {paper.number} of {paper.source} (page {paper.page}, Sec. {paper.section}); {paper.model}; {paper.items}."]
        for source, record in self._records().items():
            notes += [f"{source}: {_origin(record)}", *_frechet_note(source, record)]
        if self.recorded is not None and self.this_run is not None:
            notes += _differences(self.recorded["provenance"], self.this_run["provenance"])
        if self._records():
            notes.append("Runs: mean over images or prompts [95 % interval]. Other models and images: compare the rows' order, not values.")
        return notes

    def __str__(self) -> str:
        return "\n".join([self.dataframe().reset_index().to_string(index=False, justify="left"), "", *self.notes()])

    __repr__ = __str__  # what a notebook stores beside the HTML

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{_escape(note)}</li>" for note in self.notes())
        table = self.dataframe().to_html(classes="comparison", border=0, justify="left")
        return f'<div class="comparison" {REGION}>{table}<ul>{notes}</ul></div>'

    def markdown(self) -> str:
        """The table without notes, for a README."""
        frame = self.dataframe().reset_index()
        rows = [list(frame.columns), ["---"] * len(frame.columns), *frame.values.tolist()]
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def paired_tests(record: Record, paper: PaperTable) -> pd.DataFrame:
    """The record's paired comparisons: difference of means with its interval, and Holm's p-value over the whole family."""
    rows = []
    for test in record["comparisons"]:
        metric, difference = paper.metrics[test["metric"]], test["difference"]
        mean, low, high = (f"{difference[key]:+.{paper.decimals(test['metric'])}f}" for key in ("mean", "low", "high"))
        shown = test["p_adjusted"] < 0.05 and not difference["low"] <= 0 <= difference["high"]
        first = (difference["mean"] < 0) == (metric.direction == "down")
        verdict = ("first better" if first else "second better") if shown else "no difference shown"
        if shown and metric.direction == "none":
            verdict = "first larger" if mean.startswith("+") else "second larger"
        rows.append([test["a"], test["b"], metric.heading, f"{mean} [{low}, {high}]", _p_value(test["p_adjusted"]), verdict])
    return pd.DataFrame(rows, columns=["First", "Second", "Metric", "First - second", "p (Holm)", "At 5 %"])


def _p_value(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def machine_name(provenance: Mapping[str, Any]) -> str:
    """What computed a record: the machines that its per-item results come from, else the one that made it."""
    names = dict.fromkeys(made["name"] for made in provenance.get("computed_on", []))
    return " and ".join(names) or f"{provenance['machine']['name']}, {provenance['machine']['threads']} threads"


def _origin(record: Record) -> str:
    made = record["provenance"]
    commit = "no commit" if made["commit"] is None else made["commit"][:10] + (" with changes" if made["dirty"] else "")
    where = f"{machine_name(made)}, {made['dtype']}, {made['duration_seconds'] / 60:.1f} minutes"
    origin = f"{record['model']}; n = {len(record['items'])}; {made['date'][:10]}, {commit}; {where}."
    return f"{origin} {staleness_note(record)}".strip()


def _frechet_note(source: str, record: Record) -> list[str]:
    """A Fréchet distance says little without the number of images and the distance that real images have from each other."""
    facts = record.get("facts", {})
    floor, count = facts.get("judges", {}).get("frechet_floor"), facts.get("num_images")
    if floor is None or count is None:
        return []
    return [
        f"{source}: FD compares {count} generated with {count} real images. Two sets of {count} real images are {floor:.1f} apart; "
        "only what exceeds this is the model's. FD falls as the number of images grows: compare it at equal numbers only."
    ]


def _differences(recorded: Mapping[str, Any], this_run: Mapping[str, Any]) -> list[str]:
    """In what the provenance of this run differs from that of the recorded one: settings, weights, data."""
    notes = []
    old, new = recorded["config"], this_run["config"]
    if changed := [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]:
        changes = ", ".join(f"{name} = {new.get(name)!r} (recorded {old.get(name)!r})" for name in changed)
        notes.append(f"This run's settings differ from the recorded ones: {changes}.")
    old, new = recorded.get("models", {}), this_run.get("models", {})
    if changed := [name for name in new if name in old and old[name] != new[name]]:
        changes = ", ".join(f"{name} {new[name][:8]} (recorded {old[name][:8]})" for name in changed)
        notes.append(f"This run's weights differ from the recorded ones of the same name: {changes}.")
    if alone := [name for name in new if name not in old]:
        notes.append(f"Only this run has the weights {', '.join(alone)}.")
    if alone := [name for name in old if name not in new]:
        notes.append(f"Only the recorded run has the weights {', '.join(alone)}.")
    if recorded["config"] == this_run["config"] and recorded.get("data_hash") != this_run.get("data_hash"):
        notes.append("This run's data differ from the recorded ones: the same settings chose other images or captions.")
    return notes


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
