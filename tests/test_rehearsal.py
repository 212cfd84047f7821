"""The presets of Stable Diffusion 1.5 run: on random weights of its architecture with few channels, here; at full width by a command."""

import functools
import logging
import re
import runpy
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from companion.base import paths
from companion.data.captioned import captioned_folder
from companion.data.drags import load_drags
from companion.data.edits import load_edits
from companion.data.load import load_split
from companion.data.shards import Shards
from companion.evidence import models
from companion.evidence.claims import evaluate
from companion.evidence.weighing import NOT_MEASURED
from companion.studies import base
from companion.weights.pipelines import image_size, load_pipeline
from smoothlib.inversion import ddim_invert
from smoothlib.sampling import encode_prompts

sys.path.insert(0, str(paths.ROOT / "tools"))
from rehearsing import folders, outcomes, pages, pipeline
from rehearsing.tokenizer import write_tokenizer

TRUE_ANSWERS = {"beyond_edit_benchmark", "beyond_inverters", "beyond_morphbench"}  # pages that need the scenes


@pytest.fixture(scope="module")
def command():
    return SimpleNamespace(**runpy.run_path(str(paths.ROOT / "tools" / "sd15_rehearsal.py")))


@pytest.fixture(scope="module")
def built(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rehearsal")
    command.build(folder, "slim")
    return folder


def test_the_pipeline_in_memory_is_laid_out_as_the_one_in_the_folder(built):
    there, here = load_pipeline(str(built / "sd15")), pipeline.build_pipeline("slim")
    for name in ("unet", "vae", "text_encoder"):
        shapes = [{key: value.shape for key, value in getattr(one, name).state_dict().items()} for one in (there, here)]
        assert shapes[0] == shapes[1]
    settings = [{key: value for key, value in one.scheduler.config.items() if key[0] != "_"} for one in (there, here)]
    assert settings[1].items() <= settings[0].items() and settings[1]["steps_offset"] == 1
    assert type(there.scheduler) is type(here.scheduler) and type(there.tokenizer) is type(here.tokenizer)


def test_every_preset_runs(command, built, monkeypatch):
    """Each page's own cells, on two images and two steps; a row's pipeline, which no page changes, is loaded once for all of them."""
    for name in ("RUNS", "OUT"):
        monkeypatch.setattr(paths, name, built / name.lower())
    monkeypatch.setattr(base, "load_row", functools.cache(base.load_row))
    failed = {}
    for name in command.names():
        try:
            command.rehearse(name, built)
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"
    assert not failed
    made = {file.stem for file in (built / "out").glob("*.json")}
    assert {"table1_istd", "table2_recon", "table3_lambda", "table4_rank", "beyond_drag_benchmark"} <= made
    assert_stands_beside(built / "out", built / "results")
    assert str(built) not in "".join(file.read_text(encoding="utf-8") for file in (built / "out").glob("*.json"))


def assert_stands_beside(out, results):
    """What the presets have recorded has a verdict of its own on every claim that it is about, beside the embedded model's."""
    measured = {file.stem for file in out.glob("*.json")}
    shutil.copytree(out, results / "sd15", ignore=lambda folder, names: [name for name in names if not name.endswith(".json")])
    here, (theirs,) = evaluate(), models.verdicts_of_others(results).values()
    claims = {one.claim.id: set(one.claim.records) for one in theirs}
    told = {one.claim.id for one in theirs if one.evidence and one.outcome != NOT_MEASURED}
    assert told and told <= {name for name, needed in claims.items() if needed & measured}
    text = models.beside(here, {"Stable Diffusion 1.5": theirs})
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    both = [one for one in here if one.evidence and one.claim.id in told]
    assert sorted(line.split(" | ")[1] for line in lines) == sorted(one.outcome for one in both)


def test_every_page_beyond_the_paper_has_a_preset_or_needs_true_answers(command):
    beyond = {file.stem for file in (paths.ROOT / "notebooks").glob("beyond_*.ipynb")}
    paper = {file.stem for pattern in ("table*", "fig*") for file in (paths.ROOT / "notebooks").glob(f"{pattern}.ipynb")}
    assert (beyond | paper) - set(command.names()) == TRUE_ANSWERS
    text = (paths.ROOT / "book" / "run_it.md").read_text(encoding="utf-8")
    refused = re.findall(r"^\| \{doc\}`../notebooks/(\w+)` \|", text, flags=re.MULTILINE)
    assert set(refused) == TRUE_ANSWERS


def test_the_full_width_is_the_published_architecture():
    wide = pipeline.WIDTHS["full"]
    with torch.device("meta"):
        parts = pipeline._unet(wide, 64), pipeline._vae(wide, 512), pipeline._text_encoder(wide, wide.tokens)
    assert [sum(p.numel() for p in part.parameters()) for part in parts] == [859_520_964, 83_653_863, 123_060_480]


def test_the_folder_loads_as_the_hubs_does_and_every_weight_arrives(built):
    from safetensors.torch import load_file

    files = built / "sd15"
    stored = load_file(files / "vae" / "diffusion_pytorch_model.safetensors")
    name = "encoder.mid_block.attentions.0"
    assert f"{name}.query.weight" in stored and not [key for key in stored if "to_q" in key]
    pipe = load_pipeline(str(files))
    assert image_size(str(files)) == 128 and pipe.scheduler.config.beta_end == 0.012
    assert torch.equal(pipe.vae.get_submodule(name).to_q.weight, stored[f"{name}.query.weight"])
    text = load_file(files / "text_encoder" / "model.safetensors")
    loaded = {key.removeprefix("text_model."): value for key, value in pipe.text_encoder.state_dict().items()}
    assert all(torch.equal(loaded[key.removeprefix("text_model.")], value) for key, value in text.items() if "position_ids" not in key)


def test_equal_seeds_make_equal_folders(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        pipeline.write_pipeline(tmp_path / name, "slim", words=["cat"], seed=seed)
    contents = [
        {file.relative_to(tmp_path / name): file.read_bytes() for file in (tmp_path / name).rglob("*") if file.is_file()} for name in "abc"
    ]
    assert contents[0] == contents[1] != contents[2]


def test_the_tokenizer_reads_any_text_and_knows_its_words(tmp_path):
    from transformers import CLIPTokenizer

    assert write_tokenizer(tmp_path, ["ginger", "cat"], 1000, seed=3) == 1000
    tokenizer = CLIPTokenizer.from_pretrained(str(tmp_path))
    start, *inner, end = tokenizer("A cat, 猫 & été").input_ids
    assert (start, end) == (998, 999) and max(inner) < 998
    assert tokenizer.convert_ids_to_tokens(inner)[1] == "cat</w>" and tokenizer.decode(inner).replace(" ", "") == "acat,猫&été"
    assert len(tokenizer("a " * 200, padding="max_length", truncation=True).input_ids) == 77
    with pytest.raises(ValueError, match="size is 100, but must be at least 514"):
        write_tokenizer(tmp_path, [], 100)


def test_the_folders_are_read_in_their_published_layouts(built):
    coco = load_split(str(built / "coco"), "val2017", size=64)
    assert len(coco) == 24 and coco.item(0).image.shape == (3, 64, 64) and coco.records[0]["caption"].startswith("a photo of")
    pie, edits = (load_edits(str(built / name), size=64) for name in ("PIE-Bench", "edits"))
    assert len(pie) == len(edits) == len(folders.photographs())
    assert pie.item(0).mask.any() and pie.item(0).source_caption == edits.item(0).source_caption
    drags = load_drags(str(built / "DragBench"), 128)
    assert len(drags) == 8 and {drag.kind for drag in drags} == {"animals", "other_objects"}
    shards = sorted((built / "laion" / "shards").glob("*.tar"))
    assert [shard.name for shard in shards] == ["00000.tar", "00001.tar"]
    pairs, (_, loose) = Shards(built / "laion" / "shards"), captioned_folder(built / "laion")
    assert [pairs.caption(number) for number in range(16)] == [one.caption for one in loose]
    assert all(pairs.member(number).content == (built / "laion" / one.name).read_bytes() for number, one in enumerate(loose))


def test_the_hubs_scheduler_is_no_news_in_an_inversion(built):
    """It has a key of PNDM's, `skip_prk_steps`, of which diffusers would warn whenever a scheduler is made of it."""
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    pipe, logger = load_pipeline(str(built / "sd15")), logging.getLogger("diffusers.configuration_utils")
    logger.addHandler(handler)
    try:
        ddim_invert(pipe, torch.zeros(1, 4, 16, 16), encode_prompts(pipe, ["a cat"]), num_inference_steps=2)
    finally:
        logger.removeHandler(handler)
    assert "skip_prk_steps" in (built / "sd15" / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8") and not said


def test_a_figure_that_is_too_large_for_a_page_is_a_failure():
    class Large:
        def _repr_html_(self):
            return '<div class="smooth-widget">' + "x" * 400_000

    with pytest.raises(ValueError, match="a cell shows 400 kB, but a page allows 300 kB"):
        pages.seen(Large())


@pytest.fixture
def processes(command, built, monkeypatch):
    """What the presets' processes do, one after the other, instead of a rehearsal; and their commands."""
    begun, finished = [], []

    def run(arguments, **_):
        begun.append(arguments[-1])
        found = finished.pop(0)
        if isinstance(found, Exception):
            raise found
        return SimpleNamespace(**{"returncode": 0, "stdout": "", "stderr": ""} | found)

    monkeypatch.setattr(outcomes.subprocess, "run", run)
    yield SimpleNamespace(begun=begun, finished=finished)
    (built / command.OUTCOMES).unlink(missing_ok=True)


def test_the_command_counts_failures_and_runs_them_again(command, built, capsys, processes):
    one, two = "table1_istd", "table2_recon"
    processes.finished += [
        {"stdout": outcomes.report(1.5, 40) + "\n"},
        {"returncode": 1, "stderr": "ValueError: no\n" + outcomes.report(0.5, 3)},
    ]
    assert command.print_table([one, two], built) == 1
    _, first, second, last = capsys.readouterr().out.splitlines()
    assert first.split() == [one, "works", "0", "1.5", "40"]
    assert second.split()[1:5] == ["FAILED", "0", "0.5", "3"] and second.endswith("ValueError: no") and last == "1 of 2 presets work."

    processes.finished += [{"returncode": -9, "stderr": ""}, subprocess.TimeoutExpired("page", 60), {"stdout": outcomes.report(2.5, 3)}]
    for result in ("FAILED", "too long"):
        assert command.print_table([one, two], built, minutes=1) == 1
        _, kept, again, _ = capsys.readouterr().out.splitlines()
        assert kept == first and result in again and again.endswith("killed" if result == "FAILED" else "ended after 1 minutes")
    assert command.print_table([one, two], built) == 0 and processes.begun == [one, two, two, two, two]
    processes.finished += [{"stdout": outcomes.report(1.5, 40)}]
    assert command.print_table([one], built, again=True) == 0 and processes.begun[-1] == one
    assert {name: found.peak for name, found in outcomes.stored(built / command.OUTCOMES).items()} == {one: 1.5, two: 2.5}


def test_what_worked_with_other_code_is_run_again(command, built, processes, monkeypatch):
    processes.finished += [{"stdout": outcomes.report(1.5, 40)}] * 2
    command.print_table(["table1_istd"], built)
    monkeypatch.setattr(outcomes, "package_modules", lambda: {"smoothlib.sampling": "changed"})
    command.print_table(["table1_istd"], built)
    assert len(processes.begun) == 2


def test_the_cheapest_preset_is_first():
    counted = {name: outcomes.Outcome("works", 1.0, 1.0, samples, "", "") for name, samples in (("a", 30), ("b", 4), ("c", None))}
    assert outcomes.cheapest_first(["c", "new", "a", "b"], counted) == ["b", "a", "c", "new"]


def test_a_process_of_a_preset_says_what_it_took(command, built, capfd):
    """The real one, of the page that is through soonest, ended in time; and its samples are counted."""
    found = outcomes.run([sys.executable, "-c", "import time; time.sleep(100)"], {}, built, 0.001, "code")
    assert (found.result, found.samples) == ("too long", None) and found.seconds < 60
    assert command._child("no such preset", built) == 1
    assert outcomes.REPORT.search(capfd.readouterr().out)[2] == "0"
