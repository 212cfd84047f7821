"""The settings of a training run and their YAML files."""

import re
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from . import paths
from .objectives import OBJECTIVES

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


class Loader(yaml.SafeLoader):
    """YAML in which 1e-4 is a number, as everywhere but in YAML 1.1, which asks for a point."""


Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))


def parse_settings(entries: Sequence[str]) -> dict[str, Any]:
    """`["steps=10", "objective_options.rank=4"]` -> settings by name, dots kept; values are read as YAML.

    Raises:
        ValueError: an entry is not NAME=VALUE.
    """
    if wrong := [entry for entry in entries if "=" not in entry]:
        raise ValueError(f"settings must be NAME=VALUE, got {wrong[0]!r}")
    return {name: yaml.load(value, Loader) for name, value in (entry.split("=", 1) for entry in entries)}


def load_config(path: Path, **overrides: Any) -> TrainingConfig:
    """Read a YAML file of settings, replace some of them, and validate.

    A name with dots replaces one inner setting: `{"objective_options.rank": 4}`.

    Raises:
        ValueError: a setting has no such name, or one that is needed is missing.
    """
    settings = yaml.load(Path(path).read_text(), Loader)
    for name, value in overrides.items():
        *outer, last = name.split(".")
        place = settings
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = value
    known = {f.name: f for f in fields(TrainingConfig)}
    for name in settings:
        if name not in known:
            raise ValueError(f"unknown training setting {name!r} in {path}; known are {', '.join(sorted(known))}")
    for name, setting in known.items():
        if setting.default is MISSING and setting.default_factory is MISSING and name not in settings:
            raise ValueError(f"{path} lacks the training setting {name}")
    return TrainingConfig(**settings)
