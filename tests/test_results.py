"""Records, provenance, the paper's numbers, the comparison table, glue, the command."""

import json
import platform
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from smoothlib import paths, results, staleness, status
from smoothlib.paper import load_paper_table
from smoothlib.provenance import revision
from smoothlib.results import comparison_table, load_record, make_record, measured_table, paired_tests, save_record, stale
from smoothlib.staleness import module_hashes, source_hash, staleness_note
from smoothlib.statistics import holm, mean_interval

RNG = np.random.default_rng(0)
VAE = {"mse": RNG.gamma(2, 0.005, 12), "lpips": RNG.random(12), "ssim": RNG.random(12), "psnr": RNG.normal(30, 2, 12)}
DDIM = {metric: values + 0.1 for metric, values in VAE.items()}
PAPER_ROWS = {"VAE": "VAE Reconstruction", "Base + DDIM, guidance 1": "Stable Diff. + DDIM"}


def make(rows=None, **changes):
    made = results.provenance(
        config={"num_images": 12, "seed": 0} | changes.pop("config", {}),
        models={"mini": "0123abcd"},
        data_hash="feed",
        seed=0,
        dtype=torch.float32,
        duration=61.26,
    )
    arguments = {
        "table": "table2",
        "model": "the embedded model, 64x64",
        "items": [f"test-{i}" for i in range(12)],
        "rows": {"VAE": VAE, "Base + DDIM, guidance 1": DDIM, "Base + DDIM, guidance 3": {"mse": DDIM["mse"]}} if rows is None else rows,
        "paper_rows": PAPER_ROWS if rows is None else {},
        "conventions": {"mse": "images in [-1, 1]"},
        "pairs": [("VAE", "Base + DDIM, guidance 1")] if rows is None else [],
        "provenance": made,
    }
    return make_record("table2_recon", **(arguments | changes))


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


def test_a_record_survives_the_disk(tmp_path):
    record = make()
    assert load_record(save_record(record, tmp_path / "deep" / "record.json")) == record
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
    file = save_record(record, tmp_path / "record.json")
    assert load_record(file) == record and record["table"] is None and record["facts"] == facts
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
    assert results.main(["show", str(file)]) == 1
    assert sentence in capsys.readouterr().err


def test_another_schema_is_refused(tmp_path):
    file = save_record(make() | {"schema": 2}, tmp_path / "record.json")
    with pytest.raises(ValueError, match="has schema 2, but must be a record of schema 1"):
        load_record(file)


# Older than the code --------------------------------------------------------------------------------------------------------------

SOURCE = '''"""A module."""

import math  # for pi


class A:
    """Doc."""

    def area(self, r: float) -> str:
        # a comment
        return f"{math.pi * r**2:.{2}f} {{cm}}"
'''


@pytest.mark.parametrize(
    "changed",
    [
        SOURCE.replace('"""Doc."""', '"""Another.\n\n    Longer.\n    """'),
        SOURCE.replace("        # a comment\n", ""),
        SOURCE.replace("  # for pi", "").replace("\n\n\n", "\n"),
        SOURCE.replace("    ", "  "),
        SOURCE.replace("(self, r: float)", "(\n        self,\n        r: float\n    )"),
        SOURCE.replace('"""A module."""\n', ""),
    ],
    ids=["docstring", "comment", "blank lines", "indentation", "line breaks", "no docstring"],
)
def test_editing_prose_makes_nothing_stale(changed):
    assert changed != SOURCE and source_hash(changed) == source_hash(SOURCE)


@pytest.mark.parametrize(
    "changed",
    [
        SOURCE.replace("r**2", "r**3"),
        SOURCE.replace("{2}", "{3}"),
        SOURCE.replace("cm", "mm"),
        SOURCE.replace("r: float", "r: float = 1"),
        SOURCE.replace("        return", "        self.x = 1\n        return"),
        SOURCE.replace('"""Doc."""', 'doc = """Doc."""'),
        SOURCE.replace("    def", "def").replace("        return", "    return"),
    ],
    ids=["number", "in a format", "in an f-string", "default", "statement", "not a docstring", "block"],
)
def test_editing_code_does(changed):
    assert changed != SOURCE and source_hash(changed) != source_hash(SOURCE)


def test_a_hash_is_the_same_on_every_python():
    """f-strings are one token on Python 3.11 and several from 3.12 on; these were computed on 3.11, 3.12 and 3.13."""
    assert source_hash(SOURCE) == "545ca4f9ccb9e376"
    assert source_hash('x = f"""a {1\n + 2}\n b""" + rf\'\\d{x!r:{3}}\'\n') == "9ce9b82678256e58"


@pytest.fixture
def sources_as_now(monkeypatch):
    """As if this process had begun now: someone may edit the code while the tests run."""
    monkeypatch.setattr(staleness, "_AT_IMPORT", staleness._all_sources())


def test_a_record_names_the_modules_that_have_changed_since(sources_as_now):
    record = make()
    modules = record["provenance"]["modules"]
    assert modules == module_hashes() and {"runs", "statistics"} <= set(modules)
    assert not set(modules) & {"results", "tables", "figures", "provenance", "paper", "config", "claims", "metrics", ""}
    assert stale(record) == [] and staleness_note(record) == ""
    modules["statistics"] = modules["removed.module"] = "0" * 16
    assert stale(record) == ["statistics", "removed.module"]
    note = "Recorded with older code: smoothlib.statistics, smoothlib.removed.module have changed since."
    assert staleness_note(record) == note
    assert note in str(comparison_table("table2", recorded=record)) and note in comparison_table("table2", recorded=record)._repr_html_()
    del record["provenance"]["modules"]
    assert stale(record) == ["unknown"] and staleness_note(record).endswith("the record does not say which code made it.")


def test_hashing_imports_nothing(monkeypatch):
    before = set(sys.modules)
    found = module_hashes()
    assert set(sys.modules) == before and {f"smoothlib.{name}" for name in found} <= before
    monkeypatch.setitem(sys.modules, "smoothlib.scenes.paint", object())
    monkeypatch.setitem(sys.modules, "smoothlib.figures.grids", object())  # a picture changes no number
    assert set(module_hashes()) - set(found) <= {"scenes.paint"} and "scenes.paint" in module_hashes()


def test_the_code_is_that_of_the_start_and_compared_with_that_of_now(monkeypatch, tmp_path):
    """A module that is edited while a run goes on is not what made the result."""
    (tmp_path / "walks.py").write_text("x = 1\n")
    monkeypatch.setattr(staleness, "PACKAGE", tmp_path)
    monkeypatch.setattr(staleness, "_AT_IMPORT", staleness._all_sources())
    monkeypatch.setitem(sys.modules, "smoothlib.walks", object())
    record = {"provenance": {"modules": module_hashes()}}
    assert list(record["provenance"]["modules"]) == ["walks"] and stale(record) == []
    (tmp_path / "walks.py").write_text("x = 2\n")
    assert module_hashes() == record["provenance"]["modules"] and stale(record) == ["walks"]


def test_the_status_page_has_a_row_for_every_record(tmp_path, sources_as_now):
    record = make()
    save_record(record, tmp_path / "table2_recon.json")
    record["provenance"]["modules"]["statistics"] = "0" * 16
    save_record(record, tmp_path / "train_base.json")
    del record["provenance"]["modules"]
    save_record(record, tmp_path / "before.json")
    table = status.execution_table(folder=tmp_path)
    assert list(table.index) == ["before", "table2_recon", "train_base"]
    row, made = table.loc["table2_recon"], record["provenance"]
    assert (row["Recorded"], row["Minutes"], row["Items"]) == (made["date"][:10], "1.0", "12")
    assert row["Commit"].startswith(made["commit"][:10]) if made["commit"] else row["Commit"] == "none"
    assert (row["torch"], row["Device"]) == (torch.__version__.partition("+")[0], "cpu, float32")
    code = status.code_table(folder=tmp_path)["Code since"].to_dict()
    assert code == {"before": "unknown", "table2_recon": "the same", "train_base": "changed: statistics"}


# The table ------------------------------------------------------------------------------------------------------------------------


def test_the_headline_leaves_out_what_answers_to_no_printed_row():
    frame = comparison_table("table2", recorded=make(), headline=True).dataframe()
    assert "Base + DDIM, guidance 1" in frame.index.get_level_values(0) and len(frame) == 5 + 2


def test_comparison_table_puts_measured_rows_under_the_papers():
    recorded = make()
    table = comparison_table("table2", recorded=recorded, this_run=make(config={"num_images": 8}))
    frame = table.dataframe()
    assert list(frame.columns) == ["MSE ↓", "LPIPS ↓", "SSIM ↑", "PSNR ↑"]
    assert list(frame.index) == [
        ("Stable Diff. + DDIM", "Paper"),
        ("Base + DDIM, guidance 1", "Recorded"),
        ("Base + DDIM, guidance 1", "This run"),
        ("Smooth Diff. + DDIM", "Paper"),
        ("Stable Diff. + NTI", "Paper"),
        ("Smooth Diff. + NTI", "Paper"),
        ("VAE Reconstruction", "Paper"),
        ("VAE", "Recorded"),
        ("VAE", "This run"),
        ("Base + DDIM, guidance 3", "Recorded"),
        ("Base + DDIM, guidance 3", "This run"),
    ]
    assert frame.loc[("Stable Diff. + DDIM", "Paper")].tolist() == ["0.1756", "0.5385", "0.2662", "13.97"]
    interval = mean_interval(VAE["psnr"])
    assert frame.loc[("VAE", "Recorded"), "PSNR ↑"] == f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
    assert frame.loc[("Base + DDIM, guidance 3", "This run")].tolist()[1:] == ["–"] * 3
    assert "This run's settings differ from the recorded ones: num_images = 8 (recorded 12)." in table.notes()
    assert "n = 12" in str(table) and repr(table) == str(table)


def test_comparison_table_without_runs_is_the_papers():
    frame = comparison_table("table4").dataframe()
    assert [source for _, source in frame.index] == ["Paper"] * 4 and frame.shape == (4, 3)


def test_comparison_table_never_subtracts_and_escapes():
    record = make(model="<script>alert(1)</script>")
    table = comparison_table("table2", this_run=record)
    printed = {value for values in table.paper.rows.values() for value in values.values()}
    for row in record["rows"].values():
        for metric, interval in row["metrics"].items():
            printed |= {f"{interval[key]:.{table.paper.decimals(metric)}f}" for key in ("mean", "low", "high")}
    shown = re.findall(r"-?[\d.]+", " ".join(table.dataframe().to_numpy().ravel()))
    assert len(shown) == 20 + 3 * 9 and set(shown) <= printed  # nothing is shown that was neither printed nor measured
    html = table._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html
    parser = Balanced()
    parser.feed(html)
    assert parser.open == [] and parser.cells == 8 * 4


class Balanced(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.cells = [], 0

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.cells += tag == "td"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_markdown_has_one_line_a_row():
    lines = comparison_table("table2", this_run=make()).markdown().splitlines()
    assert lines[0] == "| Method | Source | MSE ↓ | LPIPS ↓ | SSIM ↑ | PSNR ↑ |" and len(lines) == 2 + 8
    assert {line.count("|") for line in lines} == {7}


def test_table_of_another_table_is_refused():
    with pytest.raises(ValueError, match="table is 'table1', but the record table2_recon is of 'table2'"):
        comparison_table("table1", this_run=make())


def test_paired_tests_say_who_is_better():
    frame = paired_tests(make(), load_paper_table("table2"))
    assert frame["Metric"].tolist() == ["MSE ↓", "LPIPS ↓", "SSIM ↑", "PSNR ↑"]
    assert frame["At 5 %"].tolist() == ["first better", "first better", "second better", "second better"]
    same = make(rows={"a": VAE, "b": VAE}, pairs=[("a", "b")])
    assert set(paired_tests(same, load_paper_table("table2"))["At 5 %"]) == {"no difference shown"}


def test_show_prints_the_table_as_text(tmp_path):
    file = save_record(make(), tmp_path / "record.json")
    command = [sys.executable, "-m", "smoothlib.results", "show", str(file)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=paths.ROOT, encoding="utf-8")
    assert "Stable Diff. + DDIM" in shown.stdout and "Base + DDIM, guidance 3" in shown.stdout and "p (Holm)" in shown.stdout
    assert shown.stderr == ""
    rows = [line for line in shown.stdout.splitlines() if "[" in line and ";" not in line and "settings differ" not in line]
    assert rows and max(map(len, rows)) <= 150


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


# Columns that the paper has not ------------------------------------------------------------------------------------------------------

COLUMNS = {"cv": {"label": "CV", "direction": "down"}, "frechet_distance": {"label": "FD", "direction": "down"}}


def make_with_columns(**changes):
    rows = {"Base": {"istd": RNG.random(12), "cv": RNG.random(12)}, "Smooth": {"istd": RNG.random(12) + 5, "cv": RNG.random(12) + 5}}
    totals = {"Base": {"frechet_distance": 12.5}, "Smooth": {"frechet_distance": 13.25}}
    arguments = dict(table="table1", rows=rows, paper_rows={"Base": "Stable Diffusion"}, columns=COLUMNS, totals=totals)
    return make(**(arguments | {"pairs": [("Base", "Smooth")]} | changes))


def test_further_columns_stand_beside_the_papers():
    record = make_with_columns()
    table = comparison_table("table1", this_run=record)
    frame = table.dataframe()
    assert list(frame.columns)[-2:] == ["CV ↓", "FD ↓"]
    assert frame.loc[("Stable Diffusion", "Paper"), "CV ↓"] == "–"
    assert frame.loc[("Base", "This run"), "FD ↓"] == "12.500"
    assert "[" in frame.loc[("Base", "This run"), "CV ↓"]
    tests = paired_tests(record, table.paper)
    assert set(tests["Metric"]) == {"ISTD ↓", "CV ↓"} and set(tests["At 5 %"]) == {"first better"}


def test_a_record_with_further_columns_is_stored_and_read(tmp_path):
    record = make_with_columns(facts={"seeds": [1, 2]})
    again = load_record(save_record(record, tmp_path / "record.json"))
    assert str(comparison_table("table1", recorded=again)) == str(comparison_table("table1", recorded=record))
    assert again["facts"] == {"seeds": [1, 2]}


def test_a_metric_without_a_column_is_refused():
    with pytest.raises(ValueError, match="has the metric 'cv', but table1's metrics are"):
        make_with_columns(columns={})
    with pytest.raises(ValueError, match="columns gives cv the direction 'left'"):
        make_with_columns(columns={"cv": {"label": "CV", "direction": "left"}})
