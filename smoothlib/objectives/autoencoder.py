"""The first stage: an autoencoder whose latents the diffusion model works on."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from .. import mini
from ..datasets import load_scenes
from ..metrics import LearnedPerceptualImagePatchSimilarity
from ..models import load_vae
from ..pixels import from_uint8
from .base import Draws, Objective


def _crop(images: Tensor, size: int, corners: Tensor) -> Tensor:
    """The square of each image whose upper left corner is (y, x) = `corners` (B, 2), in latent cells of 4 pixels: (B, 3, size, size)."""
    pixels = (4 * corners).tolist()
    return torch.stack([image[:, y : y + size, x : x + size] for image, (y, x) in zip(images, pixels, strict=True)])


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
            self.vae.load_state_dict(load_vae(start_from).state_dict())
        self.images = torch.from_numpy(load_scenes("train").images).permute(0, 3, 1, 2).contiguous()  # (N, 3, 64, 64) uint8
        # held in a list: a frozen judge, not a part of what is trained or saved
        self._judge = [LearnedPerceptualImagePatchSimilarity().network.eval().requires_grad_(False)]

    def __len__(self) -> int:
        return len(self.images)

    def identity(self) -> str:
        """Hash of the training images."""
        return hashlib.sha256(self.images.numpy().tobytes()).hexdigest()

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """Mirroring (captions name no side), the corner of the crop in latent cells, and the posterior's noise."""
        side = (self.crop or mini.IMAGE_SIZE) // 4
        return {
            "mirrored": torch.rand(count, generator=generator) < 0.5,
            "corners": torch.randint(mini.IMAGE_SIZE // 4 - side + 1, (count, 2), generator=generator),
            "posterior_noise": torch.randn(count, 4, side, side, generator=generator),
        }

    def forward(self, indices: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        x = from_uint8(self.images[indices.cpu()])
        x = torch.where(draws["mirrored"].cpu().view(-1, 1, 1, 1), x.flip(-1), x)
        x = _crop(x, self.crop or mini.IMAGE_SIZE, draws["corners"])
        x = x.to(self.vae.device)
        posterior = self.vae.encode(x).latent_dist
        z = posterior.mean + posterior.std * draws["posterior_noise"].to(x.device)
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
        latents = [self.vae.encode(from_uint8(self.images[i].to(self.vae.device))).latent_dist.mode() for i in chosen.split(50)]
        self.vae.register_to_config(scaling_factor=round(1 / torch.cat(latents).std().item(), 5))
        self.vae.save_pretrained(folder / "vae")
