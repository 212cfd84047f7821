"""`training-costs` and `adapter-list`: what the trainings of this repository took, and which adapter is which.

Both are read from the cards of the adapters, the costs from the notes of a configuration, too.

Nothing is typed on the page: minutes and machines are those that a training wrote into its card; time and memory of a step of Stable
Diffusion's UNet stand in configs/training/sd15_smooth_lora.yaml, beside the settings that they were measured for.
"""

import json
import re
from pathlib import Path

import yaml
from docutils import nodes
from docutils.parsers.rst import Directive

ROOT = Path(__file__).resolve().parents[2]
PAPER = ROOT / "configs" / "training" / "sd15_smooth_lora.yaml"
STEP = re.compile(r"#\s+(\w+)\s+(bf16|\"no\")\s+(\d[\d.]*) GiB\s+(\d[\d.]*) s\s+([^;\n]+)")


def trainings() -> list[list[str]]:
    """Rows: model, machine, rank, steps, L_reg, lambda, its share of the loss, minutes; trainings alike but for the seed are one."""
    found: dict[tuple, list[tuple[float, float]]] = {}
    for file in sorted((ROOT / "data" / "models" / "adapters").glob("*/card.json")):
        for one in json.loads(file.read_text(encoding="utf-8")).get("training", {}).values():
            settings, logged = one["settings"], one.get("last_logged", {})
            machine = logged.get("machine")
            options = settings["objective_options"]
            if not machine or options["trainable"] != "lora":
                continue  # older cards do not name their machine
            weight, every = options.get("regularization", 0), options.get("regularize_every", 1)
            when = "none" if not weight else "in every step" if every == 1 else f"in every {every}th step"
            steps = f"{settings['steps']:,} of {settings['batch_size']} images"
            share = weight * logged.get("reg", 0) / logged["base"] if "base" in logged else 0.0
            found.setdefault((options["pipeline"], machine, str(options["rank"]), steps, when, f"{weight:g}"), []).append(
                (one["minutes"], share)
            )
    rows = []
    for key, values in found.items():
        minutes, shares = zip(*values, strict=True)
        rows.append([*key, f"{100 * sum(shares) / len(shares):.0f} %" if any(shares) else "–", _span(minutes)])
    return rows


def _span(minutes: tuple[float, ...]) -> str:
    low, high = min(minutes), max(minutes)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def paper_setting() -> list[list[str]]:
    """Rows: gradient, precision, memory above the weights, seconds of a batch, hours of the whole training, error."""
    text = PAPER.read_text(encoding="utf-8")
    settings, processes = yaml.safe_load(text), int(re.search(r"--num_processes (\d+)", text)[1])
    batches = settings["steps"] * settings["gradient_accumulation_steps"]
    return [
        [
            way,
            precision.strip('"'),
            f"{memory} GiB",
            f"{seconds} s",
            f"{batches * float(seconds) / 3600:.0f} h on each of {processes}",
            error.strip(),
        ]
        for way, precision, memory, seconds, error in STEP.findall(text)
    ]


def table(title: str, head: list[str], rows: list[list[str]]) -> nodes.table:
    """A plain table with a caption."""
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in head), cols=len(head))
    line = lambda cells: nodes.row("", *(nodes.entry("", nodes.paragraph(text=cell)) for cell in cells))  # noqa: E731
    group += [nodes.thead("", line(head)), nodes.tbody("", *map(line, rows))]
    return nodes.table("", nodes.title(text=title), group)


class TrainingCosts(Directive):
    """The two tables."""

    def run(self) -> list[nodes.Node]:
        environment = self.state.document.settings.env
        for file in (PAPER, *(ROOT / "data" / "models" / "adapters").glob("*/card.json")):
            environment.note_dependency(str(file))
        own = ["Model", "Machine", "Rank", "Steps", "L_reg", "λ", "λ L_reg / L_base", "Minutes"]
        paper = ["Gradient of L_reg", "Precision", "Memory above the weights", "A batch", "The paper's training", "Error of the gradient"]
        title = "Stable Diffusion 1.5, 512 x 512, one H100: a step was measured, with random weights; the hours follow from it"
        return [table("LoRAs of the embedded model, from their cards", own, trainings()), table(title, paper, paper_setting())]


def adapters() -> list[list[str]]:
    """Rows: names (seeds together), steps, what is trained, lambda, when L_reg is in the loss, what else differs."""
    found: dict[tuple[str, ...], list[str]] = {}
    for file in sorted((ROOT / "data" / "models" / "adapters").glob("*/card.json")):
        for name, one in json.loads(file.read_text(encoding="utf-8")).get("training", {}).items():
            settings, options = one["settings"], one["settings"]["objective_options"]
            layers = "all layers" if options.get("lora_layers") == "all" else "attention"
            trained = f"rank {options['rank']}, {layers}" if options["trainable"] == "lora" else "every weight"
            every = options.get("regularize_every") or 1
            when = "–" if not options["regularization"] else "every step" if every == 1 else f"every {every}th step"
            regularizer = options.get("regularizer", {})
            more = [
                f"weighting {regularizer['weighting']}" * (regularizer.get("weighting", "multiply") != "multiply"),
                f"{regularizer.get('timestep_bins')} running means" * ("timestep_bins" in regularizer),
                f"share {options.get('regularized_share')} of a batch" * bool(options.get("regularized_share")),
                f"guided prediction, w = {options.get('regularized_guidance')}" * bool(options.get("regularized_guidance")),
            ]
            steps = f"{settings['steps']:,} of {settings['batch_size']} images"
            key = (steps, trained, f"{options['regularization']:g}", when, "; ".join(filter(None, more)))
            found.setdefault(key, []).append(name)
    return [[", ".join(sorted(names, key=len)), *key] for key, names in sorted(found.items(), key=lambda entry: min(entry[1], key=len))]


class AdapterList(Directive):
    """One table of all adapters that ship."""

    def run(self) -> list[nodes.Node]:
        environment = self.state.document.settings.env
        for file in (ROOT / "data" / "models" / "adapters").glob("*/card.json"):
            environment.note_dependency(str(file))
        return [
            table(
                "The adapters in data/models/adapters, from their cards", ["Name", "Steps", "Trained", "λ", "L_reg in", "Else"], adapters()
            )
        ]


def setup(app) -> dict[str, bool]:
    app.add_directive("training-costs", TrainingCosts)
    app.add_directive("adapter-list", AdapterList)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
