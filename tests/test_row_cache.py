"""Rows that are made once: after a damage again, whoever asks, and a training that holds its latents learns what one without does."""

import numpy as np
import pytest
import torch
from photos import photo_folder
from tiny import noise

from companion.base import paths
from companion.base.config import ConfigurationError
from companion.training.loop import Trainer
from companion.training.objectives.denoising import DenoisingObjective
from companion.training.row_cache import RowCache
from companion.training.settings import TrainingConfig

OPTIONS = dict(pipeline="mini", trainable="lora", rank=2, caption_dropout=0.5, regularization=1.0)
HELD = {"cache_latents": True, "cache_embeddings": True}


@pytest.fixture
def photos(tmp_path, monkeypatch):
    return photo_folder(tmp_path, monkeypatch)


def loss_of(photos, monkeypatch, execution, opened=None):
    torch.manual_seed(0)
    objective = DenoisingObjective(data=str(photos), execution=execution, **OPTIONS)
    pictures = objective.examples.examples if execution else objective.examples
    picture = pictures.picture
    monkeypatch.setattr(
        pictures, "picture", lambda index: [opened.append(index), picture(index)][1] if opened is not None else picture(index)
    )
    encoded = []
    objective.text_encoder.register_forward_hook(lambda module, arguments, named, found: encoded.append(len(found[0])), with_kwargs=True)
    indices = torch.tensor([0, 1, 2, 3, 1, 0])
    loss, _ = objective(indices, objective.draw(6, torch.Generator().manual_seed(0)))
    return loss.detach(), objective, encoded


def test_a_training_that_holds_its_latents_has_the_loss_of_one_that_encodes_them_again(photos, monkeypatch):
    first, second = [], []
    plain, *_ = loss_of(photos, monkeypatch, {})
    found, objective, encoded = loss_of(photos, monkeypatch, HELD, first)
    torch.testing.assert_close(found, plain, rtol=1e-2, atol=0)  # half precision of the latents
    again, other, encoded_again = loss_of(photos, monkeypatch, HELD, second)
    assert torch.equal(again, found) and set(first) == {0, 1, 2, 3} and not second
    assert encoded == [1, 6] and encoded_again == [1]  # the empty caption alone
    assert objective.identity() == other.identity() and len(list((paths.RUNS / "latents").iterdir())) == 1


def test_a_training_that_computes_otherwise_takes_the_same_steps(photos, tmp_path, monkeypatch):
    settings = dict(objective="denoising", export_to="x", steps=2, batch_size=2, learning_rate=1e-3, warmup_steps=0, log_every=1)
    found = []
    for name, execution in (("plain", {}), ("fast", {"fused_optimizer": True, "channels_last": True, "cache_embeddings": True})):
        torch.manual_seed(0)
        regularizer = {"gradient": "paired", "difference": 0.01}
        objective = DenoisingObjective(data=str(photos), execution=execution, regularizer=regularizer, **OPTIONS)
        run = Trainer(objective, TrainingConfig(name=name, **settings))
        before = torch.cat([p.detach().flatten().clone() for p in run.parameters])
        run.run()
        after = torch.cat([p.detach().flatten() for p in run.parameters])
        found.append(after - before)
        assert objective.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last) == bool(execution)
        assert run.optimizer.param_groups[0]["fused"] is (True if execution else None)
    # a first step of Adam goes by its rate, whatever the gradient: where that is nearly none, by its sign
    assert (found[1] - found[0]).norm() < 0.05 * found[0].norm() and found[0].abs().max() > 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"execution": {"frozen_dtype": "float64"}}, "execution.frozen_dtype must be one of float32, bfloat16, float16, got 'float64'"),
        (
            {"execution": {"frozen_dtype": "bfloat16"}, "trainable": "unet"},
            "frozen_dtype must be float32 unless trainable is lora, got 'bf",
        ),
        (
            {"execution": {"compile_blocks": True}, "regularizer": {"mode": "official"}},
            "central, one_sided or paired with execution.compile",
        ),
        (
            {"execution": {"fused_second_order": True}, "trainable": "unet"},
            "fused_second_order needs trainable lora and lora_layers attention, got trainable 'unet'",
        ),
        ({"execution": {"fused_second_order": True}, "lora_layers": "all"}, "needs .* lora_layers attention, got .* lora_layers 'all'"),
        ({"execution": {"fused_second_order": True}}, "gradient must be double_backward with execution.fused_second_order, got 'central'"),
        (
            {"execution": {"fused_second_order": True, "compile_blocks": True}, "regularization": 0.0},
            "execution.compile_blocks must be false with execution.fused_second_order",
        ),
        ({"execution": {"cache_latents": True}}, "cache_latents needs pictures and a frozen encoder"),
        ({"execution": {"cache_embeddings": True}, "trainable": "all"}, "cache_embeddings needs a frozen text encoder"),
        ({"execution": {"graphs": True}}, "execution has no setting 'graphs'; known are frozen_dtype, tf32, channels_last"),
    ],
)
def test_ways_to_compute_that_exclude_each_other_are_refused_before_a_model_is_loaded(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        DenoisingObjective(**OPTIONS | {"pipeline": "no-such-model"} | options)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"mixed_precision": "no"}, "mixed_precision is 'no', but must be bf16 with execution.frozen_dtype=bfloat16"),
        ({"mixed_precision": "fp16"}, "mixed_precision is 'fp16', but must be bf16 with execution.frozen_dtype=bfloat16"),
        (
            {"mixed_precision": "bf16", "dtype": "float16"},
            "is 'bf16', but must be fp16 with execution.frozen_dtype=float16",
        ),
        ({"mixed_precision": "bf16"}, "difference_precision is 'float32', but must be network with execution.frozen_dtype=bfloat16"),
        (
            {"mixed_precision": "fp16", "dtype": "float16"},
            "must be network with execution.frozen_dtype=float16",
        ),
    ],
)
def test_frozen_weights_in_half_precision_need_a_step_in_half_precision(settings, sentence):
    settings = dict(settings)
    options = {"trainable": "lora", "regularization": 1.0, "execution": {"frozen_dtype": settings.pop("dtype", "bfloat16")}}
    common = dict(name="x", objective="denoising", export_to="x", steps=1, batch_size=1, learning_rate=1e-4, objective_options=options)
    with pytest.raises(ConfigurationError, match=sentence):
        TrainingConfig(**common, **settings)


@pytest.mark.parametrize("regularizer", [{"mode": "official"}, {"gradient": "double_backward"}])
def test_frozen_weights_in_half_precision_go_with_every_way_of_saying_double_backward(regularizer):
    options = {"trainable": "lora", "regularization": 1.0, "regularizer": regularizer, "execution": {"frozen_dtype": "float16"}}
    common = dict(name="x", objective="denoising", export_to="x", steps=1, batch_size=1, learning_rate=1e-4, objective_options=options)
    assert TrainingConfig(**common, mixed_precision="fp16").objective_options == options


def cache(folder, count=5, dtype=np.float32):
    return RowCache(folder, count, (2, 3), dtype)


def test_a_row_is_made_once_and_is_there_for_the_next_process(tmp_path):
    values, asked = noise(5, 2, 3), []

    def make(places):
        asked.append(numbers[places].tolist())
        return values[numbers[places]]

    numbers = torch.tensor([3, 0])
    assert torch.equal(cache(tmp_path).take(numbers, make), values[numbers])
    numbers = torch.tensor([0, 4, 3])
    assert torch.equal(cache(tmp_path).take(numbers, make), values[numbers])
    assert asked == [[3, 0], [4]]


def test_a_row_of_zeros_is_held_and_one_that_was_never_written_is_not(tmp_path):
    rows = cache(tmp_path)
    rows.take(torch.tensor([1]), lambda places: torch.zeros(1, 2, 3))
    assert [rows.holds(k) for k in range(3)] == [False, True, False]


def test_a_damaged_row_is_made_again(tmp_path):
    cache(tmp_path).take(torch.tensor([2, 3]), lambda places: torch.ones(2, 2, 3))
    content = bytearray((tmp_path / "rows").read_bytes())
    content[2 * 24 + 5] ^= 1
    (tmp_path / "rows").write_bytes(content)
    again = cache(tmp_path)
    assert not again.holds(2) and again.holds(3)
    assert torch.equal(again.take(torch.tensor([3, 2]), lambda places: torch.full((1, 2, 3), 7.0))[:, 0, 0], torch.tensor([1.0, 7.0]))


def test_a_disk_that_is_too_small_is_named_before_anything_is_computed(tmp_path):
    with pytest.raises(ConfigurationError, match=r"GB left, but the cache needs .*: make room"):
        RowCache(tmp_path, 10**12, (4, 64, 64), np.float16)
