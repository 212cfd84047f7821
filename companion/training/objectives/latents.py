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
from ...data.captioned import captioned_folder, coco_folder
from ...data.items import to_tensor
from ...data.load import load_scenes
from ...data.pictures import examine, read_picture
from ...data.sources import layout_of
from ...data.subset import matching
from ...weights.pipelines import DECODER
from ...world.styles import FILTERS, apply_style
from ..caches import SUFFIX, kept_tensors
from .examples import EncodedPictures, Examples, ShardLatents

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


class SceneLatents(Examples):
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


class FolderLatents(EncodedPictures):
    """Images of a folder with their captions, encoded when asked for.

    Captions lie in a listing, in a .txt beside each image, or in COCO's annotations (see `companion.data.captioned`). Each image is read as
    `companion.data.pictures.read_picture` says: its largest centred square at `resolution` pixels, what is transparent in white. All are
    decoded once at the start (later only those that have changed), so that none ends a training in its middle.

    Args:
        vae, resolution: may be set later, since the folder is looked at before a model is loaded.
        bad_images: `error`, or `skip`, which leaves out images that are missing or cannot be read and says how many (`skipped`).
        coco: the split, where `folder` is COCO's.

    Raises:
        ValueError: the folder is not as above, a caption is empty, or an image cannot be read (`skip`: all cannot).
    """

    def __init__(self, vae: AutoencoderKL | None, folder: Path | str, resolution: int, bad_images: str = "error", coco: str | None = None):
        if bad_images not in BAD_IMAGES:
            raise ValueError(f"bad_images must be one of {', '.join(BAD_IMAGES)}, got {bad_images!r}")
        self.vae, self.folder, self.resolution = vae, Path(folder), resolution
        if coco is None:
            listing, listed = captioned_folder(self.folder)
        else:
            listing, self.folder, listed = coco_folder(self.folder, coco)
        problems = {one.name: one.problem for one in listed if one.problem}
        if bad_images == "skip" or not problems:  # else there is no need to open thousands of images first
            examined = examine(self.folder, [one.name for one in listed if not one.problem])
            problems |= {name: found.problem for name, found in examined.items() if found.problem}
        bad = [one for one in listed if one.name in problems]
        self.skipped = len(bad)
        if bad:
            said = f"{len(bad)} of {len(listed)} images of {listing} cannot be used: {problems[bad[0].name]}"
            if bad_images == "error" or len(bad) == len(listed):
                raise ValueError(f"{said}; repair or remove them, or leave them out by the setting bad_images=skip")
            warnings.warn(f"{said}; they are left out (bad_images=skip)", stacklevel=2)
        used = [one for one in listed if one.name not in problems]
        self.files, self.captions = [self.folder / one.name for one in used], [one.caption for one in used]
        self.hashes = [examined[one.name].sha256 for one in used]

    def __len__(self) -> int:
        return len(self.files)

    def picture(self, index: int) -> Tensor:
        return to_tensor(read_picture(self.files[index], self.resolution))

    def identity(self) -> str:
        """Hash of the captions, the files' contents and the resolution."""
        return hashlib.sha256(json.dumps([self.resolution, self.captions, self.hashes]).encode()).hexdigest()


def open_data(
    data: str, split: str, layout: str | None, resolution: int, bad_images: str | None, shuffle_buffer: int
) -> FolderLatents | ShardLatents:
    """The images with captions of `data`, whose layout is named or found (see `companion.data.sources.layout_of`); raises as they do."""
    layout = layout_of(data, layout)
    if layout == "shards":
        return ShardLatents(None, data, resolution, bad_images, shuffle_buffer)
    return FolderLatents(None, data, resolution, bad_images or "error", coco=split if layout == "coco" else None)
