"""The first stage: an autoencoder whose latents the diffusion model works on."""

import hashlib
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from smoothlib.pixels import from_uint8

from ...data.load import load_scenes
from ...judges.networks import lpips_network
from ...weights.pipelines import DECODER, load_vae
from ...world import mini
from .base import Draws, Objective
from .discriminator import PatchDiscriminator, adversarial_losses
from .latents import encode_training_images

TRAINED_PARTS = ("all", "decoder")


def _crop(images: Tensor, size: int, corners: Tensor) -> Tensor:
    """The square of each image whose upper left corner is (y, x) = `corners` (B, 2), in latent cells of 4 pixels: (B, 3, size, size)."""
    pixels = (4 * corners).tolist()
    return torch.stack([image[:, y : y + size, x : x + size] for image, (y, x) in zip(images, pixels, strict=True)])


class AutoencoderObjective(Objective):
    """|x - D(E(x))| + lpips_weight LPIPS + kl_weight KL + adversarial_weight L_G: latent diffusion's first stage (Rombach et al. 2022).

    The KL term is the mean over latent values; it keeps the latents near unit scale without tying them to the prior. L_G is the hinge loss
    of a patch discriminator that is trained alongside, from step `adversarial_from` on.

    Args:
        lpips_weight, kl_weight, adversarial_weight: weights of the terms, >= 0; 0 leaves the discriminator away.
        adversarial_from: the step at which the discriminator joins, >= 0.
        crop: > 0 trains on random squares of that many pixels: as many pixels from more images in a step of equal cost. 0: whole images.
        start_from: the pipeline in data/models whose autoencoder is trained further.
        train: "all", or "decoder": the encoder stays as it is, so that the latents do, and with them every UNet and adapter that was
            trained on them. Latents are then encoded once, of whole images; there is no KL term.
        split: the scenes that it is trained on.

    Raises:
        ValueError: a weight is negative, `crop` does not fit, or "decoder" comes with `crop` or without `start_from`.
    """

    def __init__(
        self,
        lpips_weight: float = 0.3,
        kl_weight: float = 1e-4,
        crop: int = 0,
        start_from: str | None = None,
        train: str = "all",
        adversarial_weight: float = 0.0,
        adversarial_from: int = 0,
        split: str = "train",
    ):
        super().__init__()
        _check_options(crop, start_from, train, lpips_weight=lpips_weight, kl_weight=kl_weight, adversarial_weight=adversarial_weight)
        self.lpips_weight, self.kl_weight, self.crop, self.trained_part = lpips_weight, kl_weight, crop, train
        self.adversarial_weight, self.adversarial_from = adversarial_weight, adversarial_from
        self.vae = mini.build_vae()
        if start_from:
            earlier = load_vae(start_from)
            self.vae.load_state_dict(earlier.state_dict())
            self.vae.register_to_config(scaling_factor=earlier.config.scaling_factor)
        scenes = load_scenes(split)
        self.images = scenes.pixels.contiguous()  # (N, 3, 64, 64) uint8
        if train == "decoder":
            self.vae.encoder.requires_grad_(False)
            self.vae.quant_conv.requires_grad_(False)
            self.means, self.stds = encode_training_images(load_vae(start_from), scenes.images)  # (2N, 4, 16, 16): images, then mirrored
        # held in a list: a frozen judge, not a part of what is trained or saved
        self._judge = [lpips_network()]
        self.discriminator = PatchDiscriminator() if adversarial_weight else None

    def __len__(self) -> int:
        return len(self.images)

    def identity(self) -> str:
        """Hash of the training images, and of the frozen encoder's weights where it is frozen."""
        digest = hashlib.sha256(self.images.numpy().tobytes())
        if self.trained_part == "decoder":
            digest.update(encoder_hash(self.vae).encode())
        return digest.hexdigest()

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """Mirroring (captions name no side), the corner of the crop in latent cells, and the posterior's noise."""
        side = (self.crop or mini.IMAGE_SIZE) // 4
        return {
            "mirrored": torch.rand(count, generator=generator) < 0.5,
            "corners": torch.randint(mini.IMAGE_SIZE // 4 - side + 1, (count, 2), generator=generator),
            "posterior_noise": torch.randn(count, 4, side, side, generator=generator),
        }

    def forward(self, indices: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        indices, mirrored, device = indices.cpu(), draws["mirrored"].cpu(), self.vae.device
        x = from_uint8(self.images[indices])
        x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(-1), x)
        x = _crop(x, self.crop or mini.IMAGE_SIZE, draws["corners"]).to(device)
        noise = draws["posterior_noise"].to(device)
        numbers, loss = {}, torch.zeros((), device=device)
        if self.trained_part == "decoder":
            rows = indices + len(self) * mirrored
            z = self.means[rows].float().to(device) + self.stds[rows].float().to(device) * noise
        else:
            posterior = self.vae.encode(x).latent_dist
            z = posterior.mean + posterior.std * noise
            numbers["kl"] = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
            loss = loss + self.kl_weight * numbers["kl"]
        y = self.vae.decode(z).sample.float()
        numbers |= {"l1": (x - y).abs().mean(), "lpips": self._judge[0].to(device)(x, y).mean()}
        loss = loss + numbers["l1"] + self.lpips_weight * numbers["lpips"]
        if self.discriminator is not None and self.step >= self.adversarial_from:
            adversarial = adversarial_losses(self.discriminator, x, y)
            loss = loss + self.adversarial_weight * adversarial.generator + adversarial.discriminator
            numbers |= adversarial._asdict()
        numbers["psnr"] = (-10 * torch.log10((x - y.detach()).square().mean(dim=(1, 2, 3)) / 4)).mean()
        return loss, numbers

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """Save the autoencoder. If the encoder was trained, `scaling_factor` = 1 / std of the latents of 2,000 training images."""
        if self.trained_part == "all":
            chosen = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(0))[:2000]
            latents = [self.vae.encode(from_uint8(self.images[i].to(self.vae.device))).latent_dist.mode() for i in chosen.split(50)]
            self.vae.register_to_config(scaling_factor=round(1 / torch.cat(latents).std().item(), 5))
        self.vae.save_pretrained(folder / "vae")


def encoder_hash(vae: AutoencoderKL) -> str:
    """sha256 (hex) of what the latents depend on: the weights of the encoder and its last convolution, and the scaling factor."""
    digest = hashlib.sha256(f"{vae.config.scaling_factor}".encode())
    for name, tensor in sorted(vae.state_dict().items()):
        if not name.startswith(DECODER):
            digest.update(f"{name} {tuple(tensor.shape)}".encode() + tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def _check_options(crop: int, start_from: str | None, train: str, **weights: float) -> None:
    if crop % 4 or not (crop == 0 or 32 <= crop <= mini.IMAGE_SIZE):
        raise ValueError(f"crop must be 0 or a multiple of 4 in [32, {mini.IMAGE_SIZE}], got {crop}")
    if train not in TRAINED_PARTS:
        raise ValueError(f"train must be {' or '.join(TRAINED_PARTS)}, got {train!r}")
    for name, weight in weights.items():
        if not 0 <= weight < float("inf"):
            raise ValueError(f"{name} must be a finite number of at least 0, got {weight!r}")
    if train == "decoder" and (crop or not start_from):
        raise ValueError(
            f"train 'decoder' needs start_from, the model whose encoder stays, and whole images (crop 0), got {start_from!r} and {crop}"
        )
