"""Every kind of file that the project writes or reads: how one is made, and how it is read."""

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from companion.base import paths
from companion.base.files import read_sealed, write_sealed
from companion.base.reading import read_json
from companion.data.coco import read_annotations
from companion.data.edit_folders import FolderEdits
from companion.data.listings import json_lines
from companion.data.load import scene_file
from companion.data.pictures import read_picture
from companion.data.plain_pickle import read_plain_pickle
from companion.evidence.claims import load_claims
from companion.evidence.paper import load_paper_table
from companion.evidence.records import load_record
from companion.judges.networks import load_network_weights
from companion.runs.stored import Origin, Result, load_result, store_result
from companion.training.caches import kept_tensors
from companion.training.resuming import read_checkpoint, restore_log, write_checkpoint
from companion.training.settings import load_config
from companion.weights.adapters import adapter_file
from companion.weights.card_lists import LIST, write_list
from companion.weights.cards import CARD, check_files, read_card, write_card
from companion.weights.fine_tune import FILE as DIFFERENCE
from companion.weights.fine_tune import save_difference


@dataclass(frozen=True)
class Kind:
    """How a file is made and read. `checked`: has it a hash, so that every bit counts? `remade`: is None or a new one right?

    `named`: does a refusal name the file? Settings are refused by their own names.
    """

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    checked: bool = True
    remade: bool = False
    named: bool = True


def _copied(*sources: Path) -> Callable[[Path], Path]:
    """Shipped files in a folder of their own; the path of the first."""

    def make(folder: Path) -> Path:
        for file in sources:
            (folder / file.name).write_bytes(file.read_bytes())
        return folder / sources[0].name

    return make


def _tensors() -> dict[str, torch.Tensor]:
    return {"x": torch.arange(100.0)}


def _sealed(folder: Path) -> Path:
    write_sealed(folder / "sealed", bytes(range(100)))
    return folder / "sealed"


def _checkpoint(folder: Path) -> Path:
    write_checkpoint(folder / "checkpoint.pt", {"step": 5, "parameters": [torch.arange(100.0)]})
    return folder / "checkpoint.pt"


def _cache(folder: Path) -> Path:
    kept_tensors(folder / "x.tensors", _tensors)
    return folder / "x.tensors"


def _item(folder: Path) -> Path:
    result = Result(psnr=20.5, picture=np.arange(100.0))
    result.origin = Origin("code", "cpu", "a machine", "2.0")
    store_result(folder / "item.npz", result)
    return folder / "item.npz"


LOG = "".join(json.dumps({"step": step, "loss": 0.5}) + "\n" for step in range(9))


def _written(name: str, content: str | bytes) -> Callable[[Path], Path]:
    """A file with this content."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder / name

    return make


def _read_log(file: Path) -> bytes:
    restore_log(file, LOG, 9)  # what the checkpoint holds
    return file.read_bytes()


def _picture(folder: Path) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)).save(folder / "picture.png")
    return folder / "picture.png"


def _checked(file: Path) -> bytes:
    before, paths.SCENES = paths.SCENES, file.parent
    try:
        return scene_file(file.name).read_bytes()
    finally:
        paths.SCENES = before


def _adapter(file: Path) -> bytes:
    return adapter_file(file.parent).read_bytes()


def _difference(folder: Path) -> Path:
    before, after = torch.nn.Linear(9, 9), torch.nn.Linear(9, 9)
    save_difference(after, before, folder)
    write_card(folder)
    return folder / DIFFERENCE


def _tokenizer(file: Path) -> bytes:
    check_files(file.parents[1], "tokenizer/")
    return file.read_bytes()


def _copied_tokenizer(folder: Path) -> Path:
    shutil.copytree(paths.MODELS / "mini" / "tokenizer", folder / "tokenizer")
    shutil.copy(paths.MODELS / "mini" / CARD, folder)
    return folder / "tokenizer" / "tokenizer.json"


def _listed(folder: Path) -> Path:
    """An adapter beside whose folder its card is listed; the card."""
    shutil.copytree(paths.ADAPTERS / "smooth", folder / "smooth")
    content = (folder / "smooth" / CARD).read_bytes()
    write_list(folder, {"smooth": hashlib.sha256(content).hexdigest()})
    return folder / "smooth" / CARD


def _edits(folder: Path) -> Path:
    _picture(folder)
    line = {"file_name": "picture.png", "source_prompt": "a red car", "target_prompt": "a blue car"}
    return _written("prompts.jsonl", json.dumps(line) + "\n")(folder)


def _read_edits(file: Path) -> str:
    return repr([(item.id, item.source_caption, item.target_caption) for item in map(FolderEdits(file.parent).item, [0])])


def _table(file: Path) -> Any:
    return load_paper_table(file.stem, folder=file.parent)


def _network(file: Path) -> str:
    weights = load_network_weights(file.name, file.parent)
    return hashlib.sha256(b"".join(name.encode() + tensor.numpy().tobytes() for name, tensor in sorted(weights.items()))).hexdigest()


CAPTIONS = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 5, "image_id": 1, "caption": "A red car."}]}
DRAG = {"prompt": "a car", "points": [[3, 4], [5, 6]], "mask": np.zeros((8, 8), np.uint8)}
TRAINING = paths.CONFIGS / "training" / "smooth_lora.yaml"
SMOOTH = tuple(sorted((paths.ADAPTERS / "smooth").iterdir(), key=lambda file: file.suffix != ".safetensors"))  # the weights first
NETWORK = paths.METRIC_NETWORKS / "lpips_alex.safetensors"
# Files of users and texts that people edit have no hash: what is right by their rules is taken as it is.
KINDS = (
    Kind("sealed file", _sealed, read_sealed),
    Kind("checkpoint", _checkpoint, read_checkpoint),
    Kind("kept latents and features", _cache, lambda file: kept_tensors(file, _tensors), remade=True),
    Kind("result of an item", _item, load_result, remade=True),
    Kind("training log", _written("log.jsonl", LOG), _read_log, remade=True),
    Kind("record", _copied(paths.RESULTS / "table2_recon.json"), load_record),
    Kind("adapter", _copied(*SMOOTH), _adapter),
    Kind("full fine-tune", _difference, _adapter),
    Kind("tokenizer", _copied_tokenizer, _tokenizer),
    Kind("network of a metric", _copied(NETWORK, paths.METRIC_NETWORKS / CARD), _network),
    Kind("card", _listed, lambda file: read_card(file.parent)),
    Kind("list of cards", lambda folder: _listed(folder).parents[1] / LIST, lambda file: read_card(file.parent / "smooth")),
    Kind("scene records", _copied(paths.SCENES / "compositional.jsonl.gz", paths.SCENES / CARD), _checked),
    Kind("scene images", _copied(paths.SCENES / "compositional-00.tar", paths.SCENES / CARD), _checked),
    Kind("settings", _copied(TRAINING), load_config, checked=False, named=False),
    Kind("claims", _copied(paths.PAPER / "claims.yaml"), load_claims, checked=False),
    Kind(
        "table of the paper",
        _copied(paths.PAPER / "table2.yaml"),
        _table,
        checked=False,
    ),
    Kind("note of make retrain", _written("retrain.json", '{"done": ["scenes", "vae"]}'), read_json, checked=False),
    Kind("picture", _picture, lambda file: np.asarray(read_picture(file, 16)), checked=False),
    Kind("captions of a folder", _written("metadata.jsonl", '{"file_name": "a.png", "text": "a car"}\n' * 3), json_lines, checked=False),
    Kind("captions of COCO", _written("captions.json", json.dumps(CAPTIONS)), read_annotations, checked=False),
    Kind("edits of a folder", _edits, _read_edits, checked=False),
    Kind("drags of a folder", _written("meta_data.pkl", pickle.dumps(DRAG)), read_plain_pickle, checked=False),
)
