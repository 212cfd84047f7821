"""Edited pictures: each pair edited once by a model, a method, its settings and an inversion, stored with what is measured of it."""

import hashlib
import time
from collections.abc import Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import smoothlib
from smoothlib.editing import METHODS
from smoothlib.editing.inversions import invert
from smoothlib.editing.inverted import SHARED_KINDS, Inverted
from smoothlib.pixels import to_uint8
from smoothlib.sampling import decode_latents, encode_images

from ...base.config import config_hash, plain
from ...data.edit_items import EditItem
from ...runs import runs
from ..rows import Row
from .methods import Edit
from .scores import EditJudges

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

UNEDITED = ("source", "truth", "autoencoder")  # rows that no method edits: the ends of every scale


class Editing:
    """The procedure that `runs.run_items` calls: pairs in; per pair the edited picture (uint8, (3, H, W)), its measures and cost out.

    `inverted`: inversions of batches that were made before, with this model, by the keys of their pairs and the settings that they hang on.
    Missing ones are added: the methods and strengths of a model that share the mapping invert a picture once. `evaluations` counts the
    inversion for every edit, as if it had been made for this edit alone; `seconds` are those that were spent.
    """

    def __init__(
        self,
        pipe: "StableDiffusionPipeline",
        edit: Edit,
        judges: EditJudges,
        *,
        seed: int = 0,
        inverted: MutableMapping[tuple, Inverted] | None = None,
    ) -> None:
        self.pipe, self.edit, self.judges, self.seed = pipe, edit, judges, seed
        self.inverted = {} if inverted is None else inverted
        self.modules = () if edit.method in UNEDITED else (f"smoothlib.editing.{edit.method}",)  # see `runs.code_of`

    def __call__(self, pairs: list[EditItem]) -> list[Mapping[str, float | np.ndarray]]:
        """Results of a batch of pairs, in order."""
        started = time.perf_counter()
        images, evaluations = self._unedited(pairs) if self.edit.method in UNEDITED else self._edited(pairs)
        pixels = to_uint8(images).numpy(force=True)
        values = self.judges(images, pairs)
        seconds = (time.perf_counter() - started) / len(pairs)
        return [{"image": pixels[i], "evaluations": evaluations, "seconds": seconds, **values[i]} for i in range(len(pairs))]

    def _unedited(self, pairs: list[EditItem]) -> tuple[Tensor, float]:
        if self.edit.method == "source":
            return torch.stack([pair.source for pair in pairs]), 0.0
        truth = torch.stack([pair.target for pair in pairs])
        if self.edit.method == "truth":
            return truth, 0.0
        return decode_latents(self.pipe, encode_images(self.pipe, truth)), 0.0

    def _edited(self, pairs: list[EditItem]) -> tuple[Tensor, float]:
        images = torch.stack([pair.source for pair in pairs]).to(self.pipe.device)
        prompts = [pair.source_caption for pair in pairs], [pair.target_caption for pair in pairs]
        edit, before = self.edit, 0.0
        inversion: Any = edit.inversion
        if edit.inversion.kind in SHARED_KINDS:
            inversion = self._inverted(pairs, images, prompts[0])
            before = inversion.evaluations
        generators = [torch.Generator().manual_seed(noise_seed(self.seed, pair.id)) for pair in pairs]
        more = dict(zip(("alignment", "perceptual"), self.judges.losses(), strict=True)) if edit.method == "disentangle" else {}
        arguments = dict(inversion=inversion, settings=edit.settings, generator=generators, **more)
        found = METHODS[edit.method].edit(self.pipe, images, *prompts, **arguments)
        return found.images, found.evaluations + before

    def _inverted(self, pairs: list[EditItem], images: Tensor, prompts: list[str]) -> Inverted:
        settings = self.edit.settings
        shared = dict(guidance_scale=settings.guidance_scale, num_inference_steps=settings.num_inference_steps)
        key = (*(runs.item_key(pair) for pair in pairs), config_hash(plain(self.edit.inversion)), *shared.values())
        if key not in self.inverted:
            self.inverted[key] = invert(self.pipe, images, prompts, self.edit.inversion, **shared)
        return self.inverted[key]


def noise_seed(seed: int, pair: str) -> int:
    """The seed of a pair's noise: its own, whatever pairs are edited with it."""
    return int.from_bytes(hashlib.sha256(f"{seed} {pair}".encode()).digest()[:6])


def run_edits(
    pipe: "StableDiffusionPipeline",
    pairs: Sequence[EditItem],
    rows: Sequence[Row],
    *,
    weights: str,
    judges: EditJudges,
    batch_size: int,
    seed: int = 0,
) -> dict[str, list[runs.Result]]:
    """By label of `rows`, whose settings are `Edit`s and whose adapter `pipe` carries, every pair's result (see `Editing`).

    Each result is stored as soon as its batch is done (runs/editing): what the benchmark has edited, the figures read, and the other way
    round. `weights`: fingerprint of `pipe`. Rows are run inversion by inversion, and an inversion is forgotten when the last method that
    starts from it is done.
    """
    found, inverted, last = {}, {}, None
    for row in sorted(rows, key=lambda row: _order(row.settings)):
        edit: Edit = row.settings
        if _order(edit) != last:
            inverted, last = {}, _order(edit)
        found[row.label] = runs.run_items(
            pairs,
            Editing(pipe, edit, judges, seed=seed, inverted=inverted),
            name=f"editing/{edit.method}",
            title=row.label,
            config=result_config(edit, weights, judges, seed),
            batch_size=batch_size,
            device=pipe.device,
        )
    return {row.label: found[row.label] for row in rows}


def result_config(edit: Edit, weights: str, judges: EditJudges, seed: int) -> dict[str, Any]:
    """What determines a pair's result besides the pair: not how many are edited at a time, nor what the row is called."""
    made = {"method": edit.method, "conventions": judges.conventions, "judges": judges.weights, "smoothlib": smoothlib.__version__}
    if edit.method in ("source", "truth"):  # pictures of the data, whatever the model
        return made
    made |= {"weights": weights}
    return made if edit.settings is None else made | {"settings": edit.settings, "inversion": edit.inversion, "seed": seed}


def _order(edit: Edit) -> str:
    return "" if edit.inversion is None else config_hash(plain(edit.inversion))
