"""The scene judge: its words, its agreement in closed form, its training on a few scenes, and what ships."""

import json

import pytest
import torch
from tiny import assert_one_sentence

from companion.base import paths
from companion.data.edits import load_edits
from companion.data.load import load_scenes, scene_records
from companion.judges import scene_attributes as judge
from companion.judges.features import SCENE_RESOLUTION, ImageNetFeatures
from companion.training.objectives.attributes import AttributesObjective, word_numbers
from companion.world.scene_pairs import EDITS

SPLIT, COUNT = "compositional", 48  # the smallest split, and how many of its scenes are used
RECORD = {"cls": "dog", "colour": None, "ground": "snow", "setting": "park", "extra": None, "style": "photo"}


def test_every_edit_asks_for_the_field_that_differs():
    assert tuple(judge.ASKED) == EDITS and set(judge.ASKED.values()) == set(judge.WORDS)
    for record in scene_records("edits"):
        field = judge.ASKED[record["edit"]]
        assert record["source"][field] != record["target"][field]
        assert record["target"][field] in judge.WORDS[field]


def test_agreement_in_closed_form():
    predicted = {field: [words[0]] * 3 for field, words in judge.WORDS.items()}
    records = [RECORD, RECORD | {"cls": "car", "colour": "red"}, RECORD | {"extra": "gift", "style": "sepia"}]
    found = judge.agreement(predicted, records)
    assert found["style"].tolist() == [1, 1, 0] and found["cls"].tolist() == [0, 0, 0]
    assert found["extra"].tolist() == [1, 1, 0]  # no second object is a word too
    assert found["colour"].isnan().tolist() == [True, False, True] and found["colour"][1] == 1
    assert judge.asked(found, ["add", "recolour", "style"]).tolist() == [1, 1, 0]
    numbers = word_numbers(records)
    assert numbers[:, list(judge.WORDS).index("colour")].tolist() == [-1, 0, -1]
    assert numbers[:, list(judge.WORDS).index("extra")].tolist() == [0, 0, judge.WORDS["extra"].index("gift")]


def test_one_pass_gives_maps_and_the_usual_features():
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    network = judge.SceneFeatures()
    maps, pooled = network(images)
    assert maps.shape == (2, judge.CHANNELS, 8, 8) and torch.equal(pooled, ImageNetFeatures(SCENE_RESOLUTION)(images))
    assert not network.features.network[judge.LAYER]._forward_hooks


# Training -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The objective before and after 40 full-batch steps on 48 scenes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RUNS", tmp_path_factory.mktemp("runs"))
        objective = AttributesObjective(split=SPLIT, held_out=[SPLIT], limit=COUNT)
        before = objective.measure(SPLIT)
        optimizer = torch.optim.AdamW(objective.network.parameters(), lr=3e-3)
        generator = torch.Generator().manual_seed(0)
        for _ in range(40):
            loss, logged = objective(torch.arange(COUNT), objective.draw(COUNT, generator))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert logged.keys() == judge.WORDS.keys() and len(objective) == COUNT
        yield objective, before


def test_it_learns_the_words_of_a_few_scenes(fitted):
    objective, before = fitted
    after = objective.measure(SPLIT)
    assert after["num_images"] == COUNT
    for field in ("cls", "ground", "setting", "extra_where_present"):
        assert before[field] < 0.5 and after[field] > 0.9


def test_what_is_exported_says_what_was_measured(fitted, tmp_path, monkeypatch, capsys):
    objective, _ = fitted
    few = {"replace": {"num_pairs": 1, "ceiling": 1.0, "floor": 0.0}}
    monkeypatch.setattr(AttributesObjective, "measure_edits", lambda self: few)  # 792 images
    objective.export(tmp_path)
    capsys.readouterr()
    loaded = judge.load_scene_judge(tmp_path)
    assert loaded.held_out["edits"] == few and (tmp_path / judge.WEIGHTS).stat().st_size < 3e6
    scenes = load_scenes(SPLIT)
    found = loaded.agreement(torch.stack([scenes.item(i).image for i in range(COUNT)]), scenes.records[:COUNT])
    for field, values in found.items():
        assert values.nanmean().item() == pytest.approx(loaded.held_out[SPLIT][field], abs=1.5 / COUNT)  # features in half precision
    card = json.loads((tmp_path / "card.json").read_text())
    card["inputs"]["words"]["cls"] = card["inputs"]["words"]["cls"][::-1]
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="was trained with another words than this version has: train it again") as raised:
        judge.load_scene_judge(tmp_path)
    assert_one_sentence(raised)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"feature_dropout": 1.0}, r"feature_dropout must lie in \[0, 1\), got 1.0"), ({"limit": 0}, "limit must be at least 1, got 0")],
)
def test_bad_options_are_named(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        AttributesObjective(**options)


# What ships -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    return judge.load_scene_judge()


def test_the_shipped_judge_reaches_its_cards_ceilings_and_floors(shipped):
    """Of two kinds, local and global: true edits and untouched sources."""
    edits = load_edits()
    for kind in ("add", "style"):
        items = [edits.item(i) for i, record in enumerate(edits.records) if record["kind"] == kind]
        expected, targets = shipped.held_out["edits"][kind], [item.target_record for item in items]
        assert expected["num_pairs"] == len(items) and expected["floor"] < 0.1 and expected["ceiling"] > 0.8
        for name, images in {"ceiling": [item.target for item in items], "floor": [item.source for item in items]}.items():
            found = shipped.success(torch.stack(images), [kind] * len(items), targets)
            assert found.mean().item() == pytest.approx(expected[name], abs=1.5 / len(items))


def test_values_do_not_depend_on_the_batch(shipped):
    images = torch.stack([load_scenes(SPLIT).item(i).image for i in range(5)])
    together = shipped.probabilities(images)
    for field, words in judge.WORDS.items():
        assert together[field].shape == (5, len(words))
        torch.testing.assert_close(together[field].sum(-1), torch.ones(5))
        torch.testing.assert_close(shipped.probabilities(images[2:3])[field], together[field][2:3], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"kinds": ["replace", "turn"]}, "kinds has 'turn', but must be of replace, add, recolour, ground, setting, style"),
        ({"kinds": ["replace"]}, "kinds has 1 entries, but must have one for each of the 2 images"),
        ({"targets": [RECORD]}, "records has 1 entries, but must have one for each of the 2 images"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(shipped, change, sentence):
    given = {"images": torch.zeros(2, 3, 64, 64), "kinds": ["replace", "add"], "targets": [RECORD, RECORD]} | change
    with pytest.raises(ValueError, match=sentence) as raised:
        shipped.success(**given)
    assert_one_sentence(raised)


def test_a_missing_judge_says_how_to_train_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is missing: restore it .* or train it with .*scene_attributes\.yaml") as raised:
        judge.load_scene_judge(tmp_path)
    assert_one_sentence(raised)
