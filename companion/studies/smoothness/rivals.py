"""Is it the regularizer or just smaller steps? Cheap ways to smaller steps, each at the mean step of the regularized model.

Whatever makes the images of a walk move less lowers ISTD. A rival does so without the regularizer, or with less training: a lower guidance
scale, the first part of the walk alone (between the start and slerp(start, end, share)), or a short training. The rival's setting is the
one whose mean step on the walks at even places comes nearest to the regularized model's; what is reported are the walks at odd places.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

import smoothlib
from smoothlib.diffusion import slerp
from smoothlib.interpolation.walk import latent_walk
from smoothlib.metrics.istd import InterpolationStandardDeviation
from smoothlib.pixels import to_uint8
from smoothlib.sampling import Sampling, encode_prompts

from ...base import config
from ...data import load as datasets
from ...evidence import records as results
from ...judges import judge as judges
from ...judges.networks import lpips_network
from ...runs import runs
from ..base import BaseStudy
from ..rows import Row
from ..setup import DEVICE, errors_in_one_sentence
from . import walks
from .generation import initial_noise, stored_settings
from .measure import COLUMNS, seeds_of
from .walks import WalkPrompt

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

PARAMETERS = {
    "model": config.Text(),
    "dataset": config.Text(),
    "split": config.Text(),
    "num_prompts": config.Integer(4, 50000),
    "training_seeds": config.Integer(1, 100),
    "num_inference_steps": config.Integer(2, 100),
    "guidance_scale": config.Number(1, 30, optional=True),
    "guidance_scales": config.ListOf(config.Number(1, 30), minimum=1),
    "shares": config.ListOf(config.Number(0.05, 1), minimum=1),
    "frames": config.Integer(3, 101),
    "batch_size": config.Integer(1, 1024),
    "seed": config.Integer(0, 999),
    "device": DEVICE,
}
SHORT = {"lambda 0.1x": "steps-300-lambda-0.1x", "lambda 1x": "steps-300", "lambda 10x": "steps-300-lambda-10x"}
ISTD_COLUMN = {"istd": {"label": "ISTD", "direction": "down"}}
Results = Mapping[str, Sequence[Sequence[runs.Result]]]  # row -> for each training seed the result of each prompt


@dataclass(frozen=True)
class Walked:
    """How a row walks: its guidance scale, and the share of the way from the start to the end."""

    guidance_scale: float
    share: float = 1.0


class ShrunkenWalk:
    """The procedure that `runs.run_items` calls: as `walks.LatentWalk`, but from the start to slerp(start, end, share) alone."""

    def __init__(self, pipe: "StableDiffusionPipeline", sampling: Sampling, *, frames: int, share: float) -> None:
        self.pipe, self.sampling, self.frames, self.share = pipe, sampling, frames, share
        self.metric = InterpolationStandardDeviation(lpips=lpips_network())

    def __call__(self, prompts: list[WalkPrompt]) -> list[dict[str, np.ndarray | float]]:
        """Walk for a batch of prompts."""
        started = time.perf_counter()
        start = initial_noise(self.pipe, [prompt.start_seed for prompt in prompts])
        end = slerp(start, initial_noise(self.pipe, [prompt.end_seed for prompt in prompts]), self.share)
        embeds = encode_prompts(self.pipe, [prompt.caption for prompt in prompts])
        images = latent_walk(self.pipe, start, end, embeds, self.sampling, frames=self.frames)  # (B, F, 3, H, W)
        distances = self.metric.to(images.device).distances(images)
        found = {
            "step_distances": distances["pixel_distances"],
            "lpips_distances": distances["lpips_distances"],
            "frames": to_uint8(images),
        }
        found = {name: values.numpy(force=True) for name, values in found.items()}
        seconds = (time.perf_counter() - started) / len(prompts)
        return [{name: values[i] for name, values in found.items()} | {"seconds": seconds} for i in range(len(prompts))]


class RivalStudy(BaseStudy):
    """The walks, the regularized model and its rivals.

    Args:
        cfg: a configuration with `PARAMETERS`.

    Raises:
        ConfigurationError: something that the configuration asks for is not there or does not fit, before anything is computed.
    """

    code = ("companion.studies.smoothness.rivals",)
    method = "walk"

    def __init__(self, cfg: SimpleNamespace) -> None:
        super().__init__(cfg)
        with errors_in_one_sentence():
            self.guidance_scale = self.guidance_of(cfg.model)
            self.judge = judges.packaged_judge().to(self.device)
            self.split = datasets.load_split(cfg.dataset, cfg.split, size=cfg.model)
            self.prompts = walks.walk_prompts_from(self.split, cfg.num_prompts, seed=cfg.seed)
            datasets.check_ids(self.prompts)
        self.choosing, self.reported = self.prompts[0::2], self.prompts[1::2]
        self._prompts: Sequence[WalkPrompt] = self.prompts

    def trained(self, name: str) -> tuple[str, ...]:
        """The adapter `name` and those of its other training seeds, as far as they are there, at most `training_seeds`."""
        return seeds_of(name)[: self.cfg.training_seeds]

    def fixed_rows(self) -> list[Row]:
        """The base model, the fine-tune without the regularizer, and the regularized model, as the other pages walk them."""
        whole = Walked(self.guidance_scale)
        trained = [Row(label, self.trained(name), whole) for label, name in (("Plain LoRA", "plain"), ("Smooth", "smooth"))]
        return [Row("Base", (None,), whole), *(row for row in trained if row.adapters)]

    def candidates(self) -> dict[str, list[Row]]:
        """Rival -> its settings: the base model at other guidance scales, on other shares of the way, and short trainings."""
        guided = [Row(f"Base, w = {w:g}", (None,), Walked(w)) for w in self.cfg.guidance_scales]
        shrunken = [Row(f"Base, share {share:g}", (None,), Walked(self.guidance_scale, share)) for share in self.cfg.shares]
        short = [Row(f"300 steps, {name}", self.trained(adapter)[:1], Walked(self.guidance_scale)) for name, adapter in SHORT.items()]
        found = {"Lower guidance": guided, "Shrunken walk": shrunken, "Stopped early": [row for row in short if row.adapters]}
        return {name: rows for name, rows in found.items() if rows}

    def run(self, pipe: "StableDiffusionPipeline", weights: str, rows: Sequence[Row], adapter: str | None) -> dict[str, list[runs.Result]]:
        """Each row's walks of the prompts that are at hand, stored under all that determines them; whole walks are those of other pages."""
        found = {}
        for row in rows:
            sampling = Sampling(row.settings.guidance_scale, self.cfg.num_inference_steps, batch_size=self.cfg.batch_size)
            made = dict(title=row.label, weights=weights, sampling=sampling, frames=self.cfg.frames)
            whole = row.settings.share == 1
            found[row.label] = walks.run_walks(pipe, self._prompts, **made) if whole else self._shrunken(pipe, row.settings.share, **made)
        return found

    def _shrunken(
        self, pipe: "StableDiffusionPipeline", share: float, *, title: str, weights: str, sampling: Sampling, frames: int
    ) -> list[runs.Result]:
        settings = {"weights": weights, **stored_settings(sampling), "smoothlib": smoothlib.__version__}
        return runs.run_items(
            self._prompts,
            ShrunkenWalk(pipe, sampling, frames=frames, share=share),
            name="smoothness/shrunken",
            title=f"walks of {title}",
            config=settings | {"frames": frames, "share": share, "conventions": walks.CONVENTIONS},
            batch_size=walks.walks_at_once(sampling, frames, len(self._prompts)),
            device=pipe.device,
        )

    def measure(self, rows: Sequence[Row], prompts: Sequence[WalkPrompt]) -> Results:
        """Row -> for each of its trainings the walks of `prompts`."""
        self._prompts = prompts
        return self.measure_all(rows)

    def values(self, found: Results, prompts: Sequence[WalkPrompt]) -> dict[str, dict[str, np.ndarray]]:
        """Row -> metric -> value of each prompt, averaged over trainings."""
        return {label: _mean([self._values(one, prompts) for one in trainings]) for label, trainings in found.items()}

    def _values(self, found: Sequence[runs.Result], prompts: Sequence[WalkPrompt]) -> dict[str, np.ndarray]:
        film = np.stack([one["frames"] for one in found])  # (W, F, 3, H, W)
        captions = [prompt.caption for prompt in prompts for _ in range(film.shape[1])]
        aligned = self.judge.alignments(film.reshape(-1, *film.shape[2:]), captions).reshape(film.shape[:2]).mean(1)
        return walks.walk_values(found) | {self.judge.alignment_name: aligned}

    def record(self, name: str, found: Results, rows: Sequence[Row], choices: Mapping[str, Mapping[str, Any]]) -> results.Record:
        """The record of the reported prompts; every row is tested against the regularized model, `Smooth`."""
        stored = [one for trainings in found.values() for training in trainings for one in training]
        place = {record["id"]: i for i, record in enumerate(self.split.records)}
        return self.make_record(
            name,
            rows,
            self.values(found, self.reported),
            items=self.reported,
            data=[self.split.item(place[prompt.id]) for prompt in self.reported],
            size=stored[0]["frames"].shape[-2:],
            origins=runs.origins(stored),
            seconds=sum(one["seconds"] for one in stored),
            conventions=walks.CONVENTIONS | dict(self.judge.conventions),
            pairs=[("Smooth", row.label) for row in rows if row.label != "Smooth"],
            columns=ISTD_COLUMN | COLUMNS | self.judge.columns,
            facts={"choices": {rival: dict(choice) for rival, choice in choices.items()}},
        )


def _mean(trainings: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {metric: np.mean([one[metric] for one in trainings], axis=0) for metric in trainings[0]}


def nearest(values: Mapping[str, Mapping[str, np.ndarray]], labels: Sequence[str], target: str = "Smooth") -> str:
    """Which of `labels` has the mean step nearest to that of `target`, by ratio: half as long is as far as twice as long."""
    wanted = np.log(values[target]["mean_step"].mean())
    return min(labels, key=lambda label: abs(np.log(values[label]["mean_step"].mean()) - wanted))


def choose(study: RivalStudy) -> tuple[list[Row], dict[str, dict[str, Any]]]:
    """The rivals' rows, named after them, and what was chosen from: on the walks that are not reported.

    A setting of a rival is chosen by the mean step alone; neither ISTD nor CV is looked at.
    """
    candidates = study.candidates()
    smooth = [row for row in study.fixed_rows() if row.label == "Smooth"]
    if not smooth:
        raise config.ConfigurationError("data/models/adapters has no smooth, but must have it: rivals are set to its mean step.")
    every = [*smooth, *(row for rows in candidates.values() for row in rows)]
    values = study.values(study.measure(every, study.choosing), study.choosing)
    chosen, facts = [], {}
    for rival, rows in candidates.items():
        best = nearest(values, [row.label for row in rows])
        (row,) = (row for row in rows if row.label == best)
        chosen.append(Row(f"{rival}: {best}", row.adapters, row.settings))
        steps = {row.label: float(values[row.label]["mean_step"].mean()) for row in rows}
        facts[rival] = {"chosen": best, "mean_step": steps, "target": float(values["Smooth"]["mean_step"].mean())}
    return chosen, facts


def verdict(record: results.Record, metric: str = "cv", level: float = 0.05) -> str:
    """One sentence for each rival: is Smooth's `metric` (lower is smoother) below it, from the record's adjusted tests."""
    said = []
    label = record["columns"][metric]["label"]
    for one in record["comparisons"]:
        if one["metric"] != metric or ":" not in one["b"]:
            continue
        gap, rival = one["difference"], one["b"]
        shown = one["p_adjusted"] < level
        found = (
            "no difference is shown from" if not shown else "Smooth is smoother than" if gap["mean"] < 0 else "Smooth is less smooth than"
        )
        said.append(f"{found} {rival} ({label} {gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}], p = {one['p_adjusted']:.2g})")
    text = "; ".join(said)
    return f"{text[:1].upper()}{text[1:]}; n = {len(record['items'])}." if said else "No rival was measured."
