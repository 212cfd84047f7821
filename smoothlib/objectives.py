"""What a training minimises: an objective owns its modules and data, turns example indices into a loss, and exports what it trained.

Two objectives share the loop of `smoothlib.training`: the autoencoder (reconstruction, LPIPS, KL) and denoising (text-to-image diffusion).
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn

from . import mini, paths
from .datasets import load_scenes
from .metrics import LearnedPerceptualImagePatchSimilarity


class Objective(nn.Module):
    """Base class: `forward(indices, generator) -> (loss, logged numbers)` over `len(objective)` training examples."""

    def __len__(self) -> int:
        raise NotImplementedError

    def forward(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss of the examples `indices` (B,), all randomness from `generator`, and numbers for the log."""
        raise NotImplementedError

    def export(self, folder: Path) -> None:
        """Write the trained modules in diffusers' format."""
        raise NotImplementedError


def _flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image with probability one half; captions name no side."""
    flip = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(flip.view(-1, 1, 1, 1), images.flip(-1), images)


def _crop(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """A random square of each image, (B, 3, size, size), its corner on the latent grid of 4 pixels."""
    corners = 4 * torch.randint((images.shape[-1] - size) // 4 + 1, (len(images), 2), generator=generator)
    return torch.stack([image[:, y : y + size, x : x + size] for image, (y, x) in zip(images, corners.tolist(), strict=True)])


class AutoencoderObjective(Objective):
    """|x - D(E(x))| + lpips_weight LPIPS + kl_weight KL, as latent diffusion's first stage without the adversarial term.

    The KL term is the mean over latent values; it keeps the latents near unit scale without tying them to the prior. `crop` > 0 trains on random
    squares of that size: as many pixels from four times as many images in a step of equal cost (0: whole images). `start_from`: a pipeline
    folder below data/models whose autoencoder training goes on from.
    """

    def __init__(self, lpips_weight: float = 0.3, kl_weight: float = 1e-4, crop: int = 0, start_from: str | None = None):
        super().__init__()
        if crop % 4 or not (crop == 0 or 32 <= crop <= mini.IMAGE_SIZE):
            raise ValueError(f"crop must be 0 or a multiple of 4 in [32, {mini.IMAGE_SIZE}], got {crop}")
        self.lpips_weight, self.kl_weight, self.crop = lpips_weight, kl_weight, crop
        self.vae = mini.build_vae()
        if start_from:
            self.vae.load_state_dict(AutoencoderKL.from_pretrained(paths.MODELS / start_from / "vae", torch_dtype=torch.float32).state_dict())
        self.images = torch.from_numpy(load_scenes("train").images).permute(0, 3, 1, 2).contiguous()  # (N, 3, 64, 64) uint8
        # held in a list: a frozen judge, not a part of what is trained or saved
        self._judge = [LearnedPerceptualImagePatchSimilarity().network.eval().requires_grad_(False)]

    def __len__(self) -> int:
        return len(self.images)

    def forward(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        x = _flip(self.images[indices].float() / 127.5 - 1, generator)
        if self.crop:
            x = _crop(x, self.crop, generator)
        posterior = self.vae.encode(x).latent_dist
        z = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator)
        y = self.vae.decode(z).sample
        reconstruction = (x - y).abs().mean()
        perceptual = self._judge[0](x, y).mean()
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        loss = reconstruction + self.lpips_weight * perceptual + self.kl_weight * kl
        psnr = (-10 * torch.log10((x - y).float().square().mean(dim=(1, 2, 3)) / 4)).mean()
        return loss, {"l1": reconstruction, "lpips": perceptual, "kl": kl, "psnr": psnr}

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """Measure `scaling_factor` = 1 / std of the latents of 2,000 training images and save the autoencoder."""
        chosen = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(0))[:2000]
        latents = [self.vae.encode(self.images[i].float() / 127.5 - 1).latent_dist.mode() for i in chosen.split(50)]
        self.vae.register_to_config(scaling_factor=round(1 / torch.cat(latents).std().item(), 5))
        self.vae.save_pretrained(folder / "vae")


@torch.no_grad()
def encode_training_images(vae: nn.Module, split: str = "train") -> tuple[Tensor, Tensor]:
    """Posterior means and standard deviations of the split's images and their mirror images, each (2N, 4, h, w) in half precision."""
    images = torch.from_numpy(load_scenes(split).images).permute(0, 3, 1, 2)
    means, stds = [], []
    for mirrored in (False, True):
        for batch in images.split(100):
            posterior = vae.encode((batch.flip(-1) if mirrored else batch).float() / 127.5 - 1).latent_dist
            means.append(posterior.mean.half())
            stds.append(posterior.std.half())
    return torch.cat(means), torch.cat(stds)


class DenoisingObjective(Objective):
    """Text-to-image diffusion: E || eps - eps_theta(x_t, t, c) ||^2, weighted per timestep by min(SNR, gamma) / SNR.

    The weight (Hang et al. 2023, https://arxiv.org/abs/2303.09556) keeps the nearly noise-free timesteps from dominating; gamma 0 turns it
    off. Captions are dropped with probability `caption_dropout` so that guidance works.

    `trainable` is what learns: `all` starts UNet and text encoder from scratch; `unet` fine-tunes every weight of the UNet of `pipeline`, and
    `lora` a LoRA of `rank` on its attention projections (PEFT's, gaussian initialisation), both with the text encoder frozen.

    Raises:
        ValueError: `trainable` or `rank` is not one of these.
    """

    def __init__(
        self,
        pipeline: str = "mini",
        trainable: str = "all",
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
        vae = AutoencoderKL.from_pretrained(paths.MODELS / pipeline / "vae", torch_dtype=torch.float32).eval()
        self._vae = [vae]  # in a list: saved with the pipeline, neither trained nor checkpointed
        self.scaling_factor = vae.config.scaling_factor
        self.means, self.stds = encode_training_images(vae, split)
        self.trainable = trainable
        self.tokenizer, self.scheduler = mini.build_tokenizer(), mini.build_scheduler()
        if trainable == "all":
            self.text_encoder = mini.build_text_encoder(len(self.tokenizer))
            self.unet = mini.build_unet()
        else:
            self._load_frozen(pipeline, rank)
        self.caption_dropout, self.min_snr_gamma = caption_dropout, min_snr_gamma
        self.tokens = self._tokenise(load_scenes(split).captions)
        self.empty = self._tokenise([""])
        self.alpha_bar = self.scheduler.alphas_cumprod

    def _load_frozen(self, pipeline: str, rank: int) -> None:
        from .models import load_pipeline

        pipe = load_pipeline(pipeline)
        self.text_encoder, self.unet = pipe.text_encoder.requires_grad_(False), pipe.unet
        self.unet.requires_grad_(self.trainable == "unet")
        if self.trainable == "lora":
            targets = ["to_q", "to_k", "to_v", "to_out.0"]
            self.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=targets))

    def _tokenise(self, captions: list[str]) -> Tensor:
        options = dict(padding="max_length", max_length=mini.MAX_TOKENS, truncation=True, return_tensors="pt")
        return self.tokenizer(captions, **options).input_ids

    def __len__(self) -> int:
        return len(self.tokens)

    def forward(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        batch = len(indices)
        rows = indices + len(self) * (torch.rand(batch, generator=generator) < 0.5)  # the mirror images follow the originals
        shape = (batch, *self.means.shape[1:])
        z0 = (self.means[rows].float() + self.stds[rows].float() * torch.randn(shape, generator=generator)) * self.scaling_factor
        dropped = torch.rand(batch, 1, generator=generator) < self.caption_dropout
        context = self.text_encoder(torch.where(dropped, self.empty, self.tokens[indices]))[0]
        eps = torch.randn(shape, generator=generator)
        t = torch.randint(len(self.alpha_bar), (batch,), generator=generator)
        alpha_bar = self.alpha_bar[t].view(-1, 1, 1, 1)
        x_t = alpha_bar.sqrt() * z0 + (1 - alpha_bar).sqrt() * eps
        error = (self.unet(x_t, t, context).sample.float() - eps).square().mean(dim=(1, 2, 3))  # (B,)
        weight = torch.ones(batch)
        if self.min_snr_gamma:
            snr = (alpha_bar / (1 - alpha_bar)).flatten()
            weight = snr.clamp(max=self.min_snr_gamma) / snr
        return (weight * error).mean(), {"mse": error.mean()}

    def export(self, folder: Path) -> None:
        """Save the whole pipeline, or for `lora` diffusers' LoRA file (`pipe.load_lora_weights(folder)` reads it)."""
        if self.trainable == "lora":
            layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(self.unet))
            StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers, safe_serialization=True)
            return
        pipe = StableDiffusionPipeline(
            vae=self._vae[0],
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipe.save_pretrained(folder)


OBJECTIVES = {"autoencoder": AutoencoderObjective, "denoising": DenoisingObjective}
