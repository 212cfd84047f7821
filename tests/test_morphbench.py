"""MorphBench's two numbers beside ISTD and CV: the record of walks of both kinds, and what is said of it."""

import numpy as np
import pytest

from companion.base import config
from companion.runs.stored import Origin, Result
from companion.studies.interpolation import morphbench
from companion.studies.interpolation.morphbench import PAIRS, PROMPTS, MorphStudy

FRAMES = 4


def walk(lpips, pixels=(1.0, 2.0, 3.0)):
    found = Result(step_distances=np.array(pixels), lpips_distances=np.array(lpips), seconds=1.0)
    found |= {"frames": np.zeros((FRAMES, 3, 8, 8), dtype=np.uint8)}
    found.origin = Origin("code", "cpu", "a machine", "2.0", {"smoothlib.metrics.morphing": "hash"})
    return found


@pytest.fixture(scope="module")
def study():
    cfg = dict(model="mini", num_prompts=3, num_inference_steps=2, num_pairs=2, skip=1, pair_inference_steps=2, num_inner_steps=1)
    cfg |= dict(anid_steps=[4], guidance_scale=None, frames=FRAMES, batch_size=8, seed=0, device="cpu")
    return MorphStudy(config.configuration(cfg, **morphbench.PARAMETERS))


@pytest.fixture(scope="module")
def found(study):
    """Walks whose numbers are known: those of the smooth rows are half as long, and even."""
    rough, even = (0.1, 0.5, 0.3), (0.15, 0.15, 0.15)
    rows = [(PROMPTS, row) for row in study.rows[PROMPTS]] + [(PAIRS, row) for row in study.rows[PAIRS]]
    counts = {PROMPTS: 3, PAIRS: 2}
    return {row.label: [walk(even if "smooth" in row.adapters else rough) for _ in range(counts[part])] for part, row in rows}


@pytest.fixture(scope="module")
def record(study, found):
    study.weights = {("mini", adapter): str(adapter) for adapter in (None, "plain", "smooth")}
    return study.record("beyond_morphbench", found)


def test_the_rows_are_those_of_table_1_and_of_figure_3(study):
    assert [row.label for row in study.rows[PROMPTS]] == ["Base", "Plain LoRA", "Smooth"]
    assert [row.label for row in study.rows[PAIRS]] == ["VAE interpolation", "ANID one-level, 4 steps", "Base walk", "Smooth walk"]


def test_path_length_and_variance_stand_beside_the_others(record):
    base, smooth = (record["rows"][label]["metrics"] for label in ("Base", "Smooth"))
    assert base["lpips_ppl"]["values"] == pytest.approx([0.9] * 3) and smooth["lpips_ppl"]["values"] == pytest.approx([0.45] * 3)
    assert base["lpips_pdv"]["values"] == pytest.approx([0.08 / 3] * 3) and smooth["lpips_pdv"]["values"] == pytest.approx([0] * 3)
    assert base["istd"]["values"] == pytest.approx([np.sqrt(2 / 3)] * 3)
    pair = record["rows"]["Base walk"]["metrics"]
    assert set(pair) == {f"pair_{metric}" for metric in base} and pair["pair_lpips_ppl"]["n"] == 2
    assert [len(record["parts"][part]) for part in (PROMPTS, PAIRS)] == [3, 2]


def test_each_lora_is_compared_with_the_base_model_in_its_own_kind_of_walk(record):
    compared = {(one["a"], one["b"]) for one in record["comparisons"]}
    assert compared == {("Smooth", "Base"), ("Smooth", "Plain LoRA"), ("Plain LoRA", "Base"), ("Smooth walk", "Base walk")}
    said = morphbench.answer(record)
    assert "On 3 noise walks, Smooth against Base: PPL 0.450 smaller" in said.replace("0.4500", "0.450")
    assert "On 2 image walks, Smooth walk against Base walk" in said and "not shown" in said


def test_the_tables_have_one_kind_of_walk_each(record):
    assert list(morphbench.table(record, PROMPTS).index) == ["Base", "Plain LoRA", "Smooth"]
    frame = morphbench.table(record, PAIRS)
    assert "Smooth" not in frame.index and {"PPL", "PDV", "CV"} <= set(frame.columns)
    html = morphbench.widget(record, PAIRS).html
    assert "Smooth walk" in html and "n = 2;" in html


def test_a_run_that_repeats_another_record_says_how_far_it_is_from_it(record):
    items = record["parts"][PROMPTS]
    values = [value + 0.25 for value in record["rows"]["Base"]["metrics"]["lpips_cv"]["values"]]
    other = {"name": "table1_istd", "items": ["else", *items], "rows": {"Base": {"metrics": {"lpips_cv": {"values": [9.0, *values]}}}}}
    said = morphbench.agreement(record, other, PROMPTS, ["Base", "Smooth"])
    assert "LPIPS CV of the 3 walks that table1_istd has too: Base" in said and "at most 0.25 apart" in said and "Smooth" not in said
    assert morphbench.agreement(record, None, PROMPTS, ["Base"]) == "There is no other record to compare with."
    assert morphbench.agreement(record, other | {"items": ["else"]}, PROMPTS, ["Base"]) == "No walk is in both records."


def test_the_slider_has_a_row_for_the_plain_lora(study, found):
    html = study.slider(found).html
    assert all(html.count(f">{label}<") for label in ("Base", "Smooth")) and "Plain LoRA" in html
    assert all(prompt.caption in html for prompt in study.prompts)
