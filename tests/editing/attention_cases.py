"""Two pipelines, with images and prompts for each, on which the methods that steer attention are tested."""

from dataclasses import dataclass

import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor2_0
from tiny import IMAGE_SIZE, noise, smooth_tiny_pipeline

from companion.weights.pipelines import load_pipeline
from smoothlib.editing.attention import sites

STEPS, GUIDANCE = 5, 3.0


@dataclass(frozen=True)
class Case:
    """Images (2, 3, H, W); the first pair replaces a word, the second adds one."""

    pipe: StableDiffusionPipeline
    images: torch.Tensor
    source: tuple[str, str]
    target: tuple[str, str]

    def prompts(self):
        return list(self.source), list(self.target)


def mini_case(**arguments):
    source, target = ("a photo of a red sofa", "a photo of a car"), ("a photo of a tiger sofa", "a photo of a blue car at night")
    return Case(load_pipeline("mini", **arguments), images(64), source, target)


def tiny_case():
    return Case(smooth_tiny_pipeline(), images(IMAGE_SIZE), ("a red b", "c d"), ("a xy b", "c red d"))


def images(size):
    """Smooth random pictures in [-1, 1]."""
    coarse = noise(2, 3, 4, 4, seed=3).clamp(-2, 2) / 2
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(-1, 1)


def nothing_is_left(unet):
    """All attentions have PyTorch's fused processor, and no module has a forward hook."""
    plain = all(type(site.module.processor) is AttnProcessor2_0 for site in sites(unet))
    return plain and not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())


def interrupted(steps):
    """A progress that fails in the middle of sampling; inversion passes."""
    rounds = []

    def progress(indices):
        rounds.append(1)
        for i in indices:
            if len(rounds) == 2 and i == steps // 2:
                raise KeyboardInterrupt
            yield i

    return progress
