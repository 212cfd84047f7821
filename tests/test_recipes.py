"""What a row is, in words, from the adapter's card and the record's settings."""

import json

import pytest
from sample_statements import record

from companion.base import paths
from companion.evidence import recipes

OPTIONS = {"pipeline": "mini", "rank": 8, "regularization": 1.0}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "LoRA of rank 8 on the attention, L_reg with lambda 1, 1,000 steps of 16 images"),
        (
            {"rank": 2, "lora_layers": "all", "regularize_every": 4},
            "LoRA of rank 2 on all layers, L_reg with lambda 1 every 4th step,",
        ),
        ({"regularization": 0}, "LoRA of rank 8 on the attention, no L_reg, 1,000 steps"),
        ({"trainable": "unet"}, "all weights, L_reg with lambda 1, 1,000 steps"),
        ({"regularized_share": 0.25, "regularization": 0.3}, "L_reg with lambda 0.3 on 25% of the batch"),
        ({"regularized_guidance": 3}, "L_reg with lambda 1 at guidance 3"),
        ({"regularizer": {"weighting": "none"}}, "L_reg with lambda 1 weighted by 'none'"),
    ],
)
def test_a_training_in_words(options, text):
    assert text in recipes.describe_training({"steps": 1000, "batch_size": 16, "objective_options": OPTIONS | options})


def test_the_card_says_it(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ADAPTERS", tmp_path)
    (tmp_path / "smooth").mkdir()
    settings = {"steps": 300, "batch_size": 16, "objective_options": OPTIONS}
    (tmp_path / "smooth" / "card.json").write_text(json.dumps({"training": {"smooth": {"settings": settings}}}))
    assert recipes.describe_adapter("smooth") == recipes.describe_training(settings)
    assert recipes.describe_adapter("unknown") == ""


def test_a_record_names_its_adapters_or_its_notebook_does():
    made = record({"Base": {"istd": 1.0}, "Smooth": {"istd": 1.0}})
    assert recipes.row_adapters(made) == {"Plain LoRA": "plain", "Smooth": "smooth"}  # notebooks/table1_istd.ipynb
    made["facts"] = {"adapters": {"Base": [None], "Smooth": ["rank-4", "rank-4-seed1"]}}
    assert recipes.row_adapters(made) == {"Smooth": "rank-4"}
    labels = ("Base + DDIM, guidance 1", "Smooth + DDIM, guidance 1", "Smooth walk", "mini-oil + smooth")
    made = record({label: {"istd": 1.0} for label in labels}, name="table2_recon")
    made["provenance"]["models"] = {"base": "0", "smooth": "1"}
    assert recipes.row_adapters(made) == dict.fromkeys(labels[1:], "smooth")


def test_settings_are_those_of_the_rows():
    made = record({"Smooth + NTI, guidance 3": {"istd": 1.0}, "Base": {"istd": 1.0}})
    made["provenance"]["config"] = {"num_inference_steps": 50, "guidance_scale": 3.0, "num_inner_steps": 1, "null_text_lr": 0.1}
    assert recipes.describe_settings(made, ["Base"]) == "50 sampling steps, guidance 3"
    assert recipes.describe_settings(made, ["Smooth + NTI, guidance 3"]) == (
        "50 sampling steps, null-text inversion with 1 Adam step of 0.1 per sampling step"
    )
    made["provenance"]["config"]["guidance_scale"] = None  # the model's own, from its card
    card = json.loads((paths.MODELS / "mini" / "card.json").read_text(encoding="utf-8"))
    assert f"guidance {card['guidance_scale']:g}" in recipes.describe_settings(made, ["Base"])
