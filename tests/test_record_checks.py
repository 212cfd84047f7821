"""A record is checked when it is read: whoever edits one number contradicts another, or the seal."""

import copy
import json

import numpy as np
import pytest
from sample_records import make, make_with_columns

from companion.base import paths
from companion.evidence import records as results
from companion.evidence.record_checks import RecordError, check_record, seal
from companion.evidence.records import load_record, record_files, save_record
from companion.evidence.statistics import mean_interval, paired_comparison

DELETED = object()


def edited(record, path, value):
    """A copy of `record` with the entry at `path` replaced, or removed."""
    record = copy.deepcopy(record)
    entry = record
    for key in path[:-1]:
        entry = entry[key]
    if value is DELETED:
        del entry[path[-1]]
    else:
        entry[path[-1]] = value
    return record


MSE = ("rows", "VAE", "metrics", "mse")
TEST = ("comparisons", 0)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("schema",), 2, "has schema 2, but must be a record of schema 1"),
        (("items",), DELETED, "lacks items, but must be a record of schema 1"),
        (("name",), "table1_istd", "name is 'table1_istd', but must be 'table2_recon', the file's"),
        (("table",), "table9", "table is 'table9' with the columns .*the paper's tables are table1"),
        (("rows",), {}, r"rows is \{\}, but must be row labels with their metrics, at least one"),
        (("rows",), [], r"rows is \[\], but must be row labels"),
        (("rows", "VAE", "metrics"), {}, r"rows\['VAE'\]\['metrics'\] is \{\}, but must be metrics, at least one"),
        (("rows", "VAE", "paper_row"), "NTI", r"rows\['VAE'\]\['paper_row'\] is 'NTI', but must be one of None, 'Stable Diff. \+ DDIM'"),
        (("items", 0), "test-1", "items is .* but must be a list of different texts"),
        (("items",), [f"test-{i}" for i in range(3)], r"rows\['VAE'\]\['mse'\]\['n'\] is 12, but must be 3, the number of items"),
        ((*MSE, "n"), 64, r"\['mse'\]\['n'\] is 64, but must be 12, the number of items"),
        ((*MSE, "values"), [0.1] * 5, r"the length of rows\['VAE'\]\['mse'\]\['values'\] is 5, but must be 12"),
        ((*MSE, "values", 3), "0.1", r"\['mse'\]\['values'\] is .* but must be a list of numbers"),
        ((*MSE, "values", 3), float("nan"), r"record\['rows'\]\['VAE'\]\['metrics'\]\['mse'\]\['values'\]\[3\] is nan, but must be finite"),
        ((*MSE, "values", 3), 0.5, r"\['mse'\]\['mean'\] is .* but must be .* the mean of its values"),
        ((*MSE, "mean"), 0.5, r"\['mse'\]\['mean'\] is 0.5, but must be .* the mean of its values"),
        ((*MSE, "mean"), None, r"\['mse'\] is .* but must be a mean with n, low and high"),
        ((*MSE, "low"), 1.0, r"\[low, high\] of rows\['VAE'\]\['mse'\] is \[1.0, .* but must be an interval that contains the mean"),
        ((*MSE, "high"), -1.0, r"\[low, high\] of .* but must be an interval that contains the mean"),
        ((*MSE, "high"), None, r"\[low, high\] of .* but must be two numbers"),
        ((*MSE, "level"), 95, r"\['mse'\]\['level'\] is 95, but must be between 0 and 1"),
        ((*TEST, "p_value"), 7, r"comparisons\[0\]\['p_value'\] is 7, but must be a number from 0 to 1"),
        ((*TEST, "p_adjusted"), -0.1, r"comparisons\[0\]\['p_adjusted'\] is -0.1, but must be a number from 0 to 1"),
        ((*TEST, "p_value"), 0.9, r"comparisons\[\d\]\['p_adjusted'\] is .* but must be .* Holm's over all of these tests"),
        ((*TEST, "a"), "DDIM", r"comparisons\[0\]\['a'\] is 'DDIM', but must be one of the rows 'VAE'"),
        ((*TEST, "metric"), "fid", r"comparisons\[0\]\['metric'\] is 'fid', but must be a metric of 'VAE' with values"),
        ((*TEST, "difference", "mean"), 0.0, r"\['difference'\]\['mean'\] is 0.0, but must be -0.1\d*, the first mean minus the second"),
        ((*TEST, "difference", "low"), 5.0, r"\[low, high\] of comparisons\[0\]\['difference'\] is \[5.0, "),
        (("provenance", "config", "seed"), 3, r"provenance\['config_hash'\] is .* but must be .* that of its config"),
        (("provenance", "date"), "yesterday", r"provenance\['date'\] is 'yesterday', but must be a date and time"),
    ],
)
def test_an_edited_record_is_refused_in_one_sentence(tmp_path, path, value, sentence):
    """Without a seal, as records from before have none: the numbers themselves disagree."""
    file = tmp_path / "table2_recon.json"
    file.write_text(json.dumps(edited(make(), path, value)), encoding="utf-8")
    with pytest.raises(RecordError, match=sentence) as refused:
        load_record(file)
    assert str(refused.value).startswith(str(file)) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "path", [(*MSE, "low"), (*TEST, "difference", "high"), ("provenance", "duration_seconds"), ("conventions", "mse"), ("model",)]
)
def test_the_seal_holds_what_no_other_number_determines(tmp_path, path):
    file = save_record(make(), tmp_path / "table2_recon.json")
    stored = load_record(file)
    old = stored
    for key in path:
        old = old[key]
    new = f"{old}, really" if isinstance(old, str) else old * (0.99 if old > 0 and path[-1] != "high" else 1.01 if old > 0 else 0.99)
    changed = edited(stored, path, new)
    check_record({key: value for key, value in changed.items() if key != "seal"}, "table2_recon")  # nothing else notices
    file.write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(RecordError, match=r"seal is '.*', but must be '.*': the content was changed after it was saved"):
        load_record(file)


def test_the_seal_is_of_the_content_not_of_its_layout(tmp_path):
    stored = load_record(save_record(make(), tmp_path / "table2_recon.json"))
    (tmp_path / "table2_recon.json").write_text(json.dumps(dict(reversed(stored.items()))), encoding="utf-8")
    assert load_record(tmp_path / "table2_recon.json") == stored and seal(stored) == stored["seal"]


def test_a_number_of_the_whole_set_has_no_interval():
    record = make_with_columns()
    whole = ("rows", "Base", "metrics", "frechet_distance")
    check_record(record, "table2_recon")
    with pytest.raises(
        RecordError, match=r"\['frechet_distance'\]\['low'\], \['high'\] is \[1.0, None\], but must be None: it has no values"
    ):
        check_record(edited(record, (*whole, "low"), 1.0), "table2_recon")
    with pytest.raises(RecordError, match=r"a metric of rows.* is 'speed', but must be one of istd, fid"):
        check_record(
            edited(record, ("rows", "Base", "metrics", "speed"), {"mean": 1.0, "low": None, "high": None, "n": 12}), "table2_recon"
        )


def test_a_folder_without_records_is_no_result(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "ledger.json").write_text('{"table2_recon": {"seconds": 5}}')
    for folder in (tmp_path, tmp_path / "nope", tmp_path / "other"):
        with pytest.raises(ValueError, match=r"Parameter records is '.*', but must be a folder with recorded results"):
            record_files(folder)
    assert record_files() == sorted(paths.RESULTS.glob("*.json"))


# The shipped records --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted(paths.RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_shipped_records_are_what_their_values_give(file):
    """Every p-value and one interval of each row, computed again from the values."""
    record = load_record(file)
    rows = record["rows"]
    for label, row in rows.items():
        measured = next(one for one in row["metrics"].values() if "values" in one)
        again = mean_interval(measured["values"], seed=record["provenance"]["seed"])
        assert np.allclose([measured["low"], measured["high"]], [again.low, again.high], rtol=1e-6), label
    for test in record["comparisons"]:
        a, b = (rows[test[end]]["metrics"][test["metric"]]["values"] for end in ("a", "b"))
        assert paired_comparison(a, b, method="t").p_value == pytest.approx(test["p_value"], rel=1e-6), test
    assert results.recorded(file.stem) == record
