"""Data sets of edits: the embedded edit pairs, PIE-Bench in its published layout, or a folder of pictures with a prompts file."""

from pathlib import Path

import torch
from PIL import Image

from .edit_folders import MAPPING, PROMPTS, FolderEdits, PieBench
from .edit_items import EditItem, EditSet, half, half_of, resized_mask
from .items import to_tensor
from .load import ScenePair, _side, load_pairs
from .pictures import square

__all__ = ["EditItem", "EditSet", "FolderEdits", "PieBench", "SceneEdits", "half", "half_of", "load_edits"]


class SceneEdits:
    """The embedded edit pairs: every edit has a true answer, rendered from the same scene with one field changed."""

    def __init__(self, size: int | None = None) -> None:
        self.pairs, self.size = load_pairs("edits"), size
        self.records = [
            {"id": r["id"], "kind": r["edit"], "source_caption": r["source_caption"], "target_caption": r["target_caption"]}
            for r in (pair.record for pair in self.pairs)
        ]

    def __len__(self) -> int:
        return len(self.pairs)

    def item(self, index: int) -> EditItem:
        """Edit `index` as an item."""
        pair = self.pairs[index]
        pair = pair if self.size in (None, pair.source.shape[0]) else _resized(pair, self.size)
        scenes = {"source_record": pair.record["source"], "target_record": pair.record["target"]}
        mask = torch.from_numpy(pair.mask)[None]
        return EditItem(**self.records[index], source=to_tensor(pair.source), target=to_tensor(pair.target), mask=mask, **scenes)


def _resized(pair: ScenePair, size: int) -> ScenePair:
    source, target = (square(Image.fromarray(image), size) for image in (pair.source, pair.target))
    return ScenePair(source, target, resized_mask(pair.mask, size), pair.record)


def load_edits(dataset: str | Path = "scenes", size: int | str | None = None) -> EditSet:
    """All edits of a data set.

    Args:
        dataset: `scenes` (the embedded pairs), a folder with PIE-Bench's `mapping_file.json`, or one with a `prompts.jsonl` (see
            `companion.data.edit_folders`).
        size: as in `load_split`; None: 64 for the scenes, as they are stored, and 512 for a folder.

    Raises:
        FileNotFoundError: `dataset` is no such folder.
        ValueError: the folder's listing or `size` is not what it must be.
    """
    if dataset == "scenes":
        return SceneEdits(_side(size))
    folder = Path(dataset)
    for name, kind in ((MAPPING, PieBench), (PROMPTS, FolderEdits)):
        if (folder / name).is_file():
            edits = kind(folder)  # before the model is looked up, which may have to be downloaded
            edits.size = _side(size) or edits.size
            return edits
    raise FileNotFoundError(
        f"dataset is {str(dataset)!r}, but must be 'scenes', a folder with PIE-Bench's {MAPPING} and annotation_images, or a folder with "
        f'a {PROMPTS} of {{"file_name": ..., "source_prompt": ..., "target_prompt": ...}} lines'
    )
