"""DragDiffusion (Shi et al. 2024; Sec. 4.4, Fig. 6): pull points of a picture to other places by optimising one noisy latent.

1. Each image gets a LoRA of its own (`image_lora`), which a Smooth-LoRA does not exclude: both act, each at its own strength.
2. DDIM inversion (Eq. 4) goes up to a step in the middle, z_t.
3. z_t is optimised (`drag_optimisation`): features of the network one step ahead of each handle should become those at the handle, and the
   handles are followed to where their features have gone, until they are near their targets. Outside the mask the next latent should stay.
4. The original and the optimised z_t are denoised side by side, the latter looking at the former's keys and values (`denoise`).

There is no guidance anywhere. The network computes in float32 or under the caller's autocast, on the pipeline's device.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..inversion import ddim_invert
from ..sampling import decode_latents, encode_images, encode_prompts, sample
from .attention import Site, attention_hooks
from .drag_optimisation import Optimised, Report, optimise
from .drag_points import DragPoints, Points, drag_points
from .drag_settings import Drag
from .edited import Edited, counted
from .image_lora import ImageLoras, ImageLoraSettings, acting, train_image_loras
from .inputs import check_generator, check_images, check_prompts
from .layers import fine_self

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = [
    "Drag", "DragPoints", "Dragged", "ImageLoraSettings", "ImageLoras", "Optimised", "check_drag", "denoise", "drag", "drag_points",
    "image_generators", "invert", "optimise", "train_image_loras",
]  # fmt: skip


@dataclass(frozen=True)
class Dragged(Edited):
    """The result of `drag`. `evaluations` counts those of the LoRA's training too: one for each noisy latent."""

    reconstructions: Tensor  # (B, 3, H, W): the original, inverted and denoised beside the edited one
    points: Tensor  # (B, N, 2): where the handles are by the optimisation's own tracking, pixels; beyond an image's own points 0
    distances: Tensor  # (iterations + 1, B): mean distance left after so many updates, pixels
    iterations: Tensor  # (B,) int: updates that each image took


def drag(
    pipe: "StableDiffusionPipeline",
    images: Tensor,
    prompts: Sequence[str],
    handles: Points,
    targets: Points,
    *,
    masks: Tensor | None = None,
    settings: Drag = Drag(),  # noqa: B008 - frozen
    lora: ImageLoras | ImageLoraSettings = ImageLoraSettings(),  # noqa: B008 - frozen
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    report: Report | None = None,
) -> Dragged:
    """Drag the handles of each image to their targets.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        prompts: what each image shows.
        handles, targets, masks: see `drag_points.drag_points`.
        lora: how each image's LoRA is trained, or those trained before for the same images; `ImageLoraSettings(steps=0)`: without.
        generator: for the LoRA's training: one, or one per image. One gives each image a generator of its own.
        report: called after each iteration with its number and the mean distance left, in pixels.

    Raises:
        ValueError: bad input, before the network is evaluated.
        RuntimeError: a loss or a LoRA's change is not finite.

    Example:
        >>> import torch
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib.editing.drag import Drag, drag
        >>> from smoothlib.editing.image_lora import ImageLoraSettings
        >>> pipe, image = load_pipeline("mini"), torch.zeros(1, 3, 64, 64)
        >>> quick = dict(settings=Drag(num_inference_steps=4, iterations=2), lora=ImageLoraSettings(steps=0))
        >>> dragged = drag(pipe, image, ["a photo of a red sofa"], [[(20, 30)]], [[(40, 30)]], **quick)
        >>> dragged.images.shape, dragged.distances.shape
        (torch.Size([1, 3, 64, 64]), torch.Size([3, 1]))
    """
    check_images(pipe, images)
    check_prompts(pipe, "prompts", prompts, len(images))
    points = drag_points(handles, targets, masks, size=tuple(images.shape[2:]), batch_size=len(images)).to(pipe.unet.device)
    check_drag(pipe, lora, len(images))
    with counted(pipe.unet) as counter:
        if isinstance(lora, ImageLoraSettings):
            generators = image_generators(generator, len(images))
            lora = train_image_loras(pipe, images, prompts, lora, generators=generators) if lora.steps else None
        embeds = encode_prompts(pipe, list(prompts))
        original = invert(pipe, images, embeds, settings, lora)
        found = optimise(pipe, original, embeds, points, settings, lora, report=report)
        reconstruction, edited = denoise(pipe, [original, found.latents[settings.iterations]], embeds, settings, lora)
    decoded = decode_latents(pipe, torch.cat([edited, reconstruction])).chunk(2)
    evaluations = counter.per_image(len(images))
    return Dragged(decoded[0], edited, evaluations, decoded[1], found.points, found.distances, found.iterations)


def check_drag(pipe: "StableDiffusionPipeline", lora: ImageLoras | ImageLoraSettings, batch_size: int) -> None:
    """ValueError where the network's adapters are all switched off, or the LoRAs are of other images."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in pipe.unet.modules() if isinstance(module, BaseTunerLayer)]
    if layers and not any(layer.active_adapters and not layer.disable_adapters for layer in layers):
        raise ValueError("pipe has adapters that are all switched off, but they must act or be removed")
    if isinstance(lora, ImageLoras) and len(lora) != batch_size:
        raise ValueError(f"lora holds the LoRAs of {len(lora)} images, but must have {batch_size}, one per image")


def image_generators(generator: torch.Generator | Sequence[torch.Generator] | None, batch_size: int) -> list[torch.Generator]:
    """One generator per image: those given, or new ones whose seeds are drawn from the one given (None: one with seed 0)."""
    check_generator(generator, batch_size)
    if isinstance(generator, Sequence):
        return list(generator)
    one = generator or torch.Generator().manual_seed(0)
    seeds = [torch.randint(2**62, (), generator=one, device=one.device) for _ in range(batch_size)]
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]


def invert(pipe: "StableDiffusionPipeline", images: Tensor, embeds: Tensor, settings: Drag, lora: ImageLoras | None) -> Tensor:
    """DDIM inversion at guidance 1, with each image's LoRA, to `settings.steps_up`: z_t, (B, 4, h, w)."""
    z0 = encode_images(pipe, images)
    with acting(lora, pipe.unet, settings.lora_strength):
        steps = settings.num_inference_steps
        return ddim_invert(pipe, z0, embeds, num_inference_steps=steps, progress=lambda every: every[: settings.steps_up])[-1]


@torch.no_grad()
def denoise(
    pipe: "StableDiffusionPipeline", latents: Sequence[Tensor], embeds: Tensor, settings: Drag, lora: ImageLoras | None = None
) -> tuple[Tensor, ...]:
    """Sample down from `settings.steps_up` at guidance 1; all but the first of `latents` look at the first one's keys and values.

    Args:
        latents: the original z_t, and any number of others, each (B, 4, h, w).

    Returns:
        z_0 of each.
    """
    many, steps = len(latents), settings.num_inference_steps

    def original(site: Site, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k, v = (torch.cat([part.chunk(many)[0]] * many) for part in (k, v))
        return q, k, v

    fine = fine_self(pipe.unet)
    with ExitStack() as inside:
        inside.enter_context(acting(lora, pipe.unet, settings.lora_strength))
        if fine:
            inside.enter_context(attention_hooks(fine, change=original))
        arguments = dict(guidance_scale=1.0, num_inference_steps=steps, first_step=steps - settings.steps_up, inverted=True)
        return sample(pipe, torch.cat(list(latents)), embeds.repeat(many, 1, 1), **arguments).chunk(many)
