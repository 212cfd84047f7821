"""The plots that the book makes from records and logs: they show the recorded values, and refuse what is not there."""

import json
import re
import sys

import numpy as np
import pytest

from companion.base import paths
from companion.book.axes import span, ticks
from companion.book.lines import Line, line_panels
from companion.book.strips import DOTS, Strip, spread, value_strips
from companion.evidence.records import recorded

sys.path.insert(0, str(paths.ROOT / "book/_ext"))
import record_pictures

ROWS = ["Base + DDIM, guidance 3", "Smooth + DDIM, guidance 3"]


def test_dots_of_a_strip_lie_at_their_values_and_do_not_overlap():
    values = [1.0, 1.0, 1.0, 2.0, 3.0]
    html = value_strips({"one": Strip(values, 1.6, (1.2, 2.0))}, x_label="x", alt="values", item="items")._repr_html_()
    wide = html[: html.index('"smooth-narrow"')]
    dots = np.array([(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', wide)])
    assert len(dots) == len(values)
    scale = np.diff(dots[[0, 4], 0])[0] / 2.0
    np.testing.assert_allclose(dots[:, 0] - dots[0, 0], [0, 0, 0, scale, 2 * scale], atol=0.11)
    assert len({tuple(dot) for dot in dots}) == 5


@pytest.mark.parametrize("count", [1, 2, 7])
def test_as_many_dots_as_fit_stand_beside_each_other(count):
    shifts = spread([10.0] * count, most=20.0)  # 2 * 3 + 1 places of 5.2 pixels
    assert len(set(shifts)) == count
    assert max(map(abs, shifts)) <= 20.0
    assert count == 1 or min(abs(a - b) for i, a in enumerate(shifts) for b in shifts[:i]) >= 2 * DOTS - 1e-9


def test_dots_that_do_not_fit_overlap_instead_of_leaving_their_row():
    assert max(map(abs, spread([10.0] * 50, most=20.0))) <= 20.0


def test_strips_show_the_mean_and_interval_of_the_record():
    record = recorded("table2_recon")
    said = repr(record_pictures.strips("table2_recon", "psnr", ROWS))
    for row in ROWS:
        found = record["rows"][row]["metrics"]["psnr"]
        assert f"{row}: {found['mean']:.3g} [{found['low']:.3g}, {found['high']:.3g}], {len(record['items'])} images" in said


def test_a_row_that_the_record_does_not_have_is_refused_by_name():
    with pytest.raises(ValueError, match="rows has 'Base, guidance 8', but must be among VAE reconstruction"):
        record_pictures.strips("table2_recon", "psnr", ["Base, guidance 8"])


def test_strips_without_values_are_refused():
    with pytest.raises(ValueError, match="at least one, and each a value"):
        value_strips({"one": Strip([], 0.0, (0.0, 0.0))}, x_label="x", alt="values", item="items")


def test_learning_curves_are_the_mean_of_the_shipped_logs():
    last = []
    for name in ("smooth", "smooth-seed1", "smooth-seed2"):
        (file,) = (paths.ADAPTERS / name).glob("training-*.jsonl")
        last.append(json.loads(file.read_text().splitlines()[-1]))
    said = repr(record_pictures.learning_curves(["plain", "smooth"]))
    for key, heading in record_pictures.LOGGED.items():
        mean = np.mean([line[key] for line in last])
        assert re.search(rf"{re.escape(heading)}, smooth, 3 trainings: .* {mean:.3g} at {last[0]['step']}", said)
    assert "L_reg, plain" not in said


def test_a_training_without_a_log_is_refused_by_name():
    with pytest.raises(ValueError, match="data/models/adapters/plian has no log"):
        record_pictures.learning_curves(["plian"])


def test_a_line_of_unequal_lengths_is_refused_by_name():
    with pytest.raises(ValueError, match=r"panels\['left'\]\['one'\] has 2 x and 1 y"):
        line_panels({"left": {"one": Line([1, 2], [1])}}, x_label="x", alt="lines")


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (-3.2, 0.01), (17.0, 41.0), (0.056, 0.061), (5.0, 5.0)])
def test_ticks_are_round_and_lie_within_their_axis(low, high):
    low, high = span([low, high])
    places = ticks(low, high)
    assert 3 <= len(places) <= 8
    assert all(low <= place <= high for place in places)
    steps = np.diff(places)
    np.testing.assert_allclose(steps, steps[0])
    assert f"{steps[0]:.0e}"[0] in "125" or f"{steps[0]:.1e}".startswith("2.5")
