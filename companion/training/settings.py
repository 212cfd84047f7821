"""The settings of a training run and their YAML files."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..base import paths
from ..base.config import Boolean, Choice, ConfigurationError, Integer
from ..base.reading import OnceLoader, UnreadableFile, parse_yaml, read_text
from .objectives import OBJECTIVES
from .objectives.base import known_options
from .objectives.execution import check_precision_of
from .setting_fields import ExportFolder, FolderName, Interval, Options, check_setting

# what a resumed run may change: none of these enters the weights
FREE_TO_CHANGE = {"checkpoint_minutes", "log_every", "export_to", "overwrite"}
ALLOWED = {
    "name": FolderName(),
    "objective": Choice(*OBJECTIVES),
    "export_to": ExportFolder(),
    "steps": Integer(1),
    "batch_size": Integer(1),
    "learning_rate": Interval("(0, inf)"),
    "objective_options": Options(),
    "warmup_steps": Integer(0),
    "final_learning_rate": Interval("[0, 1]"),
    "weight_decay": Interval("[0, inf)"),
    "max_grad_norm": Interval("(0, inf)"),
    "gradient_accumulation_steps": Integer(1),
    "ema_decay": Interval("[0, 1)"),
    "mixed_precision": Choice("no", "bf16", "fp16"),
    "seed": Integer(0, 2**32 - 1),
    "checkpoint_minutes": Interval("(0, inf)"),
    "log_every": Integer(1),
    "overwrite": Boolean(),
}


@dataclass(frozen=True)
class TrainingConfig:
    """A training run; `ALLOWED` says what each setting may be, the objective's signature what its options may be.

    Raises:
        ConfigurationError: a setting or an option is unknown, of another type or out of range; one sentence names it.
    """

    name: str  # checkpoints and log go to runs/training/<name>
    objective: str  # a key of companion.training.objectives.OBJECTIVES
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
    overwrite: bool = False  # replace weights that export_to has from another training

    def __post_init__(self):
        if self.mixed_precision is False:  # how YAML 1.1 reads `no`
            object.__setattr__(self, "mixed_precision", "no")
        for name, allowed in ALLOWED.items():
            check_setting(name, getattr(self, name), allowed)
        known_options("objective_options", OBJECTIVES[self.objective], self.objective_options)
        check_precision_of(self.mixed_precision, self.objective_options)

    @property
    def folder(self) -> Path:
        """Where checkpoint and log are kept while the run goes on."""
        return paths.RUNS / "training" / self.name


class Loader(OnceLoader):
    """YAML in which 1e-4 is a number, as everywhere but in YAML 1.1, which asks for a point."""


Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))


def parse_settings(entries: Sequence[str]) -> dict[str, Any]:
    """`["steps=10", "objective_options.rank=4"]` -> settings by name, dots kept; values are read as YAML.

    Raises:
        ConfigurationError: an entry is not NAME=VALUE, or its value not YAML.
    """
    if wrong := [entry for entry in entries if not entry.partition("=")[0] or "=" not in entry]:
        raise ConfigurationError(f"settings must be NAME=VALUE, got {wrong[0]!r}")
    split = (entry.split("=", 1) for entry in entries)
    return {name: parse_yaml(value, f"the value of {name}, {value!r},", loader=Loader) for name, value in split}


def load_config(path: Path, **overrides: Any) -> TrainingConfig:
    """Read a YAML file of settings, replace some of them, and validate.

    A name with dots replaces one inner setting: `{"objective_options.rank": 4}`.

    Raises:
        ConfigurationError: the file is missing or holds no settings, a setting has no such name, is not allowed, or one that is needed is
            missing.
    """
    settings = _read_settings(Path(path))
    for name, value in overrides.items():
        _replace(settings, name, value)
    known = {f.name: f for f in fields(TrainingConfig)}
    for name in settings:
        if name not in known:
            raise ConfigurationError(f"unknown training setting {name!r} in {path}; known are {', '.join(sorted(known))}")
    for name, setting in known.items():
        if setting.default is MISSING and setting.default_factory is MISSING and name not in settings:
            raise ConfigurationError(f"{path} lacks the training setting {name}")
    return TrainingConfig(**settings)


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = parse_yaml(read_text(path, remedy="save it as that"), str(path), loader=Loader)
    except OSError as error:
        raise ConfigurationError(f"the settings {path} cannot be read: {error.strerror or error}") from error
    except UnreadableFile:
        raise
    except ValueError as error:  # a name that no file can have
        raise ConfigurationError(f"the settings {str(path)!r} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        found = "nothing" if settings is None else f"a {type(settings).__name__}"
        raise ConfigurationError(f"{path} holds {found}, but must hold settings, one NAME: VALUE a line")
    return settings


def _replace(settings: dict[str, Any], name: str, value: Any) -> None:
    *outer, last = name.split(".")
    place = settings
    for depth, key in enumerate(outer, start=1):
        place = place.setdefault(key, {})
        if not isinstance(place, Mapping):
            raise ConfigurationError(f"{name} names a setting inside {'.'.join(outer[:depth])}, which is {place!r} and has none")
    place[last] = value
