"""The study of drags on the shipped model: halves, choice, rows, record, pictures; an interrupted run ends as an unbroken one."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from companion.base import paths
from companion.base.config import ConfigurationError, configuration
from companion.data.drags import DragItem, load_drags
from companion.evidence import records as results
from companion.evidence.fields import row_of
from companion.studies.dragging import figure, run, study
from companion.studies.dragging.figures import choice_table, curve_figure, drag_figure, marked, motion_table
from companion.studies.dragging.scores import motion_groups
from companion.studies.dragging.selection import choose
from companion.studies.dragging.study import PARAMETERS, SOURCE, TRUTH, WITHOUT, DragStudy, values

SETTINGS = dict(
    model="mini",
    adapters=["smooth"],
    dataset="drags",
    num_drags=4,
    num_choosing=None,
    num_inference_steps=3,
    strengths=[0.5],
    lrs=[0.01],
    iterations=[2, 1],
    lora_steps=[1],
    lora_rank=2,
    reach=1.0,
    mask_weight=0.1,
    without=True,
    batch_size=2,
    seed=0,
    device="cpu",
)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The whole study once: itself, its choice, rows, results and record."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RUNS", tmp_path_factory.mktemp("runs"))
        made = DragStudy(configuration(SETTINGS, **PARAMETERS))
        choice = made.choose()
        rows = made.rows(choice)
        measured = made.measure(rows, made.reported)
        yield made, choice, rows, measured, made.record("beyond_drag_benchmark", measured, rows, choice)


def test_even_ids_choose_and_odd_ones_are_reported(done):
    made, choice, _, _, record = done
    even, odd = ([int(drag.id[-3:]) % 2 for drag in drags] for drags in (made.chosen_on, made.reported))
    assert even == [0, 0] and odd == [1, 1] and record["items"] == [drag.id for drag in made.reported]
    assert [method.settings.iterations for method in made.candidates] == [1, 2]
    assert len(choice.distance) == 2 and choice_table(record)["Chosen"].tolist().count("yes") == 1


def test_rows_become_a_record_that_claims_can_find(done):
    _, _, rows, measured, record = done
    assert [row.label for row in rows] == [SOURCE, TRUTH, "Base", "Smooth", WITHOUT]
    assert row_of(record, "Base drag") == "Base" and row_of(record, "Smooth drag") == "Smooth"
    fields = record["row_fields"]["Smooth"]
    assert (fields["kind"], fields["adapters"], fields["lora_steps"], fields["guidance_scale"]) == ("smooth", ["smooth"], 1, 1.0)
    assert record["row_fields"][WITHOUT]["own_lora"] is False
    pairs = {(test["a"], test["b"]) for test in record["comparisons"]}
    assert pairs == {("Smooth", "Base"), (WITHOUT, "Base"), ("Base", SOURCE), ("Smooth", SOURCE), (WITHOUT, SOURCE)}
    metrics = {label: row["metrics"] for label, row in record["rows"].items()}
    assert metrics[SOURCE]["lpips_outside"]["mean"] == 0 and metrics[SOURCE]["lpips"]["mean"] > metrics[TRUTH]["lpips"]["mean"] > 0
    assert set(metrics["Base"]) == set(record["columns"]) == set(record["conventions"])
    curve = record["facts"]["curves"]["Base"]
    assert len(curve["left"]) == 3 and curve["stops"] == [1, 2] and len(curve["lpips"]) == 2
    assert results.measured_table(record).shape == (5, len(record["columns"]))
    own = measured["Base"][0]
    assert own["images"].shape == (2, 3, 64, 64) and own["evaluations"] == 4 + 2 + 3 + 3 * 2  # LoRA, up, updates, down for three latents


def test_the_source_is_as_far_as_the_drag_is_long(done):
    """What the judge finds in the untouched source is where the handles are: its distance is that of the motion."""
    made, _, rows, measured, _ = done
    found = values(measured, rows)[SOURCE]["distance"]
    assert found == pytest.approx([100 * drag.motion for drag in made.reported], abs=1)


def test_pictures_tables_and_curves(done):
    made, _, rows, measured, record = done
    axes = drag_figure(made.reported, measured, rows, [0, 1]).axes
    assert len(axes) == 5 * 2 and all(len(cell.images) == 1 for cell in axes)
    assert len(curve_figure(record).axes) == 3
    table = motion_table(record)
    assert {label for _, label in table.index} == set(record["rows"]) and list(table) == ["distance", "success", "lpips", "lpips_inside"]


def test_an_interrupted_run_ends_as_an_unbroken_one(done, tmp_path, monkeypatch):
    """Killed in the second batch: the first one's results stay, and all are those of a run without a break, to the last bit."""
    _, _, rows, measured, _ = done
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    again = DragStudy(configuration(SETTINGS | dict(batch_size=1), **PARAMETERS))
    base = [row for row in rows if row.label == "Base"]
    real, calls = run.optimise, []

    def killed(*arguments, **named):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(run, "optimise", killed)
    with pytest.raises(KeyboardInterrupt):
        again.measure(base, again.reported)
    resumed = again.measure(base, again.reported)["Base"]
    assert len(calls) == 3  # the first was not done again
    monkeypatch.setattr(paths, "RUNS", tmp_path / "other")
    unbroken = again.measure(base, again.reported)["Base"]
    for one, other, batched in zip(resumed, unbroken, measured["Base"], strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one if name != "seconds")
        assert np.abs(one["images"].astype(int) - batched["images"].astype(int)).max() <= 1  # a batch changes rounding alone


def test_a_drag_that_cannot_be_done_is_named_before_any_work(monkeypatch):
    drag = load_drags()[1]
    wrong = DragItem("drag-9", "move", drag.image, drag.caption, ((70.0, 3.0),), ((1.0, 3.0),), drag.mask, drag.truth)
    monkeypatch.setattr(study, "load_drags", lambda *arguments, **named: [load_drags()[0], wrong])
    with pytest.raises(ConfigurationError, match=r"drag drag-9: handles of image 0 has the point \(70, 3\)"):
        DragStudy(configuration(SETTINGS | dict(num_drags=None), **PARAMETERS))


def test_the_choice_wants_handles_half_way_and_then_true_pictures():
    arguments = dict(untouched=10.0, truth=2.0)
    found = choose([9, 5.9, 5, 3], [0.1, 0.3, 0.2, 0.4], **arguments)
    assert found.index == 2 and found.enough == 6 and found.good_enough  # the first is nearest to the truth and has not moved
    found = choose([9, 7, 8], [0.1, 0.3, 0.2], **arguments)
    assert found.index == 1 and not found.good_enough
    with pytest.raises(ValueError, match="distance has 1 entries and lpips 0"):
        choose([1], [], **arguments)


def test_groups_of_drags_by_motion():
    groups = motion_groups({"motion": [0.03, 0.06, 0.2], "degrees": [None, 19.0, 31.0], "kind": ["move", "turn", "turn"]})
    assert {name: which.tolist() for name, which in groups.items() if "turn" in name} == {
        "turned by less than 20 degrees": [False, True, False],
        "turned by 30 degrees or more": [False, False, True],
    }
    assert sum(which.astype(int) for name, which in groups.items() if name.startswith("points")).tolist() == [1, 1, 1]


def test_points_are_drawn_where_they_are():
    picture = marked(torch.zeros(3, 64, 64), [(16, 32)], [(48, 32)])
    assert picture.shape == (3, 256, 256)
    assert picture[:, 128, 64].tolist() == [0xD5, 0x5E, 0x00] and picture[:, 128, 192].tolist() == [0x00, 0x72, 0xB2]
    assert picture[:, 128, 128].tolist() == [255, 255, 255]


def test_the_figure_takes_the_chosen_settings_and_the_next_drags_of_the_seed():
    cfg = dict(model="mini", adapter="smooth", batch_size=2, seed=0, device="cpu", drags="drags", num_drags=3, skip_drags=6)
    cfg |= dict(num_drag_steps=None, num_updates=None, num_lora_steps=None)
    made = figure.figure_study(SimpleNamespace(**cfg))
    first = [drag.id for drag in figure.figure_study(SimpleNamespace(**cfg | {"skip_drags": 0, "num_drags": 6})).reported]
    assert len(made.reported) == 3 and len(first) == 6 and not {drag.id for drag in made.reported} & set(first)
    chosen = made.candidates[made.choose().index]
    assert study.describe(chosen) == results.recorded("beyond_drag_benchmark")["facts"]["choice"]["chosen"]
    shorter = figure.figure_study(SimpleNamespace(**cfg | {"num_updates": 2, "num_lora_steps": 1}))
    assert [one.settings.iterations for one in shorter.candidates] == [2] and shorter.candidates[0].lora.steps == 1
    with pytest.raises(ConfigurationError, match="skip_drags is 99, but must be less than the number of drags, 65"):
        figure.figure_study(SimpleNamespace(**cfg | {"skip_drags": 99}))
    assert figure.figure_study(SimpleNamespace(**cfg | {"drags": None})) is None
    assert figure.figure_study(SimpleNamespace(**cfg | {"adapter": None})).adapters == ("smooth",)
    with pytest.MonkeyPatch.context() as patch:  # on a model without an adapter of its own the embedded model's is not taken
        asked = []
        patch.setattr(figure, "DragFigureStudy", lambda made: asked.append(made.adapters))
        figure.figure_study(SimpleNamespace(**cfg | {"adapter": None, "model": "stable-diffusion-v1-5/stable-diffusion-v1-5"}))
    assert asked == [()]
