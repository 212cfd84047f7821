"""Dragged pictures: each drag done once by a model with some settings, stored after several numbers of updates with what is measured."""

import hashlib
import time
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import smoothlib
from smoothlib.editing.drag import Drag, ImageLoras, ImageLoraSettings, denoise, drag_points, invert, optimise, train_image_loras
from smoothlib.editing.edited import counted
from smoothlib.pixels import to_uint8
from smoothlib.sampling import decode_latents, encode_images, encode_prompts

from ...base.config import config_hash, plain
from ...data.drags import DragItem
from ...runs import runs
from ..rows import Row
from .scores import CONVENTIONS, DragScores

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

KINDS = ("drag", "source", "autoencoder")  # what gives the pictures: a drag, nothing, the true picture encoded and decoded


@dataclass(frozen=True)
class DragMethod:
    """What a row computes. `iterations`: the number of updates that the row is about; `stops`: all after which pictures are kept."""

    kind: str = "drag"
    settings: Drag = field(default_factory=Drag)
    lora: ImageLoraSettings = field(default_factory=ImageLoraSettings)
    stops: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}, but must be one of {', '.join(KINDS)}")
        if self.kind == "drag" and self.settings.iterations not in self.stops:
            raise ValueError(f"stops is {self.stops}, but must contain iterations, {self.settings.iterations}")

    @property
    def longest(self) -> Drag:
        """The settings of the whole optimisation, of which shorter ones are the beginning."""
        return Drag(**plain(self.settings) | {"iterations": max(self.stops)})

    @property
    def place(self) -> int:
        """The row's own number of updates in the results' arrays."""
        return self.stops.index(self.settings.iterations) if self.kind == "drag" else 0


class Dragging:
    """The procedure that `runs.run_items` calls: drags in; per drag arrays over the S stops out.

    `images` (S, 3, H, W) uint8, each of `scores.METRICS` (S,), `points` (S, N, 2) in pixels, `left` (iterations + 1,), the mean distance in
    % of the side by the optimisation's own tracking; `updates`, `evaluations` of the whole optimisation, `seconds`.

    `loras`: those of batches that were trained before with this model, by the keys of their drags and the training's settings.
    """

    def __init__(
        self,
        pipe: "StableDiffusionPipeline",
        method: DragMethod,
        scores: DragScores,
        *,
        seed: int = 0,
        loras: MutableMapping[tuple[str, ...], ImageLoras] | None = None,
    ) -> None:
        self.pipe, self.method, self.scores, self.seed = pipe, method, scores, seed
        self.loras = {} if loras is None else loras

    def __call__(self, drags: list[DragItem]) -> list[Mapping[str, float | np.ndarray]]:
        """Results of a batch of drags, in order; those of one size are done together."""
        found: dict[int, Mapping[str, float | np.ndarray]] = {}
        for size in dict.fromkeys(drag.size for drag in drags):
            places = [i for i, drag in enumerate(drags) if drag.size == size]
            found |= zip(places, self._of_one_size([drags[i] for i in places]), strict=True)
        return [found[i] for i in range(len(drags))]

    def _of_one_size(self, drags: list[DragItem]) -> list[Mapping[str, float | np.ndarray]]:
        started = time.perf_counter()
        pictures, facts = self._dragged(drags) if self.method.kind == "drag" else (self._undragged(drags), [{} for _ in drags])
        scored = [self.scores(picture, drags) for picture in pictures]  # by stop
        pixels = torch.stack([to_uint8(picture) for picture in pictures], dim=1).numpy(force=True)  # (B, S, 3, H, W)
        seconds = (time.perf_counter() - started) / len(drags)
        return [
            {"images": pixels[i], "seconds": seconds, **facts[i]} | {name: np.stack([one[name][i] for one in scored]) for name in scored[0]}
            for i in range(len(drags))
        ]

    def _undragged(self, drags: list[DragItem]) -> list[Tensor]:
        if self.method.kind == "source":
            return [torch.stack([drag.image for drag in drags])]
        truth = torch.stack([drag.truth for drag in drags]).to(self.pipe.device)
        return [decode_latents(self.pipe, encode_images(self.pipe, truth))]

    def _dragged(self, drags: list[DragItem]) -> tuple[list[Tensor], list[dict[str, float | np.ndarray]]]:
        """The pictures after each stop, and facts of each drag."""
        pipe, settings, stops = self.pipe, self.method.longest, self.method.stops
        images = torch.stack([drag.image for drag in drags]).to(pipe.device)
        points = points_of(drags).to(pipe.device)
        embeds = encode_prompts(pipe, [drag.caption for drag in drags])
        with counted(pipe.unet) as counter:
            lora = self._lora(drags, images)
            original = invert(pipe, images, embeds, settings, lora)
            found = optimise(pipe, original, embeds, points, settings, lora, keep=stops)
            _, *edited = denoise(pipe, [original, *(found.latents[stop] for stop in stops)], embeds, settings, lora)
        left = 100 * found.distances / max(points.size)  # (iterations + 1, B)
        evaluations = counter.per_image(len(drags))
        facts = [{"left": left[:, i].numpy(), "updates": float(found.iterations[i]), "evaluations": evaluations} for i in range(len(drags))]
        return [decode_latents(pipe, z) for z in edited], facts

    def _lora(self, drags: list[DragItem], images: Tensor) -> ImageLoras | None:
        training = self.method.lora
        if not training.steps:
            return None
        key = (config_hash(plain(training)), *(runs.item_key(drag) for drag in drags))
        if key not in self.loras:
            generators = [torch.Generator().manual_seed(drag_seed(self.seed, drag.id)) for drag in drags]
            self.loras[key] = train_image_loras(self.pipe, images, [drag.caption for drag in drags], training, generators=generators)
        return self.loras[key]


def points_of(drags: Sequence[DragItem]) -> Any:
    """The points and masks of drags of one size; raises ValueError that names the drag."""
    for drag in drags:
        try:
            drag_points([drag.handles], [drag.targets], drag.mask[None], size=drag.size)
        except ValueError as error:
            raise ValueError(f"drag {drag.id}: {error}") from None
    masks = torch.stack([drag.mask for drag in drags])
    return drag_points([drag.handles for drag in drags], [drag.targets for drag in drags], masks, size=drags[0].size)


def drag_seed(seed: int, drag: str) -> int:
    """The seed of a drag's LoRA training: its own, whatever is dragged with it."""
    return int.from_bytes(hashlib.sha256(f"{seed} {drag}".encode()).digest()[:6])


def run_drags(
    pipe: "StableDiffusionPipeline",
    drags: Sequence[DragItem],
    rows: Sequence[Row],
    *,
    weights: str,
    judge: str,
    scores: DragScores,
    batch_size: int,
    seed: int = 0,
) -> dict[str, list[runs.Result]]:
    """By label of `rows`, whose settings are `DragMethod`s and whose adapter `pipe` carries, every drag's result (see `Dragging`).

    Each result is stored as soon as its batch is done (runs/dragging): what the benchmark has dragged, the figure reads, and an interrupted
    run goes on with the batch that it was at. `weights`, `judge`: fingerprints of `pipe` and of the judging model.
    """
    found: dict[str, list[runs.Result]] = {}
    loras: dict[tuple[str, ...], ImageLoras] = {}
    for row in rows:
        method: DragMethod = row.settings
        found[row.label] = runs.run_items(
            drags,
            Dragging(pipe, method, scores, seed=seed, loras=loras),
            name=f"dragging/{method.kind}",
            title=row.label,
            config=result_config(method, weights, judge, seed),
            batch_size=batch_size,
            device=pipe.device,
        )
    return found


def result_config(method: DragMethod, weights: str, judge: str, seed: int) -> dict[str, Any]:
    """What determines a drag's result besides the drag: not how many are done at a time, nor which of the stops a row is about."""
    made = {"kind": method.kind, "judge": judge, "conventions": CONVENTIONS, "smoothlib": smoothlib.__version__}
    if method.kind == "source":
        return made
    made |= {"weights": weights}
    if method.kind == "autoencoder":
        return made
    return made | {"settings": plain(method.longest), "stops": list(method.stops), "lora": plain(method.lora), "seed": seed}
