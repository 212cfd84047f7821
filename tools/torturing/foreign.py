"""Kinds of files that come from elsewhere, and settings that people edit: no hash, so that what is right by its rules is taken as it is."""

import functools
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from companion.base import paths, same_numbers
from companion.data.shards import Shards
from companion.studies.measure import study
from companion.weights.convert import read_weights
from companion.weights.pipeline_kind import check_pipeline_kind
from companion.weights.pipelines import blank_modules
from smoothlib.lora_file import read_lora

from .kinds import Kind


def _shard(folder: Path) -> Path:
    """A tar shard of three pairs, as a training reads."""
    with tarfile.open(folder / "0.tar", "w") as archive:
        for number in range(3):
            picture = io.BytesIO()
            Image.fromarray(np.full((8, 8, 3), 40 * number, np.uint8)).save(picture, "png")
            for name, content in ((f"{number}.png", picture.getvalue()), (f"{number}.txt", b"a car")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return folder / "0.tar"


def _read_shard(file: Path) -> list[Any]:
    shards = Shards(file.parent)
    return [(shards.caption(number), shards.picture(number, 8)[1].tolist()) for number in range(len(shards))]


def _tensors(name: str, save: Callable) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        save({"a.weight": torch.arange(12.0).reshape(3, 4), "a.bias": torch.zeros(3)}, folder / name)
        return folder / name

    return make


def _settings(part: str) -> Callable[[Path], Path]:
    """The settings of a pipeline, without its weights."""

    def make(folder: Path) -> Path:
        for file in (paths.MODELS / "mini").rglob("*.json"):
            place = folder / file.relative_to(paths.MODELS / "mini")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)
        return folder / part

    return make


@functools.cache
def _modules() -> dict[str, torch.nn.Module]:
    return blank_modules("mini")


def _read_lora(file: Path) -> str:
    try:
        return repr({part: sorted(layers) for part, layers in read_lora(file, file.read_bytes(), _modules()).items()})
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error  # who calls it names the file


def _same(folder: Path) -> Path:
    (folder / "same.json").write_text(json.dumps({"a.module": {"0123456789abcdef": {"fedcba9876543210": "refuses more"}}}))
    return folder / "same.json"


def _read_same(file: Path) -> str:
    same_numbers.pairs.cache_clear()
    return repr(same_numbers.pairs(file))


def _prompts(folder: Path) -> Path:
    (folder / "prompts.txt").write_text("a red car\n\na cat on a café's sofa\n", encoding="utf-8")
    return folder / "prompts.txt"


def _read_prompts(file: Path) -> list[str]:
    return [prompt.caption for prompt in study._prompts(SimpleNamespace(prompts=str(file), seed=0))]


LORA = paths.ADAPTERS / "smooth" / "pytorch_lora_weights.safetensors"
FOREIGN_KINDS = (
    Kind("shard of a training", _shard, _read_shard, checked=False),
    Kind("weights to convert", _tensors("x.safetensors", safetensors.torch.save_file), read_weights, checked=False),
    Kind("checkpoint to convert", _tensors("x.ckpt", torch.save), read_weights, checked=False),
    Kind("index of a pipeline", _settings("model_index.json"), lambda file: check_pipeline_kind(file.parent), checked=False, named=False),
    Kind(
        "settings of a UNet",
        _settings("unet/config.json"),
        lambda file: check_pipeline_kind(file.parents[1]),
        checked=False,
        named=False,
    ),
    Kind("LoRA without a card", lambda folder: Path(shutil.copy(LORA, folder)), _read_lora, checked=False),
    Kind("versions of the same numbers", _same, _read_same, checked=False),
    Kind("file of prompts", _prompts, _read_prompts, checked=False),
)
