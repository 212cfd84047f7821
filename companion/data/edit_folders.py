"""Pictures to edit that others bring: PIE-Bench in its published layout, and a folder with a prompts file.

Both are read whole or refused in one sentence, before any picture is decoded; the files that they name lie inside their folder.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from .edit_items import EditItem, resized_mask
from .items import to_tensor
from .listings import ListingError, inside, json_lines, parse_json, read_text
from .pictures import PictureError, read_picture

MAPPING, PICTURES, PROMPTS = "mapping_file.json", "annotation_images", "prompts.jsonl"
SIZE = 512  # Stable Diffusion 1.5's, and PIE-Bench's pictures and masks
KINDS = (  # by editing_type_id
    "random", "change object", "add object", "delete object", "change content", "change pose", "change colour", "change material",
    "change background", "change style",
)  # fmt: skip
BRACKETED = re.compile(r"\[([^\[\]]*)\]")


class PieBench:
    """PIE-Bench (Ju et al. 2023): `mapping_file.json` beside `annotation_images`, 700 pictures of 512 x 512 in the published set.

    An entry of the mapping, under the edit's id, has `image_path` (below `annotation_images`), `original_prompt` and `editing_prompt` with
    the changed words in brackets, `editing_type_id` (0 to 9), `blended_word` (words of both prompts, may be empty) and `mask`, pairs of
    start and length of the runs of changed pixels in row order over 512 x 512. There is no true edit. The published evaluation also adds
    the picture's outermost pixels to the mask; here the mask is as annotated, and an entry without any run has none.

    Raises:
        FileNotFoundError: the folder is not in this layout, or lacks a picture that the mapping names.
        ListingError: the mapping is not as above.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder, self.size = Path(folder) / PICTURES, SIZE
        file = Path(folder) / MAPPING
        if not file.is_file() or not self.folder.is_dir():
            raise FileNotFoundError(f"PIE-Bench is not in {folder}: unpack it so that the folder holds {MAPPING} and {PICTURES}")
        mapping = parse_json(read_text(file), str(file))
        if not isinstance(mapping, dict) or not mapping:
            raise ListingError(f"{file} must hold an object of edits by their ids, as PIE-Bench's {MAPPING}")
        self.records = [_pie_record(identity, entry, f"the edit {identity!r} of {file}") for identity, entry in mapping.items()]
        _check_there(self.folder, [record["file"] for record in self.records], str(file))

    def __len__(self) -> int:
        return len(self.records)

    def item(self, index: int) -> EditItem:
        """Edit `index` as an item; PictureError where its picture cannot be read or is not square, which its mask is."""
        record = self.records[index]
        file, mask = self.folder / record["file"], None
        if record["runs"]:
            if len(set(size := _size(file))) > 1:
                raise PictureError(f"{file} is {size[0]} x {size[1]}, but must be square as its mask is")
            mask = torch.from_numpy(resized_mask(decoded_mask(record["runs"]), self.size))[None]
        return _item(record, to_tensor(read_picture(file, self.size)), mask)


class FolderEdits:
    """A folder of pictures with a `prompts.jsonl`: one edit a line, `{"file_name": ..., "source_prompt": ..., "target_prompt": ...}`.

    `mask` may name a picture of the same size, bright where the edit is. A picture may have several lines. Ids are the numbers of the
    lines, from 0, with the picture's name. Pictures are read as `companion.data.pictures.read_picture` says, `size` pixels wide and high.

    Raises:
        FileNotFoundError: there is no `prompts.jsonl`, or it names a picture that is not there.
        ListingError: the list is not as above.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder, self.size = Path(folder), SIZE
        file = self.folder / PROMPTS
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: write one line of file_name, source_prompt and target_prompt for every edit")
        self.records = [_folder_record(number, entry, where) for number, (where, entry) in enumerate(json_lines(file))]
        if not self.records:
            raise ListingError(f"{file} is empty, but must have a line for every edit")
        _check_there(self.folder, [name for record in self.records for name in (record["file"], record["mask_file"]) if name], str(file))

    def __len__(self) -> int:
        return len(self.records)

    def item(self, index: int) -> EditItem:
        """Edit `index` as an item; PictureError where a picture cannot be read, or a mask has another size."""
        record = self.records[index]
        file, mask = self.folder / record["file"], None
        if record["mask_file"]:
            mask_file = self.folder / record["mask_file"]
            if (size := _size(mask_file)) != (expected := _size(file)):
                raise PictureError(
                    f"{mask_file} is {size[0]} x {size[1]}, but must be {expected[0]} x {expected[1]} as {record['file']} is"
                )
            mask = torch.from_numpy(read_picture(mask_file, self.size).mean(axis=2) > 127)[None]
        return _item(record, to_tensor(read_picture(file, self.size)), mask)


def decoded_mask(runs: Sequence[int], side: int = SIZE) -> np.ndarray:
    """The mask (side, side) bool of pairs of start and length; what leads over the end is cut, as in the published evaluation."""
    mask = np.zeros(side * side, dtype=bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        mask[start : start + length] = True
    return mask.reshape(side, side)


def _item(record: Mapping[str, Any], source: torch.Tensor, mask: torch.Tensor | None) -> EditItem:
    fields = ("id", "kind", "source_caption", "target_caption", "marked", "blend_words")
    return EditItem(source=source, mask=mask, **{name: record[name] for name in fields if name in record})


def _pie_record(identity: str, entry: Any, where: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise ListingError(f"{where} is {entry!r:.80}, but must be an object")
    prompts = [_text(entry, name, where) for name in ("original_prompt", "editing_prompt")]
    captions = [" ".join(prompt.replace("[", "").replace("]", "").split()) for prompt in prompts]
    for name, caption in zip(("original_prompt", "editing_prompt"), captions, strict=True):
        if not caption:
            raise ListingError(f"{where} has an empty {name}, but must have a text")
    kind, blended = entry.get("editing_type_id"), entry.get("blended_word", "")
    if isinstance(kind, bool) or str(kind) not in map(str, range(len(KINDS))):
        raise ListingError(f"{where} has the editing_type_id {kind!r}, but must have a number from 0 to {len(KINDS) - 1}")
    if not isinstance(blended, str):
        raise ListingError(f"{where} has the blended_word {blended!r:.80}, but must have a text")
    return {
        "id": identity,
        "kind": KINDS[int(kind)],
        "source_caption": captions[0],
        "target_caption": captions[1],
        "marked": tuple(tuple(" ".join(words.split()) for words in BRACKETED.findall(prompt)) for prompt in prompts),
        "blend_words": tuple(blended.split()),
        "file": inside(entry.get("image_path"), where, "image_path"),
        "runs": _runs(entry.get("mask"), where),
    }


def _runs(mask: Any, where: str) -> list[int]:
    if not isinstance(mask, list) or len(mask) % 2 or not all(isinstance(n, int) and not isinstance(n, bool) for n in mask):
        raise ListingError(f"{where} has the mask {mask!r:.80}, but must have a list of pairs of start and length, all whole numbers")
    for start, length in zip(mask[::2], mask[1::2], strict=True):
        if not 0 <= start < SIZE * SIZE or length < 0:
            raise ListingError(
                f"{where} has a run of {length} pixels from {start} in its mask, but must stay within {SIZE} x {SIZE} pixels"
            )
    return mask


def _folder_record(number: int, entry: Any, where: str) -> dict[str, Any]:
    known = ("file_name", "source_prompt", "target_prompt", "mask")
    if not isinstance(entry, dict) or (unknown := sorted(entry.keys() - set(known))):
        found = f"the field {unknown[0]!r}" if isinstance(entry, dict) else f"{entry!r:.80}"
        raise ListingError(f"{where} has {found}, but must be an object of {', '.join(known)} (the last may be absent)")
    source, target = (" ".join(_text(entry, name, where).split()) for name in ("source_prompt", "target_prompt"))
    if not source or not target:
        raise ListingError(f"{where} has an empty {'target_prompt' if source else 'source_prompt'}, but must have a text")
    file, mask = inside(entry.get("file_name"), where), entry.get("mask")
    return {
        "id": f"{number:03d}-{Path(file).stem}",
        "kind": "prompt",
        "source_caption": source,
        "target_caption": target,
        "file": file,
        "mask_file": None if mask is None else inside(mask, where, "mask"),
    }


def _text(entry: Mapping[str, Any], name: str, where: str) -> str:
    if not isinstance(value := entry.get(name), str):
        raise ListingError(f"{where} has the {name} {value!r:.80}, but must have a text")
    return value


def _check_there(folder: Path, names: Sequence[str], listing: str) -> None:
    """FileNotFoundError for the first file that is named and not there, or that a link takes out of the folder."""
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing, but {listing} names it")
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise ListingError(f"{listing} names {name!r}, but must name a picture inside the folder: a link leads out of it")


def _size(file: Path) -> tuple[int, int]:
    """Width and height by the file's header."""
    try:
        with Image.open(file) as image:
            return image.size
    except (OSError, UnidentifiedImageError):
        raise PictureError(f"{file} is no picture of a format that Pillow knows") from None
