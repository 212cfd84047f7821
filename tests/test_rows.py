"""Rows: a label for show, fields for programs, and one pipeline behind each, whatever table asks."""

from types import SimpleNamespace

import pytest
import torch
from tiny import generate

from companion.base import config, paths
from companion.data.load import check_ids
from companion.evidence.fields import repeated_rows
from companion.studies.base import BaseStudy, load_row, training_fields
from companion.studies.rows import Row, adapter_titles, check_rows, glue_key
from companion.studies.smoothness.reuse import PARAMETERS, ReuseStudy, checkpoint_titles
from companion.weights import pipelines as models


def test_a_rows_lora_is_part_of_its_weights():
    beside = models.load_pipeline("mini", adapter="smooth")
    pipe, weights = load_row("mini", "smooth")
    base, lora = models.load_pipeline("mini").unet, beside.unet.mid_block.resnets[0].conv1
    assert pipe.unet.state_dict().keys() == base.state_dict().keys()
    wanted = base.mid_block.resnets[0].conv1.weight + lora.get_delta_weight("smooth")
    torch.testing.assert_close(pipe.unet.mid_block.resnets[0].conv1.weight, wanted)
    torch.testing.assert_close(generate(pipe), generate(beside), atol=1e-4, rtol=1e-4)
    assert weights == models.fingerprint(pipe) != models.fingerprint(beside)  # other arithmetic, other key


@pytest.mark.parametrize("adapter", [None, "full"])
def test_rows_without_a_lora_compute_with_the_weights_as_they_are(adapter):
    pipe, weights = load_row("mini", adapter)
    assert weights == models.fingerprint(models.load_pipeline("mini", adapter=adapter)) == models.fingerprint(pipe)


def test_labels_tell_rows_apart_and_adapters_are_called_by_their_folders():
    check_rows([Row("a"), Row("b")])
    with pytest.raises(ValueError, match="rows has the label 'a' more than once, but must have different labels"):
        check_rows([Row("a"), Row("b"), Row("a", ("smooth",))])
    with pytest.raises(ValueError, match=r"rows must have at least one adapter each .* but 'b' has none"):
        check_rows([Row("a"), Row("b", ())])
    assert adapter_titles(["x/smooth", "MyRun-2"]) == {None: "Base", "x/smooth": "Smooth", "MyRun-2": "MyRun-2"}
    assert glue_key("Base + DDIM, guidance 7.5") == "base___ddim__guidance_7_5"


def test_two_images_of_one_id_are_refused():
    check_ids([SimpleNamespace(id="a"), SimpleNamespace(id="b")])
    with pytest.raises(ValueError, match="the data set has the id 'a' more than once"):
        check_ids([SimpleNamespace(id="a"), SimpleNamespace(id="b"), SimpleNamespace(id="a")])


def test_what_a_rows_adapters_are_comes_from_their_cards(tmp_path):
    assert training_fields([]) == {"kind": "base", "training": None, "training_seeds": []}
    smooth, plain = training_fields(["smooth", "smooth-seed1", "smooth-seed2"]), training_fields(["plain"])
    assert (smooth["kind"], smooth["training_seeds"]) == ("smooth", [0, 1, 2]) and (plain["kind"], plain["training_seeds"]) == (
        "plain",
        [0],
    )
    assert smooth["training"] == training_fields(["smooth-seed2"])["training"] != plain["training"]  # one recipe, other seeds
    assert training_fields(["full"])["kind"] == "full"
    mixed = training_fields(["smooth", "lambda-10x"])
    assert mixed["kind"] == "smooth" and mixed["training"] is None
    (tmp_path / "lora.safetensors").touch()
    assert training_fields([str(tmp_path)]) == {"kind": "unknown", "training": None, "training_seeds": []}


def test_rows_that_differ_in_the_training_seed_alone_are_found_by_their_fields():
    def fields(seed, training="recipe", method="nti"):
        return {"adapters": [str(seed)], "weights": [str(seed)], "training": training, "training_seeds": [seed], "method": method}

    base = {"adapters": [], "weights": ["b"], "training": None, "training_seeds": [], "method": "nti"}
    rows = {
        "A": fields(2),
        "Base": base,
        "anything": fields(0),
        "A-seed1": fields(0, "other"),
        "D": fields(1, method="ddim"),
        "again": fields(2),
    }
    assert repeated_rows({"row_fields": rows}) == {"anything": ["anything", "A"]}
    assert repeated_rows({"rows": {"Smooth + NTI": {}, "Smooth-seed1 + NTI": {}}}) == {}


class Names(BaseStudy):
    """Its rows give the adapter that they were run with."""

    method = "name"

    def run(self, pipe, weights, rows, adapter):
        return {row.label: adapter for row in rows}


def test_a_pipeline_is_loaded_once_for_all_rows_that_use_it(monkeypatch):
    loaded = []
    monkeypatch.setattr(
        "companion.studies.base.load_row", lambda model, adapter, device: loaded.append((model, adapter)) or (None, f"w{adapter}")
    )
    study = Names(SimpleNamespace(model="mini", guidance_scale=2.0, num_inference_steps=3, device="cpu", seed=0))
    rows = [Row("a", ("plain",)), Row("b"), Row("c", ("plain", "smooth")), Row("d", model="mini-oil")]
    assert study.measure_all(rows) == {"a": ["plain"], "b": [None], "c": ["plain", "smooth"], "d": [None]}
    assert loaded == [("mini", "plain"), ("mini", None), ("mini", "smooth"), ("mini-oil", None)]
    fields = study.row_fields(rows[2])
    assert fields["adapters"] == ["plain", "smooth"] and fields["weights"] == ["wplain", "wsmooth"] and fields["method"] == "name"
    assert study.row_fields(rows[3])["model"] == "mini-oil"


REUSE = dict(
    checkpoints=["mini", "mini-oil"],
    adapter="smooth",
    captions=["a red car", "a dog"],
    classes=None,
    num_prompts=2,
    num_inference_steps=2,
    guidance_scale=None,
    frames=3,
    batch_size=6,
    num_shown=1,
    seed=0,
    device="cpu",
)


def test_one_adapter_on_several_models(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    study = ReuseStudy(config.configuration(REUSE, **PARAMETERS))
    measured = study.measure(study.rows)
    record = study.record("fig08_reuse", measured)
    assert list(record["rows"]) == ["mini", "mini + smooth", "mini-oil", "mini-oil + smooth"]
    assert list(record["provenance"]["models"]) == list(record["rows"]) and record["model"] == "mini, mini-oil, 64 x 64"
    fields = record["row_fields"]["mini-oil + smooth"]
    assert fields["model"] == "mini-oil" and fields["adapters"] == ["smooth"] and fields["guidance_scale"] == 3.0
    assert {(test["a"], test["b"]) for test in record["comparisons"]} == {("mini + smooth", "mini"), ("mini-oil + smooth", "mini-oil")}


def test_two_commits_of_one_model_are_two_rows():
    first, second = (f"owner/model@{digit * 40}" for digit in "ab")
    assert checkpoint_titles([first, second, "mini"]) == {first: first, second: second, "mini": "mini"}
    assert checkpoint_titles([first, "mini"]) == {first: "owner/model", "mini": "mini"}


@pytest.mark.parametrize("changes", [{"adapter": "smoth"}, {"checkpoints": ["mini", "nope"]}, {"checkpoints": ["mini", "nope/nowhere"]}])
def test_what_is_not_there_is_named_before_any_walk(changes):
    """A hub id without its commit, too, behind a checkpoint that loads."""
    with pytest.raises(config.ConfigurationError, match=r"smoth|nope"):
        ReuseStudy(config.configuration(REUSE | changes, **PARAMETERS))
