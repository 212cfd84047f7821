"""What a training minimises: an objective owns its modules and data, turns example indices into a loss, and exports what it trained.

Two objectives share the loop of `smoothlib.training`: the autoencoder (reconstruction, LPIPS, KL) and denoising (text-to-image diffusion).
"""

from .autoencoder import AutoencoderObjective
from .base import Objective
from .denoising import DenoisingObjective

OBJECTIVES = {"autoencoder": AutoencoderObjective, "denoising": DenoisingObjective}

__all__ = ["OBJECTIVES", "AutoencoderObjective", "DenoisingObjective", "Objective"]
