"""Verdicts go by what the rows of a record are, and not by what they are called."""

import numpy as np
import pytest
from sample_statements import image_values, one, paired, record

from companion.base.config import plain
from companion.evidence import recipes
from companion.evidence.chance import is_trained, training_means
from companion.evidence.claims import Claim, load_claims, verdict
from companion.evidence.fields import by_training, claim_rows, recipe, repeated_rows
from companion.evidence.statements import find_row
from companion.evidence.weighing import NOT_MEASURED, NOT_REPRODUCED, REPRODUCED
from companion.studies.base import training_fields
from companion.studies.interpolation.walks import figure3_methods
from companion.studies.reconstruction.reconstruct import table2_methods

SMOOTH = ["smooth", "smooth-seed1", "smooth-seed2"]


def fields(*adapters, **settings):
    shared = {"model": "mini", "adapters": list(adapters), "weights": list(adapters or ["base"]), "method": "walk", "guidance_scale": 3.0}
    return shared | training_fields(list(adapters)) | settings


def with_fields(rows, **more):
    """rows: label -> (ISTD, fields)."""
    made = record({label: {"istd": mean} for label, (mean, _) in rows.items()}, **more)
    return made | {"row_fields": {label: own for label, (_, own) in rows.items()}}


def of_methods(rows):
    own = {row.label: plain(row.settings) for row in rows}
    known = {row.label: fields(*filter(None, row.adapters)) | {"method": own[row.label].pop("kind")} | own[row.label] for row in rows}
    return {"rows": {row.label: {"paper_row": row.paper_row} for row in rows}, "row_fields": known}


def test_every_row_of_a_claim_has_fields_and_the_other_way_round():
    assert {row for claim in load_claims() for test in claim.tests for row in test.rows} == set(claim_rows())


def test_a_swapped_label_does_not_swap_the_verdict():
    made = with_fields({"Smooth": (2.0, fields()), "Base": (1.0, fields("smooth"))})
    found = one(paired("Smooth", "Base"), made)
    assert found.outcome == REPRODUCED and found.rows == ("Base", "Smooth") and found.trainings.once == ("Base",)
    assert is_trained(made, "Base") and not is_trained(made, "Smooth")
    assert recipes.row_adapters(made) == {"Base": "smooth"}
    del made["row_fields"]  # as in a record from before there were fields
    assert one(paired("Smooth", "Base"), made).outcome == NOT_REPRODUCED


def test_rows_are_found_under_any_label():
    made = with_fields({"smooth": (2.0, fields("plain")), "Smooth": (3.0, fields()), "ours, renamed": (1.0, fields("smooth"))})
    assert [find_row(made, name) for name in ("Base", "Plain LoRA", "Smooth")] == ["Smooth", "smooth", "ours, renamed"]
    assert find_row(made, "full") is None and one(paired("full", "Base"), made).outcome == NOT_MEASURED
    with pytest.raises(ValueError, match=r"rows has 'ours, renamed', but must have names of claim_rows\.yaml: Base, "):
        find_row(made, "ours, renamed")


def test_recipes_tell_rows_of_one_kind_apart():
    table3 = {"Base": (3.0, fields("lambda-0.1x")), "lambda 10x": (2.0, fields(*SMOOTH)), "lambda 1x": (1.0, fields("lambda-10x"))}
    found = [find_row(with_fields(table3), f"lambda {name}x") for name in ("0.1", "1", "10")]
    assert found == ["Base", "lambda 10x", "lambda 1x"]
    table4 = {"a": (1.0, fields("steps-300")), "b": (1.0, fields("rank-16")), "c": (1.0, fields("full")), "d": (1.0, fields("rank-4"))}
    assert [find_row(with_fields(table4), name) for name in ("rank 4", "rank 8", "rank 16", "full")] == ["d", "a", "b", "c"]


def test_a_card_of_another_training_does_not_speak_for_the_row():
    assert recipe(fields("rank-4"))["rank"] == 4
    assert recipe(fields("rank-4") | {"training": "another"}) == recipe(fields()) == {}


def test_of_two_recipes_of_one_kind_the_papers_row_is_meant():
    made = with_fields({"Smooth": (2.0, fields("gentle")), "x": (1.0, fields("smooth"))})
    assert find_row(made, "Smooth") is None
    made["rows"]["x"]["paper_row"] = "Smooth Diffusion"
    assert find_row(made, "Smooth") == "x"


def test_the_claims_rows_are_those_that_the_studies_make():
    names = [name for name in claim_rows() if "guidance" in name]
    found = [find_row(of_methods(table2_methods(4.0, [*SMOOTH, "plain"])), name) for name in names]
    assert len(names) == 6 and found == [name.replace("guidance w", "guidance 4") for name in names]
    made = of_methods(figure3_methods(SMOOTH))
    assert find_row(made, "Smooth walk | Smooth") == "Smooth walk" and find_row(made, "VAE interpolation") == "VAE interpolation"
    assert find_row(made, "Base walk | Stable Diffusion Walk") == "Base walk"


def test_one_adapter_on_several_models_is_found_by_the_model():
    rows = {
        model + tail: (1.0, fields(*adapters, model=model))
        for model in ("mini", "mini-oil")
        for tail, adapters in (("", ()), ("+", ["smooth"]))
    }
    assert [find_row(with_fields(rows), name) for name in ("mini-oil", "mini-oil + smooth")] == ["mini-oil", "mini-oil+"]


def test_rows_of_one_recipe_are_trainings_of_one_row():
    """The first row becomes the mean over the trainings, so that its training's chance is that of a mean of three."""
    rows = {
        "c": (1.4, fields("smooth-seed2")),
        "a": (1.0, fields("smooth")),
        "b": (1.2, fields("smooth-seed1")),
        "Smooth-seed1": (9.0, fields()),
    }
    made = with_fields(rows, pairs=[("a", "Smooth-seed1"), ("b", "c")])
    assert repeated_rows(made) == {"a": ["a", "b", "c"]} and training_means(made, "istd") == {"a": pytest.approx([1.0, 1.2, 1.4])}
    merged = by_training(made)
    assert set(merged["rows"]) == {"a", "Smooth-seed1"} and merged["comparisons"] == [] and by_training(merged) is merged
    own = [made["rows"][label]["metrics"]["istd"]["values"] for label in "abc"]
    np.testing.assert_allclose(merged["rows"]["a"]["metrics"]["istd"]["values"], np.mean(own, axis=0))
    assert merged["row_fields"]["a"]["adapters"] == SMOOTH
    found = one(paired("Smooth", "Base"), made)
    assert found.means == pytest.approx((1.2, 9.0)) and found.trainings.counts == (3, 0) and not found.trainings.once
    assert found.trainings.part.variance == pytest.approx(0.04 / 3) and found.outcome == REPRODUCED


def test_a_number_of_a_whole_set_is_averaged_over_the_trainings_too():
    totals = {
        label: {"frechet_distance": image_values(mean, 1.0, seed)} for seed, (label, mean) in enumerate({"a": 5, "b": 6, "z": 9}.items())
    }
    made = with_fields({"a": (1.0, fields("smooth")), "b": (1.0, fields("smooth-seed1")), "z": (1.0, fields())}, totals=totals)
    found = one(paired("Smooth", "Base", kind="total", metric="frechet_distance"), made)
    assert found.means == pytest.approx((5.5, 9.0)) and found.sampled.n == 400 and found.trainings.counts == (2, 0)


def test_one_training_is_said_of_what_was_trained_once_and_not_of_what_was_repeated():
    claim = Claim("a", "4", "", "A.", tests=(paired("Smooth", "Base"),))
    once = {"Smooth": (1.0, fields("smooth")), "Base": (9.0, fields())}
    for rows, tail in ((once, ", one training"), (once | {"Base-seed1": (1.1, fields("smooth-seed1"))}, "")):
        made = with_fields(rows)
        assert verdict(claim, {"table1_istd": made}.get).text == f"reproduced on the embedded model{tail}"


def test_settings_are_those_of_the_fields():
    made = with_fields(
        {"Base": (1.0, fields(method="nti", guidance_scale=7.5)), "x NTI, guidance 3": (1.0, fields(method="ddim", guidance_scale=1.0))}
    )
    made["provenance"]["config"] = {"guidance_scale": 3.0, "num_inner_steps": 1}
    assert recipes.describe_settings(made, ["Base"]) == "guidance 7.5, null-text inversion with 1 Adam step per sampling step"
    assert recipes.describe_settings(made, ["x NTI, guidance 3"]) == "guidance 1"
