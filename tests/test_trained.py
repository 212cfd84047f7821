"""Rows are found by what their adapters are: the settings in the cards, not the names of the folders."""

import json
import shutil
from types import SimpleNamespace

import pytest

from companion.base import paths
from companion.base.config import ConfigurationError
from companion.studies.reconstruction.reconstruct import table2_methods
from companion.studies.rows import Row, adapter_titles
from companion.studies.smoothness.found import Found
from companion.studies.smoothness.measure import seeds_of
from companion.studies.trained import default_adapters, paper_rows, recipe_names, recipes_for, same_model, title_of, trained

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def adapter(folder, pipeline=SD15, seed=0, **options):
    """The folder of an adapter with nothing but a card."""
    own = {"pipeline": pipeline, "trainable": "lora", "rank": 8, "caption_dropout": 0.0, "regularization": 1.0} | options
    settings = {"name": folder.name, "steps": 7, "batch_size": 96, "seed": seed, "final_learning_rate": 1.0, "objective_options": own}
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(json.dumps({"training": {folder.name: {"settings": settings}}}), encoding="utf-8")
    return str(folder)


def test_the_shipped_adapters_are_found_as_by_their_names():
    recipes = recipes_for("mini").recipes
    assert {name: trained(name, "mini") for name in recipes} == {name: seeds_of(name) for name in recipes}
    assert sum(len(seeds_of(name)) for name in recipes) == len(list(paths.ADAPTERS.glob("*/card.json")))
    assert default_adapters("mini") == ("smooth",) and default_adapters(SD15) == ()
    assert default_adapters("mini", ["plain"]) == ("plain",) and default_adapters("mini", []) == ()


def test_a_folders_name_says_nothing(tmp_path):
    asked = [
        adapter(tmp_path / "from-tuesday"),
        adapter(tmp_path / "plain", regularization=10),
        adapter(tmp_path / "smooth", regularization=0),
        adapter(tmp_path / "r4", rank=4),
        adapter(tmp_path / "again", seed=3),
        adapter(tmp_path / "lazy", regularize_every=4),
    ]
    found = {name: trained(name, SD15, asked) for name in ("smooth", "plain", "lambda-10x", "rank-4", "rank-16", "every-4th")}
    assert found == {
        "smooth": (asked[0], asked[4]),
        "plain": (asked[2],),
        "lambda-10x": (asked[1],),
        "rank-4": (asked[3],),
        "rank-16": (),
        "every-4th": (asked[5],),
    }
    assert [title_of(one) for one in (asked[0], asked[4], asked[3])] == ["Smooth", "Smooth-seed3", "Rank-4"]


def test_a_card_from_elsewhere_may_name_its_recipe(tmp_path):
    released = adapter(tmp_path / "released")
    (tmp_path / "released" / "card.json").write_text('{"recipe": "smooth"}', encoding="utf-8")
    assert trained("smooth", SD15, [released]) == (released,) and trained("rank-4", SD15, [released]) == ()
    (tmp_path / "released" / "card.json").write_text('{"recipe": "other"}', encoding="utf-8")
    assert recipe_names(released, SD15) == []


def test_two_trainings_of_one_recipe_and_seed_are_told_apart_by_the_reader(tmp_path):
    asked = [adapter(tmp_path / name) for name in ("a", "b")]
    with pytest.raises(ConfigurationError, match=r"Parameter adapters must name one of .*a' and .*b': both were trained by the recipe"):
        trained("smooth", SD15, asked)
    assert set(adapter_titles(asked).values()) == {"Base", "A", "B"}  # both would be Smooth


def test_only_adapters_of_the_model_are_taken_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ADAPTERS", tmp_path)
    (tmp_path / "x").mkdir()
    for name, pipeline in (("theirs", "other/model"), ("ours", f"{SD15}@{'0' * 40}")):
        adapter(tmp_path / name, pipeline)
        (tmp_path / name / "w.safetensors").write_bytes(b"")
    assert trained("smooth", SD15) == ("ours",) and default_adapters(SD15) == ("ours",)


def test_models_are_one_by_name_or_folder(tmp_path):
    (tmp_path / "sd").mkdir()
    assert same_model(str(tmp_path / "sd"), f"{tmp_path / 'sd'}/") and same_model("a/b@1", "a/b") and not same_model("a/b", "a/c")


def test_rows_without_adapters_go_and_trainings_are_shown_once(tmp_path):
    smooth, other = adapter(tmp_path / "one"), str(tmp_path / "unknown")
    shutil.copytree(tmp_path / "one", other)
    (tmp_path / "unknown" / "card.json").write_text("{}", encoding="utf-8")
    study = Found()
    study.cfg = SimpleNamespace(model=SD15, adapters=(smooth, other), training_seeds=1)
    rows = [Row("Base"), *(Row(name, study.trained(name)) for name in ("smooth", "steps-300", "rank-4"))]
    assert [(row.label, row.adapters) for row in study.there(rows)] == [("Base", (None,)), ("smooth", (smooth,)), ("unknown", (other,))]
    assert study.steps("smooth") == "30,000" and study.steps("steps-1000") == ""


def test_table_2_answers_to_the_papers_rows_whatever_the_folder_is_called(tmp_path):
    smooth, plain = adapter(tmp_path / "sd15-smooth"), adapter(tmp_path / "other", regularization=0)
    rows = paper_rows(table2_methods(7.5, [plain, smooth]), SD15)
    told = {row.label: row.paper_row for row in rows if row.adapters != (None,)}
    assert {label: row for label, row in told.items() if row} == {
        "Smooth + DDIM, guidance 1": "Smooth Diff. + DDIM",
        "Smooth + DDIM, guidance 7.5": "Smooth Diff. + DDIM",
        "Smooth + NTI, guidance 7.5": "Smooth Diff. + NTI",
    }
    assert len(told) == 6 and recipe_names(plain, SD15)[0] == "plain"
    shipped = table2_methods(3.0, ["smooth", "smooth-seed1"])
    assert paper_rows(shipped, "mini") == shipped
