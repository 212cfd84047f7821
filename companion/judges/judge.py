"""Which networks judge generated images, under which names, and how far they are to be trusted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from smoothlib.metrics.text_alignment import CaptionAlignment
from smoothlib.pixels import from_uint8

from .alignment import CLIPScore, SceneAlignment
from .features import SCENE_RESOLUTION, ImageNetFeatures, batch_size_on, device_of


@dataclass(frozen=True)
class Judge:
    """What judges generated images, under their names: features for a Fréchet distance, an encoder pair for text alignment."""

    features: nn.Module
    alignment: CaptionAlignment
    frechet_name: str
    alignment_name: str
    trust: Mapping[str, float]  # how good the judges themselves are
    conventions: Mapping[str, str]

    @property
    def columns(self) -> dict[str, dict[str, str]]:
        """The columns of a table for what it says."""
        own = {
            "frechet_distance": {"label": "FD (MobileNetV2)", "direction": "down"},
            "kernel_distance": {"label": "KD (MobileNetV2)", "direction": "down"},
            "kid": {"label": "KID", "direction": "down"},
            "scene_alignment": {"label": "Scene alignment", "direction": "up"},
        }
        return {name: column for name, column in own.items() if name in (self.frechet_name, self.kernel_name, self.alignment_name)}

    @property
    def kernel_name(self) -> str:
        """The kernel distance's name: KID on the features that FID is defined by."""
        return "kid" if self.frechet_name == "fid" else "kernel_distance"

    def to(self, device: torch.device | str) -> "Judge":
        """Move its networks to where it is to compute."""
        self.features.to(device)
        self.alignment.to(device)
        return self

    @torch.no_grad()
    def alignments(self, images: np.ndarray, captions: Sequence[str], batch_size: int | None = None) -> np.ndarray:
        """Text alignment of each uint8 image (N, 3, H, W) with its caption, (N,). `batch_size`: None for what suits the device."""
        device = device_of(self.alignment)
        size = batch_size or batch_size_on(device)
        parts, starts = torch.from_numpy(images).split(size), range(0, len(images), size)
        values = [self.alignment.per_image(from_uint8(p.to(device)), captions[s : s + len(p)]) for p, s in zip(parts, starts, strict=True)]
        return torch.cat(values).double().numpy(force=True)


def packaged_judge() -> Judge:
    """The judges that ship with the repository, for the embedded model."""
    alignment, side = SceneAlignment(), SCENE_RESOLUTION
    held_out = alignment.held_out["test"]
    trust = {f"alignment_{name}": held_out[name] for name in ("accuracy", "num_captions", "matched_mean", "mismatched_mean")}
    return Judge(
        ImageNetFeatures(SCENE_RESOLUTION),
        alignment,
        "frechet_distance",
        "scene_alignment",
        trust,
        {
            "frechet_distance": f"pooled MobileNetV2 features at {side} x {side}, against real test images; not FID",
            "kernel_distance": "cubic polynomial kernel on the same features, unbiased, real image and generated one in pairs; not KID",
            "scene_alignment": "100 cos of the scene dual encoder's embeddings, mean over a walk's frames; not CLIP Score",
        },
    )


def official_judge(clip: str = "openai/clip-vit-base-patch32") -> Judge:
    """FID's InceptionV3 and a CLIP model by hub id, both downloaded."""
    from .inception import InceptionFeatures

    conventions = {
        "fid": "InceptionV3 (torch-fidelity), 2048-d",
        "kid": "the same, one subset of all images, in pairs",
        "clip_score": f"100 cos, {clip}, mean over a walk's frames",
    }
    return Judge(InceptionFeatures(), CLIPScore(clip), "fid", "clip_score", {}, conventions)
