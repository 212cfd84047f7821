"""Settings, command lines and parameters with values that nobody means."""

import contextlib
import io
import math
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

from companion.base import paths
from companion.base.config import Boolean, Choice, ConfigurationError, Integer, ListOf, Number, Text, configuration
from companion.evidence import claims, records
from companion.training import loop
from companion.training.settings import ALLOWED, TrainingConfig, load_config, parse_settings
from companion.world import build

VALUES = (
    *(None, True, False, 0, -1, 1, 7, 2**70, 0.5, -0.0, 1e-30, 1e30, math.nan, math.inf, -math.inf, 1j),
    *("", " ", "no", "5", "../x", "/", "a/b", "a\0b", "x" * 5000, "{a: ", "é\u2028", b"bytes"),
    *([], [1], [[]], ["a", "a"], {}, {"a": 1}, {1: 2}, (), object()),
)
TEXTS = (
    *("", "=", "steps", "steps=", "=5", "steps.x=1", "steps={a: ", "steps=1e400", "seed=-1"),
    *("x=1", "name=../x", "name=", "a=b=c", "\0", "é=1"),
)
FILES = ("", ".", "/", "absent.yaml", "a\0b", "x" * 300, str(paths.DATA), str(paths.ROOT / "LICENSE"))
COMMON = paths.CONFIGS / "training" / "smooth_lora.yaml"
FIELDS = {
    "number": Number(0, 1),
    "whole": Integer(1, 9),
    "yes": Boolean(),
    "choice": Choice("a", "b"),
    "text": Text(),
    "list": ListOf(Integer(1)),
}
GIVEN = {"number": 0.5, "whole": 2, "yes": True, "choice": "a", "text": "x", "list": [1]}


def one_sentence(message: str) -> bool:
    """Is it one line of a length that one reads?"""
    return bool(message.strip()) and "\n" not in message.strip() and len(message) < 600


def called(name: str, function: Callable[[], Any]) -> tuple[str, str]:
    """A call that must return or raise ConfigurationError with one sentence that holds `name`."""
    try:
        function()
    except ConfigurationError as error:
        return ("good" if one_sentence(str(error)) and name in str(error) else "unclear"), str(error)[:300]
    except Exception as error:
        return "unclear", f"{type(error).__name__}: {str(error)[:300]}"
    return "harmless", ""


def commanded(main: Callable[[], Any], arguments: list[str]) -> tuple[str, str]:
    """A command line that must end with an exit code and one sentence."""
    before, told = sys.argv, io.StringIO()
    sys.argv = ["command", *arguments]
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            code = main()
    except SystemExit as stopped:
        code = stopped.code
    except Exception as error:
        return "unclear", f"{arguments}: {type(error).__name__}: {str(error)[:300]}"
    finally:
        sys.argv = before
    if not code:
        return "silent", f"{arguments}: exit code 0"
    return ("good" if code in (1, 2) and one_sentence(told.getvalue()) else "unclear"), f"{arguments}: {code}: {told.getvalue()[:300]}"


def _setting(chance: random.Random) -> tuple[str, str, str]:
    name, value = chance.choice(list(ALLOWED)), chance.choice(VALUES)
    good = vars(load_config(COMMON))
    became, told = called(name, lambda: TrainingConfig(**{**good, name: value}))
    if became == "harmless" and isinstance(value, float) and not math.isfinite(value):
        became = "silent"
    return "setting of a training", became, f"{name}={value!r:.80}: {told}"


def _option(chance: random.Random) -> tuple[str, str, str]:
    config = load_config(COMMON)
    name, value = chance.choice(list(config.objective_options)), chance.choice(VALUES)
    options = {**config.objective_options, name: value}
    became, told = called(name, lambda: TrainingConfig(**{**vars(config), "objective_options": options}))
    return "option of an objective", became, f"{name}={value!r:.80}: {told}"


def _entry(chance: random.Random) -> tuple[str, str, str]:
    text = chance.choice(TEXTS)
    became, told = called("", lambda: load_config(COMMON, **parse_settings([text])))
    return "NAME=VALUE", became, f"{text!r}: {told}"


def _parameter(chance: random.Random) -> tuple[str, str, str]:
    name, value = chance.choice(list(FIELDS)), chance.choice(VALUES)
    became, told = called(name, lambda: configuration({**GIVEN, name: value}, **FIELDS))
    return "parameter of a notebook", became, f"{name}={value!r:.80}: {told}"


def _command(chance: random.Random) -> tuple[str, str, str]:
    file, text = chance.choice(FILES), chance.choice(TEXTS)
    main, arguments = chance.choice(
        (
            (loop.main, ["--config", file]),
            (loop.main, ["--config", str(COMMON), "--set", "export_to=adapters/smooth", text]),
            (loop.main, [file]),
            (claims.main, ["--records", file]),
            (claims.main, [f"--{text}x"]),
            (records.main, ["show", file]),
            (records.main, [text]),
            (build.main, [text]),
            (build.main, ["train", "--workers", chance.choice(["0", "-1", "x", "1.5", ""])]),
        )
    )
    return "command line", *commanded(main, arguments)


def cases(count: int, chance: random.Random) -> Iterator[tuple[str, str, str]]:
    """(kind, outcome, what was seen) of `count` inputs."""
    kinds = (_setting, _option, _entry, _parameter, _command)
    for number in range(count):
        yield kinds[number % len(kinds)](chance)
