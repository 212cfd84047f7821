"""Records of runs: made with provenance, stored as JSON, shown beside the paper's numbers.

    record = make_record("table2_recon", table="table2", model="mini", rows=..., items=..., pairs=..., provenance=provenance(...))
    save_record(record, file)
    comparison_table("table2", this_run=record)

`python -m companion.evidence show FILE` prints a stored record as text.
"""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..base.config import OneSentenceParser, errors_as_exit_codes, plain
from ..base.staleness import stale, staleness_note
from .paper import PaperTable, load_paper_table
from .provenance import data_hash, provenance
from .published import without_places
from .record_checks import KEYS, SCHEMA, SEAL
from .statistics import compare_rows, mean_interval
from .stored_records import load_record, of_same_model, record_files, recorded, save_record, saved_sentence
from .tables import ComparisonTable, Record, paired_tests

__all__ = [
    "comparison_table", "data_hash", "glue", "load_paper_table", "load_record", "make_record", "measured_table", "paired_tests",
    "provenance", "record_files", "recorded", "save_record", "saved_sentence", "stale", "staleness_note",
]  # fmt: skip


def make_record(
    name: str,
    *,
    table: str | None,
    model: str,
    items: Sequence[str],
    rows: Mapping[str, Mapping[str, Sequence[float] | np.ndarray]],
    provenance: Mapping[str, Any],
    paper_rows: Mapping[str, str] | None = None,
    row_fields: Mapping[str, Mapping[str, Any]] | None = None,
    conventions: Mapping[str, str] | None = None,
    pairs: Sequence[tuple[str, str]] = (),
    columns: Mapping[str, Mapping[str, str]] | None = None,
    totals: Mapping[str, Mapping[str, float | Mapping[str, Any]]] | None = None,
    facts: Mapping[str, Any] | None = None,
    parts: Mapping[str, Sequence[str]] | None = None,
    metric_parts: Mapping[str, str] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """A result in JSON's types: per-item values with means and 95 % intervals, and paired tests between rows.

    rows: row label -> metric -> one value per item, in the order of `items` (their ids). The metrics are those of the paper's `table` and
        of `columns`; any where `table` is None: the paper has none.
    paper_rows: row label -> label of the paper's row that it answers to.
    row_fields: row label -> what the row is, for programs to go by: adapters, weights, trainings, settings. A label is for show.
    conventions: metric -> range, window, network.
    pairs: rows to compare, one Holm family.
    columns: metric -> label and direction ("up" or "down" is better, or "none") of metrics that the paper's table has not.
    totals: row label -> metric -> the value of the whole set, for metrics without a value per item; or a mapping with it as `mean`, the
        number `n` of what the set consists of (default: the items), and `image_values`, what each image contributes to it (in `chance`).
    facts: what else there is to keep, in JSON's types.
    parts: name -> ids of items that statements and tables may ask for alone (`fields.part_of`), such as one kind of edit.
    metric_parts: metric -> the part that it is defined for; its rows have one value for each of this part's items, in their order.
    model: what it was measured on, in words.
    seed: of the bootstrap.
    """
    paper = load_paper_table(table).extended(columns or {}) if table is not None else None
    paper_rows = dict(paper_rows or {})
    if repeated := [item for item, count in Counter(items).items() if count > 1]:
        raise ValueError(f"items has {repeated[0]!r} more than once, but must be different ids.")
    parts, metric_parts = _checked_parts(parts or {}, metric_parts or {}, items)
    _check_rows(rows, {metric: len(parts[part]) for metric, part in metric_parts.items()}, len(items), paper, paper_rows)
    if row_fields and row_fields.keys() != rows.keys():
        raise ValueError(f"row_fields has the rows {', '.join(map(repr, row_fields))}, but must have {', '.join(map(repr, rows))}.")
    measured = {
        label: {
            "paper_row": paper_rows.get(label),
            "metrics": {
                metric: asdict(mean_interval(values, seed=seed))
                | {"values": np.asarray(values, dtype=float)}
                | ({"part": metric_parts[metric]} if metric in metric_parts else {})
                for metric, values in metrics.items()
            },
        }
        for label, metrics in rows.items()
    }
    for label, values in (totals or {}).items():
        given = {metric: value if isinstance(value, Mapping) else {"mean": value} for metric, value in values.items()}
        measured[label]["metrics"] |= {metric: {"low": None, "high": None, "n": len(items)} | value for metric, value in given.items()}
    comparisons = [asdict(comparison) for comparison in compare_rows(rows, pairs, seed=seed)]
    content = (SCHEMA, name, table, model, list(items), dict(conventions or {}), measured, comparisons, dict(provenance))
    optional = (("row_fields", row_fields), ("columns", columns), ("facts", facts), ("parts", parts))
    extra = {key: value for key, value in optional if value}
    return without_places(plain(dict(zip(KEYS, content, strict=True)) | extra, "record"))


def _checked_parts(
    parts: Mapping[str, Sequence[str]], metric_parts: Mapping[str, str], items: Sequence[str]
) -> tuple[dict[str, list[str]], dict[str, str]]:
    for name, ids in parts.items():
        if strange := [one for one in ids if one not in items]:
            raise ValueError(f"parts has {strange[0]!r} in {name!r}, but must have ids of items.")
        if not ids or len(set(ids)) < len(ids):
            raise ValueError(f"parts has {len(ids)} ids in {name!r}, but must have different ones, at least one.")
    for metric, part in metric_parts.items():
        if part not in parts:
            raise ValueError(f"metric_parts has {part!r} for {metric!r}, but must name one of the parts: {', '.join(map(repr, parts))}.")
    return {name: list(ids) for name, ids in parts.items()}, dict(metric_parts)


def _check_rows(
    rows: Mapping[str, Mapping[str, Any]], lengths: Mapping[str, int], n: int, paper: PaperTable | None, paper_rows: Mapping[str, str]
) -> None:
    if paper is None and paper_rows:
        raise ValueError(f"paper_rows is {dict(paper_rows)}, but must be empty where table is None.")
    for label, metrics in rows.items():
        for metric, values in metrics.items():
            if paper is not None and metric not in paper.metrics:
                raise ValueError(f"rows[{label!r}] has the metric {metric!r}, but {paper.name}'s metrics are {', '.join(paper.metrics)}.")
            if len(values) != lengths.get(metric, n):
                raise ValueError(f"rows[{label!r}][{metric!r}] has {len(values)} values, but there are {lengths.get(metric, n)} items.")
    for label, paper_row in paper_rows.items():
        if label not in rows or paper_row not in paper.rows:
            known = f"rows are {', '.join(map(repr, rows))} and {paper.name}'s are {', '.join(map(repr, paper.rows))}"
            raise ValueError(f"paper_rows maps {label!r} to {paper_row!r}, but the {known}.")


def comparison_table(
    table: str, *, this_run: Record | None = None, recorded: Record | None = None, headline: bool = False
) -> ComparisonTable:
    """Paper, recorded and this run in one table; see `ComparisonTable`. A run that is the recorded one is shown once, as recorded.

    A run of another model than the recorded one's stands beside the record of its own model, or beside none.
    """
    if this_run is not None and recorded is not None and this_run["model"] != recorded["model"]:
        recorded = of_same_model(this_run)
    if this_run is not None and recorded is not None and _content(this_run) == _content(recorded):
        this_run = None
    for record in (this_run, recorded):
        if record is not None and record["table"] != table:
            raise ValueError(f"table is {table!r}, but the record {record['name']} is of {record['table']!r}.")
    columns = {name: column for record in (recorded, this_run) if record for name, column in record.get("columns", {}).items()}
    return ComparisonTable(load_paper_table(table).extended(columns), recorded=recorded, this_run=this_run, headline=headline)


def _content(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != SEAL}


def measured_table(record: Record) -> pd.DataFrame:
    """A record's rows alone, "mean [low, high]" as text: for records that answer to no table of the paper."""

    def cell(value: Mapping[str, float | None]) -> str:
        interval = "" if value["low"] is None else f" [{value['low']:.4g}, {value['high']:.4g}]"  # none for a value of the whole set
        return f"{value['mean']:.4g}{interval}"

    cells = {label: {name: cell(value) for name, value in row["metrics"].items()} for label, row in record["rows"].items()}
    return pd.DataFrame.from_dict(cells, orient="index").fillna("–")


def glue(name: str, value: float | int | str) -> None:
    """Make a number or text of this notebook quotable in the book's prose; does nothing where myst_nb is not installed (Colab).

    Numbers are glued as Python floats: NumPy's scalars would render blank.
    """
    if not isinstance(value, str):
        value = float(value)
    try:
        from myst_nb import glue as myst_glue
    except ImportError:
        return
    myst_glue(name, value, display=False)


def show_and_glue(name: str, shown: Any) -> None:
    """Display `shown` (a figure, a widget) as the cell's output and make it quotable: `{glue} NAME` with `:doc:` puts it on other pages.

    Where myst_nb is not installed (Colab) it is displayed alone.
    """
    try:
        from myst_nb import glue as myst_glue
    except ImportError:
        from IPython.display import display

        display(shown)
        return
    myst_glue(name, shown, display=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """`show FILE`: print a record's comparison table and paired tests."""
    parser = OneSentenceParser(prog="python -m companion.evidence", description="Records of runs.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="show")
    show = commands.add_parser("show", help="print a record beside the paper's numbers")
    show.add_argument("file", type=Path, metavar="FILE", help="a record (.json)")
    show.add_argument("--markdown", action="store_true", help="print the table alone, as Markdown (a table of the paper)")
    options = parser.parse_args(arguments)
    with errors_as_exit_codes(parser.prog):
        _show(options.file, markdown=options.markdown)
    return 0


def _show(file: Path, *, markdown: bool) -> None:
    record = load_record(file)
    if record["table"] is None:
        if markdown:
            raise ValueError(f"--markdown is for records of one of the paper's tables, but {file} answers to none.")
        print(f"{record['model']}; n = {len(record['items'])}; {record['provenance']['date'][:10]}\n")
        print(measured_table(record).to_string())
        print(json.dumps(record.get("facts", {}), indent=1, ensure_ascii=False))
        return
    table = comparison_table(record["table"], this_run=record, recorded=recorded(record["name"]))
    if markdown:
        print(table.markdown())
        return
    print(table)
    if record["comparisons"]:
        print("\nPaired over images, Wilcoxon signed rank:")
        print(paired_tests(record, table.paper).to_string(index=False, justify="left"))


if __name__ == "__main__":
    sys.exit(main())
