"""The networks as the reader's browser runs them: the UNet with the strength of its LoRA as an input, encoder, decoder, text encoder.

They compute what `smoothlib` computes with the same weights; only the way in differs. The UNet takes a scale per image, so that one file
and one call serve the base model (0), Smooth Diffusion (1) and everything between and beyond.
"""

import copy
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


class ScaledProjection(nn.Module):
    """W x + s (alpha / rank) B A x (Eq. 6), with a scale s per image that is set from outside before each call."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        (name,) = layer.active_adapters
        self.base, self.down, self.up = layer.base_layer, layer.lora_A[name], layer.lora_B[name]  # linear layers or convolutions
        self.strength = float(layer.scaling[name])
        self.scale: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x (B, L, D) to (B, L, D'), or (B, C, h, w) to (B, C', h', w')."""
        scale = self.strength * self.scale.reshape(-1, *[1] * (x.ndim - 1))
        return self.base(x) + scale * self.up(self.down(x))


class ScaledUNet(nn.Module):
    """epsilon(x_t, t, xi, s) of a pipeline whose UNet carries one LoRA.

    Args of a call: latents (B, 4, h, w); timesteps (B,) float; embeddings (B, L, D); scales (B,), 0 for the base model.

    Raises:
        ValueError: the pipeline carries no LoRA.
    """

    def __init__(self, pipe: "StableDiffusionPipeline") -> None:
        super().__init__()
        from diffusers.models.attention_processor import AttnProcessor
        from peft.tuners.tuners_utils import BaseTunerLayer

        self.unet = copy.deepcopy(pipe.unet).eval().requires_grad_(False)
        names = [name for name, module in self.unet.named_modules() if isinstance(module, BaseTunerLayer)]
        if not names:
            raise ValueError("pipe carries no adapter, but must carry a Smooth-LoRA: load one with load_adapter")
        self.projections = []
        for name in names:
            parent, _, leaf = name.rpartition(".")
            layer = ScaledProjection(self.unet.get_submodule(name))
            setattr(self.unet.get_submodule(parent), leaf, layer)
            self.projections.append(layer)
        self.unet.set_attn_processor(AttnProcessor())

    def forward(self, latents: Tensor, timesteps: Tensor, embeddings: Tensor, scales: Tensor) -> Tensor:
        for layer in self.projections:
            layer.scale = scales
        return self.unet(latents, timesteps, embeddings, return_dict=False)[0]


def _plain_vae(pipe: "StableDiffusionPipeline") -> nn.Module:
    """A copy of the autoencoder whose attention the exporter can trace."""
    from diffusers.models.attention_processor import AttnProcessor

    vae = copy.deepcopy(pipe.vae).eval().requires_grad_(False)
    vae.set_attn_processor(AttnProcessor())
    return vae


class Decoder(nn.Module):
    """x0 = D(z0) (Eq. 16): latents (B, 4, h, w) to images (B, 3, H, W) in [-1, 1]."""

    def __init__(self, pipe: "StableDiffusionPipeline") -> None:
        super().__init__()
        vae = _plain_vae(pipe)
        self.post, self.decoder, self.factor = vae.post_quant_conv, vae.decoder, float(vae.config.scaling_factor)

    def forward(self, latents: Tensor) -> Tensor:
        return self.decoder(self.post(latents / self.factor)).clamp(-1, 1)


class Encoder(nn.Module):
    """z0 = E(x0) (Eq. 16), the posterior's mode: images (B, 3, H, W) in [-1, 1] to latents (B, 4, h, w)."""

    def __init__(self, pipe: "StableDiffusionPipeline") -> None:
        super().__init__()
        vae = _plain_vae(pipe)
        self.encoder, self.after, self.factor = vae.encoder, vae.quant_conv, float(vae.config.scaling_factor)

    def forward(self, images: Tensor) -> Tensor:
        return self.after(self.encoder(images)).chunk(2, dim=1)[0] * self.factor


class TextEncoder(nn.Module):
    """xi of Eq. 5: token ids (B, L) int32 to embeddings (B, L, D)."""

    def __init__(self, pipe: "StableDiffusionPipeline") -> None:
        super().__init__()
        self.encoder = copy.deepcopy(pipe.text_encoder).eval().requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.encoder(ids.long())[0]
