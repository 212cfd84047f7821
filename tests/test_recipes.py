"""The recipe page (book/recipes.md): its snippets run as they are printed, its pictures are what they make, its commands are taken."""

import re
import runpy
import shlex
from importlib import import_module

import numpy as np
import pytest
from PIL import Image

from companion.base import paths
from companion.base.paths import ROOT
from companion.data.load import load_pairs, load_scenes
from companion.training.settings import load_config, parse_settings
from companion.weights import pipelines

PAGE = (ROOT / "book" / "recipes.md").read_text(encoding="utf-8")
FIGURES = ROOT / "book" / "_static" / "figures"
SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
NEARLY = 3.0  # grey levels: another build of PyTorch rounds otherwise


def blocks(language, page=PAGE):
    return re.findall(rf"^```{language}\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)


GENERATE, INTERPOLATE, INTERPOLATE_SD15, EDIT, EDIT_SD15 = blocks("python")
PAPERMILL, MEASURE, TRAIN, TRAIN_SD15 = blocks("bash")


def prepare(folder):
    """Make `folder` look like the repository's, with a user's pictures in it: test scenes, found by their captions."""
    (folder / "data").symlink_to(ROOT / "data")
    scenes = load_scenes("test")
    first, second = re.findall(r'"(a photo of a [^"]*)" *[,)]', INTERPOLATE)
    for name, caption in (("first", first), ("second", second)):
        Image.fromarray(scenes.images[scenes.captions.index(caption)]).save(folder / f"{name}.png")
    source, target = re.search(r'source, target = "(.*)", "(.*)"', EDIT).groups()
    (pair,) = [pair for pair in load_pairs() if (pair.record["source_caption"], pair.record["target_caption"]) == (source, target)]
    Image.fromarray(pair.source).save(folder / "mine.png")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(snippet):
    found = {"__name__": "snippet"}
    exec(compile(snippet, "recipes.md", "exec"), found)
    return found


def distance(picture, other):
    return np.abs(np.asarray(picture, dtype=float) - np.asarray(other, dtype=float)).mean()


def shown(name):
    """The page's picture, which must be on the page."""
    assert f"_static/figures/recipe_{name}.png" in PAGE
    return Image.open(FIGURES / f"recipe_{name}.png")


def test_generate_scale_fuse_and_unload(folder, capfd):
    from diffusers.utils import logging

    logging.enable_propagation()
    found = run(GENERATE)
    logging.disable_propagation()
    for name in ("without", "half", "smooth"):
        assert distance(Image.open(folder / f"{name}.png"), shown(name)) < NEARLY
    assert distance(found["without"], found["smooth"]) > 2 * distance(found["smooth"], found["fused"])
    assert distance(found["unloaded"], found["without"]) < 1 and not found["pipe"].get_list_adapters()
    assert 0 < distance(found["half"], found["without"]) and 0 < distance(found["half"], found["smooth"])


def test_interpolate_two_pictures(folder):
    run(INTERPOLATE)
    assert distance(Image.open(folder / "walk.png"), shown("walk")) < NEARLY


def test_edit_a_picture_in_ten_lines(folder):
    code = EDIT[EDIT.index("model, adapter") :]
    assert len(code.strip().splitlines()) <= 10
    run(EDIT)
    assert distance(Image.open(folder / "mine.png"), shown("mine")) == 0
    assert distance(Image.open(folder / "edited.png"), shown("edited")) < NEARLY


@pytest.mark.parametrize("snippet, line, made", [(EDIT, EDIT_SD15, "edited.png"), (INTERPOLATE, INTERPOLATE_SD15, "walk.png")])
def test_the_line_for_stable_diffusion_takes_the_place_of_the_first(folder, monkeypatch, snippet, line, made):
    """The embedded model stands in for Stable Diffusion; everything else is as printed."""
    asked, load = [], pipelines.load_pipeline

    def stand_in(name, *, adapter, device):
        asked.append((name, adapter, device))
        return load("mini")

    for function, given in (("load_pipeline", stand_in), ("image_size", lambda _: 64), ("default_guidance_scale", lambda _: 3.0)):
        monkeypatch.setattr(pipelines, function, given)
    first = next(one for one in snippet.splitlines() if one.startswith("model, adapter"))
    few = [
        ("num_inference_steps=20", "num_inference_steps=2"),
        ("frames=7", "frames=3"),
        ("PromptSwitch(", "PromptSwitch(num_inference_steps=2, "),
    ]
    changed = snippet.replace(first, line.strip())
    for long, short in few:
        changed = changed.replace(long, short)
    run(changed)
    ((name, adapter, device),) = asked
    exported = load_config(paths.CONFIGS / "training" / "sd15_smooth_lora.yaml").export_to
    assert (name, device) == (SD15, "cuda") and (folder / made).is_file()
    assert adapter is None or f"adapters/{adapter}" == exported  # its name is what the page's own training writes


def test_the_measure_command_is_taken_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    python, option, module, *arguments = shlex.split(MEASURE)
    assert (python, option) == ("python", "-m") and "--num-prompts" in arguments
    main = import_module(f"{module}.__main__").main
    few = ["--num-prompts", "2", "--num-inference-steps", "2", "--frames", "3", "--out", str(tmp_path / "out")]  # the last one counts
    assert main([*arguments, *few]) == 0
    listed = set(re.findall(r"^\| `([\w.]+)` \|", PAGE, flags=re.MULTILINE))
    assert listed == {file.name for file in (tmp_path / "out").iterdir()}
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:3]] == ["Base", "Smooth"]


@pytest.mark.parametrize("command", [TRAIN, TRAIN_SD15])
def test_the_trainings_settings_are_taken_as_printed(command):
    words = shlex.split(command)
    file, settings = words[words.index("--config") + 1], words[words.index("--set") + 1 :]
    assert words[words.index("-m") + 1] == "companion.training"
    config = load_config(ROOT / file, **parse_settings(settings))
    assert config.objective_options["data"] == "/path/to/images"


def test_the_shortest_way_is_documented_first():
    assert PAPERMILL.strip() == "papermill notebooks/table2_recon.ipynb out.ipynb" and PAGE.index(PAPERMILL) < PAGE.index(GENERATE)


def test_costs_are_those_of_cards_and_configuration():
    costs = runpy.run_path(str(ROOT / "book" / "_ext" / "training_costs.py"))
    rows = costs["trainings"]()
    assert rows and all(len(row) == 8 and re.fullmatch(r"[\d.]+( to [\d.]+)?", row[-1]) for row in rows)
    assert {row[-2] for row in rows if row[5] == "0"} == {"–"}
    (first, *_) = costs["paper_setting"]()
    memory, seconds, hours = (float(re.match(r"[\d.]+", text)[0]) for text in first[2:5])
    assert memory > 1 and hours == round(30_000 * 8 * seconds / 3600) and "of 4" in first[4] and first[5]


def test_every_adapter_that_ships_is_listed_once_with_what_tells_it_apart():
    rows = runpy.run_path(str(ROOT / "book" / "_ext" / "training_costs.py"))["adapters"]()
    names = [name for row in rows for name in row[0].split(", ")]
    assert sorted(names) == sorted(file.parent.name for file in (ROOT / "data" / "models" / "adapters").glob("*/card.json"))
    assert len({tuple(row[1:]) for row in rows}) == len(rows)
    told = {row[0].split(", ")[0]: row[1:] for row in rows}
    assert told["plain"][2:4] == ["0", "–"] and told["full"][1] == "every weight" and told["guided"][4] == "guided prediction, w = 3"
