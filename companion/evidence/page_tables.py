"""The tables that a page's cells have stored, as the book shows them: made from the page's record, with names instead of keys.

A notebook stores what its cells displayed when it ran. The book shows the same numbers as the record has them: tests folded under those
that found something, columns called as in the record, digits as the intervals allow. Tables that do not belong to the record are left as
they are.
"""

import re
from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd

from .floors import frechet_floor
from .paper import PaperTable, load_paper_table
from .records import comparison_table
from .stored_tables import CHOICES, choices_html, folded, folded_tests, in_digits, row_count
from .tables import FRECHET, REGION, Record, cell, html_table, paired_tests

COMPARISON = '<div class="comparison"'
SEEDS = {"frechet": "frechet_distance", "kernel": "kernel_distance"}  # keys of seed tables that are no metric of the record


def paper_of(record: Record) -> PaperTable | None:
    """The paper's table whose metrics, with the record's own columns, are those of the record; None if there is none."""
    measured = {metric for row in record["rows"].values() for metric in row["metrics"]}
    for name in [record["table"]] if record["table"] else ["table1", "table2"]:
        paper = load_paper_table(name).extended(record.get("columns") or {})
        if measured <= set(paper.metrics):
            return paper
    return None


def shown(html: str, record: Record | None, read: Mapping[str, Record] | None = None) -> str:
    """The HTML that stands on the page for the stored `html` of one output. `record`: the page's; `read`: paper's table -> its record."""
    if html.startswith(COMPARISON):
        return _comparison(html, record, read or {})
    if 'class="dataframe' not in html:
        return html
    paper = None if record is None else paper_of(record)
    columns, rows = _headings(html), row_count(html)
    if CHOICES in columns and record is not None and record["facts"].get("choices"):
        return choices_html(record)
    if {"Drags", "Row"} <= set(columns) and paper is not None and record["facts"].get("by_motion"):
        return motion_html(record, paper)
    if {"First", "Second", "Metric"} <= set(columns):
        own = record is not None and paper is not None and rows == len(record["comparisons"])
        return tests_html(record, paper) if own else folded(in_digits(html))
    if paper is not None and columns and set(columns) <= set(paper.metrics) and _row_labels(html) == list(record["rows"]):
        return measured_html(record, paper)
    return in_digits(html if paper is None else _named(html, paper, frechet_floor(record)))


def _comparison(html: str, record: Record | None, read: Mapping[str, Record]) -> str:
    """A comparison table of the record as it is now; that of another page's record has its headline rows alone."""
    found = re.search(r"<li>Paper: Table (\d)", html)
    name = f"table{found[1]}" if found else None
    if ">Recorded<" not in html or ">This run<" in html:
        return html
    if record is not None and record["table"] == name:
        return comparison_table(name, recorded=record)._repr_html_()
    return comparison_table(name, recorded=read[name], headline=True)._repr_html_() if name in read else html


def tests_html(record: Record, paper: PaperTable) -> str:
    """The record's paired tests: those that show a difference, and all of them under a fold."""
    return folded_tests(paired_tests(record, paper))


def measured_html(record: Record, paper: PaperTable) -> str:
    """The record's rows, for records that answer to no table of the paper; a Fréchet distance as the excess over that of real images."""
    metrics = [metric for metric in paper.metrics if any(metric in row["metrics"] for row in record["rows"].values())]
    floor = frechet_floor(record)
    lines = []
    for label, row in record["rows"].items():
        found = [(metric, row["metrics"].get(metric)) for metric in metrics]
        lines.append([label, *("–" if one is None else cell(one, less=floor if metric in FRECHET else 0.0) for metric, one in found)])
    headings = [_heading(paper, metric, excess=bool(floor) and metric in FRECHET) for metric in metrics]
    notes = f"<ul><li>n = {len(record['items'])}; mean [95 % interval].</li>"
    if floor and any(metric in FRECHET for metric in metrics):
        notes += f"<li>FD excess: what exceeds the {floor:.1f} that real images are apart from as many others.</li>"
    return f'<div class="comparison" {REGION}>{html_table(pd.DataFrame(lines, columns=["", *headings]))}{notes}</ul></div>'


def motion_html(record: Record, paper: PaperTable, metrics: Sequence[str] = ("distance", "success", "lpips", "lpips_inside")) -> str:
    """Means by size and kind of the motion, from the record's `by_motion`: first trainings, and all rows under a fold."""
    metrics = [metric for metric in metrics if metric in paper.metrics]
    headings = ["Drags", "Row", *(paper.metrics[metric].heading for metric in metrics)]
    lines = [
        [f"{name} (n = {group['n']})", label, *(f"{own[metric]:.4g}" for metric in metrics)]
        for name, group in record["facts"]["by_motion"].items()
        for label, own in group.items()
        if label != "n"
    ]
    first = [line for line in lines if not re.search(r"-seed\d+$", line[1])]
    tables = [html_table(pd.DataFrame(part, columns=headings), heads=2) for part in (first, lines)]
    return (
        f'<div class="comparison" {REGION}>{tables[0]}</div><details><summary>All rows</summary>'
        f'<div class="comparison" {REGION}>{tables[1]}</div></details>'
    )


def _heading(paper: PaperTable, metric: str, *, excess: bool) -> str:
    label, _, arrow = paper.metrics[metric].heading.rpartition(" ")
    return f"{label} excess {arrow}" if excess else paper.metrics[metric].heading


def _named(html: str, paper: PaperTable, floor: float) -> str:
    """A stored table with metrics' labels instead of their keys in its headings; `floor` is subtracted from Fréchet distances."""
    keys = {key: key for key in paper.metrics} | {short: key for short, key in SEEDS.items() if key in paper.metrics}
    head, end, body = html.partition("</thead>")
    columns = [text for text in re.findall(r"<th>([^<]*)</th>", head.partition("</tr>")[0]) if text]
    for place, column in enumerate(columns):
        if column in keys:
            excess = bool(floor) and keys[column] in FRECHET
            head = head.replace(f"<th>{column}</th>", f"<th>{escape(_heading(paper, keys[column], excess=excess))}</th>")
            body = _less(body, place, floor) if excess else body
    return head + end + body


def _less(body: str, place: int, floor: float) -> str:
    """The rows of a table with `floor` subtracted from the numbers of one column."""
    rows = body.split("</tr>")
    for i, row in enumerate(rows):
        cells = list(re.finditer(r"<td>(-?[\d.]+)</td>", row))
        if place < len(cells):
            found = cells[place]
            rows[i] = f"{row[: found.start()]}<td>{float(found[1]) - floor:.1f}</td>{row[found.end() :]}"
    return "</tr>".join(rows)


def _headings(html: str) -> list[str]:
    return [text for text in re.findall(r"<th>([^<]*)</th>", html.partition("</thead>")[0]) if text]


def _row_labels(html: str) -> list[str]:
    unescape = {"&lt;": "<", "&gt;": ">", "&amp;": "&"}
    labels = re.findall(r"<th>([^<]*)</th>", html.partition("</thead>")[2])
    for entity, text in unescape.items():
        labels = [label.replace(entity, text) for label in labels]
    return labels
