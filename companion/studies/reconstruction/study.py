"""What Table 2, Figures 4 and 9 and the page on null-text inversion share: their parameters, images, rows, record and pictures.

study = ReconstructionStudy(config.configuration(globals(), **PARAMETERS))
measured = study.measure(study.rows)
record = study.record("table2_recon", measured, study.rows, table="table2", pairs=reconstruction.compared_pairs(study.rows))
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from ... import book as figures
from ...base import config
from ...data import load as datasets
from ...evidence import records as results
from ...runs import runs
from ..base import BaseStudy
from ..rows import Row
from ..setup import DEVICE, chosen_adapters, errors_in_one_sentence
from . import reconstruct as reconstruction

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

PARAMETERS = {
    "model": config.Text(),
    "adapters": config.ListOf(config.Text(), optional=True),
    "dataset": config.Text(),
    "split": config.Text(),
    "num_images": config.Integer(1, 60),
    "skip": config.Integer(0, 4000),
    "num_inference_steps": config.Integer(2, 100),
    "guidance_scale": config.Number(1, 30, optional=True),
    "num_inner_steps": config.Integer(1, 100),
    "null_text_lr": config.Number(1e-4, 1),
    "batch_size": config.Integer(1, 256),
    "seed": config.Integer(0),
    "device": DEVICE,
}
TABLE_PARAMETERS = {name: field for name, field in PARAMETERS.items() if name != "skip"} | {
    "num_images": config.Integer(2, 5000),
    "null_text": config.Boolean(),
}
Measured = Mapping[str, Sequence[runs.Result]]  # row -> result of each image


class ReconstructionStudy(BaseStudy):
    """The images and the rows of Table 2: `rows` for the base model and the adapters asked for, or `smooth` where it has been trained.

    Args:
        cfg: a configuration with `PARAMETERS` or `TABLE_PARAMETERS`; without `adapters` the rows are those of the base model alone.

    Raises:
        ConfigurationError: something that the configuration asks for is not there or does not fit, before anything is computed.
    """

    def __init__(self, cfg: SimpleNamespace) -> None:
        super().__init__(cfg)
        adapters = chosen_adapters(getattr(cfg, "adapters", ()))
        self.check_adapters(adapters, cfg.model)
        with errors_in_one_sentence():
            self.guidance_scale = self.guidance_of(cfg.model)
            self.rows = reconstruction.table2_methods(self.guidance_scale, adapters, null_text=getattr(cfg, "null_text", True))
            self.items = self._items(cfg.num_images, getattr(cfg, "skip", 0))
            datasets.check_ids(self.items)

    def _items(self, count: int, skip: int) -> list[datasets.Item]:
        """`count` images of the seeded choice after the first `skip`: a larger choice with the same seed keeps the smaller one's."""
        source = dict(dataset=self.cfg.dataset, split=self.cfg.split, seed=self.cfg.seed, size=self.cfg.model)
        skipped = {item.id for item in datasets.load_items(limit=skip, **source)} if skip else set()
        return [item for item in datasets.load_items(limit=skip + count, **source) if item.id not in skipped]

    def run(self, pipe: "StableDiffusionPipeline", weights: str, rows: Sequence[Row], adapter: str | None) -> dict[str, list[runs.Result]]:
        """By label every image's result; see `reconstruct.run_methods`."""
        names = ("num_inference_steps", "num_inner_steps", "null_text_lr", "batch_size")
        return reconstruction.run_methods(pipe, self.items, rows, weights=weights, **{name: getattr(self.cfg, name) for name in names})

    def row_fields(self, row: Row) -> dict[str, Any]:
        """See `BaseStudy.row_fields`; the optimiser's settings are those of the row or the study, where it has one."""
        fields = super().row_fields(row)
        for name in ("num_inner_steps", "null_text_lr"):
            own = fields.pop(name)
            if row.settings.kind == "nti":
                fields[name] = getattr(self.cfg, name) if own is None else own
        return fields

    def measure(self, rows: Sequence[Row]) -> dict[str, list[runs.Result]]:
        """Every row's result of each image; a model is loaded once for all rows that use it."""
        return {label: found for label, (found,) in self.measure_all(rows).items()}

    def record(self, name: str, measured: Measured, rows: Sequence[Row], **more: Any) -> results.Record:
        """The record of a run: the four metrics of every row and image; `more` as for `records.make_record`."""
        return self.make_record(
            name,
            rows,
            values(measured),
            items=self.items,
            size=self.items[0].image.shape[-2:],
            origins=runs.origins(result for found in measured.values() for result in found),
            seconds=sum(result["seconds"] for found in measured.values() for result in found),
            conventions=reconstruction.CONVENTIONS,
            **more,
        )

    def figure(self, measured: Measured, indices: Sequence[int] | None = None) -> Figure:
        """The images `indices` (None: all) above their reconstructions, one row a method, with PSNR and LPIPS under each."""
        indices = range(len(self.items)) if indices is None else indices
        grid = [[self.items[i].image for i in indices]] + [[found[i]["image"] for i in indices] for found in measured.values()]
        scores = [[f"{found[i]['psnr']:.1f} dB, {found[i]['lpips']:.2f}" for i in indices] for found in measured.values()]
        labels = ["Source", *measured]
        numbers = [str(i + 1) for i in indices]
        return figures.image_grid(
            grid, row_labels=labels, column_labels=numbers, cell_labels=[[None] * len(indices), *scores], cell_size=1.0
        )

    def ranked_figure(self, measured: Measured, num_each: int = 2) -> Figure:
        """The worst, the median and the best images of the last row of the base model, by PSNR: chosen by rank, not by eye."""
        base = [row.label for row in self.rows if row.adapter is None and row.label in measured]
        return figures.reconstruction_figure(
            [item.image for item in self.items],
            {label: [result["image"] for result in found] for label, found in measured.items()},
            {label: [result["psnr"] for result in found] for label, found in measured.items()},
            rank_by=base[-1],
            num_each=num_each,
        )

    def slider(self, measured: Measured) -> figures.Widget:
        """Each image under a slider that wipes from the source to its reconstruction by each method."""
        shown = [(i, label) for i in range(len(self.items)) for label in measured]
        return figures.before_after(
            [(self.items[i].image, measured[label][i]["image"]) for i, label in shown],
            labels=[f"{i + 1}. {self.items[i].caption}: {label}, {measured[label][i]['psnr']:.1f} dB" for i, label in shown],
            alt="Source images and their reconstructions on top of each other",
        )


def values(measured: Measured) -> dict[str, dict[str, list[float]]]:
    """Row -> metric -> value of each image: what `records.make_record` takes."""
    return {label: {metric: [r[metric] for r in found] for metric in reconstruction.CONVENTIONS} for label, found in measured.items()}
