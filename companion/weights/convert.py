"""`python -m companion.weights.convert SOURCE FOLDER` makes the folder that `load_pipeline` takes of files in another form.

SOURCE is a single file (.safetensors, .ckpt) or a folder of a pipeline whose weights are pickles (.bin) or half-precision variants only.
Pickles are read with `weights_only=True`: no code in them runs, and a file with other objects than tensors is refused. What is written is
loaded once as a pipeline before it gets its name.
"""

import json
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ..base import paths
from ..base.config import OneSentenceParser, errors_as_exit_codes
from .bases import check_base_kind, first_line, load_base
from .cards import write_card

SINGLE = (".safetensors", ".ckpt")
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")  # of weights, in diffusers, transformers, and transformers' pickles
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")  # nothing here uses them
SETTINGS = (".json", ".txt", ".model")  # of schedulers, tokenizers, networks


def convert(source: Path, folder: Path, config: Path | None = None) -> Path:
    """Write the pipeline in `source` to `folder`, as safetensors of the usual names, in the precision that they have; `folder`.

    Args:
        source: a single file, or a folder with a pipeline.
        folder: must not be there yet.
        config: for a single file, a folder with the settings of a pipeline of its architecture; its weights need not be there.

    Raises:
        FileNotFoundError, FileExistsError: `source` or `config` is not there, `folder` is.
        ValueError: a kind of file or pipeline that is not converted, objects other than tensors, or weights that are not all there.
    """
    source, folder = Path(source), Path(folder)
    if folder.exists():
        raise FileExistsError(f"folder is {folder}, but must not be there yet")
    if not source.exists():
        raise FileNotFoundError(f"source is {source}, but must be a file or folder that is there")
    if source.is_file() and source.suffix not in SINGLE:
        raise ValueError(f"source is {source}, but must be a {' or '.join(SINGLE)} file, or a folder with a pipeline")
    settings = source if source.is_dir() else config
    if settings is None or not (settings / "model_index.json").is_file():
        name = "config" if source.is_file() else "source"
        raise FileNotFoundError(f"{name} is {settings}, but must be a folder with a pipeline's model_index.json and settings")
    check_base_kind(settings)
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        (_from_folder if source.is_dir() else _from_file)(source, settings, unfinished)
        if unfinished.resolve().is_relative_to(paths.MODELS.resolve()):
            write_card(unfinished)  # models without one are not trusted there
        load_base(unfinished)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a pickle that holds nothing but tensors, and numbers beside its `state_dict`.

    Raises:
        ValueError: it is damaged, or holds other objects.
    """
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of the reader: pickle's, zip's, safetensors' own
        what = "is damaged, or holds other objects than tensors, which are not loaded"
        raise ValueError(f"{file} {what} ({first_line(error, 120)}): get its safetensors") from None
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{file} holds other objects than tensors, which are not loaded: get its safetensors")
    return {name: value.clone().contiguous() for name, value in content.items()}  # tensors that share memory cannot be stored


def _from_file(source: Path, settings: Path, folder: Path) -> None:
    """By diffusers' own conversion, from safetensors that are made of a pickle first, and settings without weights of their own."""
    import diffusers

    index = json.loads((settings / "model_index.json").read_text(encoding="utf-8"))
    weights, bare = folder / "weights.safetensors", folder / "settings"
    for file in sorted(settings.rglob("*")):  # what lacks in the file must not come from here
        if file.is_file() and file.suffix in SETTINGS and not file.name.endswith(".index.json"):
            (bare / file.relative_to(settings)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, bare / file.relative_to(settings))
    safetensors.torch.save_file(read_weights(source), weights)
    without = dict.fromkeys(name for name in LEFT_OUT if name in index)
    try:
        options = dict(config=str(bare), local_files_only=True, torch_dtype=torch.float32, **without)
        pipe = getattr(diffusers, index["_class_name"]).from_single_file(str(weights), **options)
        modules = {name: module for name, module in pipe.components.items() if isinstance(module, torch.nn.Module)}
        missing = [f"{name}.{key}" for name, module in modules.items() for key, value in module.named_parameters() if value.is_meta]
        if missing:
            raise ValueError(f"it lacks {len(missing)} weights, such as {missing[0]}")
    except Exception as error:  # of the conversion: a missing key, a shape, a file
        what = f"cannot be read as the pipeline whose settings are in {settings}"
        reason = "weights are missing" if isinstance(error, NotImplementedError) else f"{type(error).__name__}: {first_line(error)}"
        raise ValueError(f"{source} {what} ({reason})") from None
    weights.unlink()
    shutil.rmtree(bare)
    pipe.save_pretrained(folder, safe_serialization=True)


def _from_folder(source: Path, settings: Path, folder: Path) -> None:
    """Each component's settings as they are, its weights in one file of the usual name."""
    index = json.loads((source / "model_index.json").read_text(encoding="utf-8"))
    folder.mkdir(parents=True)
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list) or value[0] is None:
            continue
        if name in LEFT_OUT:
            index[name] = [None, None]
            continue
        (folder / name).mkdir()
        for file in sorted((source / name).glob("*")):
            if file.suffix in SETTINGS and not file.name.endswith(".index.json"):
                shutil.copyfile(file, folder / name / file.name)
        if files := weight_files(source / name):
            weights = {key: tensor for file in files for key, tensor in read_weights(file).items()}
            stem = "diffusion_pytorch_model" if value[0] == "diffusers" else "model"
            safetensors.torch.save_file(weights, folder / name / f"{stem}.safetensors", metadata={"format": "pt"})
    (folder / "model_index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")


def weight_files(place: Path) -> list[Path]:
    """The files of one set of a component's weights: safetensors before pickles, whole precision before variants, one or many shards."""
    return next(_sets(place), [])


def _sets(place: Path) -> Iterator[list[Path]]:
    for suffix in (".safetensors", ".bin"):
        for stem in STEMS:
            if (whole := place / f"{stem}{suffix}").is_file():
                yield [whole]
            if shards := sorted(place.glob(f"{stem}-*-of-*{suffix}")):
                yield shards
        for stem in STEMS:
            variants = sorted(file for file in place.glob(f"{stem}.*{suffix}") if "-of-" not in file.name)
            yield from ([file] for file in variants)
            if shards := sorted(place.glob(f"{stem}.*-of-*{suffix}")):
                yield shards


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = OneSentenceParser(prog="python -m companion.weights.convert", description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="a .safetensors or .ckpt file, or a folder with a pipeline")
    parser.add_argument("folder", type=Path, help="what to make")
    parser.add_argument("--config", type=Path, help="for a single file: a folder with the settings of a pipeline of its architecture")
    given: Namespace = parser.parse_args(arguments)
    with errors_as_exit_codes(parser.prog):
        print(f"{convert(given.source, given.folder, given.config)} is a pipeline now.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
