"""One training loop on accelerate: `python -m companion.training --config configs/training/base.yaml`.

Everything random in step k (which examples, noise, dropout of captions) comes from a generator seeded by (seed, k), drawn for the whole
step and dealt out to processes and micro-batches. So a run that was killed and resumed from its checkpoint ends in the same weights as an
unbroken one, and two processes take the step that one process takes with twice the batch.
"""

import contextlib
import json
import math
import time
from dataclasses import asdict
from pathlib import Path

import torch
import yaml

from smoothlib.regularizer.gradients import postponed

from ..base import paths
from ..base.config import OneSentenceParser, errors_as_exit_codes
from ..base.files import naming
from ..base.machine import machine
from ..weights.cards import training_facts, write_card
from .dividing import average_gradients, prepared
from .exports import check_space, check_weights, claim_export_folder
from .objectives import OBJECTIVES, Objective
from .objectives.base import known_options
from .precision import LEAST, loss_scaler
from .publishing import replacing, tidy
from .resuming import alone, read_checkpoint, restore_log, write_checkpoint
from .schedule import ExponentialMovingAverage, learning_rate_at, step_generator, step_indices
from .settings import FREE_TO_CHANGE, TrainingConfig, load_config, parse_settings


class Trainer:
    """Runs an objective to its last step, from its checkpoint if there is one."""

    def __init__(self, objective: Objective, config: TrainingConfig):
        self.config, self.objective = config, objective
        self.identity = objective.identity()
        trainable = [p for p in objective.parameters() if p.requires_grad]
        self.accelerator, self.model, self.divided = prepared(objective, config.mixed_precision)
        fused = {"fused": True} if objective.fused_optimizer else {}
        optimizer = torch.optim.AdamW(trainable, lr=config.learning_rate, weight_decay=config.weight_decay, **fused)
        self.optimizer = self.accelerator.prepare(optimizer)
        self.scaler = loss_scaler(config.mixed_precision, self.accelerator.device)
        self.parameters = trainable
        self.average = ExponentialMovingAverage(trainable, config.ema_decay) if config.ema_decay else None
        self.step, self.seconds, self.replaced = 0, 0.0, 0  # replaced: examples that could not be read, of all processes
        config.folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint, self.log = config.folder / "checkpoint.pt", config.folder / "log.jsonl"
        if self.accelerator.is_main_process:
            check_space(config, trainable)
        kept = self._restore() if self.checkpoint.exists() else ""
        if self.accelerator.is_main_process:
            restore_log(self.log, kept, self.step)

    def _state(self) -> dict:
        return {
            "config": asdict(self.config),
            "identity": self.identity,
            "processes": self.accelerator.num_processes,
            "step": self.step,
            "seconds": self.seconds,
            "replaced": self.replaced,
            "parameters": [p.detach().cpu() for p in self.parameters],
            "averages": self.average.averages if self.average else [],
            "objective": self.objective.state(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "log": self.log.read_text(encoding="utf-8") if self.log.exists() else "",
        }

    def _restore(self) -> str | None:
        """Take up the checkpoint; the log as it was then (None: an earlier version's checkpoint has none)."""
        state = read_checkpoint(self.checkpoint)
        changed = {k for k, v in asdict(self.config).items() if state["config"].get(k) != v} - FREE_TO_CHANGE
        if changed:
            raise ValueError(
                f"{self.checkpoint} belongs to other settings of {', '.join(sorted(changed))}: choose another name or delete it"
            )
        if state["identity"] != self.identity:
            raise ValueError(f"{self.checkpoint} was trained on other data or from other weights: choose another name or delete it")
        if state["processes"] != self.accelerator.num_processes:
            raise ValueError(
                f"{self.checkpoint} belongs to a run of {state['processes']} processes, this one has {self.accelerator.num_processes}: "
                "resume with as many, choose another name or delete it"
            )
        with torch.no_grad():
            for parameter, saved in zip(self.parameters, state["parameters"], strict=True):
                parameter.copy_(saved)
            for average, saved in zip(self.average.averages if self.average else [], state["averages"], strict=True):
                average.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self.objective.load_state(state["objective"])
        self.step, self.seconds, self.replaced = state["step"], state["seconds"], state.get("replaced", 0)
        return state.get("log")

    def save(self) -> None:
        """Write the checkpoint (main process), replacing the last one only when complete. Raises FloatingPointError for broken weights."""
        self.check_weights()  # the next loss, which would show it, comes after the checkpoint
        if self.accelerator.is_main_process:
            write_checkpoint(self.checkpoint, self._state())

    def check_weights(self) -> None:
        """Raise unless weights and averages are finite (`exports.check_weights`)."""
        check_weights(self.config.name, self.checkpoint, [*self.parameters, *(self.average.averages if self.average else [])])

    def optimiser_step(self) -> dict[str, float]:
        """One update; returns the loss and the objective's numbers.

        In float16 a gradient that overflows is not taken: the loss scale halves, and weights, moments and averages stay as they are. The
        step counts all the same. Examples, noise and learning rate belong to its number, and the one after it has its own.

        Raises:
            FloatingPointError: the loss is not finite, or the gradient, with no loss scale left to halve; names the step, what was drawn
                and the last good checkpoint.
        """
        config, ranks, rank = self.config, self.accelerator.num_processes, self.accelerator.process_index
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(config, self.step)
        self.objective.step = self.step
        parts = config.gradient_accumulation_steps
        per_step = config.batch_size * parts * ranks
        indices = step_indices(len(self.objective), per_step, config.seed, self.step, self.objective.order)
        draws = self.objective.draw(per_step, step_generator(config.seed, self.step))
        found: list[tuple[str, torch.Tensor]] = []
        for part in range(parts):
            # a micro-batch's rows lie side by side over the ranks: a batch split between processes sees the rows of one undivided
            rows = slice((part * ranks + rank) * config.batch_size, (part * ranks + rank + 1) * config.batch_size)
            last = part == parts - 1
            together = postponed() if self.divided else contextlib.nullcontext() if last else self.accelerator.no_sync(self.model)
            with self.objective.kernels(), together:
                loss, numbers = self.model(indices[rows], {name: values[rows] for name, values in draws.items()})
                self.accelerator.backward(self.scaler.scale(loss / parts))
            found += ((name, value.detach().clone()) for name, value in {"loss": loss, **numbers}.items())
        logged: dict[str, float] = {}
        for name, value in found:  # at the end: to read a value is to wait for a GPU
            logged[name] = logged.get(name, 0.0) + value.item() / parts
        if self.divided:
            average_gradients(self.accelerator, self.parameters)
        self.scaler.unscale_(self.optimizer)
        # of gradients that are averaged already, so that all processes see one norm, and all take the step or none does
        norm = self.accelerator.clip_grad_norm_(self.parameters, config.max_grad_norm)
        overflow, scale = not math.isfinite(norm), self.scaler.get_scale()  # 1 where nothing is scaled
        broken, replaced = not math.isfinite(logged["loss"]) or (overflow and scale <= LEAST), self.objective.take_replaced()
        broken, replaced = self.accelerator.reduce(torch.tensor([float(broken), float(replaced)], device=self.accelerator.device), "sum")
        self.replaced += int(replaced)
        if broken > 0:  # on any process: all stop
            drawn, scaled = self.objective.describe(draws), f" and loss scale {scale:g}" if self.scaler.is_enabled() else ""
            raise FloatingPointError(
                f"loss {logged['loss']} with gradient norm {float(norm)}{scaled} at step {self.step} of {config.name}"
                f"{drawn and ', ' + drawn}; the last good checkpoint is {self.checkpoint if self.checkpoint.exists() else 'none yet'}"
            )
        self.scaler.step(self.optimizer)  # not where `unscale_` met an overflow
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.average and not overflow:  # the average is of weights after updates: the same ones do not count twice
            self.average.update(self.step)
        self.step += 1
        return logged

    def run(self, stop_after: int | None = None) -> None:
        """Train to the last step (or to step `stop_after`), logging and writing checkpoints on the way."""
        self.model.train()
        started = saved = time.monotonic()
        before, seen = self.seconds, {}
        last = min(self.config.steps, stop_after or self.config.steps)
        while self.step < last:
            for name, value in self.optimiser_step().items():
                seen.setdefault(name, []).append(value)  # a number that only some steps have is averaged over those
            self.seconds = before + time.monotonic() - started
            if self.step % self.config.log_every == 0 or self.step == last:
                self._log({name: float(f"{sum(values) / len(values):.6g}") for name, values in seen.items()})
                seen = {}
            if time.monotonic() - saved > 60 * self.config.checkpoint_minutes:
                self.save()
                saved = time.monotonic()
        self.save()

    def _log(self, numbers: dict[str, float]) -> None:
        line = {"step": self.step, **numbers, "learning_rate": self.optimizer.param_groups[0]["lr"], "seconds": round(self.seconds, 1)}
        line |= {"loss_scale": self.scaler.get_scale()} if self.scaler.is_enabled() else {}
        line |= {"replaced_examples": self.replaced} if self.replaced else {}
        line |= {"machine": machine(self.accelerator.device)["name"]}
        if self.accelerator.is_main_process:
            with naming(self.log), self.log.open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)

    def finish(self) -> None:
        """Export the averaged weights and keep the log beside them."""
        if self.average:
            self.average.copy_to_parameters()
        if self.accelerator.is_main_process:
            self.objective.eval()
            with replacing(paths.MODELS / self.config.export_to) as folder:
                self.objective.export(folder)
                (folder / f"training-{self.config.name}.jsonl").write_text(self.log.read_text())
                (folder / f"training-{self.config.name}.yaml").write_text(yaml.safe_dump(asdict(self.config), sort_keys=False))
                # measurements belong to the weights that they were taken on: new weights start without any
                write_card(folder, training=training_facts(folder), metrics=None)


def train(config: TrainingConfig) -> None:
    """Train what `config` describes and export it; refused where that would replace another training's weights (`claim_export_folder`),
    and while another process trains the same name."""
    with alone(config.name, config.folder):
        tidy(paths.MODELS / config.export_to)
        claim_export_folder(config)
        torch.manual_seed(config.seed)  # the initial weights
        kind = OBJECTIVES[config.objective]
        trainer = Trainer(kind(**known_options("objective_options", kind, config.objective_options)), config)
        trainer.run()
        trainer.check_weights()  # of a checkpoint that was finished before
        trainer.finish()


def main() -> None:
    """Command line."""
    parser = OneSentenceParser(prog="python -m companion.training", description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument(
        "--set",
        nargs="*",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="replace settings; objective_options.rank=4 names an inner one",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace weights of another training in the folder that is exported to")
    arguments = parser.parse_args()
    with errors_as_exit_codes(parser.prog):
        overwrite = {"overwrite": True} if arguments.overwrite else {}
        train(load_config(arguments.config, **parse_settings(arguments.set) | overwrite))


if __name__ == "__main__":
    main()
