"""MorphBench's two numbers beside ISTD and CV, on walks of both kinds: between two noises (Table 1) and between two images (Figures 3, 7).

The records of those pages hold no perceptual path length and no perceptual distance variance (`smoothlib.metrics.morphing`). Here the first
prompts and pairs of the same choice are walked again, so that the pages' own numbers can be compared with what is found: `agreement`.
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ... import book as figures
from ...base import config
from ...data import load as datasets
from ...evidence import records as results
from ...evidence.digits import in_words
from ...evidence.tables import REGION, cell, html_table
from ...runs import runs
from ..base import BaseStudy
from ..measure import study as measured
from ..rows import Row
from ..setup import DEVICE, errors_in_one_sentence
from ..smoothness import walks
from . import walks as pair_walks
from .pairs import pairs_from

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

PARAMETERS = {
    "model": config.Text(),
    "num_prompts": config.Integer(2, 1000),
    "num_inference_steps": config.Integer(2, 100),
    "num_pairs": config.Integer(2, 400),
    "skip": config.Integer(0, 400),
    "pair_inference_steps": config.Integer(2, 100),
    "num_inner_steps": config.Integer(1, 100),
    "anid_steps": config.ListOf(config.Integer(1, 1000)),
    "guidance_scale": config.Number(1.1, 30, optional=True),
    "frames": config.Integer(3, 101),
    "batch_size": config.Integer(1, 1024),
    "seed": config.Integer(0, 999),
    "device": DEVICE,
}
MORPH_COLUMNS = {"lpips_ppl": {"label": "PPL", "direction": "none"}, "lpips_pdv": {"label": "PDV", "direction": "down"}}
MORPH_CONVENTIONS = {metric: measured.CONVENTIONS[metric] for metric in MORPH_COLUMNS}
COLUMNS = measured.COLUMNS | MORPH_COLUMNS
PROMPTS, PAIRS = "noise walks", "image walks"  # the two parts of the record
PAIR = "pair_"  # what the metrics of image walks begin with: a metric belongs to one part of a record
Found = Mapping[str, Sequence[runs.Result]]  # row -> walk of each prompt, or of each pair


class MorphStudy(BaseStudy):
    """The first prompts of Table 1's choice and pairs of Figure 7's, and the rows that walk between them.

    Raises:
        ConfigurationError: something that the configuration asks for is not there or does not fit, before anything is computed.
    """

    code = ("companion.studies.interpolation.morphbench",)
    method = "walk"

    def __init__(self, cfg: SimpleNamespace) -> None:
        super().__init__(cfg)
        with errors_in_one_sentence():
            self.guidance_scale = self.guidance_of(cfg.model)
            self.split = datasets.load_split("scenes", "test", size=cfg.model)
            self.prompts = walks.walk_prompts_from(self.split, cfg.num_prompts, seed=cfg.seed)
            self.pairs = pairs_from(self.split, cfg.num_pairs, seed=cfg.seed, skip=cfg.skip)
            image_rows = pair_walks.figure3_methods(
                ("smooth",),
                num_inference_steps=cfg.pair_inference_steps,
                frames=cfg.frames,
                anid_steps=cfg.anid_steps,
                coarse_to_fine_frames=None,
            )
        noise_rows = [Row("Base"), Row("Plain LoRA", ("plain",)), Row("Smooth", ("smooth",))]
        self.rows = {PROMPTS: noise_rows, PAIRS: image_rows}
        self.check([*noise_rows, *image_rows])

    def run(self, pipe: "StableDiffusionPipeline", weights: str, rows: Sequence[Row], adapter: str | None) -> dict[str, list[runs.Result]]:
        """By label the walk of every prompt, or for the rows of images of every pair."""
        sampling, found = self.sampling_of(self.cfg.model), {}
        for row in rows:
            given = dict(title=row.label, weights=weights, sampling=sampling)
            if row.settings is None:
                found[row.label] = walks.run_walks(pipe, self.prompts, frames=self.cfg.frames, **given)
            else:
                inner = self.cfg.num_inner_steps
                found[row.label] = pair_walks.run_pairs(pipe, self.pairs, row.settings, num_inner_steps=inner, **given)
        return found

    def measure(self) -> dict[str, list[runs.Result]]:
        """Every row's walks; a model is loaded once for all rows that use it."""
        return {label: found for label, (found,) in self.measure_all([*self.rows[PROMPTS], *self.rows[PAIRS]]).items()}

    def record(self, name: str, found: Found) -> results.Record:
        """The record of a run: each LoRA is tested against the base model, Smooth also against the plain one."""
        rows = [*self.rows[PROMPTS], *self.rows[PAIRS]]
        prompt_ids, pair_ids = ([one.id for one in many] for many in (self.prompts, self.pairs))
        stored = [one for walked in found.values() for one in walked]
        conventions = measured.CONVENTIONS
        of_images = {PAIR + metric: f"{words}; of image walks" for metric, words in conventions.items() if metric in COLUMNS}
        place = {record["id"]: i for i, record in enumerate(self.split.records)}
        images = [self.split.item(place[prompt.id]) for prompt in self.prompts]
        return self.make_record(
            name,
            rows,
            self.values(found),
            items=[*self.prompts, *self.pairs],
            data=[*images, *self.pairs],
            size=stored[0]["frames"].shape[-2:],
            origins=runs.origins(stored),
            seconds=sum(one["seconds"] for one in stored),
            conventions=conventions | of_images,
            pairs=[("Smooth", "Base"), ("Smooth", "Plain LoRA"), ("Plain LoRA", "Base"), ("Smooth walk", "Base walk")],
            columns=COLUMNS | {PAIR + metric: column for metric, column in COLUMNS.items()},
            parts={PROMPTS: prompt_ids, PAIRS: pair_ids},
            metric_parts=dict.fromkeys(COLUMNS, PROMPTS) | {PAIR + metric: PAIRS for metric in COLUMNS},
        )

    def values(self, found: Found) -> dict[str, dict[str, np.ndarray]]:
        """Row -> metric -> value of each of its walks: ISTD and its kin, and MorphBench's two."""
        prefixes = {row.label: PAIR if part == PAIRS else "" for part, rows in self.rows.items() for row in rows}
        return {
            label: {prefixes[label] + metric: values for metric, values in measured.walk_values(walked).items()}
            for label, walked in found.items()
        }

    def slider(self, found: Found, limit: int = 8) -> figures.Widget:
        """The first prompts' walks by the three models under one slider, with the curve of their steps."""
        shown, labels = range(min(limit, len(self.prompts))), [row.label for row in self.rows[PROMPTS]]
        return figures.walk_scrubber(
            [{label: found[label][i]["frames"] for label in labels} for i in shown],
            [{label: found[label][i]["step_distances"] for label in labels} for i in shown],
            captions=[self.prompts[i].caption for i in shown],
            alt=f"Latent walks between two noises by {', '.join(labels)}, for the first prompts of the seeded choice",
            distance_label="Step between neighbouring images (L2, pixels in [0, 1])",
        )


def morph_values(found: Sequence[runs.Result]) -> dict[str, np.ndarray]:
    """`MORPH_COLUMNS` of each walk, (n,)."""
    return {metric: values for metric, values in measured.walk_values(found).items() if metric in MORPH_COLUMNS}


def table(record: results.Record, part: str) -> pd.DataFrame:
    """The rows of one part of the record, "mean [low, high]" with the digits that the intervals allow."""
    prefix = PAIR if part == PAIRS else ""
    lines = {
        label: {column["label"]: cell(row["metrics"][prefix + metric]) for metric, column in COLUMNS.items()}
        for label, row in record["rows"].items()
        if f"{prefix}istd" in row["metrics"]
    }
    return pd.DataFrame.from_dict(lines, orient="index")


def widget(record: results.Record, part: str) -> figures.Widget:
    """The same table for other pages, which say with it how many walks there are."""
    frame = table(record, part)
    note = f"<ul><li>n = {len(record['parts'][part])}; mean [95 % interval]; PPL and PDV: LPIPS path length and variance.</li></ul>"
    html = f'<div class="comparison" {REGION}>{html_table(frame.rename_axis("").reset_index())}{note}</div>'
    return figures.Widget(html, frame.to_string())


def answer(record: results.Record) -> str:
    """What the tests of Smooth against its base model say of MorphBench's numbers and of CV, in one sentence for each kind of walk."""
    said = []
    for part, (first, second), prefix in ((PROMPTS, ("Smooth", "Base"), ""), (PAIRS, ("Smooth walk", "Base walk"), PAIR)):
        tests = {one["metric"]: one for one in record["comparisons"] if (one["a"], one["b"]) == (first, second)}
        found = []
        for metric in ("lpips_ppl", "lpips_pdv", "lpips_cv"):
            one, column = tests[prefix + metric], COLUMNS[metric]
            gap = one["difference"]
            words = in_words(gap["mean"], (gap["low"], gap["high"]), column["direction"])
            shown = "" if one["p_adjusted"] < 0.05 else ", not shown"
            found.append(f"{column['label']} {words} (p = {one['p_adjusted']:.2g}{shown})")
        said.append(f"On {len(record['parts'][part])} {part}, {first} against {second}: {'; '.join(found)}.")
    return " ".join(said)


def agreement(record: results.Record, other: results.Record | None, part: str, rows: Sequence[str], metric: str = "lpips_cv") -> str:
    """How far this run is from another record where both walked the same prompts or pairs in the same way, in one sentence."""
    if other is None:
        return "There is no other record to compare with."
    prefix = PAIR if part == PAIRS else ""
    places = {item: i for i, item in enumerate(other["items"])}
    shared = [(i, places[item]) for i, item in enumerate(record["parts"][part]) if item in places]
    said: list[Any] = []
    for row in rows:
        if row in record["rows"] and row in other["rows"] and shared:
            here = np.asarray(record["rows"][row]["metrics"][prefix + metric]["values"])[[i for i, _ in shared]]
            there = np.asarray(other["rows"][row]["metrics"][metric]["values"])[[i for _, i in shared]]
            said.append(f"{row} {here.mean():.4f} here and {there.mean():.4f} there, at most {np.abs(here - there).max():.2g} apart")
    name = COLUMNS[metric]["label"]
    return f"{name} of the {len(shared)} walks that {other['name']} has too: {'; '.join(said)}." if said else "No walk is in both records."
