"""The one comparison table: what the paper printed, what the repository recorded, and what this run measured."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd

from ..base.staleness import staleness_note
from .digits import decimals_of, in_words
from .floors import frechet_floor
from .paper import PaperTable

Record = Mapping[str, Any]
INDEX = ("Method", "Source")
FRECHET = ("frechet_distance", "fid")
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
        """Cells as text: as printed for the paper, "mean [low, high]" for runs. Index: method, source.

        Runs have as many decimals as the paper prints, in columns that it lacks as many as their intervals allow. A Fréchet distance is the
        excess over that of real images from each other, where each of the records has it.
        """
        shown, lines = self._shown(), []
        for label, values in self.paper.rows.items():
            lines.append(((label, "Paper"), [values[metric] for metric in shown]))
            lines += self._measured(label)
        lines += [] if self.headline else self._measured(None)
        index = pd.MultiIndex.from_tuples([key for key, _ in lines], names=INDEX)
        return pd.DataFrame([cells for _, cells in lines], index=index, columns=[self._heading(metric) for metric in shown])

    def _shown(self) -> list[str]:
        """The metrics of which a run has a value; without runs all."""
        rows = [row for record in self._records().values() for row in record["rows"].values()]
        return [metric for metric in self.paper.metrics if not rows or any(metric in row["metrics"] for row in rows)]

    def _heading(self, metric: str) -> str:
        heading = self.paper.metrics[metric].heading
        if metric not in FRECHET or not all(frechet_floor(record) for record in self._records().values()):
            return heading
        label, _, arrow = heading.rpartition(" ")
        return f"{label} excess {arrow}"

    def _records(self) -> dict[str, Record]:
        records = {"Recorded": self.recorded, "This run": self.this_run}
        return {source: record for source, record in records.items() if record is not None}

    def _measured(self, paper_row: str | None) -> list[tuple[tuple[str, str], list[str]]]:
        records = self._records()
        labels = dict.fromkeys(label for record in reversed(records.values()) for label in record["rows"])
        return [
            ((label, source), [self._cell(record, label, metric) for metric in self._shown()])
            for label in labels
            for source, record in records.items()
            if label in record["rows"] and record["rows"][label].get("paper_row") == paper_row
        ]

    def _cell(self, record: Record, label: str, metric: str) -> str:
        interval = record["rows"][label]["metrics"].get(metric)
        if interval is None:
            return "–"
        excess = metric in FRECHET and all(frechet_floor(one) for one in self._records().values())
        printed = any(values[metric] != "–" for values in self.paper.rows.values())
        return cell(interval, decimals=self.paper.decimals(metric) if printed else None, less=frechet_floor(record) if excess else 0.0)

    def notes(self) -> list[str]:
        """What each source is, and in which settings, weights and data this run differs from the recorded one."""
        paper = self.paper
        notes = [f"Paper: Table {paper.number} of {paper.source} (page {paper.page}, Sec. {paper.section}); {paper.model}; {paper.items}."]
        if left_out := [metric for metric in paper.metrics if metric not in self._shown()]:
            notes.append(f"Not measured in any run, so without a column; the paper has {'; '.join(map(self._printed, left_out))}.")
        for source, record in self._records().items():
            notes += [f"{source}: {_origin(record)}", *_frechet_note(source, record)]
        if self.recorded is not None and self.this_run is not None:
            notes += _differences(self.recorded["provenance"], self.this_run["provenance"])
        if self._records():
            notes.append("Runs: mean over images or prompts [95 % interval]. Other models and images: compare the rows' order, not values.")
        return notes

    def _printed(self, metric: str) -> str:
        values = ", ".join(f"{label} {values[metric]}" for label, values in self.paper.rows.items())
        return f"{self.paper.metrics[metric].label}: {values}"

    def __str__(self) -> str:
        return "\n".join([self.dataframe().reset_index().to_string(index=False, justify="left"), "", *self.notes()])

    __repr__ = __str__  # what a notebook stores beside the HTML

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes())
        return f'<div class="comparison" {REGION}>{html_table(self.dataframe().reset_index(), heads=len(INDEX))}<ul>{notes}</ul></div>'

    def markdown(self) -> str:
        """The table without notes, for a README."""
        frame = self.dataframe().reset_index()
        return markdown_table([list(frame.columns), *frame.values.tolist()])


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text, the first the headings; what is markup in Markdown or HTML is shown as it is written."""
    lines = [rows[0], ("---",) * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(map(_literal, line)) + " |" for line in lines)


def _literal(text: str) -> str:
    """`text` on one line, with a backslash or an entity where Markdown would begin code, emphasis, a link, mathematics or HTML."""
    text = re.sub(r"&(?=#?\w+;)", "&amp;", " ".join(text.splitlines()))
    return re.sub(r"[\\|`*$]|(?<=\])\(", r"\\\g<0>", re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text))


def cell(interval: Mapping[str, Any], *, decimals: int | None = None, less: float = 0.0) -> str:
    """ "mean [low, high]", `less` subtracted from each. Decimals None: as many as the interval allows, four digits where there is none."""
    mean, low, high = (None if interval[key] is None else interval[key] - less for key in ("mean", "low", "high"))
    if low is None:  # a number of the whole set
        digits = f"{mean:#.4g}".rstrip(".")
        return (digits if "e" not in digits else f"{mean:.4g}") if decimals is None else f"{mean:.{decimals}f}"
    decimals = max(decimals_of((low, high)), 0) if decimals is None else decimals
    return f"{mean:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"


def html_table(frame: pd.DataFrame, *, heads: int = 1) -> str:
    """A table of texts, the first `heads` columns as headings of their rows, intervals on a line of their own."""
    top = "".join(f'<th scope="col">{escape(str(name))}</th>' if name else "<td></td>" for name in frame.columns)
    rows = ""
    for values in frame.astype(str).to_numpy().tolist():
        cells = [f'<th scope="row">{escape(value)}</th>' for value in values[:heads]]
        for value in values[heads:]:
            mean, bracket, rest = value.partition(" [")
            cells.append(f"<td>{escape(mean)}" + (f" <small>[{escape(rest)}</small>" if bracket else "") + "</td>")
        rows += f"<tr>{''.join(cells)}</tr>"
    wide = " wide" if len(frame.columns) > 7 else ""
    return f'<table class="comparison numbers{wide}"><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table>'


def paired_tests(record: Record, paper: PaperTable) -> pd.DataFrame:
    """The record's paired comparisons: by how much the first row is better, and Holm's p-value over the whole family."""
    rows = []
    for test in record["comparisons"]:
        metric, difference = paper.metrics[test["metric"]], test["difference"]
        worded = in_words(difference["mean"], (difference["low"], difference["high"]), metric.direction)
        shown = test["p_adjusted"] < 0.05 and not difference["low"] <= 0 <= difference["high"]
        first = (difference["mean"] < 0) == (metric.direction == "down")
        verdict = ("first better" if first else "second better") if shown else "no difference shown"
        if shown and metric.direction == "none":
            verdict = "first larger" if difference["mean"] > 0 else "second larger"
        rows.append([test["a"], test["b"], metric.heading, worded, _p_value(test["p_adjusted"]), verdict])
    return pd.DataFrame(rows, columns=["First", "Second", "Metric", "The first is", "p (Holm)", "At 5 %"])


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
    floor, count = frechet_floor(record), record.get("facts", {}).get("num_images")
    if not floor or count is None:
        return []
    return [
        f"{source}: FD compares {count} generated with {count} real images. Two sets of {count} real images are {floor:.1f} apart; "
        "only the excess over this, which the table shows, is the model's. FD falls as the number of images grows: compare it at equal "
        "numbers only."
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
