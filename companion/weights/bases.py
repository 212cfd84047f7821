"""Pipelines of other architectures from a folder, as `smoothlib.bases.views.base_view` shows them; safetensors alone, no remote code."""

import json
from pathlib import Path
from typing import Any

import torch

from smoothlib.bases.views import PLAIN, VIEWS, base_view

from ..base.progress import no_library_bars
from ..base.reading import read_json
from .pipelines import load_pipeline
from .places import local_folder, trusted_folder

KINDS = (PLAIN, *VIEWS)


def load_base(
    folder: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    size: int | tuple[int, int] | None = None,
) -> Any:
    """The pipeline in `folder`, Stable Diffusion's own or of another architecture, in evaluation mode, as the library takes it.

    Args:
        folder: a folder with a diffusers pipeline.
        size: of the images in pixels, see `base_view`; not for Stable Diffusion's own.

    Raises:
        FileNotFoundError: no such folder, or one without safetensors (`python -m companion.weights.convert` makes them).
        ValueError: a hub id, another class of pipeline, or what `base_view` refuses.
    """
    place = local_folder(str(folder), "model_index.json")
    if place is None:
        raise ValueError(f"folder is {str(folder)!r}, but must be a folder that is here: download the pipeline first")
    check_base_kind(place)
    try:
        if base_kind(place) == PLAIN:
            return load_pipeline(str(folder), dtype=dtype, device=device)
        return base_view(_loaded(str(folder), place, dtype).to(device), size=size)
    except NotImplementedError:  # torch's, of a weight that no file has filled
        raise ValueError(f"{place} cannot be loaded whole: weights are missing in one of its files") from None
    except OSError as error:
        remedy = "weights must be safetensors, which `python -m companion.weights.convert` makes of other files"
        raise FileNotFoundError(f"{place} cannot be loaded whole ({first_line(error)}): {remedy}") from None


def _loaded(name: str, place: Path, dtype: torch.dtype) -> Any:
    from diffusers import DiffusionPipeline

    with no_library_bars():
        trusted_folder(name, None)
        index = json.loads((place / "model_index.json").read_text(encoding="utf-8"))
        absent = dict.fromkeys(part for part, value in index.items() if value == [None, None])  # Stable Diffusion 3 without T5, for one
        pipe = DiffusionPipeline.from_pretrained(str(place), dtype=dtype, use_safetensors=True, local_files_only=True, **absent)
    pipe.set_progress_bar_config(disable=None)
    return pipe


def base_kind(folder: Path) -> str:
    """The class of pipeline that the folder's `model_index.json` names; "" where that is no text."""
    kind = read_json(folder / "model_index.json", remedy="fetch it again").get("_class_name")
    return kind if isinstance(kind, str) else ""


def check_base_kind(folder: Path) -> None:
    """ValueError unless the folder holds a pipeline of one of `KINDS`."""
    if (kind := base_kind(folder)) not in KINDS:
        raise ValueError(f"{folder} holds a {kind or 'pipeline of its own code'}, but must hold a {', '.join(KINDS[:-1])} or {KINDS[-1]}")


def first_line(error: Exception, most: int = 200) -> str:
    """A library's message as part of one sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:most]
