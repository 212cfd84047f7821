"""Captioned pictures and shards as a folder in COCO's layout: drawn by seed, copied as they are, damaged ones replaced and counted."""

import json
import re
import shlex

import pytest
from PIL import Image
from shard_files import picture, write_shards
from tiny import assert_one_sentence

from companion.base import paths
from companion.base.paths import ROOT
from companion.data import as_coco as command
from companion.data.as_coco import as_coco
from companion.data.listings import ListingError
from companion.data.load import load_items
from companion.data.sources import layout_of
from companion.training.settings import load_config, parse_settings


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    photos = tmp_path / "photos"
    (photos / "deep").mkdir(parents=True)
    for number in range(6):
        (photos / "deep" / f"{number}.jpg").write_bytes(picture(number))
        (photos / "deep" / f"{number}.txt").write_text(f"picture {number}, ja é")
    (photos / "deep" / "3.jpg").write_bytes(picture(3)[:200])
    return photos


def items(out, split):
    count = len(json.loads((out / "annotations" / f"captions_{split}.json").read_text())["images"])
    return load_items(str(out), split, count, size=16)


def test_a_folder_becomes_a_dataset(folder, tmp_path):
    written, problems = as_coco(str(folder), tmp_path / "coco", "mine")
    assert written == 5 and len(problems) == 1 and "3.jpg cannot be read as a picture" in problems[0]
    found = items(tmp_path / "coco", "mine")
    assert [item.caption for item in found] == [f"picture {number}, ja é" for number in (0, 1, 2, 4, 5)]
    assert (tmp_path / "coco" / "mine" / "000000000004.jpg").read_bytes() == picture(4)


def test_some_of_the_shards_are_drawn_by_seed_and_a_damaged_one_is_replaced(tmp_path, folder):
    shards = str(write_shards(tmp_path / "laion", [4, 5], pictures={6: b"<html>"}, captions={2: None}))
    drawn = {}
    for seed in range(4):
        with pytest.warns(UserWarning, match="1 of 9 pairs .* left out"):
            written, problems = as_coco(shards, tmp_path / "coco", f"seed{seed}", 5, seed)
        drawn[seed] = [item.caption for item in items(tmp_path / "coco", f"seed{seed}")]
        assert written == len(drawn[seed]) == 5 and not {"picture 2", "picture 6"} & set(drawn[seed])
        assert len(problems) in (1, 2) and "00000.tar has no caption for 000000002" in problems[0]
    assert len({tuple(captions) for captions in drawn.values()}) > 1
    with pytest.warns(UserWarning), pytest.raises(ListingError, match=r"limit is 8, but only 7 pictures in .* can be used") as raised:
        as_coco(shards, tmp_path / "coco", "all", 8)
    assert_one_sentence(raised)
    assert not (tmp_path / "coco" / "all").exists() and not list((tmp_path / "coco").glob(".*"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--split", "../up"], "split is '../up', but must be a name of letters, digits, - and _"),
        (["--split", "old"], r"split is 'old', but .*old is there already: choose another name, or remove it"),
        (["--split", "a", "--limit", "7"], r"limit is 7, but must lie in \[1, 6\], the number of captioned pictures in"),
        (["--split", "a", "--limit", "0"], r"limit is 0, but must lie in \[1, 6\]"),
        (["--split", "a", "--seed", "-1"], "seed is -1, but must be at least 0"),
        (["--split", "a", "--layout", "coco"], "which is in COCO's layout already: take it as the dataset"),
        (["--split", "a", "--layout", "tar"], r"argument --layout: invalid choice: 'tar'"),
    ],
)
def test_bad_commands_end_in_one_sentence(folder, tmp_path, monkeypatch, capsys, arguments, sentence):
    (tmp_path / "coco" / "old").mkdir(parents=True)
    monkeypatch.setattr("sys.argv", ["as_coco", "--data", str(folder), "--out", str(tmp_path / "coco"), *arguments])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and re.search(sentence, error) and error.count("\n") == 1, error
    assert not any((tmp_path / "coco").glob("annotations/*"))


def test_the_command_says_what_it_wrote_and_what_it_could_not_use(folder, tmp_path, monkeypatch, capsys):
    Image.new("RGB", (9, 9)).save(folder / "z.png")
    monkeypatch.setattr("sys.argv", ["as_coco", "--data", str(folder), "--out", str(tmp_path / "coco"), "--split", "mine"])
    command.main()
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("5 pictures with captions are in") and said[1].startswith("2 could not be used: ")


def test_the_commands_of_the_page_are_taken(monkeypatch):
    """Of "With your own pictures": each names what it is said to read, and settings and arguments that there are."""
    page = (ROOT / "book" / "run_it.md").read_text(encoding="utf-8")
    section = page[page.index("## With your own pictures") : page.index("(licence)=")]
    blocks = re.findall(r"^```bash\n(.*?)^```$", section, flags=re.DOTALL | re.MULTILINE)
    trainings, others = (block.splitlines() for block in blocks)
    layouts = []
    for words in map(shlex.split, trainings):
        config = load_config(ROOT / words[words.index("--config") + 1], **parse_settings(words[words.index("--set") + 1 :]))
        layouts.append(layout_of(config.objective_options["data"]))
    assert layouts == ["folder", "folder", "shards"]  # none of these folders is here; a COCO folder shows by its annotations
    taken = []
    monkeypatch.setattr(command, "as_coco", lambda *arguments: (taken.append(arguments), (1, []))[1])
    for words in map(shlex.split, others[:2]):
        monkeypatch.setattr("sys.argv", words[2:])
        command.main()
    assert [arguments[0] for arguments in taken] == ["photos", "laion/*.tar"] and taken[1][3:5] == (500, 0)
    assert others[2] == 'make table2_recon ARGS="-p dataset ../coco -p split mine"' and "../coco" in (
        ROOT / "configs" / "sd15" / "table2_recon.yaml"
    ).read_text(encoding="utf-8")
