"""Smoothness against image quality, a point a training: ISTD and the excess of the Fréchet distance over that of real images."""

import math
from collections.abc import Sequence
from typing import Any

from scipy import stats

from .floors import frechet_floor
from .tables import Record

Points = dict[str, list[dict[str, Any]]]
SERIES = ("Base model", "Plain LoRA", "Smooth (default)", "Other lambda", "Other rank or layers", "Other training")
SAME = (0.002, 0.2)  # the same training, measured on two machines, differs by less
NOTE = """A point is one training; whiskers are its row's 95 % intervals."""


def comparable(records: Sequence[Record]) -> list[Record]:
    """Those records that measured ISTD and the Fréchet distance on the same prompts, with as many images: of several such groups the one
    with the most rows. Points of others would lie elsewhere for the choice of prompts alone."""
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        rows = [row for row in record["rows"].values() if {"istd", "frechet_distance"} <= row["metrics"].keys()]
        facts = record.get("facts", {})
        if rows and frechet_floor(record) and "training_seeds" in facts:
            key = (record["model"], *record["items"], facts.get("num_images"), facts.get("num_inference_steps"))
            groups.setdefault(key, []).append(record)
    return max(groups.values(), key=lambda group: sum(len(record["rows"]) for record in group), default=[])


def trade_points(records: Sequence[Record]) -> Points:
    """Series -> points for `companion.book.scatter.frontier`, from the records of `comparable`; empty where there are none."""
    series: Points = {name: [] for name in SERIES}
    seen: list[tuple[float, float]] = []
    for record in comparable(records):
        floor = frechet_floor(record)
        for label, seeds in record["facts"]["training_seeds"].items():
            metrics = record["rows"][label]["metrics"]
            if "frechet" not in seeds:
                continue
            half = _half(metrics["frechet_distance"])
            for number, (istd, frechet) in enumerate(zip(seeds["istd"], seeds["frechet"], strict=True), 1):
                if any(abs(istd - x) < SAME[0] and abs(frechet - y) < SAME[1] for x, y in seen):
                    continue
                seen.append((istd, frechet))
                mean = metrics["istd"]
                ends = (istd + mean["low"] - mean["mean"], istd + mean["high"] - mean["mean"])
                y = frechet - floor
                name = f"{label}{f', training {number}' if len(seeds['istd']) > 1 else ''} ({record['name']})"
                point = dict(x=istd, y=y, x_ends=ends, y_ends=(y - half, y + half) if half else None)
                series[_series(record, label)].append(point | {"label": f"{name}: ISTD {istd:.2f}, excess {y:.0f}"})
    return {name: points for name, points in series.items() if points}


def _half(value: dict[str, Any]) -> float | None:
    """Half the interval over images of a distance of sets, from what each image contributes."""
    contributed = value.get("image_values")
    if not contributed:
        return None
    n, mean = len(contributed), sum(contributed) / len(contributed)
    variance = sum((one - mean) ** 2 for one in contributed) / (n - 1) / n
    return float(stats.t.isf(0.025, n - 1)) * math.sqrt(variance)


def _series(record: Record, label: str) -> str:
    """By the row's adapters, which say what a training is whatever its label; by the label in records without them."""
    named = record.get("facts", {}).get("adapters", {}).get(label)
    fields = record.get("row_fields", {}).get(label, {})
    adapters = [name for name in (fields.get("adapters") or named or ()) if name]
    first = adapters[0] if adapters else ""
    if not first:
        return _by_label(label) if named is None and not fields else "Base model"
    if first == "plain" or first.startswith("plain-"):
        return "Plain LoRA"
    if first == "smooth" or first.startswith("smooth-"):
        return "Smooth (default)"
    return "Other lambda" if "lambda" in first else "Other rank or layers" if first.startswith(("rank", "full")) else "Other training"


def _by_label(label: str) -> str:
    known = {"Base": "Base model", "Plain LoRA": "Plain LoRA", "lambda 0": "Plain LoRA", "Smooth": "Smooth (default)"}
    known |= {"lambda 1x": "Smooth (default)", "default": "Smooth (default)"}
    other = "Other lambda" if "lambda" in label else "Other rank or layers" if label.startswith("rank") else "Other training"
    return known.get(label, other)
