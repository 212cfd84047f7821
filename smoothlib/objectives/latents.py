"""Training examples of the second stage: latents with their captions, of the scenes or of a folder of images."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageOps
from torch import Tensor

from .. import paths
from ..datasets import load_scenes
from ..pixels import from_uint8
from ..runs import atomic_write
from ..scenes.styles import FILTERS, apply_style
from ..selection import matching


def restyled(images: np.ndarray, style: str) -> np.ndarray:
    """Images (N, H, W, 3) uint8 in one of the world's styles.

    The filter finds object edges in the image itself: the renderer's guides, albedo and normals, are not stored.
    """
    flat = np.zeros(images.shape[1:], np.float32)  # no normals
    photos = (image.astype(np.float32) / 255 for image in images)
    return np.stack([(apply_style(photo, style, albedo=photo, normals=flat) * 255).round().astype(np.uint8) for photo in photos])


@torch.no_grad()
def encode_training_images(vae: AutoencoderKL, pixels: np.ndarray) -> tuple[Tensor, Tensor]:
    """Posterior means and standard deviations of uint8 images (N, H, W, 3), then of their mirror images: (2N, 4, h, w), half precision.

    Two minutes' work for the training split, kept in runs/latents under a hash of the autoencoder's weights and the images.
    """
    digest = hashlib.sha256(pixels.tobytes())
    digest.update(json.dumps({k: v for k, v in vae.config.items() if k != "_name_or_path"}, sort_keys=True, default=str).encode())
    for name, tensor in sorted(vae.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    file = paths.RUNS / "latents" / f"{digest.hexdigest()[:32]}.safetensors"
    if not file.exists():
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        batches = [batch.flip(-1) if mirrored else batch for mirrored in (False, True) for batch in images.split(100)]
        posteriors = [vae.encode(from_uint8(batch)).latent_dist for batch in batches]
        moments = {name: torch.cat([getattr(p, name).half() for p in posteriors]).contiguous() for name in ("mean", "std")}
        atomic_write(file, safetensors.torch.save(moments))
    moments = safetensors.torch.load_file(file)
    return moments["mean"], moments["std"]


class SceneLatents:
    """The scenes of a split, encoded once.

    `only`: field of the records -> values; other scenes are left out. `style`: all images in this style, their captions unchanged, as one
    finds it in checkpoints that were fine-tuned on a style.

    Raises:
        ValueError: `style` is not one of the world's, or `only` fits nothing.
    """

    def __init__(self, vae: AutoencoderKL, split: str, only: Mapping[str, Sequence[Any]] | None = None, style: str | None = None):
        if style is not None and style not in FILTERS:
            raise ValueError(f"style must be one of {', '.join(FILTERS)}, got {style!r}")
        scenes = load_scenes(split)
        chosen = matching(scenes.records, only)
        self.captions = [scenes.captions[i] for i in chosen]
        if style is not None:
            self.means, self.stds = encode_training_images(vae, restyled(scenes.images[chosen], style))
        else:  # every choice takes its rows of the whole split, which is encoded once
            rows = torch.tensor([i + mirrored for mirrored in (0, len(scenes)) for i in chosen])
            self.means, self.stds = (moments[rows] for moments in encode_training_images(vae, scenes.images))

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one latent, (4, h, w)."""
        return tuple(self.means.shape[1:])

    def posterior(self, indices: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations, each (B, 4, h, w) float32; `mirrored` (B,) bool takes the mirror image."""
        rows = indices + len(self) * mirrored  # the mirror images follow the originals
        return self.means[rows].float(), self.stds[rows].float()

    def identity(self) -> str:
        """Hash of the moments and captions."""
        digest = hashlib.sha256(json.dumps(self.captions).encode())
        for tensor in (self.means, self.stds):
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


class FolderLatents:
    """Images of a folder with their captions, encoded when asked for.

    The folder is laid out as Hugging Face's `imagefolder`: a `metadata.jsonl` with one `{"file_name": ..., "text": ...}` a line. Each image
    is scaled to cover a square of `resolution` pixels and its centre cut out.

    Raises:
        ValueError: there is no `metadata.jsonl`, a line of it lacks a field, or its image is missing.
    """

    def __init__(self, vae: AutoencoderKL, folder: Path | str, resolution: int):
        self.vae, self.folder, self.resolution = vae, Path(folder), resolution
        listing = self.folder / "metadata.jsonl"
        if not listing.is_file():
            raise ValueError(f'data must be a folder with a metadata.jsonl of {{"file_name": ..., "text": ...}} lines, got {str(folder)!r}')
        entries = []
        for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                entry = json.loads(line)
                sound = (self.folder / entry["file_name"]).is_file() and isinstance(entry["text"], str)
            except (ValueError, KeyError, TypeError):
                entry, sound = line, False
            entries.append(entry)
            if not sound:
                raise ValueError(f"line {number} of {listing} must give an existing image's file_name and its caption as text, got {entry}")
        if not entries:
            raise ValueError(f"{listing} must list at least one image, but is empty")
        self.files, self.captions = [self.folder / e["file_name"] for e in entries], [e["text"] for e in entries]
        self.listing = listing.read_bytes()

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one latent, (4, h, w)."""
        side = self.resolution // 2 ** (len(self.vae.config.block_out_channels) - 1)
        return (self.vae.config.latent_channels, side, side)

    @torch.no_grad()
    def posterior(self, indices: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations, each (B, 4, h, w) float32; `mirrored` (B,) bool takes the mirror image."""
        images = torch.stack([self._image(self.files[i]) for i in indices.tolist()])
        images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
        with torch.autocast(self.vae.device.type, enabled=False):  # the encoder stays in its own precision
            posterior = self.vae.encode(images.to(self.vae.device, self.vae.dtype)).latent_dist
        return posterior.mean.float(), posterior.std.float()

    def _image(self, file: Path) -> Tensor:
        with Image.open(file) as image:
            square = ImageOps.fit(image.convert("RGB"), (self.resolution, self.resolution), Image.Resampling.BICUBIC)
        return from_uint8(np.array(square)).permute(2, 0, 1)

    def identity(self) -> str:
        """Hash of the listing, the files' sizes and the resolution."""
        digest = hashlib.sha256(self.listing + str(self.resolution).encode())
        for file in self.files:
            digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        return digest.hexdigest()
