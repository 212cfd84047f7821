"""What a training minimises: an objective owns its modules and data, turns example indices into a loss, and exports what it trained.

Three objectives share the loop of `companion.training.loop`: the autoencoder (reconstruction, LPIPS, KL), denoising (text-to-image
diffusion, with or without the regularizer), and the contrastive one of the scene dual encoder, a judge.
"""

from .autoencoder import AutoencoderObjective
from .base import Objective
from .contrastive import ContrastiveObjective
from .denoising import DenoisingObjective

OBJECTIVES = {"autoencoder": AutoencoderObjective, "contrastive": ContrastiveObjective, "denoising": DenoisingObjective}

__all__ = ["OBJECTIVES", "AutoencoderObjective", "ContrastiveObjective", "DenoisingObjective", "Objective"]
