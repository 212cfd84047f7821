"""Parts of a record: items that tables and claims may ask for alone, and metrics that are defined for some items only."""

import json

import numpy as np
import pytest

from companion.evidence import records as results
from companion.evidence.fields import part_of
from companion.evidence.record_checks import RecordError
from companion.evidence.statements import Statement
from companion.evidence.weighing import NOT_MEASURED, NOT_REPRODUCED, REPRODUCED, weigh

RNG = np.random.default_rng(0)
ITEMS = [f"local-{i}" for i in range(20)] + [f"global-{i}" for i in range(20)]
PARTS = {"local": ITEMS[:20], "global": ITEMS[20:], "reversed": ITEMS[:20][::-1]}
FIELDS = {"adapters": [], "weights": [], "training": None, "training_seeds": [], "guidance_scale": 3.0}
SMOOTH = FIELDS | {"kind": "smooth", "method": "prompt_switch", "inversion": "null_text", "chosen": True, "adapters": ["smooth"]}
BASE = FIELDS | {"kind": "base", "method": "prompt_switch", "inversion": "null_text", "chosen": True}


def made(**changes):
    """Smooth is 1 lower than Base for local items and 2 higher for global ones; `outside` is of local ones alone."""
    noise = RNG.normal(0, 0.1, (2, 40))
    step = np.where(np.arange(40) < 20, -1.0, 2.0)
    rows = {"Base": {"lpips": 5 + noise[0], "outside": noise[0, :20]}, "Smooth": {"lpips": 5 + step + noise[1], "outside": noise[1, :20]}}
    arguments = dict(parts=PARTS, metric_parts={"outside": "local"}, row_fields={"Base": BASE, "Smooth": SMOOTH})
    arguments |= {"rows": rows, "provenance": {"modules": {}}} | changes
    return results.make_record("edits", table=None, model="mini", items=ITEMS, **arguments)


def outcome(record, part, metric="lpips"):
    (found,) = weigh(Statement("edits", "paired", metric, ("Smooth switch", "Base switch"), "lower", part=part), record)
    return found


def test_a_statement_about_a_part_is_decided_by_its_items_alone():
    record = made()
    assert outcome(record, "local").outcome == REPRODUCED and outcome(record, "local").sampled.n == 20
    assert outcome(record, "global").outcome == NOT_REPRODUCED
    assert outcome(record, "nowhere").outcome == NOT_MEASURED
    assert abs(outcome(record, None).difference - 0.5) < 0.1 and outcome(record, None).sampled.n == 40


def test_a_part_has_the_values_of_its_items_in_its_order_and_no_metric_of_other_parts():
    record = made()
    whole, part = record["rows"]["Base"]["metrics"], part_of(record, "reversed")
    assert part["items"] == ITEMS[:20][::-1]
    assert part["rows"]["Base"]["metrics"]["lpips"]["values"] == whole["lpips"]["values"][:20][::-1]
    assert part["rows"]["Base"]["metrics"]["outside"]["values"] == whole["outside"]["values"][::-1]
    assert list(part_of(record, "global")["rows"]["Base"]["metrics"]) == ["lpips"]
    assert part_of(record, None) is record


def test_a_metric_of_some_items_has_those_of_a_part_that_it_is_defined_for():
    record = made(parts=PARTS | {"mixed": [ITEMS[25], ITEMS[3], ITEMS[1]]})
    mixed = part_of(record, "mixed")["rows"]["Base"]["metrics"]
    values = record["rows"]["Base"]["metrics"]["outside"]["values"]
    assert mixed["outside"]["values"] == [values[3], values[1]] and mixed["outside"]["n"] == 2 and mixed["lpips"]["n"] == 3


def test_trainings_of_a_part_are_counted_by_the_values_of_the_part():
    fields = {f"Smooth {seed}": SMOOTH | {"training": "abc", "training_seeds": [seed], "adapters": [f"s{seed}"]} for seed in range(3)}
    rows = {"Base": {"lpips": RNG.normal(5, 0.1, 40)}} | {label: {"lpips": RNG.normal(4, 0.1, 40)} for label in fields}
    record = made(rows=rows, row_fields={"Base": BASE} | fields, metric_parts={})
    found = outcome(record, "local")
    means = [np.mean(rows[label]["lpips"][:20]) for label in fields]
    assert found.trainings.counts == (3, 0) and found.means[0] == pytest.approx(np.mean(means))
    assert found.trainings.part.variance == pytest.approx(np.var(means, ddof=1) / 3)


def test_a_record_with_parts_is_stored_and_one_that_contradicts_itself_refused(tmp_path):
    file = results.save_record(made(), tmp_path / "edits.json")
    record = results.load_record(file)
    assert record["rows"]["Base"]["metrics"]["outside"]["n"] == 20
    del record["seal"]
    record["parts"]["local"] = ITEMS[:19]
    file.write_text(json.dumps(record))
    with pytest.raises(RecordError, match=r"n'.* is 20, but must be 19"):
        results.load_record(file)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"parts": PARTS | {"local": ["nobody"]}}, "parts has 'nobody' in 'local', but must have ids of items"),
        ({"parts": PARTS | {"empty": []}}, "parts has 0 ids in 'empty', but must have different ones"),
        ({"metric_parts": {"outside": "far"}}, "metric_parts has 'far' for 'outside', but must name one of the parts"),
        ({"metric_parts": {}}, "has 20 values, but there are 40 items"),
    ],
)
def test_wrong_parts_are_refused_in_one_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        made(**changes)
