"""The second stage: text-to-image diffusion on the latents, from scratch or as a fine-tune."""

import copy
import hashlib
import json
from pathlib import Path

import safetensors.torch
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor

from .. import mini, paths
from ..datasets import load_scenes
from ..models import load_pipeline
from ..runs import atomic_write
from .base import Objective


@torch.no_grad()
def encode_training_images(vae: AutoencoderKL, split: str = "train") -> tuple[Tensor, Tensor]:
    """Posterior means and standard deviations of the split's images, then of their mirror images, each (2N, 4, h, w) in half precision.

    Two minutes' work for the training split, kept in runs/latents under a hash of the autoencoder's weights and the images.
    """
    scenes = load_scenes(split)
    digest = hashlib.sha256(scenes.images.tobytes())
    digest.update(json.dumps({k: v for k, v in vae.config.items() if k != "_name_or_path"}, sort_keys=True, default=str).encode())
    for name, tensor in sorted(vae.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    file = paths.RUNS / "latents" / f"{digest.hexdigest()[:32]}.safetensors"
    if not file.exists():
        images = torch.from_numpy(scenes.images).permute(0, 3, 1, 2)
        batches = [batch.flip(-1) if mirrored else batch for mirrored in (False, True) for batch in images.split(100)]
        posteriors = [vae.encode(batch.float() / 127.5 - 1).latent_dist for batch in batches]
        moments = {name: torch.cat([getattr(p, name).half() for p in posteriors]).contiguous() for name in ("mean", "std")}
        atomic_write(file, safetensors.torch.save(moments))
    moments = safetensors.torch.load_file(file)
    return moments["mean"], moments["std"]


def forget_origin(folder: Path) -> None:
    """Remove the path that diffusers writes into the configuration of a module that was loaded from a folder."""
    for file in folder.glob("*/config.json"):
        config = json.loads(file.read_text())
        if config.pop("_name_or_path", None) is not None:
            atomic_write(file, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


class DenoisingObjective(Objective):
    """Text-to-image diffusion: E || eps - eps_theta(x_t, t, c) ||^2, weighted per timestep by min(SNR, gamma) / SNR.

    The weight (Hang et al. 2023, https://arxiv.org/abs/2303.09556) keeps the nearly noise-free timesteps from dominating; gamma 0 turns it
    off. Captions are dropped with probability `caption_dropout` so that guidance works.

    `trainable` is what learns: `all` trains UNet and text encoder, from scratch or from those of the pipeline `start_from`; `unet`
    fine-tunes every weight of the UNet of `pipeline`, and `lora` a LoRA of `rank` on its attention projections (PEFT's, gaussian
    initialisation), both with the text encoder frozen.

    Raises:
        ValueError: `trainable` or `rank` is not one of these.
    """

    def __init__(
        self,
        pipeline: str = "mini",
        trainable: str = "all",
        start_from: str | None = None,
        rank: int = 8,
        caption_dropout: float = 0.1,
        min_snr_gamma: float = 5.0,
        split: str = "train",
    ):
        super().__init__()
        if trainable not in ("all", "unet", "lora"):
            raise ValueError(f"trainable must be all, unet or lora, got {trainable!r}")
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        vae = AutoencoderKL.from_pretrained(paths.MODELS / pipeline / "vae", dtype=torch.float32).eval()
        self._vae = [vae]  # in a list: saved with the pipeline, neither trained nor checkpointed
        self.scaling_factor = vae.config.scaling_factor
        self.means, self.stds = encode_training_images(vae, split)
        self.trainable = trainable
        self.tokenizer, self.scheduler = mini.build_tokenizer(), mini.build_scheduler()
        if trainable == "all":
            self.text_encoder = mini.build_text_encoder(len(self.tokenizer))
            self.unet = mini.build_unet()
            if start_from:
                earlier = load_pipeline(start_from)
                self.tokenizer = earlier.tokenizer
                self.text_encoder.load_state_dict(earlier.text_encoder.state_dict())
                self.unet.load_state_dict(earlier.unet.state_dict())
        else:
            self._load_frozen(pipeline, rank)
        self.caption_dropout, self.min_snr_gamma = caption_dropout, min_snr_gamma
        self.tokens = self._tokenise(load_scenes(split).captions)
        self.empty = self._tokenise([""])
        self.alpha_bar = self.scheduler.alphas_cumprod

    def _load_frozen(self, pipeline: str, rank: int) -> None:
        pipe = load_pipeline(pipeline)
        self.tokenizer, self.scheduler = pipe.tokenizer, pipe.scheduler
        self.text_encoder, self.unet = pipe.text_encoder.requires_grad_(False), pipe.unet
        self.unet.requires_grad_(self.trainable == "unet")
        if self.trainable == "lora":
            targets = ["to_q", "to_k", "to_v", "to_out.0"]
            self.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=targets))

    def _tokenise(self, captions: list[str]) -> Tensor:
        options = dict(padding="max_length", max_length=self.tokenizer.model_max_length, truncation=True, return_tensors="pt")
        return self.tokenizer(captions, **options).input_ids

    def __len__(self) -> int:
        return len(self.tokens)

    def identity(self) -> str:
        """Hash of the latents' moments and the captions' tokens."""
        digest = hashlib.sha256()
        for tensor in (self.means, self.stds, self.tokens):
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()

    def forward(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        indices, batch = indices.cpu(), len(indices)
        rows = indices + len(self) * (torch.rand(batch, generator=generator) < 0.5)  # the mirror images follow the originals
        shape = (batch, *self.means.shape[1:])
        z0 = (self.means[rows].float() + self.stds[rows].float() * torch.randn(shape, generator=generator)) * self.scaling_factor
        dropped = torch.rand(batch, 1, generator=generator) < self.caption_dropout
        tokens = torch.where(dropped, self.empty, self.tokens[indices])
        eps = torch.randn(shape, generator=generator)
        t = torch.randint(len(self.alpha_bar), (batch,), generator=generator)
        alpha_bar = self.alpha_bar[t].view(-1, 1, 1, 1)
        x_t = alpha_bar.sqrt() * z0 + (1 - alpha_bar).sqrt() * eps
        device = self.unet.device
        predicted = self.unet(x_t.to(device), t.to(device), self.text_encoder(tokens.to(device))[0]).sample
        error = (predicted.float().cpu() - eps).square().mean(dim=(1, 2, 3))  # (B,)
        weight = torch.ones(batch)
        if self.min_snr_gamma:
            snr = (alpha_bar / (1 - alpha_bar)).flatten()
            weight = snr.clamp(max=self.min_snr_gamma) / snr
        return (weight * error).mean(), {"mse": error.mean()}

    def export(self, folder: Path) -> None:
        """Save the whole pipeline, or for `lora` diffusers' LoRA file (`pipe.load_lora_weights(folder)` reads it).

        The UNet is stored in half precision, which halves the largest file; diffusers loads it as float32. The text encoder stays in
        float32, because transformers would keep it in the precision of its file.
        """
        if self.trainable == "lora":
            layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(self.unet))
            StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers, safe_serialization=True)
            return
        pipe = StableDiffusionPipeline(
            vae=self._vae[0],
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=copy.deepcopy(self.unet).half(),
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipe.save_pretrained(folder)
        forget_origin(folder)
