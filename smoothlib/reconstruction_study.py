"""What the notebooks of Figures 4 and 9 share: their parameters, the images, the rows, the picture.

study = ReconstructionStudy(config.configuration(globals(), **PARAMETERS))
figure = study.figure(study.measure(study.methods))
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

from matplotlib.figure import Figure

from . import config, datasets, figures, models, reconstruction, runs
from .reconstruction import Method
from .study_setup import DEVICE, check_adapters, chosen_adapters, chosen_device, errors_in_one_sentence

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
Measured = Mapping[str, Sequence[runs.Result]]  # row -> result of each image


class ReconstructionStudy:
    """The images and the rows of Table 2: `methods` for the base model and the adapters asked for, or `smooth` where it has been trained.

    Args:
        cfg: a configuration with `PARAMETERS`.

    Raises:
        ConfigurationError: something that the configuration asks for is not there or does not fit, before anything is computed.
    """

    def __init__(self, cfg: SimpleNamespace) -> None:
        self.cfg = cfg
        self.device, adapters = chosen_device(cfg.device), chosen_adapters(cfg.adapters)
        check_adapters(adapters, cfg.model)
        with errors_in_one_sentence():
            guidance_scale = cfg.guidance_scale or models.default_guidance_scale(cfg.model)
            self.methods = reconstruction.table2_methods(guidance_scale, adapters)
            self.items = self._items(cfg.num_images, cfg.skip)

    def _items(self, count: int, skip: int) -> list[datasets.Item]:
        """`count` images of the seeded choice after the first `skip`: a larger choice with the same seed keeps the smaller one's."""
        source = dict(dataset=self.cfg.dataset, split=self.cfg.split, seed=self.cfg.seed)
        skipped = {item.id for item in datasets.load_items(limit=skip, **source)} if skip else set()
        return [item for item in datasets.load_items(limit=skip + count, **source) if item.id not in skipped]

    def measure(self, methods: Sequence[Method]) -> dict[str, list[runs.Result]]:
        """Every method's result of each image; a model is loaded once for all methods that use it."""
        found: dict[str, list[runs.Result]] = {}
        names = ("num_inference_steps", "num_inner_steps", "null_text_lr", "batch_size")
        arguments = {name: getattr(self.cfg, name) for name in names}
        for adapter in dict.fromkeys(method.adapter for method in methods):
            pipe = models.load_pipeline(self.cfg.model, adapter=adapter, device=self.device)
            chosen = [method for method in methods if method.adapter == adapter]
            found |= reconstruction.run_methods(pipe, self.items, chosen, weights=models.fingerprint(pipe), **arguments)
        return {method.label: found[method.label] for method in methods}

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

    def slider(self, measured: Measured) -> figures.Widget:
        """Each image under a slider that wipes from the source to its reconstruction by each method."""
        shown = [(i, label) for i in range(len(self.items)) for label in measured]
        return figures.before_after(
            [(self.items[i].image, measured[label][i]["image"]) for i, label in shown],
            labels=[f"{i + 1}. {self.items[i].caption}: {label}, {measured[label][i]['psnr']:.1f} dB" for i, label in shown],
            alt="Source images and their reconstructions on top of each other",
        )
