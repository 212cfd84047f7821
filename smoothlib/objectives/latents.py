"""Training examples of the second stage: latents with their captions, of the scenes or of a folder of images."""

import hashlib
import json
from pathlib import Path

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
        posteriors = [vae.encode(from_uint8(batch)).latent_dist for batch in batches]
        moments = {name: torch.cat([getattr(p, name).half() for p in posteriors]).contiguous() for name in ("mean", "std")}
        atomic_write(file, safetensors.torch.save(moments))
    moments = safetensors.torch.load_file(file)
    return moments["mean"], moments["std"]


class SceneLatents:
    """The scenes of a split, encoded once."""

    def __init__(self, vae: AutoencoderKL, split: str):
        self.means, self.stds = encode_training_images(vae, split)
        self.captions = load_scenes(split).captions

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
