"""A training on tar shards: killed and resumed it sees what was due, processes share each step, damaged pictures are counted."""

import json
import warnings

import pytest
import torch
from shard_files import write_shards
from tiny import assert_one_sentence, ship_tiny_pipeline

from companion.base import paths
from companion.base.config import ConfigurationError
from companion.training.loop import Trainer
from companion.training.objectives.denoising import DenoisingObjective
from companion.training.objectives.examples import ShardLatents, tokenised
from companion.training.schedule import step_indices
from companion.training.settings import TrainingConfig

COUNTS, DAMAGED = [5, 3, 6], 6
SETTINGS = dict(name="shards", objective="denoising", export_to="adapters/shards", steps=8, batch_size=2, gradient_accumulation_steps=2)
SETTINGS |= dict(learning_rate=1e-2, warmup_steps=0, log_every=1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    ship_tiny_pipeline(tmp_path / "models", monkeypatch)
    return write_shards(tmp_path / "laion", COUNTS, pictures={DAMAGED: b"<html>"})


def training(folder, runs, monkeypatch, **options):
    """A trainer on the shards, and the list of what it sees: the number of each sample that is taken, and its caption."""
    monkeypatch.setattr(paths, "RUNS", runs)
    torch.manual_seed(0)
    own = dict(pipeline="mini", trainable="lora", rank=2, data=str(folder), shuffle_buffer=4, caption_dropout=0.0)
    objective = DenoisingObjective(**own | options)
    seen, take = [], objective.examples.readable

    def noted(indices):
        taken = take(indices)
        seen.extend(zip(taken.tolist(), objective.examples.captions_of(taken), strict=True))
        return taken

    objective.examples.readable = noted
    return Trainer(objective, TrainingConfig(**SETTINGS)), seen


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.parameters])


@pytest.mark.filterwarnings("ignore:.*another stands for it:UserWarning")
def test_a_resumed_training_sees_the_samples_that_were_due(folder, tmp_path, monkeypatch):
    whole, seen = training(folder, tmp_path / "whole", monkeypatch)
    whole.run()
    assert len(seen) == 8 * 4 and all(caption == f"picture {number}" for number, caption in seen)
    first, before = training(folder, tmp_path / "parts", monkeypatch)
    first.run(stop_after=3)
    second, after = training(folder, tmp_path / "parts", monkeypatch)
    assert second.step == 3
    second.run()
    assert before + after == seen and torch.equal(weights(whole), weights(second))
    epochs = [sorted(number for number, _ in seen[start : start + 14]) for start in (0, 14)]
    assert epochs[0] == epochs[1] == sorted([*range(6), 7, *range(7, 14)])  # 7 stands for the damaged one
    assert whole.replaced == second.replaced >= 2
    assert json.loads(second.log.read_text().splitlines()[-1])["replaced_examples"] == second.replaced


def test_processes_see_different_samples_that_together_are_the_epoch(folder):
    examples = ShardLatents(None, str(folder), 16, buffer=4)
    for ranks in (1, 2):  # as `Trainer.optimiser_step` deals the rows of a step out
        taken = [[] for _ in range(ranks)]
        for step in range(14 // (2 * ranks)):
            indices = step_indices(14, 2 * ranks, 5, step, examples.order)
            for rank in range(ranks):
                taken[rank] += indices[2 * rank : 2 * rank + 2].tolist()
        assert len(set().union(*taken)) == sum(map(len, taken)) == (14 if ranks == 1 else 12)
    assert sorted(step_indices(14, 14, 5, 0, examples.order).tolist()) == list(range(14))


def test_other_shards_captions_or_buffers_are_other_data(folder, tmp_path, monkeypatch):
    def identity(where, **options):
        return training(where, tmp_path / "runs", monkeypatch, **options)[0].identity

    own = identity(folder)
    assert identity(folder) == own == identity(str(folder / "*.tar"))
    assert identity(folder, shuffle_buffer=5) != own
    assert identity(folder, resolution=8) != own
    assert identity(str(folder / "0000[01].tar")) != own
    assert identity(write_shards(tmp_path / "other", COUNTS, pictures={DAMAGED: b"<html>"}, captions={3: b"another"})) != own


def test_bad_images_error_ends_the_training_with_the_pictures_name(folder, tmp_path, monkeypatch):
    trainer, _ = training(folder, tmp_path / "runs", monkeypatch, bad_images="error")
    with pytest.raises(ValueError, match=r"000000006\.jpg of .*00001\.tar is no picture .*bad_images=skip") as raised:
        trainer.run()
    assert_one_sentence(raised)


def test_a_damaged_picture_is_said_once(folder):
    examples = ShardLatents(None, str(folder), 16)
    with pytest.warns(UserWarning, match=r"000000006\.jpg of .* is no picture .*another stands for it"):
        assert examples.readable(torch.tensor([DAMAGED, 2])).tolist() == [7, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert examples.readable(torch.tensor([DAMAGED, DAMAGED])).tolist() == [7, 7]
    assert examples.take_replaced() == 3 and examples.take_replaced() == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(layout="tar"), "layout must be one of folder, coco, shards, got 'tar'"),
        (dict(shuffle_buffer=0), "shuffle_buffer must be at least 1, got 0"),
        (dict(bad_images="ignore"), "bad_images must be one of error, skip, got 'ignore'"),
        (dict(data="nowhere/*.tar"), r"data is 'nowhere/\*\.tar', but must be a folder with tar shards, or a pattern"),
        (dict(data=None, layout="shards"), "layout says what data is and needs it, got 'shards' and no data"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_before_a_model_is_loaded(folder, options, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        DenoisingObjective(**{"pipeline": "no-such-model", "trainable": "lora", "data": str(folder)} | options)
    assert_one_sentence(raised)


def test_settings_are_typed():
    for options, sentence in (
        (dict(shuffle_buffer="many"), "shuffle_buffer is 'many', but must be a whole number"),
        (dict(layout=3), "layout is 3, but must be a text"),
        (dict(shuffle=True), "no setting 'shuffle'"),
    ):
        with pytest.raises(ConfigurationError, match=sentence):
            TrainingConfig(**SETTINGS, objective_options=options)


def test_captions_are_tokenised_in_chunks_as_in_one_call(monkeypatch):
    from tiny import tiny_tokenizer

    from companion.training.objectives import examples

    tokenizer, captions = tiny_tokenizer(), [f"red {'a ' * (n % 20)}{n}" for n in range(23)]
    options = dict(padding="max_length", max_length=16, truncation=True, return_tensors="pt")
    monkeypatch.setattr(examples, "CHUNK", 5)
    assert torch.equal(tokenised(tokenizer, captions).long(), tokenizer(captions, **options).input_ids)
    sizes = []
    monkeypatch.setattr(type(tokenizer), "__call__", lambda self, texts, **_: (sizes.append(len(texts)), SizedIds(len(texts)))[1])
    tokenised(tokenizer, captions)
    assert sizes == [5, 5, 5, 5, 3]


class SizedIds:
    def __init__(self, count):
        self.input_ids = torch.zeros(count, 16, dtype=torch.long)
