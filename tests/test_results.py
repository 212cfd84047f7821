"""Records, provenance, the paper's numbers, glue, the command."""

import json
import platform
import subprocess
import sys

import numpy as np
import pytest
import torch
from sample_records import VAE, make

from companion.base import paths
from companion.evidence import records as results
from companion.evidence.paper import load_paper_table
from companion.evidence.provenance import revision
from companion.evidence.record_checks import seal
from companion.evidence.records import comparison_table, load_record, measured_table, save_record
from companion.evidence.statistics import holm, mean_interval

# The paper ------------------------------------------------------------------------------------------------------------------------


def test_paper_tables_are_complete():
    shapes = {f"table{i}": (len(table.rows), len(table.metrics)) for i in range(1, 5) for table in [load_paper_table(f"table{i}")]}
    assert shapes == {"table1": (2, 3), "table2": (5, 4), "table3": (3, 3), "table4": (4, 3)}
    for name in shapes:
        table = load_paper_table(name)
        assert table.name == name == f"table{table.number}" and table.caption.startswith(f"Table {table.number}. ")
        directions = {"mse": "down", "lpips": "down", "ssim": "up", "psnr": "up", "istd": "down", "fid": "down", "clip_score": "up"}
        assert {metric: table.metrics[metric].direction for metric in table.metrics} == {
            metric: directions[metric] for metric in table.metrics
        }


def test_paper_numbers_repeat_as_the_errata_say():
    """Numbers that the paper prints twice: equal where they are, different where it contradicts itself (FID, CLIP Score)."""
    smooth = load_paper_table("table1").rows["Smooth Diffusion"]
    ratio, rank = load_paper_table("table3").rows["1 (default)"], load_paper_table("table4").rows["8 (default)"]
    assert smooth["istd"] == ratio["istd"] == rank["istd"] == "16.54"
    assert (smooth["fid"], ratio["fid"], rank["fid"]) == ("12.10", "12.11", "12.11")
    assert (smooth["clip_score"], ratio["clip_score"], rank["clip_score"]) == ("31.54", "31.49", "31.54")


def test_paper_psnr_fits_mse_on_the_unit_range():
    """PSNR of images in [-1, 1] from the mean MSE is a lower bound of the mean per-image PSNR (Jensen), and close to it."""
    for values in load_paper_table("table2").rows.values():
        pooled = 10 * np.log10(4 / float(values["mse"]))
        assert pooled < float(values["psnr"]) < pooled + 2


def test_a_bad_paper_table_is_named(tmp_path):
    with pytest.raises(ValueError, match="name is 'table9', but the paper's tables are table1, table2, table3, table4"):
        load_paper_table("table9")
    text = (paths.PAPER / "table1.yaml").read_text(encoding="utf-8")
    (tmp_path / "table1.yaml").write_text(text.replace('"16.54"', "16.54"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"gives 'Smooth Diffusion' the values .* needs one text for each of istd, fid, clip_score"):
        load_paper_table("table1", folder=tmp_path)


# Records --------------------------------------------------------------------------------------------------------------------------


def test_an_item_counts_once():
    with pytest.raises(ValueError, match=r"items has 'test-1' more than once, but must be different ids\."):
        make(items=["test-0", "test-1", *(f"test-{i}" for i in range(1, 11))])


def test_a_record_survives_the_disk(tmp_path):
    record = make()
    again = load_record(save_record(record, tmp_path / "deep" / "table2_recon.json"))
    assert again == record | {"seal": seal(record)}
    assert load_record(save_record(again, tmp_path / "table2_recon.json")) == again
    vae = record["rows"]["VAE"]["metrics"]["mse"]
    assert vae["values"] == VAE["mse"].tolist()
    interval = mean_interval(VAE["mse"])
    assert (vae["mean"], vae["low"], vae["high"], vae["n"], vae["method"]) == (interval.mean, interval.low, interval.high, 12, "bca")
    assert [test["metric"] for test in record["comparisons"]] == ["mse", "lpips", "ssim", "psnr"]
    p_values = [test["p_value"] for test in record["comparisons"]]
    assert [test["p_adjusted"] for test in record["comparisons"]] == holm(p_values).tolist()


def test_provenance_says_where_a_number_comes_from():
    made = make()["provenance"]
    assert made["config"] == {"num_images": 12, "seed": 0} and len(made["config_hash"]) == 20
    assert made["dtype"] == "float32" and made["duration_seconds"] == 61.3 and made["python"] == platform.python_version()
    assert made["versions"]["torch"] == torch.__version__.partition("+")[0] and set(made["versions"]) >= {"smoothlib", "diffusers", "lpips"}
    assert made["machine"]["device"] == "cpu" and made["machine"]["name"] and made["machine"]["threads"] == torch.get_num_threads()
    assert platform.node() not in json.dumps(made) or platform.node() in ("", "localhost")
    json.dumps(made, allow_nan=False)


def test_revision_sees_commits_and_changes(tmp_path):
    assert revision(tmp_path) == (None, None)

    def git(*arguments):
        identity = ("-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
        return subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "first")
    assert revision(tmp_path) == (git("rev-parse", "HEAD"), False)
    (tmp_path / "untracked").write_text("2")
    assert revision(tmp_path)[1] is False
    (tmp_path / "a").write_text("2")
    assert revision(tmp_path)[1] is True


def test_data_hash_depends_on_content_and_order():
    items = [("a", np.zeros(3)), ("b", np.ones(3))]
    assert results.data_hash(items) == results.data_hash([("a", np.zeros(3)), ("b", np.ones(3))])
    assert len({results.data_hash(items), results.data_hash(items[::-1]), results.data_hash(items[:1])}) == 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rows": {"VAE": {"fid": [1.0] * 12}}}, r"rows\['VAE'\] has the metric 'fid', but table2's metrics are mse, lpips, ssim, psnr"),
        ({"rows": {"VAE": {"mse": [1.0] * 11}}}, r"rows\['VAE'\]\['mse'\] has 11 values, but there are 12 items"),
        ({"rows": {"VAE": {"mse": [1.0] * 11 + [np.nan]}}}, "values holds nan at position 11"),
        ({"paper_rows": {"VAE": "VAE"}}, "paper_rows maps 'VAE' to 'VAE', but the rows are 'VAE', .* and table2's are 'Stable Diff. "),
        ({"table": None, "paper_rows": {"VAE": "VAE Reconstruction"}}, "paper_rows is .* but must be empty where table is None"),
        ({"facts": {"frechet_distance": float("inf")}}, r"record\['facts'\]\['frechet_distance'\] is inf, but must be finite"),
        ({"table": "table9"}, "name is 'table9', but the paper's tables are"),
    ],
)
def test_a_bad_record_is_not_made(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**changes)


def test_a_record_may_answer_to_no_table_of_the_paper(tmp_path, capsys):
    facts = {"frechet_distance": 12.5, "sweep": {"3": {"cls": 0.25}}}
    whole = {"Generated": {"fd": 12.5}}
    record = make(table=None, rows={"Generated": {"cls": [1.0, 0.0] * 6}, "VAE": VAE}, facts=facts, totals=whole)
    file = save_record(record, tmp_path / "table2_recon.json")
    assert load_record(file) == record | {"seal": seal(record)} and record["table"] is None and record["facts"] == facts
    assert record["rows"]["Generated"]["metrics"]["cls"]["mean"] == 0.5 and record["rows"]["VAE"] == make()["rows"]["VAE"] | {
        "paper_row": None
    }
    frame = measured_table(record)
    assert frame.loc["Generated", "cls"].startswith("0.5 [") and frame.loc["VAE", "cls"] == "–"
    assert frame.loc["Generated", "fd"] == "12.5"
    assert results.main(["show", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "n = 12" in shown and frame.loc["VAE", "psnr"] in shown and '"frechet_distance": 12.5' in shown
    with pytest.raises(ValueError, match="table is 'table2', but the record table2_recon is of None"):
        comparison_table("table2", this_run=record)


def test_nan_never_reaches_a_file(tmp_path):
    record = make()
    record["rows"]["VAE"]["metrics"]["mse"]["mean"] = float("nan")
    with pytest.raises(ValueError, match=r"record\['rows'\]\['VAE'\]\['metrics'\]\['mse'\]\['mean'\] is nan"):
        save_record(record, tmp_path / "record.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("{", "is not JSON"), ("[]", "lacks schema, name"), ('{"schema": 1}', "lacks name, table"), (None, "There is no record")],
)
def test_a_file_that_is_no_record_is_named(tmp_path, content, sentence, capsys):
    file = tmp_path / "record.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=f"{sentence}"):
        load_record(file)
    with pytest.raises(SystemExit) as stopped:
        results.main(["show", str(file)])
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err


def test_another_schema_is_refused(tmp_path):
    file = save_record(make() | {"schema": 2}, tmp_path / "table2_recon.json")
    with pytest.raises(ValueError, match="has schema 2, but must be a record of schema 1"):
        load_record(file)


def test_show_prints_the_table_as_text(tmp_path):
    file = save_record(make(), tmp_path / "table2_recon.json")
    command = [sys.executable, "-m", "companion.evidence", "show", str(file)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=paths.ROOT, encoding="utf-8")
    assert "Stable Diff. + DDIM" in shown.stdout and "Base + DDIM, guidance 3" in shown.stdout and "p (Holm)" in shown.stdout
    assert shown.stderr == ""
    rows = [line for line in shown.stdout.splitlines() if "[" in line and ";" not in line and "settings differ" not in line]
    assert rows and max(map(len, rows)) <= 150


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["show"], "python -m companion.evidence show: the following arguments are required: FILE; --help shows how."),
        ([], "python -m companion.evidence: the following arguments are required: show; --help shows how."),
        (["show", "x.json", "--nope"], "python -m companion.evidence: unrecognized arguments: --nope; --help shows how."),
    ],
)
def test_a_wrong_command_ends_in_one_sentence(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as ended:
        results.main(arguments)
    assert ended.value.code == 2 and capsys.readouterr().err == f"{sentence}\n"


def test_the_last_cell_says_where_the_record_lies(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "OUT", paths.ROOT / "out")
    sentence = results.saved_sentence("table2_recon")
    assert sentence.startswith("Record of this run: out/table2_recon.json.") and str(paths.ROOT) not in sentence
    monkeypatch.setattr(paths, "OUT", tmp_path)
    assert (tmp_path / "table2_recon.json").as_posix() in results.saved_sentence("table2_recon")


# Glue -----------------------------------------------------------------------------------------------------------------------------


def test_glue_stores_python_numbers(monkeypatch):
    glued = {}
    monkeypatch.setattr("myst_nb.glue", lambda name, value, display: glued.update({name: (value, display)}))
    results.glue("vae_psnr", np.float32(30.5))
    results.glue("n", 64)
    results.glue("verdict", "better")
    assert glued == {"vae_psnr": (30.5, False), "n": (64.0, False), "verdict": ("better", False)}
    assert [type(value) for value, _ in glued.values()] == [float, float, str]


def test_glue_does_nothing_without_myst_nb(monkeypatch):
    monkeypatch.setitem(sys.modules, "myst_nb", None)
    results.glue("vae_psnr", 30.5)
    with pytest.raises(TypeError):
        results.glue("vae_psnr", None)
