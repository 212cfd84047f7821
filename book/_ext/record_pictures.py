"""`value-strips` and `learning-curves`: plots that are made when the book is built, from a record or from the logs that ship with adapters.

    :::{value-strips} table2_recon
    :metric: psnr
    :rows: Base + DDIM, guidance 3; Smooth + DDIM, guidance 3
    :::

    :::{learning-curves} plain, smooth
    :::

Rows are told apart by their names in the record; a training's other seeds (smooth-seed1, ...) are found and shown as a band.
"""

from pathlib import Path
from typing import ClassVar

import numpy as np
from docutils import nodes
from docutils.parsers.rst import Directive, directives

from companion.book.curves import logged
from companion.book.lines import Line, line_panels
from companion.book.strips import Strip, painted, value_strips
from companion.evidence.page_tables import paper_of
from companion.evidence.records import recorded

ROOT = Path(__file__).resolve().parents[2]
RESULTS, ADAPTERS = ROOT / "data" / "results", ROOT / "data" / "models" / "adapters"
LOGGED = {"mse": "Error of the predicted noise (MSE)", "reg": "L_reg"}


def strips(name: str, metric: str, rows: list[str]):
    """The plot of `metric` for rows of the record `name`; all rows where none are named."""
    record = recorded(name)
    if record is None:
        raise ValueError(f"data/results has no {name}.json.")
    if unknown := [row for row in rows if row not in record["rows"]]:
        raise ValueError(f"rows has {unknown[0]!r}, but must be among {', '.join(record['rows'])}.")
    found = {}
    for row in rows or record["rows"]:
        value = record["rows"][row]["metrics"][metric]
        kind = record["row_fields"][row].get("kind", "base")
        found[row] = Strip(value["values"], value["mean"], (value["low"], value["high"]), painted(kind))
    count = len(record["items"])
    label = paper_of(record).metrics[metric].label
    note = f"A dot an image, {count} in each row; the upright line is the mean, the line through it its 95 % interval."
    return value_strips(found, x_label=label, alt=f"{label} of each image, row by row", item="images", note=note)


def learning_curves(names: list[str]):
    """What trainings logged, each as the mean of its seeds, in a band from the lowest to the highest."""
    panels: dict[str, dict[str, Line]] = {}
    for name in names:
        logs = [logged(file) for file in logs_of(name)]
        steps = [line["step"] for line in logs[0]]
        if any([line["step"] for line in log] != steps for log in logs):
            raise ValueError(f"the trainings of {name} logged different steps, but must have logged the same.")
        for key, heading in LOGGED.items():
            if key in logs[0][0]:
                values = np.array([[line[key] for line in log] for log in logs])
                line = Line(steps, values.mean(0), values.min(0), values.max(0))
                panels.setdefault(heading, {})[f"{name}, {len(logs)} trainings"] = line
    note = "Each point is the mean of the steps since the last one; a band reaches from the lowest to the highest training."
    return line_panels(panels, x_label="step", alt=f"What the trainings of {' and '.join(names)} logged", note=note)


def logs_of(name: str) -> list[Path]:
    """The logs of an adapter and of those with other training seeds."""
    files = sorted([*ADAPTERS.glob(f"{name}/training-*.jsonl"), *ADAPTERS.glob(f"{name}-seed*/training-*.jsonl")])
    if not files:
        raise ValueError(f"data/models/adapters/{name} has no log of its training.")
    return files


class Picture(Directive):
    """What both have in common: a raw node, or the fault as a sentence of the build."""

    required_arguments = 1
    final_argument_whitespace = True

    def make(self):
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        try:
            widget = self.make()
        except ValueError as error:
            raise self.error(str(error)) from None
        return [nodes.raw("", widget._repr_html_(), format="html")]

    def depend(self, *files: Path) -> None:
        for file in files:
            self.state.document.settings.env.note_dependency(str(file))


class ValueStrips(Picture):
    """`value-strips`."""

    option_spec: ClassVar = {"metric": directives.unchanged_required, "rows": directives.unchanged}

    def make(self):
        name = self.arguments[0]
        self.depend(RESULTS / f"{name}.json")
        rows = [row.strip() for row in self.options.get("rows", "").split(";") if row.strip()]
        return strips(name, self.options["metric"], rows)


class LearningCurves(Picture):
    """`learning-curves`."""

    def make(self):
        names = [name.strip() for name in self.arguments[0].split(",")]
        self.depend(*(file for name in names for file in logs_of(name)))
        return learning_curves(names)


def setup(app) -> dict[str, bool]:
    app.add_directive("value-strips", ValueStrips)
    app.add_directive("learning-curves", LearningCurves)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
