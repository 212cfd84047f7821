"""The report of a measurement: a folder with a page, its two pictures and the record, that needs nothing else to be read."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ...base.files import atomic_write
from ...book.grids import image_grid
from ...book.page import COLOURS, PageFigure, save_figure
from ...evidence.claims_table import with_interval
from ...evidence.records import Record, save_record
from .study import COLUMNS, CONVENTIONS, Measured, MeasureStudy

MAX_KB = 8000  # a sheet of walks; pages of the book have less
DASHES = ("-", "--", ":", "-.")
STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:75em;margin:2em auto;padding:0 1em;color:#222;background:#fff}
table{border-collapse:collapse}th,td{padding:.2em .8em;text-align:left;border-bottom:1px solid #ccc}td{font-variant-numeric:tabular-nums}
.wide{overflow-x:auto}h1{line-height:1.2}"""
MEANING = (
    "ISTD, the standard deviation of a walk's step distances, falls when images become smoother, and also when they merely move less. The "
    "CV, standard deviation / mean, does not reward smaller steps: read both, with the mean step between them."
)


def write_report(folder: Path, study: MeasureStudy, measured: Measured) -> str:
    """Write report.html, walks.png, steps.png and measure.json; the table as text, and where the report lies."""
    record = study.record(measured)
    chosen = shown_prompts(record)
    captions = [study.prompts[i].caption for i in chosen.values()]
    alt = f"Walks of {len(chosen)} prompts, one row of images for each of {', '.join(measured)}"
    save_figure(walk_sheet(measured, chosen), folder / "walks.png", alt=alt, max_kb=MAX_KB)
    alt = f"Distance of adjacent images over the steps of the same walks, a line for each of {', '.join(measured)}"
    save_figure(step_figure(measured, chosen, captions), folder / "steps.png", alt=alt)
    save_record(record, folder / "measure.json")
    atomic_write(folder / "report.html", page(record, chosen, captions).encode())
    table = [["", *(column["label"] for column in COLUMNS.values())], *table_rows(record)]
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([*lines, "", *sentences(record), "", f"Report: {folder / 'report.html'}"])


def shown_prompts(record: Record) -> dict[str, int]:
    """Which walks are shown, by rank and not by hand: the evenest, the median and the least even one of the model as it is, by CV."""
    values = next(iter(record["rows"].values()))["metrics"]["cv"]["values"]
    order = [int(i) for i in np.argsort(values, kind="stable")]
    places = {"least even": order[-1], "median": order[len(order) // 2], "evenest": order[0]}
    return {word: i for k, (word, i) in enumerate(places.items()) if i not in list(places.values())[:k]}


def walk_sheet(measured: Measured, chosen: Mapping[str, int]) -> Figure:
    """The chosen walks: for each prompt one row of images a model."""
    rows = [list(found[i]["frames"]) for i in chosen.values() for found in measured.values()]
    labels = [f"{label}\n{word}" for word in chosen for label in measured]
    return image_grid(rows, row_labels=labels, column_labels=[str(k + 1) for k in range(len(rows[0]))])


def step_figure(measured: Measured, chosen: Mapping[str, int], captions: Sequence[str]) -> Figure:
    """A panel for each chosen walk: the step distances of every model over the frame that a step leads to."""
    figure = PageFigure(figsize=(4.2 * len(chosen), 3.0), dpi=100, facecolor="white", layout="constrained")
    panels = figure.subplots(1, len(chosen), squeeze=False, sharey=True)[0]
    for axes, (word, i), caption in zip(panels, chosen.items(), captions, strict=True):
        for k, (label, found) in enumerate(measured.items()):
            steps = found[i]["step_distances"]
            style = dict(color=COLOURS[k % len(COLOURS)], linestyle=DASHES[k % len(DASHES)], marker="o", markersize=3)
            axes.plot(np.arange(2, len(steps) + 2), steps, label=label, **style)
        title = f"{word}: {caption}"
        axes.set(title=title if len(title) <= 45 else title[:42] + " ...", xlabel="frame that the step leads to", ylim=(0, None))
        axes.grid(alpha=0.3, linewidth=0.5)
    panels[0].set_ylabel("distance of adjacent images")
    panels[0].legend()
    return figure


def table_rows(record: Record) -> list[list[str]]:
    """Label, then "mean [low, high]" of each column, with the digits that the interval allows."""

    def cell(metric: Mapping[str, Any]) -> str:
        return with_interval(metric["mean"], (metric["low"], metric["high"])).replace("+", "")  # the signs are for differences

    return [[label, *(cell(row["metrics"][name]) for name in COLUMNS)] for label, row in record["rows"].items()]


def sentences(record: Record) -> list[str]:
    """For each adapter what became of ISTD, mean step and CV: the difference with its interval, in how many prompts, and Holm's p."""
    found = []
    for test in record["comparisons"]:
        if test["metric"] not in ("istd", "mean_step", "cv", "lpips_cv"):
            continue
        first, second = (record["rows"][test[side]]["metrics"][test["metric"]]["values"] for side in ("a", "b"))
        lower = sum(a < b for a, b in zip(first, second, strict=True))
        change = with_interval(test["difference"]["mean"], (test["difference"]["low"], test["difference"]["high"]))
        name = COLUMNS[test["metric"]]["label"]
        found.append(
            f"{name} of {test['a']} less that of {test['b']}: {change}; lower in {lower} of {len(first)}; p = {test['p_adjusted']:.2g}"
        )
    return found


def page(record: Record, chosen: Mapping[str, int], captions: Sequence[str]) -> str:
    """The report as one HTML page; its pictures lie beside it."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in ["Row", *(column["label"] for column in COLUMNS.values())])
    body = "".join(
        f'<tr><th scope="row">{escape(label)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
        for label, *cells in table_rows(record)
    )
    walks = "".join(f"<li>{word}: {escape(caption)}</li>" for word, caption in zip(chosen, captions, strict=True))
    settings = ", ".join(
        f"{name} {escape(str(value))}" for name, value in record["provenance"]["config"].items() if value not in (None, [])
    )
    tests = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences(record))
    defined = "".join(f"<dt>{column['label']}</dt><dd>{escape(CONVENTIONS[name])}</dd>" for name, column in COLUMNS.items())
    tested = f"<h2>With and without the adapter</h2><p>Prompt by prompt, same noises; p by Wilcoxon, Holm's correction.</p><ul>{tests}</ul>"
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Smoothness of {escape(record["model"])}</title><style>{STYLE}</style></head><body><main>
<h1>How smooth is the latent space of {escape(record["model"])}?</h1>
<p>{len(record["items"])} walks between two noises each. Means over walks, with 95 % intervals. {MEANING}</p>
<div class="wide" tabindex="0" role="region" aria-label="Table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>
{tested if tests else ""}
<h2>Walks</h2><p>Chosen by the rank of the first row's CV:</p><ul>{walks}</ul>
<div class="wide" tabindex="0" role="region" aria-label="Walks"><img src="walks.png" alt="The walks, a row of images a model"></div>
<h2>Steps</h2>
<div class="wide" tabindex="0" role="region" aria-label="Steps"><img src="steps.png" alt="Step distances of these walks"></div>
<h2>What was measured</h2><p>{settings}</p><dl>{defined}</dl>
<p>Every value, every prompt and the versions of what computed them: <a href="measure.json">measure.json</a>.</p>
</main></body></html>
"""
