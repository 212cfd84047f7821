"""What a training minimises: an objective owns its modules and data, turns example indices into a loss, and exports what it trained.

Four objectives share the loop of `companion.training.loop`: the autoencoder (reconstruction, LPIPS, KL), denoising (text-to-image
diffusion, with or without the regularizer), and those of two judges: the contrastive one of the scene dual encoder, and the attributes of
the scene judge.
"""

from .attributes import AttributesObjective
from .autoencoder import AutoencoderObjective
from .base import Objective
from .contrastive import ContrastiveObjective
from .denoising import DenoisingObjective

OBJECTIVES = {
    "attributes": AttributesObjective,
    "autoencoder": AutoencoderObjective,
    "contrastive": ContrastiveObjective,
    "denoising": DenoisingObjective,
}

__all__ = ["OBJECTIVES", "AttributesObjective", "AutoencoderObjective", "ContrastiveObjective", "DenoisingObjective", "Objective"]
