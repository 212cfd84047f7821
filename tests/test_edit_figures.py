"""Figures 5 and 10: which pairs, which settings, and the same page for a folder of pictures as for the scenes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from companion.base import config, paths
from companion.data.edits import load_edits
from companion.evidence import records as results
from companion.studies.editing import figure
from companion.studies.editing.curve import Curve
from companion.studies.editing.figure import PARAMETERS, FigureStudy, figure_pairs
from companion.studies.editing.methods import Entry
from companion.studies.editing.pictures import curve_figure, sheet, sliders

SMALL = {
    "model": "mini",
    "adapter": None,
    "dataset": "scenes",
    "kinds": ["replace", "style"],
    "num_each": 1,
    "skip": 0,
    "methods": ["sdedit"],
    "inversion": "ddim",
    "ratio": None,
    "num_inference_steps": 2,
    "num_costly_steps": 2,
    "guidance_scale": None,
    "num_inner_steps": 1,
    "null_text_lr": 0.1,
    "judge": "packaged",
    "batch_size": 4,
    "seed": 0,
    "device": "cpu",
}


def study_of(**changes):
    return FigureStudy(config.configuration(SMALL | changes, **PARAMETERS))


class Judges:
    """Judges that find every picture equally good."""

    conventions, weights, attributes = {}, {}, None

    def __call__(self, images, pairs):
        return [{"lpips": 0.25} if pair.target is not None else {} for pair in pairs]


def test_the_pairs_are_of_the_reported_half_and_a_later_figure_shows_others():
    edits = load_edits()
    first, more = (figure_pairs(edits, ["add", "style"], 2, skip=skip, seed=0) for skip in (0, 2))
    assert [pair.kind for pair in first] == ["add"] * 2 + ["style"] * 2
    assert all(int(pair.id[-3:]) % 2 for pair in first + more) and not {pair.id for pair in first} & {pair.id for pair in more}
    with pytest.raises(ValueError, match="kinds has 'drag', but must be of the data set's kinds: replace, add"):
        figure_pairs(edits, ["drag"], 1)
    with pytest.raises(ValueError, match="num_each is 30 after 10 others, but add has 33 pairs"):
        figure_pairs(edits, ["add"], 30, skip=10)


def test_strengths_are_the_recorded_choice_and_the_published_ones_elsewhere(monkeypatch):
    switch = Entry("prompt_switch", "ddim")
    made = {"facts": {"choices": {switch.title: {"strength": 0.6}}}}
    monkeypatch.setattr(figure, "recorded", lambda name: made)
    study = study_of()
    assert [row.settings.settings.ratio for row in study.rows[:2]] == [0.6, 0.6]
    assert study.rows[-1].settings.settings.strength == 0.8  # SDEdit is not in the record
    assert study_of(ratio=1).rows[0].settings.settings.ratio == 1
    monkeypatch.setattr(figure, "recorded", lambda name: None)
    assert study_of().strength(switch) == 0.8


def folder_of_pictures(folder):
    """Two pictures with a prompts file, one of them not square."""
    folder.mkdir()
    lines = []
    for name, size, words in (("cake.png", (80, 64), ("cake", "hamburger")), ("sofa.png", (64, 64), ("red sofa", "blue sofa"))):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(folder / name)
        lines.append({"file_name": name, "source_prompt": f"a photo of a {words[0]}", "target_prompt": f"a photo of a {words[1]}"})
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def pie_bench(folder):
    """One picture in PIE-Bench's published layout: the upper half of it is to change."""
    (folder / "annotation_images" / "1_change").mkdir(parents=True)
    Image.fromarray(np.full((512, 512, 3), 90, np.uint8)).save(folder / "annotation_images" / "1_change" / "a.png")
    entry = {"image_path": "1_change/a.png", "original_prompt": "a photo of a [red] sofa", "editing_prompt": "a photo of a [blue] sofa"}
    entry |= {"editing_type_id": "6", "blended_word": "sofa sofa", "mask": [0, 512 * 256]}
    (folder / "mapping_file.json").write_text(json.dumps({"000000000000": entry}))
    return folder


@pytest.mark.parametrize(("make", "count"), [(folder_of_pictures, 2), (pie_bench, 1)])
def test_the_page_edits_a_folder_of_pictures(make, count, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    study = study_of(dataset=str(make(tmp_path / "pictures")), kinds=None, num_each=5)
    study.judges = Judges()
    measured = study.measure()
    assert list(measured) == ["Stable", "Smooth", "SDEdit"] and len(study.pairs) == count == len(study.asked())
    assert "a photo of a blue sofa" in study.asked()[-1]
    assert len(study.figure(measured).axes) == count * 4  # no true edit: source and three edits
    assert study.slider(measured).html.count("<section>") == 2 * count


def test_a_folder_without_pictures_is_one_sentence(tmp_path):
    with pytest.raises(config.ConfigurationError, match=r"must be .scenes., a folder with PIE-Bench.s mapping_file\.json"):
        study_of(dataset=str(tmp_path))


def shown(values):
    return [{"image": torch.zeros(3, 64, 64, dtype=torch.uint8), "lpips": value} for value in values]


def test_a_sheet_shows_best_median_and_worst_by_rank():
    pairs = figure_pairs(load_edits(), ["add"], 5)
    measured = {"Base": shown([0.5, 0.1, 0.3, 0.2, 0.4]), "Smooth": shown([0.0] * 5)}
    made = sheet(pairs, measured, ["Base", "Smooth"], rank_by="Base", num_each=1)
    texts = [text.get_text() for axes in made.axes for text in axes.texts]
    assert [text for text in texts if text in ("best", "median", "worst")] == ["best", "median", "worst"]
    assert [text for text in texts if text in ("0.10", "0.20", "0.30", "0.40", "0.50")] == ["0.10", "0.30", "0.50"]
    assert "true edit" in sliders(pairs, measured, ["Base"], [0]).html


def test_the_curve_figure_has_a_line_for_each_method_and_model():
    curve = Curve(np.array([[0.1, 0.2], [0.3, 0.4]]), np.array([[0.0, 1.0], [1.0, 1.0]]))
    made = curve_figure({Entry("sdedit"): {None: curve, "smooth": curve, "smooth-seed1": curve}}, {"Smooth": ["smooth", "smooth-seed1"]})
    lines = made.axes[0].lines
    assert [line.get_label() for line in lines] == ["Base: SDEdit", "Smooth: SDEdit"]
    assert all(np.allclose(line.get_xydata(), [[0.15, 0.5], [0.35, 1.0]]) for line in lines)


def test_the_record_named_is_the_benchmarks():
    assert results.recorded("beyond_edit_benchmark") is None or "choices" in results.recorded("beyond_edit_benchmark")["facts"]
