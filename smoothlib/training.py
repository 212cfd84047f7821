"""One training loop on accelerate: `python -m smoothlib.training --config configs/training/base.yaml`.

Everything random in step k (which examples, noise, dropout of captions) comes from generators seeded by (seed, k, rank), so a run that was
killed and resumed from its checkpoint ends in the same weights as an unbroken one.
"""

import argparse
import io
import json
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator
from torch import Tensor, nn

from . import paths
from .cards import training_facts, write_card
from .objectives import OBJECTIVES, Objective
from .runs import atomic_write

# what a resumed run may change: none of these enters the weights
FREE_TO_CHANGE = {"checkpoint_minutes", "log_every", "export_to"}


@dataclass(frozen=True)
class TrainingConfig:
    """A training run.

    Raises:
        ValueError: a setting is unknown or out of range.
    """

    name: str  # checkpoints and log go to runs/training/<name>
    objective: str  # a key of smoothlib.objectives.OBJECTIVES
    export_to: str  # folder below data/models that receives the result
    steps: int
    batch_size: int
    learning_rate: float
    objective_options: dict = field(default_factory=dict)
    warmup_steps: int = 200
    final_learning_rate: float = 0.05  # share of the learning rate left at the last step (cosine decay)
    weight_decay: float = 1e-2
    max_grad_norm: float = 1.0
    gradient_accumulation_steps: int = 1
    ema_decay: float = 0.999  # 0: no average, the last weights are exported
    mixed_precision: str = "no"
    seed: int = 0
    checkpoint_minutes: float = 3.0
    log_every: int = 50

    def __post_init__(self):
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {self.objective!r}")
        if self.mixed_precision not in ("no", "bf16"):
            raise ValueError(f"mixed_precision must be no or bf16, got {self.mixed_precision!r}")
        for name in ("steps", "batch_size", "gradient_accumulation_steps", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "max_grad_norm", "checkpoint_minutes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")

    @property
    def folder(self) -> Path:
        """Where checkpoint and log are kept while the run goes on."""
        return paths.RUNS / "training" / self.name


def load_config(path: Path, **overrides) -> TrainingConfig:
    """Read a YAML file of settings, replace some of them, and validate.

    Raises:
        ValueError: a setting has no such name.
    """
    settings = {**yaml.safe_load(Path(path).read_text()), **overrides}
    known = {f.name for f in fields(TrainingConfig)}
    for name in settings:
        if name not in known:
            raise ValueError(f"unknown training setting {name!r} in {path}; known are {', '.join(sorted(known))}")
    return TrainingConfig(**settings)


class ExponentialMovingAverage:
    """Average of parameters with decay min(decay, (1 + k) / (10 + k)) at step k."""

    def __init__(self, parameters: list[nn.Parameter], decay: float):
        self.parameters, self.decay = parameters, decay
        self.averages = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages towards the parameters after `step` (0-based)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def copy_to_parameters(self) -> None:
        """Replace the parameters by their averages."""
        for parameter, average in zip(self.parameters, self.averages, strict=True):
            parameter.copy_(average)


def step_generator(seed: int, step: int, rank: int = 0) -> torch.Generator:
    """The generator of one optimiser step on one process."""
    return torch.Generator().manual_seed(((seed * 1_000_003 + step) * 1_009 + rank) % 2**63)


def step_indices(length: int, batch: int, seed: int, step: int) -> Tensor:
    """The examples of step `step`: consecutive slices of one random order per epoch, (batch,) long."""
    order_of = {}
    positions = range(step * batch, (step + 1) * batch)
    chosen = []
    for position in positions:
        epoch, offset = divmod(position, length)
        if epoch not in order_of:
            order_of[epoch] = torch.randperm(length, generator=torch.Generator().manual_seed(seed * 7_919 + epoch))
        chosen.append(order_of[epoch][offset])
    return torch.stack(chosen)


def learning_rate_at(config: TrainingConfig, step: int) -> float:
    """Linear warm-up, then cosine decay to `final_learning_rate` of the peak."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    progress = torch.tensor(torch.pi * min(1.0, step / max(1, config.steps)))
    decay = config.final_learning_rate + (1 - config.final_learning_rate) * 0.5 * (1 + torch.cos(progress).item())
    return config.learning_rate * warm * decay


def _truncate_log(path: Path, step: int) -> None:
    """Drop log lines of steps that the checkpoint does not contain (they will be run again), and a line that a kill cut short."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
        atomic_write(path, "".join(line + "\n" for line in lines if json.loads(line)["step"] <= step).encode())


class Trainer:
    """Runs an objective to its last step, from its checkpoint if there is one."""

    def __init__(self, objective: Objective, config: TrainingConfig):
        self.config, self.objective = config, objective
        self.accelerator = Accelerator(mixed_precision=config.mixed_precision, cpu=not torch.cuda.is_available())
        trainable = [p for p in objective.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trainable, lr=config.learning_rate, weight_decay=config.weight_decay)
        self.model, self.optimizer = self.accelerator.prepare(objective, optimizer)
        self.parameters = trainable
        self.average = ExponentialMovingAverage(trainable, config.ema_decay) if config.ema_decay else None
        self.step, self.seconds = 0, 0.0
        config.folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint, self.log = config.folder / "checkpoint.pt", config.folder / "log.jsonl"
        if self.checkpoint.exists():
            self._restore()
        if self.accelerator.is_main_process:
            _truncate_log(self.log, self.step)

    def _state(self) -> dict:
        return {
            "config": asdict(self.config),
            "identity": self.objective.identity(),
            "step": self.step,
            "seconds": self.seconds,
            "parameters": [p.detach().cpu() for p in self.parameters],
            "averages": self.average.averages if self.average else [],
            "optimizer": self.optimizer.state_dict(),
        }

    def _restore(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True, map_location="cpu")
        changed = {k for k, v in asdict(self.config).items() if state["config"].get(k) != v} - FREE_TO_CHANGE
        if changed:
            raise ValueError(
                f"{self.checkpoint} belongs to other settings of {', '.join(sorted(changed))}: choose another name or delete it"
            )
        if state["identity"] != self.objective.identity():
            raise ValueError(f"{self.checkpoint} was trained on other data or another first stage: choose another name or delete it")
        with torch.no_grad():
            for parameter, saved in zip(self.parameters, state["parameters"], strict=True):
                parameter.copy_(saved)
            for average, saved in zip(self.average.averages if self.average else [], state["averages"], strict=True):
                average.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    def save(self) -> None:
        """Write the checkpoint (main process), replacing the last one only when complete."""
        if self.accelerator.is_main_process:
            buffer = io.BytesIO()
            torch.save(self._state(), buffer)
            atomic_write(self.checkpoint, buffer.getvalue())

    def optimiser_step(self) -> dict[str, float]:
        """One update; returns the loss and the objective's numbers.

        Raises:
            FloatingPointError: the loss or gradient is not finite; names the step and the last good checkpoint.
        """
        config, ranks = self.config, self.accelerator.num_processes
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(config, self.step)
        generator = step_generator(config.seed, self.step, self.accelerator.process_index)
        per_step = config.batch_size * config.gradient_accumulation_steps * ranks
        indices = step_indices(len(self.objective), per_step, config.seed, self.step)
        mine = indices.chunk(ranks)[self.accelerator.process_index]
        logged: dict[str, float] = {}
        for part in mine.chunk(config.gradient_accumulation_steps):
            loss, numbers = self.model(part, generator)
            self.accelerator.backward(loss / config.gradient_accumulation_steps)
            for name, value in {"loss": loss, **numbers}.items():
                logged[name] = logged.get(name, 0.0) + value.item() / config.gradient_accumulation_steps
        norm = self.accelerator.clip_grad_norm_(self.parameters, config.max_grad_norm)
        if not (torch.isfinite(norm) and torch.isfinite(torch.tensor(logged["loss"]))):
            raise FloatingPointError(
                f"loss {logged['loss']} with gradient norm {float(norm)} at step {self.step} of {config.name}; "
                f"the last good checkpoint is {self.checkpoint if self.checkpoint.exists() else 'none yet'}"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average:
            self.average.update(self.step)
        self.step += 1
        return logged

    def run(self, stop_after: int | None = None) -> None:
        """Train to the last step (or to step `stop_after`), logging and writing checkpoints on the way."""
        self.model.train()
        started = saved = time.monotonic()
        before, sums, count = self.seconds, {}, 0
        last = min(self.config.steps, stop_after or self.config.steps)
        while self.step < last:
            for name, value in self.optimiser_step().items():
                sums[name] = sums.get(name, 0.0) + value
            count += 1
            self.seconds = before + time.monotonic() - started
            if self.step % self.config.log_every == 0 or self.step == last:
                self._log({name: round(value / count, 6) for name, value in sums.items()})
                sums, count = {}, 0
            if time.monotonic() - saved > 60 * self.config.checkpoint_minutes:
                self.save()
                saved = time.monotonic()
        self.save()

    def _log(self, numbers: dict[str, float]) -> None:
        line = {"step": self.step, **numbers, "learning_rate": self.optimizer.param_groups[0]["lr"], "seconds": round(self.seconds, 1)}
        if self.accelerator.is_main_process:
            with self.log.open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)

    def finish(self) -> None:
        """Export the averaged weights and keep the log beside them."""
        if self.average:
            self.average.copy_to_parameters()
        if self.accelerator.is_main_process:
            folder = paths.MODELS / self.config.export_to
            folder.mkdir(parents=True, exist_ok=True)
            self.objective.eval()
            self.objective.export(folder)
            (folder / f"training-{self.config.name}.jsonl").write_text(self.log.read_text())
            (folder / f"training-{self.config.name}.yaml").write_text(yaml.safe_dump(asdict(self.config), sort_keys=False))
            # measurements belong to the weights that they were taken on: new weights start without any
            write_card(folder, training=training_facts(folder), metrics=None)


def train(config: TrainingConfig) -> None:
    """Train what `config` describes and export it."""
    torch.manual_seed(config.seed)  # the initial weights
    trainer = Trainer(OBJECTIVES[config.objective](**config.objective_options), config)
    trainer.run()
    trainer.finish()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings that replace the file's")
    arguments = parser.parse_args()
    overrides = {name: yaml.safe_load(value) for name, value in (entry.split("=", 1) for entry in arguments.set)}
    train(load_config(arguments.config, **overrides))


if __name__ == "__main__":
    main()
