"""float16: J^T D is carried scaled, the loss is scaled, an overflow skips a step, and a training is that of float32 but for rounding."""

import json
import math
import os
import socket
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch
from photos import photo_folder
from test_training import Regression, trainer, weights
from tiny import noise
from torch import nn

from companion.base import paths
from companion.base.config import ConfigurationError
from companion.training.dividing import check_divisible
from companion.training.loop import Trainer
from companion.training.objectives.denoising import DenoisingObjective
from companion.training.settings import TrainingConfig
from smoothlib.regularizer import length
from smoothlib.regularizer.length import step_variation
from smoothlib.regularizer.variation import unit_directions

LORA = dict(pipeline="mini", trainable="lora", rank=2, caption_dropout=0.0, regularization=1.0, regularizer={"gradient": "double_backward"})
FUSED = {"frozen_dtype": "float16", "channels_last": True, "fused_second_order": True, "fused_optimizer": True}


class Product(nn.Module):
    """x0_hat = b (a eps), value by value: r = w a b, of a D whose way back meets the small b first."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.Linear(1, 1, bias=False) for _ in range(2))
        self.a.weight.data.fill_(2.0**6)
        self.b.weight.data.fill_(2.0**-19)

    def forward(self, eps):
        x0_hat = self.b(self.a(eps.unsqueeze(-1))).squeeze(-1)
        return x0_hat, x0_hat


def found(dtype):
    """r, and its gradients, as shares of the right ones."""
    network, eps = Product(), noise(2, 4096)
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        r, _ = step_variation(network, eps, unit_directions(noise(2, 4096, seed=1)), torch.ones(2), gradient="double_backward")
    (256 * r.sum()).backward()
    a, b = network.a.weight, network.b.weight
    return torch.stack([r[0].detach() / (a * b), a.grad / (2 * 256 * b), b.grad / (2 * 256 * a)]).detach().flatten()


def test_a_product_that_float16_would_round_to_nothing_is_carried_scaled(monkeypatch):
    right = torch.ones(3)
    torch.testing.assert_close(found(torch.float16), right, rtol=0.01, atol=0)
    others = [found(None), found(torch.bfloat16)]
    monkeypatch.setattr(length, "product_scale", lambda eps: 1.0)
    assert ((found(torch.float16) - right).abs() > 0.05).any(), "the case has no underflow"
    for before, dtype in zip(others, (None, torch.bfloat16), strict=True):
        assert torch.equal(found(dtype), before)


class Steep(Regression):
    """Gradients that overflow at the first scales: the network's output in float16 gets 65536 times what is due to it."""

    def forward(self, indices, draws):
        loss, numbers = super().forward(indices, draws)
        return 200 * loss, numbers


def float16(folder, monkeypatch, objective=None, **changes):
    return trainer(folder, monkeypatch, objective or Steep(), mixed_precision="fp16", log_every=1, **changes)


def test_an_overflow_skips_the_update_halves_the_scale_and_is_no_broken_run(tmp_path, monkeypatch):
    run = float16(tmp_path, monkeypatch)
    first, scales, moved = weights(run.objective), [], []
    for _ in range(12):
        before, average = weights(run.objective), [a.clone() for a in run.average.averages]
        run.optimiser_step()
        scales.append(run.scaler.get_scale())
        moved.append(not torch.equal(weights(run.objective), before))
        assert moved[-1] == any(not torch.equal(a, b) for a, b in zip(run.average.averages, average, strict=True))
        assert moved[-1] == (scales[-1] == ([65536.0, *scales])[len(scales) - 1])
    assert run.step == 12 and scales[0] == 32768 and scales[-1] == scales[-2] > 1 and moved[-1] and not moved[0]
    assert not torch.equal(weights(run.objective), first)


@pytest.mark.parametrize("stop", [1, 8])
def test_a_resumed_run_has_the_scale_and_ends_in_the_same_weights_bit_for_bit(tmp_path, monkeypatch, stop):
    whole = float16(tmp_path / "whole", monkeypatch)
    whole.run()
    float16(tmp_path / "parts", monkeypatch).run(stop_after=stop)
    second = float16(tmp_path / "parts", monkeypatch)
    assert second.step == stop and second.scaler.get_scale() < 65536
    second.run()
    assert torch.equal(weights(whole.objective), weights(second.objective))
    assert second.scaler.state_dict() == whole.scaler.state_dict()
    scales, again = ([json.loads(line)["loss_scale"] for line in run.log.read_text().splitlines()] for run in (whole, second))
    assert scales == again and len(scales) == 12 and scales[0] == 32768


def test_a_loss_that_is_not_finite_stops_at_once_and_a_gradient_when_no_scale_is_left(tmp_path, monkeypatch):
    run = float16(tmp_path / "loss", monkeypatch, Regression(diverge_at=0))
    with pytest.raises(FloatingPointError, match=r"^loss nan with gradient norm nan and loss scale 65536 at step 0 of toy, 4 draws; "):
        run.run()

    class Broken(Regression):
        def forward(self, indices, draws):
            loss, numbers = super().forward(indices, draws)
            return loss + (self.network[0].weight.sum() * 0).sqrt(), numbers  # finite, with an infinite derivative

    run = float16(tmp_path / "gradient", monkeypatch, Broken(), steps=40)
    before = weights(run.objective)
    with pytest.raises(FloatingPointError, match=r"with gradient norm nan and loss scale 1 at step 16 of toy"):
        run.run()
    assert torch.equal(weights(run.objective), before)
    plain = trainer(tmp_path / "plain", monkeypatch, Broken())
    with pytest.raises(FloatingPointError, match=r"with gradient norm nan at step 0 of toy"):
        plain.run()


def test_float16_is_not_divided():
    with pytest.raises(ConfigurationError, match=r"^mixed_precision is 'fp16', but must be 'no' or 'bf16' with --use_fsdp"):
        check_divisible(SimpleNamespace(trainable="lora", regularizer=None), "fp16")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    return photo_folder(tmp_path, monkeypatch)


def lora_run(photos, name, execution, steps=4, **changes):
    torch.manual_seed(0)
    objective = DenoisingObjective(data=str(photos), execution=execution, **LORA)
    for parameter_name, parameter in objective.named_parameters():
        if "lora_B" in parameter_name:  # at zero, A would have no gradient
            parameter.data.normal_(0, 0.1)
    settings = dict(objective="denoising", export_to="x", steps=steps, batch_size=4, learning_rate=1e-3, warmup_steps=0, log_every=1)
    return Trainer(objective, TrainingConfig(name=name, **settings, **changes))


def test_a_fused_training_in_float16_is_that_of_float32_and_goes_on_bit_for_bit(photos):
    exact, half = lora_run(photos, "exact", {}), lora_run(photos, "half", FUSED, mixed_precision="fp16")
    start = torch.cat([p.detach().flatten().clone() for p in exact.parameters])
    logs, ways = [], []
    for run in (exact, half):
        run.run()
        logs.append([json.loads(line) for line in run.log.read_text().splitlines()])
        ways.append(torch.cat([p.detach().flatten() for p in run.parameters]) - start)
    assert half.objective.unet.conv_in.weight.dtype == torch.float16 and all(p.dtype == torch.float32 for p in half.parameters)
    for name in ("loss", "reg", "r"):
        pairs = zip(*([line[name] for line in log] for log in logs), strict=True)
        assert all(math.isclose(*pair, rel_tol=0.02) for pair in pairs), (name, logs)
    assert [line["loss_scale"] for line in logs[1]] == [65536.0] * 4 and "loss_scale" not in logs[0][0]
    # Adam's first step goes by the sign of a gradient: where that is nearly none, rounding decides
    assert torch.cosine_similarity(*ways, dim=0) > 0.98
    lora_run(photos, "parts", FUSED, mixed_precision="fp16").run(stop_after=2)
    second = lora_run(photos, "parts", FUSED, mixed_precision="fp16")
    assert second.step == 2
    second.run()
    assert all(torch.equal(a, b) for a, b in zip(half.parameters, second.parameters, strict=True))


SCRIPT = textwrap.dedent(
    """
    import os, pathlib, sys
    import torch
    sys.path[:0] = [sys.argv[2], sys.argv[3]]
    from companion.base import paths
    from test_training import SETTINGS, Regression
    from companion.training.loop import Trainer, TrainingConfig
    paths.RUNS = pathlib.Path(sys.argv[1])

    class OfOneAlone(Regression):
        def forward(self, indices, draws):
            loss, numbers = super().forward(indices, draws)
            large = self.step == 5 and trainer.accelerator.process_index == 1
            return loss * (1e3 if large else 1.0), numbers

    os.environ["RANK"] = os.environ["LOCAL_RANK"] = "1" if os.fork() else "0"
    trainer = Trainer(OfOneAlone(), TrainingConfig(**{"name": "two", **SETTINGS, "mixed_precision": "fp16"}))
    scales, moved = [], []
    for _ in range(12):
        before = torch.cat([p.detach().flatten().clone() for p in trainer.parameters])
        trainer.optimiser_step()
        after = torch.cat([p.detach().flatten() for p in trainer.parameters])
        scales.append(trainer.scaler.get_scale())
        moved.append(not torch.equal(before, after))
    if trainer.accelerator.process_index:
        assert os.wait()[1] == 0
    torch.save({"parameters": after, "scales": scales, "moved": moved}, paths.RUNS / f"rank{trainer.accelerator.process_index}.pt")
    """
)


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="PyTorch was built without gloo")
def test_an_overflow_of_one_process_skips_the_step_of_both(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [sys.executable, "-c", SCRIPT, str(tmp_path), str(paths.ROOT), str(paths.ROOT / "tests")]
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **world}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert torch.equal(first["parameters"], second["parameters"]) and torch.isfinite(first["parameters"]).all()
    assert first["scales"] == second["scales"] and first["moved"] == second["moved"]
    assert first["moved"][4] and first["moved"][6], first["scales"]
    assert not first["moved"][5] and first["scales"][5] == first["scales"][4] / 2
