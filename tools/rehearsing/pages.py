"""Runs the code of a notebook in this process, with the parameters of a preset made small, and looks at what its cells show."""

import ast
import base64
import contextlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from companion.base import paths
from companion.book.page import MAX_KB

SKIPPED = "nbval-skip"  # the tag of the cell for Colab
SMALL = {  # parameter -> its value in a rehearsal, whatever the preset says
    "num_images": 2,
    "num_prompts": 2,
    "num_pairs": 2,
    "num_drags": 4,
    "num_each": 1,
    "num_inference_steps": 2,
    "num_costly_steps": 2,
    "frames": 3,
    "anid_steps": [2],
    "coarse_to_fine_frames": 3,
    "iterations": [1],
    "lora_steps": [1],
    "lora_rank": 2,
    "guidance_scales": [2.0],
    "shares": [0.5],
    "num_shown": 2,
    "num_profiles": 2,
    "num_timesteps": 2,
    "judge": "packaged",  # the official ones are downloads
    "batch_size": 3,
}


def code_cells(name: str) -> list[tuple[str, list[str]]]:
    """Source and tags of a notebook's code cells."""
    cells = json.loads((paths.ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return [("".join(cell["source"]), cell["metadata"].get("tags", [])) for cell in cells if cell["cell_type"] == "code"]


def small_parameters(name: str, preset: Path, places: Mapping[str, Any]) -> dict[str, Any]:
    """The preset's parameters with those of `places` (by name; only such as the notebook has) and `SMALL`."""
    (known,) = [namespace(source) for source, tags in code_cells(name) if "parameters" in tags]
    asked = yaml.safe_load(preset.read_text(encoding="utf-8")) or {}
    small = {key: value for key, value in {**SMALL, **places}.items() if key in known}
    if "shares" in known:  # half of the prompts choose
        small["num_prompts"] = 4
    if "num_inner_steps" in known:
        several = isinstance(asked.get("num_inner_steps", known["num_inner_steps"]), list)
        small["num_inner_steps"] = [1, 2] if several else 1
    return asked | small


def namespace(source: str) -> dict[str, Any]:
    """What a cell of plain assignments assigns."""
    found: dict[str, Any] = {}
    exec(compile(source, "parameters", "exec"), {}, found)
    return {key: value for key, value in found.items() if not key.startswith("_")}


def run_page(name: str, parameters: Mapping[str, Any]) -> list[str]:
    """Run every cell; the text that they print and show. Whatever a cell raises is raised, and ValueError for a figure that is too large.

    Cells see `display`, and parameters as papermill sets them.
    """
    module = ModuleType("__main__")
    shown: list[str] = []
    injected = "\n".join(["# Parameters", *(f"{key} = {value!r}" for key, value in parameters.items())])
    module.__dict__.update(display=lambda *values, **_: shown.extend(map(seen, values)), In=["", injected])
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for source, tags in code_cells(name):
            if SKIPPED not in tags:
                _run_cell(source, module.__dict__, shown)
                if "parameters" in tags:
                    exec(injected, module.__dict__)
    return [printed.getvalue(), *shown]


def _run_cell(source: str, names: dict[str, Any], shown: list[str]) -> None:
    """The cell's statements; the value of a last expression is shown, as notebooks do."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        if value is not None:
            shown.append(seen(value))


def seen(value: Any) -> str:
    """What a page would show of a value, in its richest form; ValueError where this is larger than a page may hold."""
    for method in ("_repr_mimebundle_", "_repr_html_"):
        if hasattr(value, method):
            found = getattr(value, method)()
            content = next(iter(found.values())) if isinstance(found, dict) else found
            size = len(content if isinstance(content, bytes) else content.encode())
            if size > MAX_KB * 1000 and not _is_table(content):
                raise ValueError(f"a cell shows {size // 1000} kB, but a page allows {MAX_KB} kB for each figure")
            return base64.b64encode(content).decode()[:40] if isinstance(content, bytes) else content
    return repr(value)


def _is_table(content: str | bytes) -> bool:
    return isinstance(content, str) and "smooth-widget" not in content
