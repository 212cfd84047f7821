"""The denoising objective on the smallest split, and its loss."""

import torch

from companion.training.objectives import DenoisingObjective

SPLIT = "compositional"  # the smallest
LORA = dict(trainable="lora", rank=2, caption_dropout=0.0, min_snr_gamma=0.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def denoising(runs, **options):
    torch.manual_seed(0)
    return DenoisingObjective(**{"split": SPLIT, **options})


def loss_of(objective, count=4, seed=0):
    """Loss and numbers of the first `count` examples."""
    return objective(torch.arange(count), objective.draw(count, generator(seed)))
