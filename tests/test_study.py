"""What the notebooks of Tables 1, 3 and 4 share: bad input ends before the work, the record holds every row, COCO's layout serves too."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from companion.base import config, paths
from companion.data import load as datasets
from companion.studies.rows import Row
from companion.studies.smoothness.study import PARAMETERS, Study, judge_sentence, seed_table
from companion.weights import pipelines as models
from smoothlib.metrics.frechet import frechet_floor

SMALL = dict(
    model="mini",
    dataset="scenes",
    split="compositional",
    num_prompts=2,
    num_images=3,
    training_seeds=2,
    num_inference_steps=2,
    guidance_scale=None,
    frames=3,
    judge="packaged",
    batch_size=6,
    seed=0,
    device="cpu",
)


def configured(**changes) -> SimpleNamespace:
    return config.configuration(SMALL | changes, **PARAMETERS)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_prompts": 5000}, r"limit must lie in \[1, \d+\], not 5000"),
        ({"split": "val"}, "split must be one of train, test, compositional, got 'val'"),
        ({"dataset": "nowhere"}, "COCO is not in nowhere"),
        ({"model": "no-such-model"}, "no-such-model"),
    ],
)
def test_what_is_not_there_ends_in_one_sentence(changes, sentence):
    with pytest.raises(config.ConfigurationError, match=sentence):
        study = Study(configured(**changes))
        study.measure([Row("Base")])


def test_an_adapter_that_is_not_there_is_named_before_any_walk(monkeypatch):
    monkeypatch.setattr(models, "load_pipeline", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(config.ConfigurationError, match="no-such-adapter"):
        Study(configured()).measure([Row("Base"), Row("None", ("no-such-adapter",))])


def test_a_row_has_at_most_the_training_seeds_that_are_asked_for():
    assert Study(configured(training_seeds=1)).trained("smooth") == ("smooth",)
    assert Study(configured(training_seeds=2)).trained("smooth") == ("smooth", "smooth-seed1")
    assert Study(configured()).trained("no-such-adapter") == ()


def test_the_record_holds_rows_seeds_and_totals(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    study, rows = Study(configured()), [Row("Base"), Row("Again")]
    measured = study.measure(rows)
    record = study.record("table1_istd", "table1", measured, rows=rows, pairs=study.all_pairs(rows))
    assert list(record["rows"]) == ["Base", "Again"] and len(record["items"]) == 2
    metrics = record["rows"]["Base"]["metrics"]
    assert metrics["istd"]["mean"] == pytest.approx(np.mean(measured["Base"][0].per_prompt["istd"]))
    assert metrics["frechet_distance"]["mean"] == measured["Base"][0].frechet
    assert metrics["frechet_distance"]["n"] == metrics["kernel_distance"]["n"] == 3 and metrics["istd"]["n"] == 2  # images; prompts
    assert record["facts"]["adapters"] == {"Base": [None], "Again": [None]}
    assert record["facts"]["training_seeds"]["Again"]["frechet"] == [measured["Again"][0].frechet]
    used = {"evidence.statistics", *(f"studies.smoothness.{name}" for name in ("measure", "study", "walks"))}
    assert {f"companion.{name}" for name in used} <= record["provenance"]["modules"].keys()
    assert record["row_fields"]["Again"]["weights"] == [models.fingerprint("mini")]
    assert seed_table(measured).loc[("Base", 0), "cv"] == pytest.approx(metrics["cv"]["mean"], abs=1e-4)
    assert study.walks_figure(measured, limit=1).axes
    caption = study.walk_prompts[0].caption
    assert caption in study.walk_slider(measured).html and study.walk_prompts[1].caption not in study.walk_slider(measured, limit=1).html


def test_prompts_and_real_images_come_from_cocos_layout_too(tmp_path):
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (80, 100, 3), dtype=np.uint8)).save(tmp_path / "val2017" / f"{i}.png")
    annotations = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(3)],
        "annotations": [{"id": 10 - k, "image_id": k % 3, "caption": f"caption  {10 - k}"} for k in range(6)],
    }
    (tmp_path / "annotations" / "captions_val2017.json").write_text(json.dumps(annotations))
    study = Study(configured(dataset=str(tmp_path), split="val2017", num_prompts=3))
    assert [prompt.caption for prompt in study.walk_prompts] == ["caption 7", "caption 6", "caption 5"]  # the lowest annotation id
    assert study.split.item(0).image.shape == (3, 64, 64)  # the model's size
    features = study.real_features(batch_size=2)
    assert features.shape[0] == 3 and torch.isfinite(features).all()


def test_the_judges_own_limits_stand_beside_the_table():
    study = Study(configured())
    facts = study.judge_facts()
    others = study.real_features([i for i in datasets.seeded_choice(500, 500, 0)][-3:])
    assert facts["frechet_floor"] == pytest.approx(frechet_floor(torch.cat([study.real_features(), others]), 3).mean)
    assert facts["frechet_floor"] > 0 and 0.5 < facts["alignment_accuracy"] <= 1
    said = judge_sentence({"facts": {"judges": facts, "num_images": 3}})
    assert f"(3 of each): Frechet distance {facts['frechet_floor']:.1f}" in said and "captions" in said
    assert "frechet_floor" not in Study(configured(num_images=300)).judge_facts()  # of 500 there are no 300 others
    assert judge_sentence({"facts": {"judges": {}, "num_images": 3}}) == ""
