"""Text embeddings of each sampling step, conditional or null, in three forms; a batch of 1 stands for the same embedding for every image:

- `(B, L, D)`: one embedding for all steps;
- `(T, B, L, D)`: one per step, in sampling order (index 0 belongs to the noisiest step);
- a callable `i -> (B, L, D)` of the step index.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .diffusion import check_finite

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

Embeds = Tensor | Callable[[int], Tensor]


def embeds_at(embeds: Embeds, i: int, batch_size: int) -> Tensor:
    """The embeddings of step i, (B, L, D), from any of the three forms."""
    now = embeds(i) if callable(embeds) else embeds[i] if embeds.ndim == 4 else embeds
    return now.expand(batch_size, -1, -1)


def check_embeds(name: str, embeds: Embeds | None, num_inference_steps: int, batch_size: int) -> None:
    """Raise unless `embeds` has one of the three forms for T steps and B images, and is finite (a callable is taken at its word)."""
    if embeds is None or callable(embeds):
        return
    steps_fit = embeds.ndim == 3 or (embeds.ndim == 4 and embeds.shape[0] == num_inference_steps)
    if not steps_fit or embeds.shape[-3] not in (1, batch_size):
        one_step = f"{batch_size} or 1, L, D"
        raise ValueError(f"{name} must have shape ({one_step}) or ({num_inference_steps}, {one_step}), not {tuple(embeds.shape)}")
    check_finite(name, embeds)


def pipeline_arguments(prompt_embeds: Embeds, null_embeds: Embeds, *, batch_size: int | None = None) -> dict[str, Any]:
    """Arguments that make `StableDiffusionPipeline` replay per-step embeddings: `pipe(latents=x_T, **pipeline_arguments(...))`.

    The pipeline calls `callback_on_step_end` after a step, so step 0's embeddings go in as arguments and the callback sets those of step
    i + 1. `batch_size` is needed only where a batch of 1 stands for several images. The result equals `sample` at guidance_scale >= 1 under
    "leading" spacing (under the others the pipeline's steps leave gaps).
    """
    first = prompt_embeds(0) if callable(prompt_embeds) else prompt_embeds
    batch_size = batch_size or max(first.shape[-3], 1 if callable(null_embeds) else null_embeds.shape[-3])

    def replay(pipe: "StableDiffusionPipeline", i: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if i + 1 == pipe.num_timesteps:
            return {}
        cond = embeds_at(prompt_embeds, i + 1, batch_size)
        if not pipe.do_classifier_free_guidance:
            return {"prompt_embeds": cond}
        return {"prompt_embeds": torch.cat([embeds_at(null_embeds, i + 1, batch_size), cond])}

    return {
        "prompt_embeds": embeds_at(prompt_embeds, 0, batch_size),
        "negative_prompt_embeds": embeds_at(null_embeds, 0, batch_size),
        "callback_on_step_end": replay,
        "callback_on_step_end_tensor_inputs": ["prompt_embeds"],
    }
