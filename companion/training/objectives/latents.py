"""Training examples of the second stage: latents with their captions, of the scenes or of a folder of images."""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from smoothlib.pixels import from_uint8

from ...base import paths
from ...data.items import to_tensor
from ...data.listings import inside, json_lines
from ...data.load import load_scenes
from ...data.pictures import examine, read_picture
from ...data.subset import matching
from ...weights.pipelines import DECODER
from ...world.styles import FILTERS, apply_style
from ..caches import SUFFIX, kept_tensors

BAD_IMAGES = ("error", "skip")


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

    Two minutes' work for the training split, kept in runs/latents under a hash of the encoder's weights and the images.
    """
    digest = hashlib.sha256(pixels.tobytes())
    digest.update(json.dumps({k: v for k, v in vae.config.items() if k != "_name_or_path"}, sort_keys=True, default=str).encode())
    for name, tensor in sorted(vae.state_dict().items()):
        if name.startswith(DECODER):
            continue  # latents do not depend on it
        digest.update(name.encode() + tensor.numpy().tobytes())

    def encode() -> dict[str, Tensor]:
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        batches = [batch.flip(-1) if mirrored else batch for mirrored in (False, True) for batch in images.split(100)]
        posteriors = [vae.encode(from_uint8(batch)).latent_dist for batch in batches]
        return {name: torch.cat([getattr(p, name).half() for p in posteriors]).contiguous() for name in ("mean", "std")}

    moments = kept_tensors(paths.RUNS / "latents" / f"{digest.hexdigest()[:32]}{SUFFIX}", encode)
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
    is read as `companion.data.pictures.read_picture` says: its largest centred square at `resolution` pixels, what is transparent in white.
    All are decoded once at the start (later only those that have changed), so that none ends a training in its middle.

    Args:
        vae, resolution: may be set later, since the folder is looked at before a model is loaded.
        bad_images: `error`, or `skip`, which leaves out images that are missing or cannot be read and says how many (`skipped`).

    Raises:
        ValueError: there is no `metadata.jsonl`, it is not as above, a caption is empty, or an image cannot be read (`skip`: all cannot).
    """

    def __init__(self, vae: AutoencoderKL | None, folder: Path | str, resolution: int, bad_images: str = "error"):
        if bad_images not in BAD_IMAGES:
            raise ValueError(f"bad_images must be one of {', '.join(BAD_IMAGES)}, got {bad_images!r}")
        self.vae, self.folder, self.resolution = vae, Path(folder), resolution
        listing = self.folder / "metadata.jsonl"
        if not listing.is_file():
            raise ValueError(f'data must be a folder with a metadata.jsonl of {{"file_name": ..., "text": ...}} lines, got {str(folder)!r}')
        listed = [_listed(self.folder, where, entry, bad_images) for where, entry in json_lines(listing)]
        if not listed:
            raise ValueError(f"{listing} must list at least one image, but is empty")
        found = examine(self.folder, [name for name, _ in listed])
        bad = [name for name, _ in listed if found[name].problem]
        self.skipped = len(bad)
        if bad:
            said = f"{len(bad)} of {len(listed)} images of {listing} cannot be used: {found[bad[0]].problem}"
            if bad_images == "error" or len(bad) == len(listed):
                raise ValueError(f"{said}; repair or remove them, or leave them out by the setting bad_images=skip")
            warnings.warn(f"{said}; they are left out (bad_images=skip)", stacklevel=2)
        used = [(name, caption) for name, caption in listed if not found[name].problem]
        self.files, self.captions = [self.folder / name for name, _ in used], [caption for _, caption in used]
        self.hashes = [found[name].sha256 for name, _ in used]

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
        return to_tensor(read_picture(file, self.resolution))

    def identity(self) -> str:
        """Hash of the captions, the files' contents and the resolution."""
        return hashlib.sha256(json.dumps([self.resolution, self.captions, self.hashes]).encode()).hexdigest()


def _listed(folder: Path, where: str, entry: Any, bad_images: str) -> tuple[str, str]:
    """File name and caption of one line of a `metadata.jsonl`."""
    if not isinstance(entry, dict) or not isinstance(entry.get("text"), str) or "file_name" not in entry:
        raise ValueError(f"{where} must give an existing image's file_name and its caption as text, got {entry!r:.200}")
    name = inside(entry["file_name"], where)
    if bad_images == "error" and not (folder / name).is_file():
        raise ValueError(f"{where} must give an existing image's file_name and its caption as text, but there is no {folder / name}")
    if not entry["text"].strip():
        raise ValueError(f"{where} must give {name} a caption, but its text is empty: complete it, or remove the line")
    return name, entry["text"]
