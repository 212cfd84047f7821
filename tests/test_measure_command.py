"""`python -m companion.studies.measure`: the report of a user's own pipeline, and the sentences where something does not fit."""

import re

import numpy as np
import pytest
import torch
from tiny import tiny_pipeline

from companion.evidence.records import load_record
from companion.studies.measure.__main__ import main
from companion.studies.measure.report import sentences, shown_prompts, table_rows


@pytest.fixture
def tiny_model(tmp_path):
    pipe = tiny_pipeline()
    pipe.unet.register_to_config(sample_size=16)  # images of 32 x 32: LPIPS needs 31
    pipe.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_report_of_any_folder_and_any_prompts(tmp_path, tiny_model, monkeypatch, capsys):
    monkeypatch.setattr("companion.base.paths.RUNS", tmp_path / "runs")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red <ball>\n\na blue ball\na cat & a dog\n", encoding="utf-8")
    out = tmp_path / "report"
    few = ["--num-inference-steps", "2", "--frames", "3", "--guidance-scale", "1"]
    assert main(["--model", str(tiny_model), "--prompts", str(prompts), "--out", str(out), *few]) == 0
    shown = capsys.readouterr().out
    assert f"Report: {out / 'report.html'}" in shown and shown.splitlines()[1].startswith("Base")
    assert sorted(file.name for file in out.iterdir()) == ["measure.json", "report.html", "steps.png", "walks.png"]
    record = load_record(out / "measure.json")
    assert list(record["facts"]["prompts"].values()) == ["a red <ball>", "a blue ball", "a cat & a dog"]
    values = {name: np.array(metric["values"]) for name, metric in record["rows"]["Base"]["metrics"].items()}
    assert record["conventions"].keys() >= values.keys() and all(len(each) == 3 for each in values.values())
    np.testing.assert_allclose(values["istd"] / values["mean_step"], values["cv"], rtol=1e-6)
    np.testing.assert_allclose(2 * np.sqrt(values["lpips_pdv"]) / values["lpips_ppl"], values["lpips_cv"], rtol=1e-6)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "a red &lt;ball&gt;" in page and "<ball>" not in page and "with the adapter" not in page.lower()
    assert set(re.findall(r'(?:src|href)="([^"]+)"', page)) == {"walks.png", "steps.png", "measure.json"}


def metric(*values):
    return {"values": list(values), "mean": float(np.mean(values)), "low": min(values), "high": max(values)}


def test_walks_are_shown_by_rank():
    rows = {"Base": {"metrics": {"cv": metric(0.5, 0.1, 0.9, 0.4, 0.3)}}}
    assert shown_prompts({"rows": rows}) == {"least even": 2, "median": 3, "evenest": 1}
    rows["Base"]["metrics"]["cv"] = metric(0.5, 0.1)
    assert shown_prompts({"rows": rows}) == {"least even": 0, "evenest": 1}  # none is shown twice


def test_differences_are_told_with_interval_and_count():
    names = ("istd", "cv", "mean_step", "lpips_cv", "lpips_ppl", "lpips_pdv")
    rows = {
        "Base": {"metrics": {name: metric(2.0, 3.0, 4.0) for name in names}},
        "Mine": {"metrics": {name: metric(1.0, 2.5, 4.5) for name in names}},
    }
    difference = {"mean": -1 / 3, "low": -2.0, "high": 1.3}
    test = {"a": "Mine", "b": "Base", "metric": "cv", "difference": difference, "p_adjusted": 0.5}
    (said,) = sentences({"rows": rows, "comparisons": [test, test | {"metric": "lpips_ppl"}]})
    assert said == "CV of Mine less that of Base: -0.3 [-2.0, +1.3]; lower in 2 of 3; p = 0.5"
    assert table_rows({"rows": rows})[1][:2] == ["Mine", "2.7 [1.0, 4.5]"]


def test_what_does_not_fit_ends_in_one_sentence_before_any_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("companion.studies.measure.study.MeasureStudy.measure_all", lambda *_: pytest.fail("work has begun"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    few = tmp_path / "few.txt"
    few.write_text("one prompt\n", encoding="utf-8")
    wrong = {
        ("--prompts", str(tmp_path / "none.txt")): "none.txt', but must be a text file with one prompt a line",
        ("--prompts", str(few)): "with 1 prompts, but must have at least 2",
        ("--prompts", str(few), "--num-prompts", "3"): "num_prompts must not be given with prompts",
        ("--num-prompts", "1"): "num_prompts is 1, but must be a whole number of at least 2",
        ("--frames", "2"): "frames is 2, but must be a whole number of at least 3",
        ("--device", "tpu"): "device is 'tpu', but must be one of 'auto', 'cpu', 'cuda'",
        ("--device", "cuda"): "device is 'cuda', but must be 'auto' or 'cpu': PyTorch finds no CUDA device here",
        ("--out", "a\0b"): "'a\\x00b' holds a null byte, but must not",
        ("--model", "minni"): "the model 'minni' is not in",
        ("--adapter", "smoth"): "there is no adapter 'smoth'",
        ("--adapter", "smooth", "--adapter", "smooth"): "adapter is ['smooth', 'smooth'], but must be a list without repeats",
        ("--out", str(few)): "but must be a folder that can be written",
    }
    for arguments, sentence in wrong.items():
        out = () if "--out" in arguments else ("--out", str(tmp_path / "out"))
        with pytest.raises(SystemExit) as stopped:
            main([*arguments, *out])
        assert stopped.value.code == 2
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1, said
    assert not (tmp_path / "out" / "measure.json").exists()
