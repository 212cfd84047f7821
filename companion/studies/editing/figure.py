"""Figures 5 and 10: a few pairs by seed, edited by the base model, by Smooth, and by other methods on the base model.

study = FigureStudy(config.configuration(globals(), **PARAMETERS))
measured = study.measure()
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from ... import book as figures
from ...base import config
from ...data import load as datasets
from ...data.edits import EditItem, EditSet, half_of, load_edits
from ...evidence.records import recorded
from ...runs import runs
from ..base import BaseStudy
from ..rows import Row
from ..setup import DEVICE, errors_in_one_sentence
from ..trained import default_adapters
from .methods import PLANS, Entry, entries
from .pictures import edit_grid, sliders
from .run import run_edits
from .scores import EditJudges
from .study import INVERSIONS, recipe_of

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

PARAMETERS = {
    "model": config.Text(),
    "adapter": config.Text(optional=True),
    "dataset": config.Text(),
    "kinds": config.ListOf(config.Text(), optional=True),
    "num_each": config.Integer(1, 20),
    "skip": config.Integer(0, 100),
    "methods": config.ListOf(config.Choice(*(name for name, plan in PLANS.items() if plan.paper))),
    "inversion": config.Choice(*INVERSIONS),
    "ratio": config.Number(0, 1, optional=True),
    "num_inference_steps": config.Integer(2, 100),
    "num_costly_steps": config.Integer(2, 100),
    "guidance_scale": config.Number(1.1, 30, optional=True),
    "num_inner_steps": config.Integer(1, 100),
    "null_text_lr": config.Number(1e-4, 1),
    "judge": config.Choice("packaged", "official"),
    "batch_size": config.Integer(1, 256),
    "seed": config.Integer(0, 999),
    "device": DEVICE,
}
PUBLISHED = {"prompt_switch": 0.8, "sdedit": 0.8, "prompt_to_prompt": 0.8, "plug_and_play": 0.8, "cycle_diffusion": 0.8}
STABLE, SMOOTH = "Stable", "Smooth"


class FigureStudy(BaseStudy):
    """The pairs and rows of Figure 5 or 10: the prompt switch with the base model and with Smooth, other methods on the base model.

    Each method has the strength that the benchmark's record says was chosen, for the embedded model; its published one for others, and
    where there is no record. Scenes are those of the reported half, which chose nothing.

    Args:
        cfg: a configuration with `PARAMETERS`; without `adapter` the default one.

    Raises:
        ConfigurationError: something that the configuration asks for is not there or does not fit, before anything is computed.
    """

    code = ("companion.studies.editing.figure",)

    def __init__(self, cfg: SimpleNamespace) -> None:
        super().__init__(cfg)
        self.adapter = next(iter(default_adapters(cfg.model, None if cfg.adapter is None else [cfg.adapter])), None)
        self.check_adapters([self.adapter], cfg.model)
        with errors_in_one_sentence():
            self.recipe = recipe_of(cfg, self.guidance_of(cfg.model))
            self.rows = self._rows()
            self.pairs = figure_pairs(load_edits(cfg.dataset, size=cfg.model), cfg.kinds, cfg.num_each, skip=cfg.skip, seed=cfg.seed)
        self.judges: EditJudges | None = None

    def _rows(self) -> list[Row]:
        switch = Entry("prompt_switch", self.cfg.inversion)
        ratio = self.strength(switch) if self.cfg.ratio is None else self.cfg.ratio
        rows = [Row(STABLE, (None,), self.recipe.edit(switch, ratio))]
        if self.adapter is not None:
            rows.append(Row(SMOOTH, (self.adapter,), self.recipe.edit(switch, ratio)))
        for entry in entries(self.cfg.methods, (self.cfg.inversion,)):
            rows.append(Row(entry.plan.title, (None,), self.recipe.edit(entry, self.strength(entry))))
        return rows

    def strength(self, entry: Entry) -> float:
        """The recorded choice for the embedded model, else the published strength."""
        made = recorded("beyond_edit_benchmark") if self.cfg.model == "mini" else None
        choice = (made or {}).get("facts", {}).get("choices", {}).get(entry.title)
        return choice["strength"] if choice else PUBLISHED.get(entry.method, 1.0)

    def run(self, pipe: "StableDiffusionPipeline", weights: str, rows: Sequence[Row], adapter: str | None) -> dict[str, list[runs.Result]]:
        """By label every pair's result; see `run.run_edits`."""
        if self.judges is None:
            with errors_in_one_sentence():
                self.judges = EditJudges(self.cfg.judge, self.device, pipe.vae_scale_factor)
        arguments = dict(batch_size=self.cfg.batch_size, seed=self.cfg.seed)
        return run_edits(pipe, self.pairs, rows, weights=weights, judges=self.judges, **arguments)

    def measure(self) -> dict[str, list[runs.Result]]:
        """Every row's result of each pair."""
        return {label: found for label, (found,) in self.measure_all(self.rows).items()}

    def figure(self, measured: dict[str, list[runs.Result]]) -> Figure:
        """A row a pair: source, truth where it is known, Stable, Smooth, the other methods; LPIPS to the truth under each."""
        labels = [row.label for row in self.rows]
        numbers = [str(i + 1) for i in range(len(self.pairs))]
        return edit_grid(self.pairs, measured, labels, range(len(self.pairs)), row_labels=numbers, columns=labels)

    def slider(self, measured: dict[str, list[runs.Result]], labels: Sequence[str] = (STABLE, SMOOTH)) -> figures.Widget:
        """Each pair under a slider from the source to its edits by `labels` and to the true one."""
        return sliders(self.pairs, measured, [label for label in labels if label in measured], range(len(self.pairs)))

    def asked(self) -> list[str]:
        """What each numbered row of the figure asks for."""
        return [f"{i + 1}. {pair.kind}: {pair.source_caption} → {pair.target_caption}" for i, pair in enumerate(self.pairs)]


def figure_pairs(edits: EditSet, kinds: Sequence[str] | None, num_each: int, *, skip: int = 0, seed: int = 0) -> list[EditItem]:
    """`num_each` pairs of each kind after the first `skip`, chosen by seed; with a true answer those of the reported half alone.

    Raises:
        ValueError: a kind is not in the data set, or it has too few pairs.
    """
    known = list(dict.fromkeys(record["kind"] for record in edits.records))
    found = []
    for kind in known if kinds is None else kinds:
        if kind not in known:
            raise ValueError(f"kinds has {kind!r}, but must be of the data set's kinds: {', '.join(known)}.")
        indices = [i for i, record in enumerate(edits.records) if record["kind"] == kind]
        if edits.item(indices[0]).target is not None:
            indices = [i for i in indices if half_of(edits.records[i]["id"]) == "odd"]
        if kinds is not None and len(indices) < skip + num_each:
            raise ValueError(f"num_each is {num_each} after {skip} others, but {kind} has {len(indices)} pairs.")
        before = set(datasets.seeded_choice(len(indices), skip, seed))
        chosen = [i for i in datasets.seeded_choice(len(indices), skip + num_each, seed) if i not in before]
        found += [edits.item(indices[i]) for i in chosen]
    return found
