"""What stands behind a row of a record, in words: the training of its adapter, from the adapter's card, and the record's settings."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..base import paths
from ..weights.cards import read_card
from .tables import Record

DEFAULTS = {"trainable": "lora", "lora_layers": "attention", "regularize_every": 1, "regularized_share": 1.0, "regularized_guidance": 1.0}


def describe_adapter(name: str) -> str:
    """How the adapter was trained: "LoRA of rank 2 on all layers, L_reg every 4th step, 1,000 steps"; empty where its card does not say."""
    training: Mapping[str, Any] = read_card(paths.ADAPTERS / name).get("training", {})
    return describe_training(training[name]["settings"]) if name in training else ""


def describe_training(settings: Mapping[str, Any]) -> str:
    """The same from the settings of a training (`settings.TrainingConfig`) as a mapping."""
    options = DEFAULTS | settings["objective_options"]
    layers = {"attention": "the attention", "all": "all layers"}.get(options["lora_layers"], options["lora_layers"])
    what = f"LoRA of rank {options['rank']} on {layers}" if options["trainable"] == "lora" else "all weights"
    return f"{what}, {_regularizer(options)}, {settings['steps']:,} steps of {settings['batch_size']} images"


def _regularizer(options: Mapping[str, Any]) -> str:
    if not options.get("regularization"):
        return "no L_reg"
    said = f"L_reg with lambda {options['regularization']:g}"
    if options["regularize_every"] > 1:
        said += f" every {options['regularize_every']}th step"
    if options["regularized_share"] < 1:
        said += f" on {options['regularized_share']:.0%} of the batch"
    if options["regularized_guidance"] > 1:
        said += f" at guidance {options['regularized_guidance']:g}"
    weighting = options.get("regularizer", {}).get("weighting", "multiply")
    return said if weighting == "multiply" else f"{said} weighted by {weighting!r}"


def row_adapters(record: Record) -> dict[str, str]:
    """Row -> the adapter behind it (of several trainings the first), as the record's fields or facts name it.

    Older records name none: their labels do, or their notebook.
    """
    if "row_fields" in record:
        return {row: fields["adapters"][0] for row, fields in record["row_fields"].items() if fields["adapters"]}
    named: Mapping[str, Sequence[str | None]] = record.get("facts", {}).get("adapters", {})
    found = {row: adapters[0] for row, adapters in named.items() if adapters and adapters[0]}
    return found or _by_label(record) or _of_notebook(record["name"])


def _by_label(record: Record) -> dict[str, str]:
    """Records of reconstructions and of walks between images name their adapters as models, and the rows after these."""
    parts = dict.fromkeys(part for name in record["provenance"].get("models", {}) for part in name.split(" + "))
    names = [name for name in parts if (paths.ADAPTERS / name).is_dir()]
    return {row: name for row in record["rows"] for name in names if re.match(rf"{re.escape(name)} |.* \+ {re.escape(name)}$", row, re.I)}


def _of_notebook(name: str) -> dict[str, str]:
    """The rows that the notebook of this name measures: its `smoothness.Row("label", study.trained("adapter"))`."""
    file = paths.ROOT / "notebooks" / f"{name}.ipynb"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return dict(re.findall(r'Row\(\\"([^"]+)\\", study\.trained\(\\"([^"]+)\\"\)', text))


def describe_settings(record: Record, rows: Sequence[str]) -> str:
    """How the images of these rows were sampled: steps, guidance, null-text optimization; empty where the record does not say."""
    config: Mapping[str, Any] = record["provenance"].get("config", {})
    said = []
    if "num_inference_steps" in config:
        said.append(f"{config['num_inference_steps']} sampling steps")
    guidance = config.get("guidance_scale") or read_card(paths.MODELS / str(config.get("model", "mini"))).get("guidance_scale")
    scales, null_text = _sampling(record, rows)
    scales = [guidance] if scales is None and guidance else scales
    if "guidance_scale" in config and scales:
        said.append(f"guidance {' and '.join(f'{scale:g}' for scale in scales)}")
    if isinstance(count := config.get("num_inner_steps"), int) and null_text:
        rate = f" of {config['null_text_lr']:g}" if "null_text_lr" in config else ""
        said.append(f"null-text inversion with {count} Adam step{'s' if count > 1 else ''}{rate} per sampling step")
    return ", ".join(said)


def _sampling(record: Record, rows: Sequence[str]) -> tuple[Sequence[float] | None, bool]:
    """The guidance scales to name (None: the configuration's), and whether null-text inversion is used; older records tell by labels."""
    if "row_fields" not in record:
        return [] if any("guidance" in row for row in rows) else None, any(" NTI" in row or " walk" in row for row in rows)
    fields = [own for row in rows if (own := record["row_fields"][row]).get("method") != "vae"]
    return sorted({own["guidance_scale"] for own in fields}), any(
        own.get("method") in ("nti", "walk") or own.get("inversion") == "null_text" for own in fields
    )


def describe_rows(record: Record, rows: Sequence[str]) -> str:
    """What the given rows are and how they were sampled, in one line: "Smooth: LoRA of rank 2 ...; 20 sampling steps, guidance 3"."""
    adapters = row_adapters(record)
    described: dict[str, list[str]] = {}
    for row in dict.fromkeys(rows):
        if row in adapters and (text := describe_adapter(adapters[row])):
            described.setdefault(text, []).append(row)
    parts = [f"{' and '.join(same)}: {text}" for text, same in described.items()]
    return "; ".join([*parts, *filter(None, [describe_settings(record, rows)])])
