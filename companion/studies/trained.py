"""Which adapters stand behind a row: found by the base model and the settings in their cards, whatever their folders are called.

A list of recipes (`configs/adapters.yaml` for the embedded model, `configs/adapters_sd15.yaml` for Stable Diffusion 1.5) says what a name
such as `smooth` or `rank-4` means: settings in which this training differs from the others of the list. An adapter is of a recipe where its
card has these values, and the common ones in all other settings that tell the list's recipes apart; what is `FREE` tells none apart.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..base import paths
from ..base.config import ConfigurationError
from ..weights import pipelines as models
from ..weights.cards import read_card

if TYPE_CHECKING:
    from .rows import Row

SEED = "seed"
FREE = (SEED, "batch_size", "learning_rate")  # what trainings of one recipe may differ in, though the list names it
UNSAID = {  # what a training that does not say has
    "objective_options.trainable": "lora",
    "objective_options.lora_layers": "attention",
    "objective_options.regularization": 0,
    "objective_options.regularize_every": 1,
    "objective_options.regularized_share": 1,
    "objective_options.regularized_guidance": 1,
    "objective_options.regularizer.weighting": "multiply",
}
# A list, and the settings that its recipes change. A model that is the pipeline of none is read by the last: the paper's.
LISTS = (("adapters.yaml", "training/smooth_lora.yaml"), ("adapters_sd15.yaml", "training/sd15_smooth_lora.yaml"))


@dataclass(frozen=True)
class Recipes:
    """The recipes for one base: name -> value of every setting that tells recipes of this list apart."""

    pipeline: str
    recipes: Mapping[str, Mapping[str, Any]]
    steps: Mapping[str, int]

    def named(self, settings: Mapping[str, Any]) -> list[str]:
        """The recipes that a training with these settings, as its card has them, is of."""
        own = _flat(settings)
        return [name for name, wanted in self.recipes.items() if all(_value(own, key) == value for key, value in wanted.items())]


@cache
def recipes_for(model: str) -> Recipes:
    """The list of recipes for this model or for what it was fine-tuned from; the paper's where no list is for it."""
    lists = [_read(*files) for files in LISTS]
    return next((one for one in lists if same_model(one.pipeline, model)), lists[-1])


@cache
def _read(listed: str, common: str) -> Recipes:
    changes = yaml.safe_load((paths.CONFIGS / listed).read_text(encoding="utf-8"))
    settings = _flat(yaml.safe_load((paths.CONFIGS / common).read_text(encoding="utf-8")))
    apart = sorted({key for change in changes.values() for key in change} - set(FREE))
    recipes = {
        name: {key: _plain(change[key]) if key in change else _value(settings, key) for key in apart}
        for name, change in changes.items()
        if SEED not in change
    }
    steps = {name: (settings | changes[name])["steps"] for name in recipes}
    return Recipes(settings["objective_options.pipeline"], recipes, steps)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Inner settings by their names with dots."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: _plain(value)}
    return found


def _plain(value: Any) -> Any:
    """A number that YAML read as a text, such as 5e-4, as a number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _value(settings: Mapping[str, Any], key: str) -> Any:
    return settings.get(key, UNSAID.get(key))


def same_model(one: str, other: str) -> bool:
    """Do two names of pipelines mean one: equal but for the commit of a hub id, or the same folder?"""
    if one.partition("@")[0] == other.partition("@")[0]:
        return True
    first, second = Path(one), Path(other)
    return first.is_dir() and second.is_dir() and first.resolve() == second.resolve()


def training_of(adapter: str) -> Mapping[str, Any]:
    """The settings of the training that the adapter's card records; empty where it records none, or several."""
    trainings = _card(adapter).get("training") or {}
    return next(iter(trainings.values()))["settings"] if len(trainings) == 1 else {}


def _card(adapter: str) -> Mapping[str, Any]:
    place = paths.ADAPTERS / adapter if (paths.ADAPTERS / adapter).is_dir() else Path(adapter)
    return read_card(place if place.is_dir() else place.parent)


def trained_on(adapter: str, model: str) -> bool:
    """Does the adapter's card say that it was trained on this model?"""
    return same_model(str(_flat(training_of(adapter)).get("objective_options.pipeline")), model)


def recipe_names(adapter: str, model: str) -> list[str]:
    """What the list of the model's recipes calls the adapter's training; empty where its card does not say, or it is of none.

    A card without a training may name the recipe itself, as `recipe`: weights from elsewhere, whose settings are known from a paper.
    """
    settings, recipes = training_of(adapter), recipes_for(model)
    if settings:
        return recipes.named(settings)
    named = _card(adapter).get("recipe")
    return [name for name, wanted in recipes.recipes.items() if wanted == recipes.recipes.get(named)] if named else []


def candidates(model: str, asked: Sequence[str] | None = None) -> Iterator[str]:
    """Adapters that may stand behind a row: those asked for, or for None those of data/models/adapters that were trained on the model."""
    yield from (one for one in models.list_adapters() if trained_on(one, model)) if asked is None else asked


def trained(name: str, model: str, asked: Sequence[str] | None = None) -> tuple[str, ...]:
    """The adapters of the recipe `name`, by training seed.

    Raises:
        ConfigurationError: two of them have one seed: which of them is meant, the parameter adapters must say.
    """
    by_seed: dict[int, str] = {}
    for adapter in candidates(model, asked):
        if name in recipe_names(adapter, model):
            seed = training_of(adapter).get("seed", 0)
            if seed in by_seed:
                raise ConfigurationError(
                    f"Parameter adapters must name one of {by_seed[seed]!r} and {adapter!r}: both were trained by the recipe {name!r} "
                    f"with seed {seed}."
                )
            by_seed[seed] = adapter
    return tuple(by_seed[seed] for seed in sorted(by_seed))


def default_adapters(model: str, asked: Sequence[str] | None = None) -> tuple[str, ...]:
    """Those asked for; for None the Smooth-LoRA that the model's recipe `smooth` trained, the first by seed, where there is one."""
    return trained("smooth", model)[:1] if asked is None else tuple(asked)


def with_adapters(cfg: Any) -> Any:
    """A configuration whose `adapters` are `default_adapters`."""
    return replace(cfg, adapters=default_adapters(cfg.model, cfg.adapters))


def title_of(adapter: str) -> str:
    """How rows are called after an adapter: by its folder, or by its recipe where the folder has another name: "Smooth".

    Folders that are named as recipes of their model are ("gentle-seed1"); the names of others say nothing of the training.
    """
    name = Path(adapter).name
    settings = training_of(adapter)
    recipes = recipes_for(str(_flat(settings).get("objective_options.pipeline")))
    if settings and name.partition("-seed")[0] not in recipes.recipes and (known := recipes.named(settings)):
        seed = settings.get("seed", 0)
        name = known[0] + (f"-seed{seed}" if seed else "")
    return file_title(name)


def file_title(adapter: str) -> str:
    """The name of an adapter's folder, with a capital."""
    name = Path(adapter).name
    return name[:1].upper() + name[1:]


def paper_rows(rows: "Sequence[Row]", model: str) -> "list[Row]":
    """Table 2's rows, of which those of the first Smooth-LoRA answer to the paper's, whatever its folder is called."""
    if any((row.paper_row or "").startswith("Smooth Diff.") for row in rows):
        return list(rows)
    smooth = next((one for row in rows for one in row.adapters if one and "smooth" in recipe_names(one, model)), None)
    kinds = {"ddim": "Smooth Diff. + DDIM", "nti": "Smooth Diff. + NTI"}
    return [replace(row, paper_row=kinds.get(row.settings.kind)) if smooth in row.adapters and smooth else row for row in rows]
