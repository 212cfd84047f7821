"""The page of the embedded model says how large it is, and how large Stable Diffusion is: counted, not remembered."""

import json

import diffusers
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from companion.base import paths
from companion.weights.pipelines import load_pipeline

# Stable Diffusion 1.5's shapes, as its configuration files have them; what is not named has diffusers' and transformers' default
UNET = dict(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
CHANNELS = (128, 256, 512, 512)
VAE = dict(
    block_out_channels=CHANNELS,
    down_block_types=["DownEncoderBlock2D"] * 4,
    up_block_types=["UpDecoderBlock2D"] * 4,
    latent_channels=4,
    layers_per_block=2,
)
TEXT = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, vocab_size=49408)


def millions(module):
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def test_the_sizes_on_the_page_are_the_models():
    pipe = load_pipeline("mini")
    with torch.device("meta"):
        there = [diffusers.UNet2DConditionModel(**UNET), CLIPTextModel(CLIPTextConfig(**TEXT)), diffusers.AutoencoderKL(**VAE)]
    rows = [
        f"| {name} | {millions(here):.1f} | {millions(other):.0f} |"
        for name, here, other in zip(("UNet", "text encoder", "autoencoder"), (pipe.unet, pipe.text_encoder, pipe.vae), there, strict=True)
    ]
    cells = json.loads((paths.ROOT / "notebooks" / "train_base.ipynb").read_text(encoding="utf-8"))["cells"]
    assert "\n".join(rows) in "".join("".join(cell["source"]) for cell in cells)
