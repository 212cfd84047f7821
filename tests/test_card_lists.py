"""The list beside folders vouches for their cards: no bit of one changes unseen, and a kill leaves a folder that can be read."""

import hashlib
import importlib
import json
import random
import sys

import pytest
from tiny import assert_one_sentence

from companion.base import paths
from companion.base.reading import UnreadableFile
from companion.training.publishing import replacing
from companion.weights import card_lists
from companion.weights.card_lists import LIST, read_list
from companion.weights.cards import CARD, read_card, write_card

sys.path.insert(0, str(paths.ROOT / "tools"))
list_cards = importlib.import_module("list_cards")


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A folder of models, one in it, with its list."""
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    folder = tmp_path / "data" / "models"
    (folder / "mini").mkdir(parents=True)
    (folder / "mini" / "weights").write_bytes(b"trained")
    write_card(folder / "mini", guidance_scale=3.0)
    for place, cards in list_cards.listed(folder.parent).items():
        card_lists.write_list(place, cards)
    return folder


def digest(folder):
    return hashlib.sha256((folder / CARD).read_bytes()).hexdigest()


def test_every_card_that_ships_is_listed_as_it_is():
    found = {place: {name: [one] for name, one in cards.items()} for place, cards in list_cards.listed(paths.DATA).items()}
    assert found == {place: read_list(place / LIST) for place in found}, "run tools/list_cards.py"
    assert {place.name for place in found} == {"data", "models", "adapters"} and (paths.DATA / LIST).is_file()


def test_no_changed_bit_of_a_card_is_taken_for_a_fact(models):
    card, chance = models / "mini" / CARD, random.Random(0)
    whole = card.read_bytes()
    number = whole.replace(b"3.0", b"7.0")
    assert number != whole
    for _ in range(60):
        place = chance.randrange(len(whole))
        for damaged in (number, whole[:place] + bytes([whole[place] ^ 1 << chance.randrange(8)]) + whole[place + 1 :], whole[:place]):
            card.write_bytes(damaged)
            with pytest.raises(
                UnreadableFile, match=r"card\.json is damaged, restore it: it is not the one that .*cards\.json records"
            ) as raised:
                read_card(models / "mini")
            assert_one_sentence(raised)
    card.write_bytes(whole)
    assert read_card(models / "mini")["guidance_scale"] == 3.0


def test_new_cards_are_listed_and_other_folders_need_no_list(models, tmp_path):
    assert write_card(models / "mini", guidance_scale=7.0) == read_card(models / "mini")
    with replacing(models / "new") as folder:
        (folder / "weights").write_bytes(b"more")
        write_card(folder)
    assert read_list(models / LIST) == {name: [digest(models / name)] for name in ("mini", "new")}
    (tmp_path / "mine").mkdir()
    write_card(tmp_path / "mine")
    assert not (tmp_path / LIST).exists() and read_card(tmp_path / "mine") == {"files": {}}


@pytest.mark.parametrize("moment", ["before the card", "after the card"])
def test_a_kill_while_a_card_is_replaced_leaves_one_that_is_listed(models, moment):
    before = (models / "mini" / CARD).read_bytes()
    after = before.replace(b"3.0", b"4.0")
    with pytest.raises(KeyboardInterrupt), card_lists.relisting(models / "mini", after):
        if moment == "after the card":
            (models / "mini" / CARD).write_bytes(after)
        raise KeyboardInterrupt
    assert len(read_list(models / LIST)["mini"]) == 2
    assert read_card(models / "mini")["guidance_scale"] == (4.0 if moment == "after the card" else 3.0)
    write_card(models / "mini")
    assert read_list(models / LIST)["mini"] == [digest(models / "mini")]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"mini": "a"}', '{"mini": []}', '{"mini": [1]}', '{"mini": ["a"], "mini": ["b"]}'])
def test_a_list_that_is_damaged_is_named(models, content):
    (models / LIST).write_text(content)
    with pytest.raises(
        UnreadableFile, match=r"cards\.json .*: restore it, or write it again with `python tools/list_cards\.py`$"
    ) as raised:
        read_card(models / "mini")
    assert_one_sentence(raised)


def test_a_card_that_was_edited_is_listed_anew_only_beside_whole_files(models, monkeypatch, capsys):
    card = models / "mini" / CARD
    card.write_text(json.dumps(json.loads(card.read_text()) | {"guidance_scale": 5.0}))
    monkeypatch.setattr(paths, "DATA", models.parent)
    monkeypatch.setattr(paths, "ROOT", models.parent.parent)
    monkeypatch.setattr(sys, "argv", ["list_cards"])
    list_cards.main()
    assert capsys.readouterr().out == "data/models: 1 cards\n" and read_card(models / "mini")["guidance_scale"] == 5.0
    (models / "mini" / "weights").write_bytes(b"trainee")
    with pytest.raises(SystemExit) as stopped:
        list_cards.main()
    assert stopped.value.code == 2 and "weights is damaged or not the file" in capsys.readouterr().err
