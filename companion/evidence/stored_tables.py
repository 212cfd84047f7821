"""Tables as a cell has stored them, without a record to make them from: tests under a fold, digits as the intervals allow.

The numbers stay those that were stored, only rounded; nothing is computed again.
"""

import re
from html import unescape

import pandas as pd

from .digits import decimals_of, with_interval
from .tables import REGION, Record, html_table

FEW = 12  # tests that are shown without a fold
NO_DIFFERENCE = "no difference shown"
CHOICES = "strength: LPIPS to the truth, success"  # the heading of a table of what each candidate reached
INTERVAL = re.compile(r"(?<=<td>)([+-]?[\d.]+) \[([+-]?[\d.]+), ([+-]?[\d.]+)\](?=</td>)")
ROW = re.compile(r"<t[hd][^>]*>(.*?)</t[hd]>", re.DOTALL)


def folded_tests(frame: pd.DataFrame) -> str:
    """Paired tests: those that show a difference, and all of them under a fold."""
    if len(frame) <= FEW:
        return f'<div class="comparison" {REGION}>{html_table(frame, heads=0)}</div>'
    found = frame[frame["At 5 %"] != NO_DIFFERENCE]
    head = f"{len(found)} of {len(frame)} tests show a difference at 5 % after Holm's correction" + (":" if len(found) else ".")
    table = html_table(found, heads=0) if len(found) else ""
    if len(found) > 2 * FEW:  # a fold of its own: what follows must not be far away
        more = f"<details><summary>{len(found) - FEW} more of them</summary>{html_table(found[FEW:], heads=0)}</details>"
        table = html_table(found[:FEW], heads=0) + more
    rest = f"<details><summary>All {len(frame)} tests</summary>{html_table(frame, heads=0)}</details>"
    return f'<div class="comparison tests" {REGION}><p>{head}</p>{table}{rest}</div>'


def folded(html: str) -> str:
    """The same of a stored table of tests, where it is whole: pandas leaves out the middle of a long one."""
    head, _, body = html.partition("</thead>")
    columns = _cells(head)[1:]
    rows = [_cells(row)[1:] for row in body.split("</tr>") if "<td" in row]
    if "At 5 %" not in columns or any(len(row) != len(columns) or "..." in row for row in rows):
        return html
    return folded_tests(pd.DataFrame(rows, columns=columns))


def row_count(html: str) -> int:
    """Rows of a stored table, those that pandas has left out of a long one included."""
    told = re.search(r"<p>(\d+) rows × \d+ columns</p>", html)
    return int(told[1]) if told else html.partition("</thead>")[2].count("<tr>")


def in_digits(html: str) -> str:
    """Means with intervals in the cells of a stored table, with the digits that the interval allows and no zero below zero."""
    return INTERVAL.sub(_in_digits, html)


def choices_html(record: Record) -> str:
    """Method -> the strength that was chosen for it, and what each candidate reached; from the facts of the record."""
    lines = []
    for name, choice in record["facts"]["choices"].items():
        values = zip(choice["strengths"], choice["lpips"], choice["followed"], strict=True)
        tried = "; ".join(f"{strength:g}: {lpips:.3f}, {share:.2f}" for strength, lpips, share in values)
        said = f"{choice['strength']:g}" + ("" if choice["good_enough"] else " (none reached enough success)")
        lines.append([name, said, tried or "one setting"])
    table = html_table(pd.DataFrame(lines, columns=["", "chosen", CHOICES]))
    return f'<div class="comparison" {REGION}>{table}</div>'


def _in_digits(found: re.Match[str]) -> str:
    mean, *ends = (float(text) for text in found.groups())
    stored = max(len(text.partition(".")[2]) for text in found.groups())
    sign = "+" if "+" in found[0] else "-"
    if ends[0] == ends[1]:
        return found[0] if ends[0] else "0"
    if decimals_of((ends[0], ends[1])) < stored:
        return with_interval(mean, (ends[0], ends[1]), sign=sign)
    texts = [f"{value + 0.0:{sign}.{stored}f}" for value in (mean, *ends)]  # -0.0 + 0.0 is 0.0
    return f"{texts[0]} [{texts[1]}, {texts[2]}]"


def _cells(row: str) -> list[str]:
    return [unescape(text) for text in ROW.findall(row.partition("</tr>")[0])]
