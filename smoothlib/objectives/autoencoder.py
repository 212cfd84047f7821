"""The first stage: an autoencoder whose latents the diffusion model works on."""

import hashlib
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from .. import mini, paths
from ..datasets import load_scenes
from ..metrics import LearnedPerceptualImagePatchSimilarity
from .base import Objective


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

    The KL term is the mean over latent values; it keeps the latents near unit scale without tying them to the prior. `crop` > 0 trains on
    random squares of that size: as many pixels from more images in a step of equal cost (0: whole images). `start_from` names the
    pipeline in data/models whose autoencoder is trained further.
    """

    def __init__(self, lpips_weight: float = 0.3, kl_weight: float = 1e-4, crop: int = 0, start_from: str | None = None):
        super().__init__()
        if crop % 4 or not (crop == 0 or 32 <= crop <= mini.IMAGE_SIZE):
            raise ValueError(f"crop must be 0 or a multiple of 4 in [32, {mini.IMAGE_SIZE}], got {crop}")
        self.lpips_weight, self.kl_weight, self.crop = lpips_weight, kl_weight, crop
        self.vae = mini.build_vae()
        if start_from:
            self.vae.load_state_dict(AutoencoderKL.from_pretrained(paths.MODELS / start_from / "vae", dtype=torch.float32).state_dict())
        self.images = torch.from_numpy(load_scenes("train").images).permute(0, 3, 1, 2).contiguous()  # (N, 3, 64, 64) uint8
        # held in a list: a frozen judge, not a part of what is trained or saved
        self._judge = [LearnedPerceptualImagePatchSimilarity().network.eval().requires_grad_(False)]

    def __len__(self) -> int:
        return len(self.images)

    def identity(self) -> str:
        """Hash of the training images."""
        return hashlib.sha256(self.images.numpy().tobytes()).hexdigest()

    def forward(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        x = _flip(self.images[indices.cpu()].float() / 127.5 - 1, generator)
        if self.crop:
            x = _crop(x, self.crop, generator)
        x = x.to(self.vae.device)
        posterior = self.vae.encode(x).latent_dist
        z = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator).to(x.device)
        y = self.vae.decode(z).sample
        reconstruction = (x - y).abs().mean()
        perceptual = self._judge[0].to(x.device)(x, y).mean()
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        loss = reconstruction + self.lpips_weight * perceptual + self.kl_weight * kl
        psnr = (-10 * torch.log10((x - y).float().square().mean(dim=(1, 2, 3)) / 4)).mean()
        return loss, {"l1": reconstruction, "lpips": perceptual, "kl": kl, "psnr": psnr}

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """Measure `scaling_factor` = 1 / std of the latents of 2,000 training images and save the autoencoder."""
        chosen = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(0))[:2000]
        latents = [self.vae.encode(self.images[i].to(self.vae.device).float() / 127.5 - 1).latent_dist.mode() for i in chosen.split(50)]
        self.vae.register_to_config(scaling_factor=round(1 / torch.cat(latents).std().item(), 5))
        self.vae.save_pretrained(folder / "vae")
