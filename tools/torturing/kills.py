"""Trainings that are killed at random moments, also while they export, and run again until they come to their end."""

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

from companion.base.files import is_temporary
from companion.weights.cards import check_files, file_hashes

from .nursery import Nursery

TRAINING = """
import time
import torch
from companion.training import loop
from companion.training.objectives import Objective
from companion.training.settings import TrainingConfig

class Ones(Objective):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(300, 300)
    def __len__(self): return 40
    def identity(self): return "ones"
    def draw(self, count, generator): return {"x": torch.randn(count, 300, generator=generator)}
    def forward(self, indices, draws): return (self.layer(draws["x"]) - 1).square().mean(), {}
    def export(self, folder):
        for part in range(5):
            time.sleep(0.02)
            torch.save(self.layer.weight[part * 60 : (part + 1) * 60].clone(), folder / f"weights-{part}.pt")

loop.OBJECTIVES["autoencoder"] = Ones

def work(folder):
    settings = dict(name="killed", objective="autoencoder", export_to="killed", steps=60, batch_size=4, learning_rate=1e-2)
    loop.train(TrainingConfig(**settings, checkpoint_minutes=1e-9, log_every=7))
"""


def weights(folder: Path) -> dict[str, str]:
    """Hashes of the exported weights; the log beside them holds seconds."""
    return {name: digest for name, digest in file_hashes(folder / "models" / "killed").items() if name.endswith(".pt")}


def steps(folder: Path) -> list[int]:
    """The steps that the log beside the weights has."""
    log = folder / "models" / "killed" / "training-killed.jsonl"
    return [json.loads(line)["step"] for line in log.read_text(encoding="utf-8").splitlines()]


def verdict(folder: Path, wanted: dict[str, str], errors: str) -> tuple[str, str]:
    """Of a run that has come to its end."""
    if errors:
        return "unclear", errors
    try:
        check_files(folder / "models" / "killed")
    except (OSError, ValueError) as error:
        return "lost", str(error)
    if weights(folder) != wanted:
        return "lost", "other weights"
    if (logged := steps(folder)) != steps(folder.parent / "whole"):
        return "lost", f"the log has the steps {logged}"
    left = [file.name for file in folder.rglob("*") if is_temporary(file.name) or file.name in (".new", ".former")]
    return ("outside", f"left {left[0]}") if left else ("good", "")


def cases(count: int, folder: Path, chance: random.Random) -> Iterator[tuple[str, str, str]]:
    """(kind, outcome, what was seen) of `count` kills; a kill that came after the end is one of a finished training."""
    if not count:
        return
    with Nursery(TRAINING) as nursery:
        started = time.monotonic()
        code, errors = nursery.run(folder / "whole")
        if code:
            raise RuntimeError(errors)
        took, wanted = time.monotonic() - started, weights(folder / "whole")
        for number in range(count):
            place = folder / str(number)
            nursery.run(place, kill_after=chance.uniform(0, took))
            code, errors = nursery.run(place)
            finished = "is there already" in errors  # the kill came after the end
            yield "kill -9 of a training", *verdict(place, wanted, "" if finished or not code else errors)
