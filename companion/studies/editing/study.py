"""What the benchmark of edits and the page on inversions share: their parameters, pairs, rows, choices, record.

study = EditingStudy(config.configuration(globals(), **PARAMETERS))
choices = study.choose()
measured = study.measure(study.rows(choices), study.reported)
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from smoothlib.editing.inverted import Inversion

from ...base import config
from ...base.config import plain
from ...data import load as datasets
from ...data.edits import EditItem, EditSet, half, load_edits
from ...runs import runs
from ..base import BaseStudy, training_fields
from ..rows import Row, adapter_titles
from ..setup import DEVICE, chosen_adapters, errors_in_one_sentence
from .methods import PLANS, Edit, Entry, Recipe, entries
from .run import UNEDITED, run_edits
from .scores import EditJudges
from .selection import Choice, choose

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

ON_BASE = ("disentangle",)
AS_PUBLISHED = " as published"
INVERSIONS = ("null_text", "ddim", "direct", "fixed_point")
PARAMETERS = {
    "model": config.Text(),
    "adapters": config.ListOf(config.Text(), optional=True),
    "methods": config.ListOf(config.Choice(*PLANS), minimum=1),
    "inversions": config.ListOf(config.Choice(*INVERSIONS), minimum=1),
    "repeated": config.ListOf(config.Choice(*PLANS)),
    "strengths": config.Choice("all", "few"),
    "num_pairs": config.Integer(4, 66),
    "num_choosing": config.Integer(1, 33, optional=True),
    "num_inference_steps": config.Integer(2, 100),
    "num_costly_steps": config.Integer(2, 100),
    "guidance_scale": config.Number(1.1, 30, optional=True),
    "num_inner_steps": config.Integer(1, 100),
    "null_text_lr": config.Number(1e-4, 1),
    "batch_size": config.Integer(1, 1024),
    "seed": config.Integer(0, 999),
    "device": DEVICE,
}
Measured = Mapping[str, Sequence[runs.Result]]  # row -> result of each pair
LOCAL, GLOBAL = ("replace", "add", "recolour", "ground"), ("setting", "style")


class EditingStudy(BaseStudy):
    """The pairs, methods and models of the benchmark, the choice of settings on even ids, and the edits of the odd ones.

    Args:
        cfg: a configuration with `PARAMETERS`; without `adapters` the base model and the default adapter.
        methods, repeated: in place of the configuration's.

    Raises:
        ConfigurationError: something that the configuration asks for is not there or does not fit, before anything is computed.
    """

    code = ("companion.studies.editing.study",)

    def __init__(self, cfg: SimpleNamespace, *, methods: Sequence[str] | None = None, repeated: Sequence[str] | None = None) -> None:
        super().__init__(cfg)
        self.adapters = chosen_adapters(cfg.adapters)
        self.check_adapters(self.adapters, cfg.model)
        methods, self.repeated = cfg.methods if methods is None else methods, cfg.repeated if repeated is None else repeated
        if strange := [name for name in self.repeated if name not in methods]:
            raise config.ConfigurationError(f"Parameter repeated has {strange[0]!r}, but must be of methods: {', '.join(methods)}.")
        with errors_in_one_sentence():
            self.titles = adapter_titles(self.adapters)
            self.recipe = recipe_of(cfg, self.guidance_of(cfg.model))
            self.entries = entries(methods, cfg.inversions)
            for entry in self.entries:  # a strength that a method refuses is named before anything is edited
                for strength in self.recipe.strengths_of(entry):
                    self.recipe.edit(entry, strength)
            edits = load_edits(size=cfg.model)
        self.chosen_on = pairs_of(edits, "even", cfg.num_choosing or cfg.num_pairs // 2, cfg.seed)
        self.reported = pairs_of(edits, "odd", cfg.num_pairs // 2, cfg.seed)
        self.pairs: Sequence[EditItem] = self.reported
        self.judges: EditJudges | None = None

    @property
    def groups(self) -> dict[str, list[str]]:
        """Adapters that differ in their training seed alone, the first seed's first, under its title."""
        groups: dict[Any, list[tuple[int, str]]] = {}
        for adapter in self.adapters:
            fields = training_fields([adapter])
            seed = fields["training_seeds"][0] if fields["training_seeds"] else 0
            groups.setdefault(fields["training"] or adapter, []).append((seed, adapter))
        ordered = [[adapter for _, adapter in sorted(group)] for group in groups.values()]
        return {self.titles[group[0]]: group for group in ordered}

    def models_of(self, entry: Entry) -> list[str | None]:
        """The base model and the adapters that edit with this method: the first training of each, and all for the repeated ones.

        Controls do without the costly methods, and the dearest edits with the base model alone, as the paper's baselines do.
        """
        if entry.method in ON_BASE:
            return [None]
        first = [group[0] for group in self.groups.values() if not (entry.plan.costly and self.kind_of(group[0]) == "plain")]
        return [None, *(one for one in self.adapters if one in first or self.is_repeated(entry))]

    def is_repeated(self, entry: Entry) -> bool:
        """Whether every training edits with this method; with further inversions of the prompt switch the first one alone does."""
        return entry.method in self.repeated and entry.inversion in ("own", self.cfg.inversions[0])

    def curve_models(self, entry: Entry) -> list[str | None]:
        """The models that edit at every strength: the base model and Smooth; of a control the first training, for repeated methods."""
        first = [group[0] for group in self.groups.values()]
        controls = [one for one in first if self.is_repeated(entry)]
        smooth = [one for one in self.adapters if self.kind_of(one) in ("smooth", "unknown")]
        return [one for one in self.models_of(entry) if one is None or one in smooth or one in controls]

    def kind_of(self, adapter: str) -> str:
        """ "smooth", "plain", "full" or "unknown", as its card says."""
        return training_fields([adapter])["kind"]

    def row(self, entry: Entry, adapter: str | None, strength: float, chosen: bool = False) -> Row:
        """A row of a method with a model; the label of one that was not chosen ends in its strength."""
        label = f"{self.titles[adapter]}: {entry.title}" + ("" if chosen else f", {strength:g}")
        return Row(label, (adapter,), self.recipe.edit(entry, strength, chosen))

    def measure(self, rows: Sequence[Row], pairs: Sequence[EditItem]) -> dict[str, list[runs.Result]]:
        """Every row's result of each of the pairs; a model is loaded once for all rows that use it."""
        self.pairs = pairs
        return {label: found for label, (found,) in self.measure_all(rows).items()}

    def run(self, pipe: "StableDiffusionPipeline", weights: str, rows: Sequence[Row], adapter: str | None) -> dict[str, list[runs.Result]]:
        """By label every pair's result; see `run.run_edits`."""
        if self.judges is None:
            self.judges = EditJudges("packaged", self.device, pipe.vae_scale_factor)
        arguments = dict(batch_size=self.cfg.batch_size, seed=self.cfg.seed)
        return run_edits(pipe, self.pairs, rows, weights=weights, judges=self.judges, **arguments)

    # The choice, on even ids ----------------------------------------------------------------------------------------------------------

    def choose(self) -> dict[Entry, Choice]:
        """Each method's strength, by the rule of `selection`: the base model's edits of the even ids decide.

        A method with one candidate is not run.
        """
        candidates = {entry: found for entry in self.entries if len(found := self.candidates(entry)) > 1}
        rows = [self.row(entry, None, strength) for entry, found in candidates.items() for strength in found]
        measured = self.measure([*ends(), *rows], self.chosen_on)
        followed = {label: float(np.mean(column(found, "followed"))) for label, found in measured.items()}
        lpips = {label: float(np.mean(column(found, "lpips"))) for label, found in measured.items()}
        choices = {}
        for entry in self.entries:
            strengths = self.candidates(entry)
            if entry not in candidates:
                choices[entry] = Choice(strengths[0])
                continue
            labels = [self.row(entry, None, strength).label for strength in strengths]
            values = [lpips[label] for label in labels], [followed[label] for label in labels]
            choices[entry] = choose(strengths, *values, floor=followed[SOURCE], ceiling=followed[TRUTH])
        return choices

    def candidates(self, entry: Entry) -> tuple[float, ...]:
        """The strengths that the even ids choose among: those that the paper names, else those on the method's curve."""
        return entry.plan.candidates or self.recipe.candidates(entry)

    # The report, on odd ids -----------------------------------------------------------------------------------------------------------

    def rows(self, choices: Mapping[Entry, Choice]) -> list[Row]:
        """What the record holds: the ends of the scale, every method with every model at the chosen strength, and no switch at all."""
        made = ends()
        for entry in self.entries:
            made += [self.row(entry, adapter, choices[entry].strength, chosen=True) for adapter in self.models_of(entry)]
            if entry == Entry("prompt_switch", "null_text") and 1.0 in self.recipe.strengths_of(entry):
                made += [self.row(entry, adapter, 1.0) for adapter in self.curve_models(entry)]
        return made

    def published_rows(self, choices: Mapping[Entry, Choice]) -> list[Row]:
        """The prompt switch after null-text inversion as published, ten inner steps at a tenth of the rate: the base model and Smooth."""
        entry = Entry("prompt_switch", "null_text")
        if entry not in self.entries:
            return []
        models = [one for one in self.models_of(entry) if one is None or self.kind_of(one) in ("smooth", "unknown")][:2]
        edit = replace(self.recipe.edit(entry, choices[entry].strength), inversion=Inversion("null_text"))
        return [Row(f"{self.titles[adapter]}: {entry.title}{AS_PUBLISHED}", (adapter,), edit) for adapter in models]

    def curve_rows(self) -> dict[Entry, dict[str | None, list[Row]]]:
        """By method and model the rows of its curve over the strength, those that edit least first; methods with one strength have none."""
        return {
            entry: {adapter: [self.row(entry, adapter, s) for s in self.recipe.strengths_of(entry)] for adapter in self.curve_models(entry)}
            for entry in self.entries
            if len(self.recipe.strengths_of(entry)) > 1
        }

    def row_fields(self, row: Row) -> dict[str, Any]:
        """What a record keeps of a row beside its label: model, trainings, method, inversion, strength, settings, and was it chosen?"""
        edit: Edit = row.settings
        adapters = [adapter for adapter in row.adapters if adapter]
        shared = {"guidance_scale": self.recipe.guidance_scale, "num_inference_steps": self.recipe.num_inference_steps}
        fields = {
            "model": self.model_of(row),
            "adapters": adapters,
            "weights": [self.weights[self.model_of(row), adapter] for adapter in row.adapters],
            **training_fields(adapters),
            "method": edit.method,
            "chosen": edit.chosen,
            **shared,
        }
        if edit.settings is None:
            return fields
        fields |= {"inversion": edit.inversion.kind, "strength": edit.strength}
        if edit.inversion.kind == "null_text":
            fields |= {"num_inner_steps": edit.inversion.num_inner_steps, "null_text_lr": edit.inversion.lr}
        # A setting that is called as a field of the row, such as Prompt-to-Prompt's kind of replacement, must not take its place.
        own = {
            name if name in shared or name not in fields else f"{edit.method}_{name}": value for name, value in plain(edit.settings).items()
        }
        return fields | own


SOURCE, TRUTH, AUTOENCODER = "Untouched source", "True edit", "True edit, encoded and decoded"


def ends() -> list[Row]:
    """The rows that no method edits: the source, the true edit, and what the autoencoder makes of it."""
    return [Row(label, settings=Edit(name)) for label, name in zip((SOURCE, TRUTH, AUTOENCODER), UNEDITED, strict=True)]


def recipe_of(cfg: SimpleNamespace, guidance_scale: float) -> Recipe:
    """The settings that all rows of a configuration share."""
    names = ("num_inference_steps", "num_costly_steps", "num_inner_steps", "null_text_lr", "strengths")
    return Recipe(guidance_scale, **{name: getattr(cfg, name) for name in names if hasattr(cfg, name)})


def pairs_of(edits: EditSet, which: str, count: int, seed: int) -> list[EditItem]:
    """`count` pairs of each kind with even or odd ids, chosen by seed; a larger count keeps the smaller one's."""
    found, indices = [], half(edits, which)
    for kind in dict.fromkeys(record["kind"] for record in edits.records):
        of_kind = [i for i in indices if edits.records[i]["kind"] == kind]
        found += [edits.item(of_kind[i]) for i in datasets.seeded_choice(len(of_kind), count, seed)]
    return found


def column(found: Sequence[runs.Result], metric: str) -> np.ndarray:
    """A metric's value of each pair, (n,); NaN where it is not defined."""
    return np.array([result.get(metric, np.nan) for result in found], dtype=float)
