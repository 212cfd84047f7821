"""What an edit gives, and what it cost: evaluations of the denoising network."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..sampling import decode_latents

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


@dataclass(frozen=True)
class Edited:
    """The result of one `edit`, batch first.

    `evaluations` is the number of network evaluations per image (the mean over the batch where images differ): one latent through the
    UNet is 1, a step with guidance is 2. The inversion is included when it was made by this call, and backward passes are not counted.
    """

    images: Tensor  # (B, 3, H, W) float32 in [-1, 1]
    latents: Tensor  # (B, 4, h, w), the edited z0
    evaluations: float


@dataclass
class EvaluationCounter:
    """How many latents have gone through the network since counting began."""

    total: int = 0

    def per_image(self, batch_size: int) -> float:
        """The total over `batch_size` images."""
        return self.total / batch_size


@contextlib.contextmanager
def counted(unet: torch.nn.Module) -> Iterator[EvaluationCounter]:
    """Count inside: each call of the network adds the size of its batch. Blocks may lie within each other; each counts for itself.

    Example:
        >>> import torch
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib.editing.edited import counted
        >>> from smoothlib.sampling import encode_prompts, sample
        >>> pipe = load_pipeline("mini")
        >>> with counted(pipe.unet) as counter:
        ...     _ = sample(pipe, torch.randn(2, 4, 16, 16), encode_prompts(pipe, ["a red sofa"]), guidance_scale=3, num_inference_steps=3)
        >>> counter.total, counter.per_image(2)
        (12, 6.0)
    """
    counter = EvaluationCounter()

    def add(module: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        counter.total += len(arguments[0] if arguments else named["sample"])

    hook = unet.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield counter
    finally:
        hook.remove()


def finish(pipe: "StableDiffusionPipeline", latents: Tensor, counter: EvaluationCounter) -> Edited:
    """The edited z0 (B, 4, h, w) as an `Edited`: decoded, with what the counter counted."""
    return Edited(decode_latents(pipe, latents), latents, counter.per_image(len(latents)))
