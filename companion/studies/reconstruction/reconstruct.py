"""Reconstruction of real images (Sec. 4.3, Table 2): encode, invert, sample back, measure.

Three procedures: the autoencoder alone (the upper bound), DDIM inversion replayed at a guidance scale, and null-text inversion.
"""

import time
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

import smoothlib
from smoothlib.diffusion import check_number
from smoothlib.inversion import ddim_invert, null_text_inversion
from smoothlib.metrics import LearnedPerceptualImagePatchSimilarity, MeanSquaredError, PeakSignalNoiseRatio, StructuralSimilarity
from smoothlib.metrics.reconstruction import CONVENTIONS
from smoothlib.pixels import to_uint8
from smoothlib.sampling import decode_latents, encode_images, encode_prompts, sample

from ...data.items import Item
from ...judges.networks import lpips_network
from ...runs import runs
from ..rows import Row, adapter_titles

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

KINDS = ("vae", "ddim", "nti")


@dataclass(frozen=True)
class Method:
    """What a row of Table 2 computes: a procedure and the guidance scale it samples with; for `nti` its optimiser (None: the study's)."""

    kind: str
    guidance_scale: float = 1.0
    num_inner_steps: int | None = None
    null_text_lr: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        check_number("guidance_scale", self.guidance_scale)
        if self.kind == "nti" and self.guidance_scale == 1:
            raise ValueError("guidance_scale must differ from 1 for nti: at 1 the null embedding has no effect")


def table2_methods(guidance_scale: float, adapters: Sequence[str] = (), null_text: bool = True) -> list[Row]:
    """Table 2's rows for the base model and each adapter; DDIM at guidance 1 and at `guidance_scale`: the paper does not say which.

    Raises ValueError where two adapters would give rows of one label.
    """
    rows = [Row("VAE reconstruction", settings=Method("vae"), paper_row="VAE Reconstruction")]
    for adapter, title in adapter_titles(adapters).items():
        paper = "Stable Diff." if adapter is None else "Smooth Diff." if Path(adapter).name == "smooth" else None
        ddim, nti = (f"{paper} + {kind}" if paper else None for kind in ("DDIM", "NTI"))
        rows.append(Row(f"{title} + DDIM, guidance 1", (adapter,), Method("ddim", 1.0), ddim))
        if guidance_scale != 1:
            rows.append(Row(f"{title} + DDIM, guidance {guidance_scale:g}", (adapter,), Method("ddim", guidance_scale), ddim))
            if null_text:
                rows.append(Row(f"{title} + NTI, guidance {guidance_scale:g}", (adapter,), Method("nti", guidance_scale), nti))
    return rows


def compared_pairs(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The pairs of rows that the paper's claims are about: NTI against DDIM, each adapter against the base model, NTI against the VAE."""
    by_key = {(row.settings.kind, row.settings.guidance_scale, row.adapter): row.label for row in rows}
    pairs = []
    for (kind, guidance_scale, adapter), label in by_key.items():
        if kind == "nti":
            pairs += [(label, by_key[other]) for other in (("ddim", guidance_scale, adapter), ("vae", 1.0, None)) if other in by_key]
        if kind == "ddim" and guidance_scale != 1 and ("ddim", 1.0, adapter) in by_key:
            pairs.append((by_key["ddim", 1.0, adapter], label))
        if adapter and (kind, guidance_scale, None) in by_key:
            pairs.append((label, by_key[kind, guidance_scale, None]))
    return pairs


def reconstruct(
    pipe: "StableDiffusionPipeline",
    images: Tensor,
    prompts: list[str],
    method: Method,
    *,
    num_inference_steps: int = 50,
    num_inner_steps: int = 10,
    null_text_lr: float = 1e-2,
    pivots: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Reconstruct a batch of images (B, 3, H, W) in [-1, 1] with their prompts.

    Returns the reconstructions, alike, and facts per image (B,): for `nti` the optimiser steps taken and the last step's loss.
    `pivots`: the images' DDIM inversion with their prompts at guidance 1, where it has been computed before (see `invert`).
    """
    if method.kind == "vae":
        return decode_latents(pipe, encode_images(pipe, images)), {}
    if pivots is None:
        pivots = invert(pipe, images, prompts, num_inference_steps=num_inference_steps)
    prompt_embeds = encode_prompts(pipe, prompts)
    if method.kind == "ddim":
        arguments = dict(guidance_scale=method.guidance_scale, num_inference_steps=num_inference_steps, inverted=True)
        return decode_latents(pipe, sample(pipe, pivots[-1], prompt_embeds, **arguments)), {}
    arguments = dict(guidance_scale=method.guidance_scale, num_inner_steps=num_inner_steps, lr=null_text_lr)
    found = null_text_inversion(pipe, pivots, prompt_embeds, **arguments)
    return decode_latents(pipe, found.latents), {"inner_steps": found.inner_steps.sum(0), "last_loss": found.losses[-1]}


def invert(pipe: "StableDiffusionPipeline", images: Tensor, prompts: list[str], *, num_inference_steps: int = 50) -> Tensor:
    """DDIM inversion at guidance 1 of images (B, 3, H, W) in [-1, 1]: the pivots, (T + 1, B, 4, h, w), that all rows but the VAE need."""
    return ddim_invert(pipe, encode_images(pipe, images), encode_prompts(pipe, prompts), num_inference_steps=num_inference_steps)


class ReconstructionScores:
    """Table 2's four metrics of each image."""

    def __init__(self) -> None:
        self.metrics = {
            "mse": MeanSquaredError(),
            "lpips": LearnedPerceptualImagePatchSimilarity(lpips_network()),
            "ssim": StructuralSimilarity(),
            "psnr": PeakSignalNoiseRatio(),
        }

    @torch.no_grad()
    def __call__(self, reconstructions: Tensor, originals: Tensor) -> dict[str, Tensor]:
        """Each metric's value per image, (B,); both arguments (B, 3, H, W) in [-1, 1]."""
        if reconstructions.device.type == "mps":
            reconstructions = reconstructions.cpu()  # it has no float64
        originals, device = originals.to(reconstructions.device), reconstructions.device
        return {name: metric.to(device).per_image(reconstructions, originals) for name, metric in self.metrics.items()}


class Reconstruction:
    """The procedure that `runs.run_items` calls: items in; per item metrics, image (uint8, (3, H, W)), seconds and facts out.

    `pivots`: inversions of batches, (T + 1, B, 4, h, w) each, of this model and number of steps, by the keys of their items' content;
    missing ones are added, so that the rows of a model that share the mapping invert an image once. Whole batches, because an image's
    inversion is the same to the last bit in the same batch alone.
    """

    def __init__(
        self,
        pipe: "StableDiffusionPipeline",
        method: Method,
        *,
        num_inference_steps: int,
        num_inner_steps: int = 10,
        null_text_lr: float = 1e-2,
        pivots: MutableMapping[tuple[str, ...], Tensor] | None = None,
    ) -> None:
        self.pipe, self.method = pipe, method
        self.steps = dict(num_inference_steps=num_inference_steps, num_inner_steps=num_inner_steps, null_text_lr=null_text_lr)
        self.pivots = {} if pivots is None else pivots
        self.scores = ReconstructionScores()

    def _inverted(self, items: list[Item]) -> Tensor:
        """The pivots of `items`, (T + 1, B, 4, h, w)."""
        batch = tuple(runs.item_key(item) for item in items)
        if batch not in self.pivots:
            images, prompts = torch.stack([item.image for item in items]), [item.caption for item in items]
            self.pivots[batch] = invert(self.pipe, images, prompts, num_inference_steps=self.steps["num_inference_steps"]).cpu()
        return self.pivots[batch].to(self.pipe.device)

    def __call__(self, items: list[Item]) -> list[Mapping[str, float | np.ndarray]]:
        """Results of a batch of items, in order."""
        started = time.perf_counter()
        originals = torch.stack([item.image for item in items])
        pivots = None if self.method.kind == "vae" else self._inverted(items)
        images, facts = reconstruct(self.pipe, originals, [item.caption for item in items], self.method, pivots=pivots, **self.steps)
        values = {**self.scores(images, originals), **facts}
        pixels = to_uint8(images).numpy(force=True)
        seconds = (time.perf_counter() - started) / len(items)
        return [
            {"image": pixels[i], "seconds": seconds, **{name: float(value[i]) for name, value in values.items()}} for i in range(len(items))
        ]


def run_methods(
    pipe: "StableDiffusionPipeline",
    items: Sequence[Item],
    rows: Sequence[Row],
    *,
    weights: str,
    num_inference_steps: int,
    num_inner_steps: int,
    null_text_lr: float,
    batch_size: int,
) -> dict[str, list[runs.Result]]:
    """By label of `rows`, whose settings are `Method`s and whose adapter `pipe` carries, every item's result (see `Reconstruction`).

    Each result is stored as soon as its batch is done (runs/reconstruction): what Table 2 has reconstructed, Figures 4 and 9 read, and the
    other way round. `weights`: fingerprint of `pipe`.
    """
    # An inversion of 50 steps is 0.2 MB here, 3.3 MB for Stable Diffusion 1.5: kept while the rows need it.
    pivots: dict[tuple[str, ...], Tensor] = {}
    found = {}
    for row in rows:
        method: Method = row.settings
        steps = dict(
            num_inference_steps=num_inference_steps,
            num_inner_steps=num_inner_steps if method.num_inner_steps is None else method.num_inner_steps,
            null_text_lr=null_text_lr if method.null_text_lr is None else method.null_text_lr,
        )
        found[row.label] = runs.run_items(
            items,
            Reconstruction(pipe, method, pivots=pivots, **steps),
            name=f"reconstruction/{method.kind}",
            title=row.label,
            config={
                "weights": weights,
                "kind": method.kind,
                "guidance_scale": method.guidance_scale,
                **{key: value for key, value in steps.items() if method.kind == "nti" or key == "num_inference_steps"},
                "batch_size": batch_size,
                "conventions": CONVENTIONS,
                "smoothlib": smoothlib.__version__,
            },
            batch_size=batch_size,
            device=pipe.device,
        )
    return found
