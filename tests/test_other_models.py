"""Records of other models lie beside the embedded one's, name no place of a machine, and are never compared with another model's."""

import json

import pytest
from sample_records import make

from companion.base.config import config_hash
from companion.evidence import models
from companion.evidence.claims import evaluate
from companion.evidence.published import is_place, own_names
from companion.evidence.records import comparison_table, load_record, save_record
from companion.evidence.stored_records import model_folders


def test_places_become_names_everywhere_and_the_record_holds(tmp_path):
    place, other = "/data/jane/models/sd15/", r"C:\jane\sd15-smooth"
    fields = {label: {"model": place, "adapters": [other]} for label in ("VAE", f"Base + {other}")}
    values = {"mse": [0.1, 0.2, 0.3]}
    changes = dict(rows={label: values for label in fields}, row_fields=fields, items=["a", "b", "c"], pairs=[tuple(fields)])
    record = make(model=f"{place}, 512 x 512", config={"model": place, "adapters": [other], "dataset": "../coco"}, **changes)
    text = json.dumps(record)
    assert "jane" not in text and "../coco" not in text
    assert list(record["rows"]) == ["VAE", "Base + sd15-smooth"] and record["model"] == "sd15, 512 x 512"
    assert record["row_fields"]["VAE"] == {"model": "sd15", "adapters": ["sd15-smooth"]}
    assert record["provenance"]["config_hash"] == config_hash(record["provenance"]["config"])
    assert load_record(save_record(record, tmp_path / "table2_recon.json"))["model"] == "sd15, 512 x 512"


@pytest.mark.parametrize("text", ["mini", "stable-diffusion-v1-5/stable-diffusion-v1-5", "scenes", "sd15-smooth", "a cat / a dog"])
def test_names_are_no_places(text):
    assert not is_place(text)


def test_places_of_one_name_stay_apart():
    assert own_names(["/a/one/sd15", "/b/two/sd15/"]) == {"/a/one/sd15": "one/sd15", "/b/two/sd15/": "two/sd15"}


def test_a_run_stands_beside_the_record_of_its_own_model(monkeypatch, tmp_path):
    from companion.evidence import records, stored_records

    embedded, own = make(model="mini, 64 x 64"), make(model="sd15, 512 x 512")
    save_record(embedded, tmp_path / "table2_recon.json")
    monkeypatch.setattr(records, "of_same_model", lambda run: stored_records.of_same_model(run, tmp_path))
    table = comparison_table("table2", this_run=make(model="sd15, 512 x 512", config={"num_images": 3}), recorded=embedded)
    assert table.recorded is None and table.this_run is not None
    save_record(own, tmp_path / "sd15" / "table2_recon.json")
    table = comparison_table("table2", this_run=make(model="sd15, 512 x 512", config={"num_images": 3}), recorded=embedded)
    assert table.recorded["model"] == "sd15, 512 x 512"


def test_what_is_not_measured_on_a_model_is_said_once(tmp_path):
    verdicts = evaluate()
    assert set(model_folders(tmp_path)) == {"Stable Diffusion 1.5"}
    said = models.beside(verdicts, models.verdicts_of_others(tmp_path))
    count = sum(bool(one.evidence) for one in verdicts)
    assert said == f"None of the {count} claims that are measured here has been measured on Stable Diffusion 1.5 yet."


def test_each_claim_has_a_verdict_on_each_model_that_it_was_measured_on(tmp_path):
    verdicts = evaluate()
    record = load_record(models.paths.RESULTS / "table2_recon.json") | {"model": "sd15, 512 x 512"}
    save_record(record, tmp_path / "sd15" / "table2_recon.json")
    said = models.beside(verdicts, models.verdicts_of_others(tmp_path))
    lines = [line for line in said.splitlines() if line.startswith("| ")]
    measured = [one for one in verdicts if one.evidence and one.claim.records == ["table2_recon"]]
    assert "Embedded model | Stable Diffusion 1.5" in lines[0]
    for one in measured:
        (line,) = [line for line in lines if line.startswith(f"| {one.claim.claim} |")]
        assert line.count(one.outcome) >= 2
    assert f"The other {sum(bool(one.evidence) for one in verdicts) - len(lines) + 2} claims have not been measured" in said
