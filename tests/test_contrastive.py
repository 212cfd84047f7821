"""The dual encoder's training: InfoNCE in closed form, captions that say less, features kept, and an overfit on a few real scenes."""

import json
import math

import pytest
import torch
import yaml

from companion.base import paths
from companion.data.load import load_scenes, scene_records
from companion.judges.alignment import SceneAlignment
from companion.judges.dual_encoder import WEIGHTS, load_scene_encoder
from companion.judges.features import ImageNetFeatures
from companion.training.objectives.contrastive import ContrastiveObjective, info_nce
from companion.world.captions import OPTIONAL, partial_caption, scene_codes, true_of

SPLIT, COUNT = "compositional", 48  # the smallest split, and how many of its scenes are used


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def unit(*shape, seed=0):
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator(seed)), dim=-1)


# --- the loss


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_separated_pairs_in_closed_form(scale):
    """Orthogonal pairs: each image sees e^s for its own caption and 1 for each of the n - 1 others."""
    loss = info_nce(torch.eye(5, 8), torch.eye(5, 8), scale, torch.eye(5, dtype=torch.bool))
    assert loss.item() == pytest.approx(math.log(1 + 4 * math.exp(-scale)), rel=1e-5)
    assert info_nce(torch.eye(1, 8), torch.eye(1, 8), scale, torch.ones(1, 1, dtype=torch.bool)).item() == 0


def test_equal_captions_are_no_negatives():
    """Pairs 0 and 1 coincide: each has n - 2 negatives, the others still n - 1, and the coincidence costs nothing."""
    embeddings = torch.eye(5, 8)
    embeddings[1] = embeddings[0]
    positives = torch.eye(5, dtype=torch.bool)
    counted = info_nce(embeddings, embeddings, 3.0, positives)
    positives[0, 1] = positives[1, 0] = True
    expected = (2 * math.log(1 + 3 * math.exp(-3)) + 3 * math.log(1 + 4 * math.exp(-3))) / 5
    assert info_nce(embeddings, embeddings, 3.0, positives).item() == pytest.approx(expected, rel=1e-5)
    assert counted > expected + 0.2  # 2/5 of about log 2 more


def test_loss_equals_its_definition_pair_by_pair():
    images, captions, scale = unit(6, 4, seed=1), unit(6, 4, seed=2), torch.tensor(5.0)
    positives = torch.rand(6, 6, generator=generator(3)) < 0.3
    positives.fill_diagonal_(True)
    terms = []
    for i in range(6):
        own = scale * images[i] @ captions[i]
        other_captions = [scale * images[i] @ captions[j] for j in range(6) if not positives[i, j]]
        other_images = [scale * images[j] @ captions[i] for j in range(6) if not positives[j, i]]
        terms += [torch.stack([own, *others]).logsumexp(0) - own for others in (other_captions, other_images)]
    torch.testing.assert_close(info_nce(images, captions, scale, positives), torch.stack(terms).mean())


# --- captions


def test_a_caption_with_every_phrase_is_the_records_own():
    for split in ("train", "test", "compositional"):
        for record in scene_records(split):
            assert partial_caption(record) == record["caption"]


def test_phrases_are_left_out_one_by_one():
    record = dict(style="oil painting", colour="red", cls="sofa", extra="plant", ground="wood", setting="apartment")
    captions = {
        (True, True, True, True): "an oil painting of a red sofa and a plant on a wooden floor in an apartment",
        (False, True, True, True): "a red sofa and a plant on a wooden floor in an apartment",
        (True, False, True, True): "an oil painting of a sofa and a plant on a wooden floor in an apartment",
        (False, False, False, True): "a sofa and a plant in an apartment",
        (False, False, False, False): "a sofa and a plant",
    }
    assert {named: partial_caption(record, named) for named in captions} == captions


def test_a_caption_is_true_of_the_scenes_that_could_have_been_described_by_it():
    records = scene_records(SPLIT)[:150]
    named = torch.rand(150, len(OPTIONAL), generator=generator()) < 0.4
    captions = [partial_caption(record, phrases) for record, phrases in zip(records, named.tolist(), strict=True)]
    expected = torch.tensor([[partial_caption(record, named[j].tolist()) == captions[j] for j in range(150)] for record in records])
    found = true_of(scene_codes(records), named)
    assert torch.equal(found, expected)
    assert found.diagonal().all() and found.sum() > 300 and not torch.equal(found, found.T)


# --- the objective


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "RUNS", tmp_path_factory.mktemp("runs"))
        yield


def objective(runs, **options):
    torch.manual_seed(0)
    return ContrastiveObjective(**{"split": SPLIT, "held_out": (SPLIT,), "limit": COUNT, **options})


def test_features_are_computed_once_and_mirror_images_follow(runs, monkeypatch):
    made = objective(runs)
    assert made.features.shape == (2 * COUNT, 1280) and len(made) == COUNT
    images = torch.from_numpy(load_scenes(SPLIT).images[:2]).permute(0, 3, 1, 2)
    for offset, pixels in ((0, images), (COUNT, images.flip(-1))):
        expected = ImageNetFeatures(128)(pixels.float() / 127.5 - 1)
        torch.testing.assert_close(made.features[offset : offset + 2].float(), expected, rtol=2e-3, atol=2e-3)
    standardised = made.encoder.standardise(made.features.float())
    assert standardised.mean(0).abs().max() < 1e-3 and standardised.std(0).max() < 1.001
    monkeypatch.setattr(ImageNetFeatures, "forward", lambda *_: pytest.fail("computed again"))
    assert objective(runs).identity() == made.identity()
    monkeypatch.undo()
    assert objective(runs, limit=COUNT - 1).identity() != made.identity()


def test_the_loss_follows_from_its_draws(runs):
    made = objective(runs)
    indices, draws = torch.arange(16), made.draw(16, generator(1))
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in draws.items()} == {
        "mirrored": ((16,), torch.bool),
        "named": ((16, 4), torch.bool),
        "seen": ((16, 1280), torch.bool),
    }
    torch.manual_seed(7)  # nothing may come from the global generator
    loss, numbers = made(indices, draws)
    torch.manual_seed(8)
    assert torch.equal(loss, made(indices, draws)[0])
    assert not torch.equal(loss, made(indices, made.draw(16, generator(2)))[0])
    assert numbers["scale"].item() == pytest.approx(1 / 0.07) and 0 <= numbers["batch_accuracy"] <= 1
    plain = {"mirrored": torch.zeros(16, dtype=torch.bool), "named": torch.ones(16, 4, dtype=torch.bool), "seen": torch.ones(16, 1280) > 0}
    undropped = objective(runs, feature_dropout=0.0)
    images = undropped.encoder.embed_features(undropped.encoder.standardise(undropped.features[:16].float()))
    texts = load_texts(undropped, [record["caption"] for record in undropped.records[:16]])
    expected = info_nce(images, texts, 1 / 0.07, true_of(undropped.codes[:16], plain["named"]))
    torch.testing.assert_close(undropped(indices, plain)[0], expected)


def load_texts(made, captions):
    """Caption embeddings, each caption by itself and padded to the full length."""
    ids = [made.tokenizer(caption, padding="max_length", max_length=24, return_tensors="pt").input_ids for caption in captions]
    return torch.cat([made.encoder.embed_tokens(row) for row in ids])


@pytest.fixture(scope="module")
def fitted(runs):
    """The objective after 80 full-batch steps on 48 scenes."""
    made = objective(runs)
    before = made.measure(SPLIT)
    optimizer = torch.optim.AdamW(made.encoder.parameters(), lr=3e-3)
    for step in range(80):
        loss, _ = made(torch.arange(COUNT), made.draw(COUNT, generator(step)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return made, before


def test_retrieval_rises_far_above_chance_and_exchanged_captions_do_not_score(fitted):
    made, before = fitted
    after = made.measure(SPLIT)
    assert after["num_images"] == COUNT and after["chance"] == 1 / after["num_captions"]
    assert before["accuracy"] < 0.15 and after["accuracy"] > 0.9
    assert abs(before["matched_mean"] - before["mismatched_mean"]) < 5
    assert after["matched_mean"] - after["mismatched_mean"] > 40


def test_what_is_exported_scores_as_it_was_measured(fitted, tmp_path, capsys):
    made, _ = fitted
    made.export(tmp_path)
    card = json.loads((tmp_path / "card.json").read_text())
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"split": SPLIT, **card["held_out"][SPLIT]}
    assert (tmp_path / WEIGHTS).stat().st_size < 3e6
    scenes = load_scenes(SPLIT)
    images = torch.stack([scenes.item(i).image for i in range(COUNT)])
    metric = SceneAlignment(weights_folder=tmp_path)
    metric.update(images, scenes.captions[:COUNT])
    found = metric.retrieval_accuracy(images, scenes.captions[:COUNT])
    assert metric.held_out == card["held_out"]
    assert metric.compute().item() == pytest.approx(card["held_out"][SPLIT]["matched_mean"], abs=0.2)  # features in half precision
    assert found.accuracy == pytest.approx(card["held_out"][SPLIT]["accuracy"], abs=1.5 / COUNT)
    exchanged = scenes.captions[1:COUNT] + scenes.captions[:1]
    assert metric.per_image(images, exchanged).mean() < metric.compute() - 40
    assert metric.retrieval_accuracy(images, exchanged).accuracy < 0.2


def test_the_training_loop_trains_exports_and_resumes_it(runs, tmp_path, monkeypatch):
    from companion.training import loop as training

    monkeypatch.setitem(training.OBJECTIVES, "contrastive", ContrastiveObjective)
    monkeypatch.setattr(paths, "MODELS", tmp_path / "models")
    settings = yaml.safe_load((paths.CONFIGS / "training/dual_encoder.yaml").read_text())
    options = {**settings["objective_options"], "split": SPLIT, "held_out": [SPLIT], "limit": COUNT}
    weights = []
    for name, stops in (("whole", (None,)), ("parts", (2, None))):
        config = training.TrainingConfig(**{**settings, "name": name, "steps": 4, "batch_size": 16, "objective_options": options})
        for stop in stops:
            torch.manual_seed(config.seed)
            trainer = training.Trainer(ContrastiveObjective(**options), config)
            trainer.run(stop_after=stop)
        weights.append(torch.cat([p.detach().flatten() for p in trainer.objective.parameters()]))
    assert torch.equal(*weights)
    trainer.finish()
    card = json.loads((tmp_path / "models/scene_alignment/card.json").read_text())
    assert card["training"]["parts"]["last_logged"]["step"] == 4 and SPLIT in card["held_out"]
    assert load_scene_encoder().held_out == card["held_out"]


@pytest.mark.parametrize("name", ["phrase_dropout", "feature_dropout"])
def test_bad_options_are_named(name):
    with pytest.raises(ValueError, match=rf"{name} must lie in \[0, 1\), got 1.0"):
        ContrastiveObjective(**{name: 1.0})
