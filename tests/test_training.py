"""The training loop: resume after a kill ends in the same weights, settings are checked, a diverging run stops with the facts."""

import inspect
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import asdict

import pytest
import torch
import yaml
from torch import nn

from companion.base import paths
from companion.training.loop import Trainer
from companion.training.objectives import Objective
from companion.training.objectives.denoising import DenoisingObjective
from companion.training.resuming import read_checkpoint
from companion.training.schedule import ExponentialMovingAverage, learning_rate_at, step_indices
from companion.training.settings import FREE_TO_CHANGE, Loader, TrainingConfig, load_config
from smoothlib.regularizer.gradients import FORMER_DIFFERENCES

SETTINGS = dict(objective="autoencoder", export_to="test", steps=12, batch_size=4, learning_rate=1e-2, warmup_steps=2, log_every=3)


class Regression(Objective):
    """A small network that fits noisy targets; the noise comes from the step's generator."""

    def __init__(self, diverge_at: int | None = None):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.inputs = torch.randn(30, 6, generator=generator)
        torch.manual_seed(3)
        self.network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
        self.diverge_at, self.calls, self.seen = diverge_at, 0, torch.tensor(0.0)

    def __len__(self):
        return len(self.inputs)

    def identity(self):
        return "thirty inputs"

    def draw(self, count, generator):
        return {"noise": torch.randn(count, 2, generator=generator)}

    def describe(self, draws):
        return f"{len(draws['noise'])} draws"

    def state(self):
        return {"seen": self.seen}

    def load_state(self, state):
        self.seen = state["seen"]

    def forward(self, indices, draws):
        self.calls += 1
        noise = draws["noise"]
        self.seen = self.seen + noise.sum()  # a running statistic that the loss depends on
        loss = (self.network(self.inputs[indices]) - noise).square().mean() + 1e-3 * self.seen * self.network[0].weight.sum()
        if self.diverge_at is not None and self.calls > self.diverge_at:
            loss = loss * float("nan")
        return loss, {"noise": noise.mean()}


def trainer(tmp_path, monkeypatch, objective=None, **changes):
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    return Trainer(objective or Regression(), TrainingConfig(**{"name": "toy", **SETTINGS, **changes}))


def weights(objective):
    return torch.cat([p.detach().flatten() for p in objective.parameters()])


@pytest.mark.parametrize("stop", [1, 5, 11])
def test_resumed_run_ends_in_the_same_weights_bit_for_bit(tmp_path, monkeypatch, stop):
    whole = trainer(tmp_path / "whole", monkeypatch)
    whole.run()
    first = trainer(tmp_path / "parts", monkeypatch)
    first.run(stop_after=stop)
    second = trainer(tmp_path / "parts", monkeypatch)
    assert second.step == stop
    second.run()
    assert torch.equal(weights(whole.objective), weights(second.objective))
    assert all(torch.equal(a, b) for a, b in zip(whole.average.averages, second.average.averages, strict=True))
    lines = [json.loads(line) for line in second.log.read_text().splitlines()]
    assert lines[-1]["step"] == 12
    assert len({line["step"] for line in lines}) == len(lines)


def test_kill_minus_nine_then_resume_equals_an_unbroken_run(tmp_path, monkeypatch):
    script = textwrap.dedent(
        """
        import sys, time, pathlib
        sys.path[:0] = [sys.argv[2], sys.argv[3]]
        from companion.base import paths
        paths.RUNS = pathlib.Path(sys.argv[1])
        from test_training import Regression, SETTINGS
        from companion.training.loop import Trainer, TrainingConfig
        t = Trainer(Regression(), TrainingConfig(**{"name": "toy", **SETTINGS, "steps": 400, "checkpoint_minutes": 1e-9}))
        step = t.optimiser_step
        def slow():
            time.sleep(0.02)
            return step()
        t.optimiser_step = slow
        t.run()
        """
    )
    arguments = [sys.executable, "-c", script, str(tmp_path), str(paths.ROOT), str(paths.ROOT / "tests")]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    checkpoint = tmp_path / "training" / "toy" / "checkpoint.pt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = trainer(tmp_path, monkeypatch, steps=400)
    assert 0 < resumed.step < 400
    resumed.run()
    whole = trainer(tmp_path / "whole", monkeypatch, steps=400)
    whole.run()
    assert torch.equal(weights(whole.objective), weights(resumed.objective))


def test_a_checkpoint_of_other_settings_is_refused(tmp_path, monkeypatch):
    trainer(tmp_path, monkeypatch).run(stop_after=2)
    with pytest.raises(ValueError, match="other settings of learning_rate"):
        trainer(tmp_path, monkeypatch, learning_rate=2e-2)


def test_a_checkpoint_of_other_data_is_refused(tmp_path, monkeypatch):
    class OtherData(Regression):
        def identity(self):
            return "other inputs"

    trainer(tmp_path, monkeypatch).run(stop_after=2)
    with pytest.raises(ValueError, match="other data or from other weights"):
        trainer(tmp_path, monkeypatch, objective=OtherData())


def test_a_log_line_that_a_kill_cut_short_does_not_stop_the_resumed_run(tmp_path, monkeypatch):
    first = trainer(tmp_path, monkeypatch)
    first.run(stop_after=6)
    with first.log.open("a") as log:
        log.write('{"step": 9, "lo')
    resumed = trainer(tmp_path, monkeypatch)
    resumed.run()
    assert [json.loads(line)["step"] for line in resumed.log.read_text().splitlines()] == [3, 6, 9, 12]


def test_finish_exports_the_average_with_log_settings_and_card(tmp_path, monkeypatch):
    class Exported(Regression):
        def export(self, folder):
            torch.save(self.state_dict(), folder / "weights.pt")

    monkeypatch.setattr(paths, "MODELS", tmp_path / "models")
    run = trainer(tmp_path, monkeypatch, objective=Exported())
    run.run()
    average = torch.cat([a.flatten() for a in run.average.averages])
    run.finish()
    folder = tmp_path / "models" / "test"
    saved = torch.load(folder / "weights.pt", weights_only=True)
    assert torch.equal(torch.cat([v.flatten() for v in saved.values()]), average)
    card = json.loads((folder / "card.json").read_text())
    assert set(card["files"]) == {"weights.pt", "training-toy.jsonl", "training-toy.yaml"}
    assert card["training"]["toy"]["last_logged"]["step"] == 12 and card["metrics"] is None


def test_a_loss_that_is_not_finite_stops_with_step_and_checkpoint(tmp_path, monkeypatch):
    run = trainer(tmp_path, monkeypatch, objective=Regression(diverge_at=4), checkpoint_minutes=1e-9)
    with pytest.raises(FloatingPointError, match=r"at step 4 of toy, 4 draws; the last good checkpoint is .*checkpoint\.pt"):
        run.run()
    assert torch.isfinite(weights(run.objective)).all()
    assert read_checkpoint(run.checkpoint)["step"] == 4


class Stateless(Regression):
    """Without the running statistic, which moves once per micro-batch."""

    def forward(self, indices, draws):
        return (self.network(self.inputs[indices]) - draws["noise"]).square().mean(), {}


def test_gradient_accumulation_takes_the_same_steps(tmp_path, monkeypatch):
    one = trainer(tmp_path / "a", monkeypatch, objective=Stateless())
    one.run()
    two = trainer(tmp_path / "b", monkeypatch, objective=Stateless(), batch_size=2, gradient_accumulation_steps=2)
    two.run()
    torch.testing.assert_close(weights(one.objective), weights(two.objective), rtol=1e-4, atol=1e-6)


def test_every_epoch_visits_every_example_once():
    seen = torch.cat([step_indices(30, 4, seed=1, step=s) for s in range(15)])
    assert sorted(seen[:30].tolist()) == list(range(30)) == sorted(seen[30:].tolist())
    assert not torch.equal(seen[:30], seen[30:])


def test_average_of_constant_parameters_is_the_constant_and_moves_as_declared():
    p = nn.Parameter(torch.zeros(3))
    average = ExponentialMovingAverage([p], decay=0.9)
    with torch.no_grad():
        p.fill_(1.0)
    average.update(step=0)  # decay 1/10 at the first step
    torch.testing.assert_close(average.averages[0], torch.full((3,), 0.9))
    average.update(step=10_000)  # decay .9
    torch.testing.assert_close(average.averages[0], torch.full((3,), 0.91))


def test_learning_rate_warms_up_and_decays():
    config = TrainingConfig(**{"name": "x", **SETTINGS, "steps": 1000, "warmup_steps": 10, "final_learning_rate": 0.1})
    assert learning_rate_at(config, 0) == pytest.approx(1e-3, rel=1e-3)
    assert learning_rate_at(config, 9) == pytest.approx(1e-2, rel=1e-3)
    assert learning_rate_at(config, 1000) == pytest.approx(1e-3, rel=1e-3)


def test_a_number_that_only_some_steps_have_is_averaged_over_those(tmp_path, monkeypatch):
    class Sometimes(Regression):
        def forward(self, indices, draws):
            loss, numbers = super().forward(indices, draws)
            return loss, numbers | ({"rare": torch.tensor(3.0)} if self.step % 3 == 0 else {})

    run = trainer(tmp_path, monkeypatch, objective=Sometimes())
    run.run()
    assert [json.loads(line)["rare"] for line in run.log.read_text().splitlines()] == [3.0] * 4


def test_the_shipped_adapters_were_trained_with_the_settings_that_are_listed():
    defaults = {name: p.default for name, p in inspect.signature(DenoisingObjective.__init__).parameters.items()}

    def settings(config):
        options = defaults | config["objective_options"]
        ways = options["regularizer"]
        # settings that name no step are older than "auto": they had the default of their time
        options["regularizer"] = {"difference": FORMER_DIFFERENCES[ways["gradient"]]} | ways
        return {name: value for name, value in config.items() if name not in FREE_TO_CHANGE} | {"objective_options": options}

    listed = yaml.load((paths.CONFIGS / "adapters.yaml").read_text(), Loader)
    for name, changes in listed.items():
        wanted = asdict(load_config(paths.CONFIGS / "training" / "smooth_lora.yaml", name=name, **changes))
        trained = yaml.safe_load((paths.ADAPTERS / name / f"training-{name}.yaml").read_text())
        assert settings(trained) == settings(wanted), name
