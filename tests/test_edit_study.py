"""The benchmark of edits: which pairs, which rows, what is stored and shared, and what the claims find in its record."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from companion.base import config, paths
from companion.evidence.claims import load_claims
from companion.evidence.statements import find_row
from companion.runs import runs
from companion.studies.editing import answers, compare, report, run
from companion.studies.editing.methods import PLANS, Entry, Recipe
from companion.studies.editing.scores import METRICS
from companion.studies.editing.selection import Choice
from companion.studies.editing.study import PARAMETERS, SOURCE, TRUTH, EditingStudy, column, ends

ADAPTERS = ["smooth", "smooth-seed1", "smooth-seed2", "plain", "plain-seed1", "plain-seed2"]
SMALL = {
    "model": "mini",
    "adapters": ["smooth"],
    "methods": ["prompt_switch", "sdedit"],
    "inversions": ["null_text"],
    "repeated": ["prompt_switch"],
    "strengths": "few",
    "num_pairs": 4,
    "num_choosing": None,
    "num_inference_steps": 2,
    "num_costly_steps": 2,
    "guidance_scale": None,
    "num_inner_steps": 1,
    "null_text_lr": 0.1,
    "batch_size": 6,
    "seed": 0,
    "device": "cpu",
}
ALL = dict(methods=list(PLANS), inversions=["null_text", "ddim", "direct", "fixed_point"], adapters=ADAPTERS, strengths="all")
ALL |= dict(repeated=["prompt_switch", "prompt_to_prompt"])


def study_of(**changes):
    return EditingStudy(config.configuration(SMALL | changes, **PARAMETERS))


def some(strength):
    return Choice(strength, (strength,), (0.1,), (0.9,), 0.5)


def test_even_ids_choose_odd_ids_are_reported_and_more_pairs_keep_the_fewer():
    few, more = study_of(), study_of(num_pairs=20)
    assert {int(pair.id[-3:]) % 2 for pair in few.chosen_on} == {0} and {int(pair.id[-3:]) % 2 for pair in few.reported} == {1}
    for half in ("chosen_on", "reported"):
        ids, larger = ([pair.id for pair in getattr(one, half)] for one in (few, more))
        assert set(ids) < set(larger) and len(ids) == 12 and len(larger) == 60
    assert len(study_of(num_pairs=66).reported) == 198
    fewer = study_of(num_pairs=20, num_choosing=2)
    assert [pair.id for pair in fewer.chosen_on] == [pair.id for pair in few.chosen_on] and len(fewer.reported) == 60


def test_published_settings_lie_on_every_curve():
    """At s = 0.8 (the strength that SDEdit, CycleDiffusion and EDICT publish) Prompt-to-Prompt and Plug-and-Play have theirs, too."""
    recipe = Recipe(7.5, 50, 50)
    p2p, pnp = (recipe.edit(Entry(name, kind), 0.8).settings for name, kind in (("prompt_to_prompt", "ddim"), ("plug_and_play", "own")))
    assert (p2p.cross_replace, p2p.self_replace) == (pnp.feature_injection, pnp.attention_injection) == (0.8, 0.5)
    published = {name: recipe.edit(Entry(name), 0.8).settings for name in ("sdedit", "cycle_diffusion", "edict")}
    assert all(settings == type(settings)() for settings in published.values())
    for name in ("pix2pix_zero", "disentangle"):
        assert (settings := recipe.edit(Entry(name), 1.0).settings) == type(settings)()
    for plan in PLANS.values():
        assert set(plan.few) <= set(plan.strengths) and set(plan.candidates or ()) <= set(plan.strengths)


def test_every_row_that_the_claims_name_is_made_and_found_by_its_fields():
    study = study_of(**ALL)
    choices = {entry: some((study.recipe.candidates(entry))[0]) for entry in study.entries}
    rows = study.rows(choices)
    study.weights = {("mini", adapter): "0" for adapter in [None, *ADAPTERS]}
    fields = {row.label: study.row_fields(row) for row in rows}
    made = {"row_fields": fields, "rows": {row.label: {"paper_row": None} for row in rows}}
    tests = [test for claim in load_claims() for test in claim.tests if test.record == "beyond_edit_benchmark"]
    assert len(tests) > 20 and not [row for test in tests for row in test.rows if find_row(made, row) is None]
    assert {test.metric for test in tests} <= set(METRICS) and {test.part for test in tests} == {"local", "global"}
    assert find_row(made, "Smooth switch") == "Smooth: prompt switch, null-text" and find_row(made, "Untouched source") == SOURCE


def test_trainings_are_repeated_where_they_are_asked_for_and_controls_have_a_curve():
    study = study_of(**ALL)
    assert study.models_of(Entry("prompt_switch", "null_text")) == [None, *ADAPTERS]
    assert study.models_of(Entry("prompt_switch", "ddim")) == study.models_of(Entry("sdedit")) == [None, "smooth", "plain"]
    assert study.models_of(Entry("edict")) == [None, "smooth"]
    assert study.models_of(Entry("disentangle")) == [None]
    assert study.curve_models(Entry("prompt_to_prompt", "null_text")) == [None, "smooth", "smooth-seed1", "smooth-seed2", "plain"]
    assert study.curve_models(Entry("sdedit")) == [None, "smooth"]
    assert study.groups == {"Smooth": ADAPTERS[:3], "Plain": ADAPTERS[3:]}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"repeated": ["edict"]}, "Parameter repeated has 'edict', but must be of methods: prompt_switch, sdedit"),
        ({"methods": ["p2p"]}, "Parameter methods is"),
        ({"num_inference_steps": 2, "methods": ["cycle_diffusion"], "repeated": [], "strengths": "few"}, None),
        ({"adapters": ["nobody"]}, "nobody"),
    ],
)
def test_what_does_not_fit_is_said_before_any_edit(changes, sentence):
    if sentence is None:
        assert study_of(**changes).entries == [Entry("cycle_diffusion")]
        return
    with pytest.raises(config.ConfigurationError, match=sentence):
        study_of(**changes)


class Judges:
    """Judges that look at nothing but the picture's mean."""

    conventions, weights, attributes = {}, {}, None

    def __call__(self, images, pairs):
        return [{"lpips": float(image.mean()), "followed": float(i % 2)} for i, image in enumerate(images)]


@pytest.fixture
def editing(monkeypatch, tmp_path):
    """A study whose judges are cheap and whose results lie apart; `inverted` counts the pictures that were inverted."""
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    counts = SimpleNamespace(inverted=0, stop=None)
    invert, store = run.invert, runs.store_result

    def counting(pipe, images, *arguments, **named):
        counts.inverted += len(images)
        return invert(pipe, images, *arguments, **named)

    def stopping(*arguments):
        if counts.stop is not None:
            counts.stop -= 1
            if counts.stop < 0:
                raise KeyboardInterrupt
        store(*arguments)

    monkeypatch.setattr(run, "invert", counting)
    monkeypatch.setattr(runs, "store_result", stopping)
    return counts


def measured(study, pairs, strengths=(0.6, 1.0)):
    study.judges = Judges()
    rows = [*ends(), *(study.row(study.entries[0], None, s) for s in strengths)]
    return study.measure(rows, pairs)


def test_an_inversion_is_shared_a_kill_resumes_and_the_batch_leaves_no_trace(editing):
    study = study_of()
    pairs = study.reported[:4]
    editing.stop = 3 * 4 + 4 + 2  # the ends, the first ratio, half of the second
    with pytest.raises(KeyboardInterrupt):
        measured(study, pairs)
    assert editing.inverted == 4  # one inversion for both ratios
    editing.stop = None
    found = measured(study_of(batch_size=2), pairs)
    assert editing.inverted == 4 + 2  # the one batch that lacked results, not those that were stored
    again = measured(study_of(batch_size=4), pairs)
    assert editing.inverted == 6 and all(
        np.array_equal(a["image"], b["image"]) for label in found for a, b in zip(found[label], again[label], strict=True)
    )
    source = torch.from_numpy(np.stack([one["image"] for one in found[SOURCE]])).float() / 127.5 - 1
    assert torch.allclose(source, torch.stack([pair.source for pair in pairs]), atol=1 / 127)
    first, second = (found[study.row(study.entries[0], None, s).label] for s in (0.6, 1.0))
    assert first[0]["evaluations"] == second[0]["evaluations"] > 4 and not np.array_equal(first[0]["image"], second[0]["image"])


def test_the_code_of_an_edit_is_that_of_its_method_and_of_no_other():
    recipe = Recipe(3.0, 2, 2)
    modules = {name: runs.code_of(run.Editing(None, recipe.edit(Entry(name), 0.5), None)) for name in ("sdedit", "cycle_diffusion")}
    for name, other in (("sdedit", "cycle_diffusion"), ("cycle_diffusion", "sdedit")):
        assert f"smoothlib.editing.{name}" in modules[name] and f"smoothlib.editing.{other}" not in modules[name]
        assert "companion.studies.editing.scores" in modules[name] and "smoothlib.metrics.edits" in modules[name]


def test_noise_is_a_pairs_own():
    assert run.noise_seed(0, "add-001") == run.noise_seed(0, "add-001")
    assert len({run.noise_seed(seed, pair) for seed in (0, 1) for pair in ("add-001", "add-003")}) == 4


def test_the_answer_says_what_intervals_show_and_no_more():
    ends_ = ("less often", "more often")
    assert answers._listed("Smooth does", {"A": 1, "B": 1, "C": -1, "D": 0}, ends_) == (
        "Smooth does more often with A and B, less often with C; no difference is shown with D."
    )
    assert answers._listed("Smooth does", {"D": 0}, ends_) == (
        "Smooth does neither more often nor less often by what can be shown: no difference is shown with D."
    )
    assert answers._listed("Smooth does", {"D": None}, ends_) == ""


def fake(study, rows, shift):
    """Results of every row and reported pair: LPIPS near .2, lower by `shift` with Smooth."""
    rng = np.random.default_rng(0)
    found = {}
    for row in rows:
        moved = shift if (row.adapter or "").startswith("smooth") else 0.0
        found[row.label] = []
        for pair in study.reported:
            result = runs.Result(
                {"lpips": 0.2 + 0.01 * rng.random() - moved, "followed": float(rng.random() < 0.8), "evaluations": 6.0, "seconds": 0.1}
            )
            result |= {"lpips_outside": 0.1 + 0.01 * rng.random() - moved} if pair.has_outside else {}
            result.origin = None
            found[row.label].append(result)
    return found


def test_rows_are_compared_over_pairs_and_trainings_and_parts_hold_their_kinds(monkeypatch):
    study = study_of(adapters=ADAPTERS[:3], num_pairs=20)
    choices = {entry: some(0.8) for entry in study.entries}
    rows = study.rows(choices)
    curve_rows = [row for models in study.curve_rows().values() for made in models.values() for row in made]
    found = fake(study, [*rows, *curve_rows], shift=0.05)
    values = report.values(study, found, rows)
    parts, of = report.parts_of(study, found)
    assert (
        len(parts["local"]) == 40
        and len(parts["global"]) == 20
        and len(parts["add"]) == 10
        and parts["outside"] == parts["local"]
        and of["lpips_outside"] == "outside"
    )
    assert len(values[TRUTH]["lpips"]) == 60 and len(values[TRUTH]["lpips_outside"]) == 40
    study.weights = {("mini", adapter): "0" for adapter in [None, *ADAPTERS]}
    from companion.evidence import records

    arguments = dict(row_fields={row.label: study.row_fields(row) for row in rows}, parts=parts)
    arguments |= dict(metric_parts={metric: part for metric, part in of.items() if metric == "lpips_outside"}, columns=METRICS)
    items = [pair.id for pair in study.reported]
    made = records.make_record("edits", table=None, model="mini", items=items, rows=values, provenance={"modules": {}}, **arguments)
    tests = [test for test in answers.model_tests(study) if test[2] in ("lpips", "lpips_outside")]
    compared = compare.compare(made, tests)
    assert [one.shown for one in compared] == [-1] * len(tests) and {one.n for one in compared} == {60, 40}
    switch = compared[0]
    assert switch.together is not None and switch.difference == pytest.approx(-0.05, abs=0.002)  # three trainings of Smooth
    assert list(compare.comparison_frame(compared, METRICS)["At 5 %"]) == ["first better"] * len(tests)
    curves = report.curves(study, found)
    assert {entry.title: list(models) for entry, models in curves.items()}["SDEdit"] == [None, "smooth"]
    assert column(found[SOURCE], "attribute").shape == (60,) and np.isnan(column(found[SOURCE], "attribute")).all()


def test_null_text_inversion_as_published_is_a_row_of_the_base_model_and_of_smooth():
    study = study_of(adapters=["smooth", "plain"])
    choices = {entry: some(study.recipe.candidates(entry)[0]) for entry in study.entries}
    rows = study.published_rows(choices)
    assert [row.label for row in rows] == [f"{name}: prompt switch, null-text as published" for name in ("Base", "Smooth")]
    found = rows[0].settings.inversion
    assert (found.kind, found.num_inner_steps, found.lr) == ("null_text", 10, 0.01)
    assert rows[0].settings.settings == study.rows(choices)[3].settings.settings
    assert study_of(inversions=["ddim"]).published_rows({}) == []
