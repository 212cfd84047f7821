"""Stable Diffusion 1.5's architecture with random weights: a folder laid out as on the hub, old names of weights included, or in memory."""

import json
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from companion.base.files import atomic_write

from .tokenizer import LENGTH, write_tokenizer

OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}  # of the autoencoder's attention, as on the hub
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.6.0",
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


@dataclass(frozen=True)
class Width:
    """The numbers that make the architecture wide or slim; what is not here is the same for both."""

    unet: tuple[int, ...]
    vae: tuple[int, ...]
    groups: int
    heads: int
    text: int
    text_layers: int
    text_heads: int
    tokens: int
    size: int  # of the images, in pixels


WIDTHS = {
    "full": Width((320, 640, 1280, 1280), (128, 256, 512, 512), 32, 8, 768, 12, 12, 49408, 512),
    "slim": Width((8, 8, 16, 16), (4, 4, 8, 8), 4, 2, 16, 2, 2, 1024, 128),
}


def write_pipeline(folder: Path, width: str = "full", *, words: Iterable[str] = (), seed: int = 0, size: int | None = None) -> None:
    """Write the folder: weights by PyTorch's and the libraries' own initialisation after `seed`, in float32.

    Args:
        width: "full", Stable Diffusion 1.5's 1,066,235,307 parameters, 4.3 GB; "slim", 0.2 million, for images of 128 pixels.
        words: those that the tokenizer knows whole.
        size: side of the images in pixels, a multiple of 64; None: 512, slim 128.
    """
    chosen = WIDTHS[width]
    tokens = write_tokenizer(folder / "tokenizer", words, chosen.tokens, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _saved(_unet(chosen, (size or chosen.size) // 8), folder / "unet")
        _saved(_vae(chosen, size or chosen.size), folder / "vae")
        _saved(_text_encoder(chosen, tokens), folder / "text_encoder")
    _with_old_names(folder / "vae" / "diffusion_pytorch_model.safetensors")
    _with_positions(folder / "text_encoder" / "model.safetensors")
    atomic_write(folder / "scheduler" / "scheduler_config.json", json.dumps(SCHEDULER, indent=2).encode())
    atomic_write(folder / "model_index.json", json.dumps(INDEX, indent=2).encode())


def build_pipeline(width: str = "full", *, device: torch.device | str = "cpu", seed: int = 0) -> StableDiffusionPipeline:
    """The same architecture in memory, made where it computes: seconds on a GPU, where a folder takes minutes to write and to read.

    With Stable Diffusion's DDIM scheduler, in evaluation mode, float32, no gradient wanted. Its tokenizer is the slim one, of which the
    embeddings of the full width have rows to spare. The weights depend on the kind of device, too.
    """
    chosen = WIDTHS[width]
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder), (), WIDTHS["slim"].tokens, seed)
        tokenizer = CLIPTokenizer.from_pretrained(folder)
    device = torch.device(device)
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else None), device:
        torch.manual_seed(seed)
        unet, vae = _unet(chosen, chosen.size // 8), _vae(chosen, chosen.size)
        text_encoder = _text_encoder(chosen, chosen.tokens)
    for module in (unet, vae, text_encoder):
        module.eval().requires_grad_(False)
    kept = {name: value for name, value in SCHEDULER.items() if not name.startswith(("_", "skip_prk_steps"))}  # the rest is PNDM's alone
    scheduler = DDIMScheduler.from_config(kept)
    parts = dict(unet=unet, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler)
    parts |= dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    return StableDiffusionPipeline(**parts).to(device)


def _saved(module: nn.Module, folder: Path) -> None:
    module.save_pretrained(folder)


def _unet(width: Width, side: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=side,
        block_out_channels=width.unet,
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=width.text,
        attention_head_dim=width.heads,
        norm_num_groups=width.groups,
    )


def _vae(width: Width, side: int) -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=side,
        block_out_channels=width.vae,
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=width.groups,
        scaling_factor=0.18215,
    )


def _text_encoder(width: Width, tokens: int) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=tokens,
        hidden_size=width.text,
        intermediate_size=4 * width.text,
        projection_dim=width.text,
        num_hidden_layers=width.text_layers,
        num_attention_heads=width.text_heads,
        max_position_embeddings=LENGTH,
        hidden_act="quick_gelu",
        bos_token_id=tokens - 2,
        eos_token_id=tokens - 1,
        pad_token_id=tokens - 1,
    )
    return CLIPTextModel(config)


def _with_old_names(file: Path) -> None:
    """The autoencoder's attention as diffusers called it in 2022: what is on the hub."""
    pattern = re.compile(rf"(attentions\.\d+)\.({'|'.join(map(re.escape, OLD_NAMES))})\.")
    weights = {pattern.sub(lambda found: f"{found[1]}.{OLD_NAMES[found[2]]}.", name): tensor for name, tensor in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})


def _with_positions(file: Path) -> None:
    """The text encoder's weights with the buffer of positions that transformers stored until 4.31, under names that begin as then."""
    weights = {name if name.startswith("text_model.") else f"text_model.{name}": tensor for name, tensor in load_file(file).items()}
    weights["text_model.embeddings.position_ids"] = torch.arange(LENGTH)[None]
    save_file(weights, file, metadata={"format": "pt"})
