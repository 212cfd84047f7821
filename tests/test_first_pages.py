"""What a reader sees first: the forest plot, the frontier, paired dots, findings in words, and walks chosen by rank."""

import math
import re

import numpy as np
import pytest
from sample_statements import N, image_values, one, paired, record, values

from companion.book.forest import forest_plot
from companion.book.front import hero, preview, strength_explorer
from companion.book.scatter import frontier, paired_dots
from companion.evidence import claims
from companion.evidence.effects import forest_rows, part, short_names
from companion.evidence.findings import findings
from companion.evidence.trade import comparable, trade_points
from companion.evidence.weighing import Evidence
from companion.studies.smoothness.first_look import by_rank, steps_between

# Effects ----------------------------------------------------------------------------------------------------------------------------


def test_an_effect_is_the_mean_difference_over_its_standard_deviation():
    found = one(paired("Smooth", "Base"), record({"Base": {"istd": 2.0}, "Smooth": {"istd": 1.0}}))
    deviation = np.std(values(1.0, 1) - values(2.0, 0), ddof=1)
    drawn = part(found)
    assert drawn["effect"] == pytest.approx(1 / deviation) and drawn["low"] < drawn["effect"] < drawn["high"]


@pytest.mark.parametrize(
    ("statement", "effect"),
    [
        (paired("Smooth", "Base"), 1.0),
        (paired("Base", "Smooth"), -1.0),
        (paired("Smooth", "Base", direction="higher"), -1.0),
        (paired("Smooth", "Base", kind="within", margin=0.25), -0.75),
        (paired("Smooth", "Base", kind="within", margin=3.0), 2.0),
        (paired("Smooth", "Base", kind="no_worse", margin=0.1), 1.2),  # lower is better: 1 better and 0.1 of 2 allowed
    ],
)
def test_right_of_the_line_the_statement_holds(statement, effect):
    found = one(statement, record({"Base": {"istd": 2.0}, "Smooth": {"istd": 1.0}}))
    deviation = math.sqrt(found.sampled.part.variance * N)
    assert part(found)["effect"] * deviation == pytest.approx(effect)


def test_an_interval_over_none_ends_at_the_margin():
    found = one(paired("Smooth", "Base", kind="within", margin=0.5), record({"Base": {"istd": 1.0}, "Smooth": {"istd": 1.0}}))
    drawn = part(found)
    assert drawn["high"] == pytest.approx(0.5 / math.sqrt(found.sampled.part.variance * N)) and drawn["low"] > 0


def test_without_the_chance_of_items_there_is_no_effect():
    assert part(Evidence("inconclusive", paired("a", "b"), "fid"))["effect"] is None


def test_every_claim_is_in_the_plot_by_a_name_of_its_own():
    rows = forest_rows(claims.evaluate())
    assert [row["href"].partition("#")[2] for row in rows] == [claim.id for claim in claims.load_claims()]
    assert set(short_names()) <= {claim.id for claim in claims.load_claims()}
    assert len({row["name"] for row in rows}) == len(rows)
    html = forest_plot(rows, alt="All claims").html
    assert html.count("<tr data-") == len(rows) and all(f">{row['name']}</a>" in html for row in rows if "'" not in row["name"])


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (None, "rows is empty"),
        ({"outcome": "perhaps", "parts": []}, "rows has the outcome 'perhaps', but must have one of reproduced"),
        ({"outcome": "reproduced", "parts": [{"effect": 1.0, "low": 2.0, "high": 3.0}]}, r"rows has the effect 1.0 outside \[2.0, 3.0\]"),
    ],
)
def test_a_forest_plot_of_something_else_is_refused(row, sentence):
    with pytest.raises(ValueError, match=sentence):
        forest_plot([{"name": "a", "claim": "A.", "href": ""} | row] if row else [], alt="x")


# Smoothness against quality -----------------------------------------------------------------------------------------------------------


def trained(name="table3_lambda", floor=100.0, **rows):
    """rows: label -> (istd of each training, Fréchet distance of each)."""
    made = record(
        {label: {"istd": float(np.mean(istd))} for label, (istd, _) in rows.items()},
        name=name,
        totals={label: {"frechet_distance": image_values(np.mean(fd), 20.0, 1)} for label, (_, fd) in rows.items()},
        seeds={label: {"istd": istd, "frechet": fd} for label, (istd, fd) in rows.items()},
    )
    made["facts"] |= {"judges": {"frechet_floor": floor}, "num_images": 400, "num_inference_steps": 20}
    return made


def test_a_point_is_a_training_and_shown_once():
    base = ([2.7], [240.0])
    first = trained(Base=base, Smooth=([1.8, 1.9], [250.0, 252.0]))
    second = trained("table4_rank", Base=base, **{"rank 4": ([2.0], [260.0])})
    points = trade_points([first, second])
    assert {name: len(group) for name, group in points.items()} == {"Base model": 1, "Smooth (default)": 2, "Other rank or layers": 1}
    point = points["Base model"][0]
    assert point["y"] == pytest.approx(140.0)
    half = (point["y_ends"][1] - point["y_ends"][0]) / 2
    assert half == pytest.approx(1.966 * 20 / math.sqrt(400), rel=0.1)  # Student's, of 400 images with deviation 20
    assert point["x_ends"][0] < 2.7 < point["x_ends"][1]


def test_records_of_other_prompts_or_without_a_floor_are_left_out():
    many, few = trained(Base=([2.7], [240.0]), Smooth=([1.9], [250.0])), trained(Base=([2.6], [241.0]))
    few["items"] = ["other", *few["items"][1:]]
    assert comparable([few, many]) == [many]
    del many["facts"]["judges"]
    assert comparable([few, many]) == [few] and trade_points([]) == {}


def test_paired_dots_count_what_lies_below_the_line():
    found = paired_dots({"CV": ([1.0, 2.0, 3.0], [0.5, 2.5, 3.0])}, names=("Base", "Smooth"), alt="x", item="prompts")
    assert "CV: Smooth is lower for 1 of 3 prompts" in found.html and found.html.count("<g>") == 3
    with pytest.raises(ValueError, match=r"panels\['CV'\] has 1 and 2 values"):
        paired_dots({"CV": ([1.0], [1.0, 2.0])}, names=("Base", "Smooth"), alt="x", item="prompts")
    with pytest.raises(ValueError, match="series has 0 series and 0 points"):
        frontier({}, x_label="x", y_label="y", alt="x")


# In words -----------------------------------------------------------------------------------------------------------------------------


def told(smooth):
    made = record({"Base": {"istd": 2.0, "cv": 1.0, "lpips_cv": 1.0}, "Plain LoRA": {"istd": 2.0}, "Smooth": smooth})
    chosen = [claim for claim in claims.load_claims() if claim.id in ("table1-istd", "table1-evenness")]
    found = findings([claims.verdict(claim, lambda name: made) for claim in chosen], lambda name: made)
    return {name: sentence for name, (_, sentence) in found.items()}


def test_findings_follow_the_verdicts():
    better = told({"istd": 1.0, "cv": 0.5, "lpips_cv": 0.5})
    assert "ISTD) is better, from 2.00" in better["better"] and "lower in 20 of 20 cases" in better["better"]
    assert "The verdict is yes" in better["open"] and "nothing was measured yet" in better["cost"]
    worse = told({"istd": 3.0, "cv": 1.0, "lpips_cv": 1.0})
    assert "ISTD) is not better, from 2.00" in worse["better"] and "lower in 0 of 20 cases" in worse["better"]
    assert "The verdict is no:" in worse["open"]
    same = told({"istd": 2.0, "cv": 1.0, "lpips_cv": 1.0})
    assert "ISTD) is undecided" in same["better"] and "Undecided (all must improve)" in same["open"]


# Walks ----------------------------------------------------------------------------------------------------------------------------------


def test_walks_are_chosen_by_rank_of_the_paired_difference():
    made = record({"Base": {"istd": 2.0}, "Smooth": {"istd": 1.0}})
    change = values(1.0, 1) - values(2.0, 0)
    order = np.argsort(change)
    assert by_rank(made) == {"largest gain": order[0], "median": order[round((N - 1) / 2)], "largest loss": order[-1]}
    with pytest.raises(ValueError, match="rows has 'Smooth', but must have rows of table1_istd that hold istd"):
        by_rank(record({"Base": {"istd": 2.0}}))


FRAMES = np.stack([np.full((3, 8, 8), 20 * k, dtype=np.uint8) for k in range(5)])


def test_steps_are_distances_of_neighbours():
    assert steps_between(FRAMES) == pytest.approx([20 / 255 * math.sqrt(3 * 64)] * 4)


def test_the_first_picture_shows_both_walks_and_their_steps():
    walks, steps = {"Base": FRAMES, "Smooth": FRAMES[::-1]}, {"Base": np.array([1.0, 4.0, 2.0, 1.0]), "Smooth": np.ones(4)}
    html = hero(walks, steps, caption="a <b>", note="n").html
    assert html.count("<img") == 2 and "a &lt;b&gt;" in html
    assert [float(h) for h in re.findall(r"--h:([\d.]+)", html)] == [25, 25, 100, 25, 50, 25, 25, 25]
    figure = preview(walks, steps, title="t")
    assert tuple(figure.get_size_inches() * figure.dpi) == (1200, 630)
    with pytest.raises(ValueError, match="must have two rows of one length"):
        hero({"Base": FRAMES}, {"Base": steps["Base"]}, caption="c", note="n")


def test_two_sliders_start_just_before_the_base_models_largest_step():
    prompt = {"caption": "c", "walks": np.stack([FRAMES, FRAMES]), "steps": [[1.0, 2.0, 9.0, 1.0], [1.0, 1.0, 1.0, 1.0]]}
    html = strength_explorer([prompt], strengths=[0, 1], alt="x", note="n").html
    assert 'max="4" value="2"' in html and 'data-start="2"' in html and 'data-steps="1.00 2.00 9.00 1.00;1.00 1.00 1.00 1.00"' in html
    with pytest.raises(ValueError, match=r"prompts has steps of shape \(2, 4\), but must have \(3, 4\)"):
        strength_explorer([prompt], strengths=[0, 0.5, 1], alt="x", note="n")
