"""What the page may ask for: each request checked whole, in one sentence, before it joins the line.

A request is a dict of plain values. `prepared` turns it into an `Ask`, whose pictures are tensors and whose points and prompts have been
looked at by smoothlib's own checks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smoothlib.editing.drag import Drag, DragPoints, ImageLoraSettings, drag_points
from smoothlib.editing.inputs import check_prompts
from smoothlib.editing.inverted import SHARED_KINDS
from smoothlib.inversion import check_null_text
from smoothlib.pixels import from_uint8

from ..base.config import Choice, ConfigurationError, Field, Integer, Number, Text, configuration
from ..studies.editing.methods import PLANS, Edit, Entry, Recipe
from .models import Models

MAX_POINTS = 32


class _Points(Field):
    """Points [x, y]; where they lie is `drag_points`' to see to."""

    def accepts(self, value: Any) -> bool:
        pairs = isinstance(value, list) and len(value) <= MAX_POINTS and all(isinstance(one, list) and len(one) == 2 for one in value)
        return pairs and all(Number().accepts(number) for one in value for number in one)

    def allowed(self) -> str:
        return f"a list of at most {MAX_POINTS} points [x, y]"


class _Runs(Field):
    """The lengths of a mask's runs."""

    def accepts(self, value: Any) -> bool:
        return isinstance(value, list) and bool(value) and all(Integer(0, 2**32).accepts(run) for run in value)

    def allowed(self) -> str:
        return "the lengths of a mask's runs"


STEPS, GUIDANCE, SEED = Integer(2, 200), Number(1, 30), Integer(0, 2**32 - 1)
PROMPT, PICTURE = Text(), Text(optional=True)
SHARED = dict(num_inference_steps=STEPS, guidance_scale=GUIDANCE)
FIELDS: dict[str, dict[str, Field]] = {
    "walk": SHARED
    | dict(between=Choice("prompts", "pictures"), first_prompt=PROMPT, second_prompt=PROMPT, first=PICTURE, second=PICTURE)
    | dict(frames=Integer(3, 33), first_seed=SEED, second_seed=SEED, num_inner_steps=Integer(1, 50)),
    "reconstruct": SHARED | dict(picture=PICTURE, prompt=PROMPT, inversion=Choice("ddim", "null_text"), num_inner_steps=Integer(1, 50)),
    "edit": SHARED
    | dict(picture=PICTURE, source_prompt=PROMPT, target_prompt=PROMPT, method=Choice(*PLANS), inversion=Choice(*SHARED_KINDS))
    | dict(strength=Number(0, 10), seed=SEED),
    "drag": dict(picture=PICTURE, prompt=PROMPT, num_inference_steps=STEPS, strength=Number(0, 1), iterations=Integer(1, 400))
    | dict(lr=Number(1e-5, 1), lora_steps=Integer(0, 400), reach=Number(0.1, 16), seed=SEED)
    | dict(handles=_Points(), targets=_Points(), mask=_Runs(optional=True)),
}


@dataclass(frozen=True)
class Ask:
    """A request that can be carried out."""

    kind: str
    settings: Any  # the checked values
    images: dict[str, Tensor]  # by name of the field, (1, 3, H, W) in [-1, 1]
    edit: Edit | None = None
    drag: Drag | None = None
    lora: ImageLoraSettings | None = None
    points: DragPoints | None = None


def prepared(request: Mapping[str, Any], pictures: Mapping[str, np.ndarray], models: Models) -> Ask:
    """The request as an `Ask`.

    Args:
        request: "kind" and the fields of `FIELDS[kind]`.
        pictures: those that the page has brought, by id, (H, W, 3) uint8.

    Raises:
        ValueError: one sentence: what is wrong with which field.
    """
    if not isinstance(request, Mapping):
        raise ConfigurationError(f"The request is a {type(request).__name__}, but must be an object with the fields of a tab.")
    kind = Choice(*FIELDS).check("kind", request.get("kind"))
    settings = configuration({name: value for name, value in request.items() if name != "kind"}, **FIELDS[kind])
    return _PREPARE[kind](settings, pictures, models)


def _picture(name: str, settings: Any, pictures: Mapping[str, np.ndarray]) -> Tensor:
    known = pictures.get(getattr(settings, name) or "")
    if known is None:
        raise ConfigurationError(f"Parameter {name} is empty, but must be a picture: choose a file or take an example.")
    return from_uint8(known).permute(2, 0, 1)[None]


def _check_prompt(models: Models, name: str, prompt: str) -> None:
    check_prompts(models.sides[0].pipe, name, [prompt], 1)


def _walk(settings: Any, pictures: Mapping[str, np.ndarray], models: Models) -> Ask:
    _check_prompt(models, "first_prompt", settings.first_prompt)
    _check_prompt(models, "second_prompt", settings.second_prompt)
    if settings.between == "prompts":
        return Ask("walk", settings, {})
    _check_null_text(settings, models)
    return Ask("walk", settings, {name: _picture(name, settings, pictures) for name in ("first", "second")})


def _reconstruct(settings: Any, pictures: Mapping[str, np.ndarray], models: Models) -> Ask:
    image = _picture("picture", settings, pictures)
    _check_prompt(models, "prompt", settings.prompt)
    if settings.inversion == "null_text":
        _check_null_text(settings, models)
    return Ask("reconstruct", settings, {"picture": image})


def _check_null_text(settings: Any, models: Models) -> None:
    pipe = models.sides[0].pipe
    check_null_text(pipe, guidance_scale=settings.guidance_scale, num_inner_steps=settings.num_inner_steps)


def _edit(settings: Any, pictures: Mapping[str, np.ndarray], models: Models) -> Ask:
    image = _picture("picture", settings, pictures)
    for name in ("source_prompt", "target_prompt"):
        _check_prompt(models, name, getattr(settings, name))
    steps = settings.num_inference_steps
    recipe = Recipe(settings.guidance_scale, steps, steps)
    entry = Entry(settings.method, "own" if PLANS[settings.method].own else settings.inversion)
    edit = recipe.edit(entry, settings.strength)
    if entry.inversion == "null_text":
        check_null_text(models.sides[0].pipe, guidance_scale=edit.settings.guidance_scale, num_inner_steps=recipe.num_inner_steps)
    return Ask("edit", settings, {"picture": image}, edit=edit)


def _drag(settings: Any, pictures: Mapping[str, np.ndarray], models: Models) -> Ask:
    image = _picture("picture", settings, pictures)
    _check_prompt(models, "prompt", settings.prompt)
    if not settings.handles:
        raise ConfigurationError("Parameter handles is empty, but must have a point: click on the picture where to pull, then where to.")
    size = tuple(image.shape[2:])
    mask = None if settings.mask is None else mask_of_runs(settings.mask, size)[None]
    points = drag_points([settings.handles], [settings.targets], mask, size=size)
    names = ("num_inference_steps", "strength", "iterations", "lr", "reach")
    drag = Drag(**{name: getattr(settings, name) for name in names})
    return Ask("drag", settings, {"picture": image}, drag=drag, lora=ImageLoraSettings(steps=settings.lora_steps), points=points)


def mask_of_runs(runs: Sequence[int], size: tuple[int, int]) -> Tensor:
    """A mask (H, W) bool from the lengths of its runs, row by row: so many False, so many True, and so on.

    Raises:
        ConfigurationError: the runs do not add up to the picture.
    """
    if (total := sum(runs)) != size[0] * size[1]:
        raise ConfigurationError(f"Parameter mask has {total} pixels, but must have the picture's {size[0] * size[1]}.")
    values = torch.arange(len(runs)) % 2 == 1
    return values.repeat_interleave(torch.tensor(runs)).reshape(size)


_PREPARE: dict[str, Callable[[Any, Mapping[str, np.ndarray], Models], Ask]] = {
    "walk": _walk, "reconstruct": _reconstruct, "edit": _edit, "drag": _drag
}  # fmt: skip


def published_strength(name: str) -> float:
    """The strength of an editing method at which its settings are those published."""
    from smoothlib.editing import settings_class

    field, value = next(iter(PLANS[name].fields.items()), (None, 1.0))
    return 1.0 if field is None else getattr(settings_class(name)(), field) / value
