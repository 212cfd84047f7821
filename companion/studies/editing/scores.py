"""What is measured of an edited picture: distance to the true edit, what was left alone, and whether it is what was asked.

`METRICS` names what a record keeps. A metric that is not defined for a pair (an outside where the edit is everywhere) has no value there.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from smoothlib.editing.judges import Alignment, Perceptual, directional_alignment
from smoothlib.metrics import edits

from ...base import paths
from ...data.edit_items import EditItem
from ...judges import dual_encoder, scene_attributes
from ...judges.clip import ClipEncoder, load_clip_encoder
from ...judges.networks import lpips_network
from ...weights.cards import read_card

METRICS = {  # name -> column: the heading, which values are better, decimals
    "lpips": {"label": "LPIPS to the truth", "direction": "down", "decimals": 4},
    "psnr": {"label": "PSNR to the truth (dB)", "direction": "up", "decimals": 2},
    "ssim": {"label": "SSIM to the truth", "direction": "up", "decimals": 3},
    "lpips_inside": {"label": "LPIPS to the truth, inside", "direction": "down", "decimals": 4},
    "lpips_outside": {"label": "LPIPS to the source, outside", "direction": "down", "decimals": 4},
    "mse_outside": {"label": "MSE to the source, outside", "direction": "down", "decimals": 4},
    "psnr_outside": {"label": "PSNR to the source, outside (dB)", "direction": "up", "decimals": 2},
    "followed": {"label": "Followed", "direction": "up", "decimals": 3},
    "attribute": {"label": "Attribute", "direction": "up", "decimals": 3},
    "alignment": {"label": "Alignment", "direction": "up", "decimals": 2},
    "directional_alignment": {"label": "Directional alignment", "direction": "up", "decimals": 3},
}
CONVENTIONS = {name: text for name, text in edits.CONVENTIONS.items() if name in METRICS} | {
    "followed": "1 where the encoder places the picture nearer to the target's caption than to the source's, else 0",
    "alignment": "100 times the cosine of the picture's and the target caption's embeddings",
}
ENCODERS = {"packaged": "the packaged scene dual encoder", "official": "CLIP ViT-B/32"}


class EditJudges:
    """The networks that judge edited pictures, on one device.

    Args:
        judge: "packaged": the scene dual encoder, and the scene judge for the asked attribute where it is there; "official": CLIP.
        cell: pixels of a latent cell's side.
    """

    def __init__(self, judge: str, device: torch.device | str, cell: int) -> None:
        self.device, self.cell = device, cell
        self.lpips = lpips_network().to(device)
        self.lpips_map = edits.spatial_lpips(self.lpips)
        self.encoder = (dual_encoder.load_scene_encoder() if judge == "packaged" else load_clip_encoder()).to(device)
        has_attributes = judge == "packaged" and (paths.MODELS / scene_attributes.FOLDER / scene_attributes.WEIGHTS).is_file()
        self.attributes = scene_attributes.load_scene_judge().to(device) if has_attributes else None
        encoded = {name: f"{CONVENTIONS[name]}; {ENCODERS[judge]}" for name in ("followed", "alignment", "directional_alignment")}
        asked = {"attribute": scene_attributes.CONVENTION} if has_attributes else {}
        self.conventions = CONVENTIONS | encoded | asked
        folders = ([dual_encoder.FOLDER] if judge == "packaged" else []) + ([scene_attributes.FOLDER] if has_attributes else [])
        self.weights = {folder: read_card(paths.MODELS / folder)["files"] for folder in folders}  # whose judgement a stored value is

    @torch.no_grad()
    def __call__(self, images: Tensor, pairs: Sequence[EditItem]) -> list[dict[str, float]]:
        """By metric the value of each picture (B, 3, H, W) in [-1, 1]; a metric that is not defined for a pair is left out."""
        images, source = images.to(self.device).float().clamp(-1, 1), self._stack([pair.source for pair in pairs])
        values = self._distances(images, source, pairs) | self._success(images, source, pairs)
        columns = {name: value.tolist() for name, value in values.items() if name in METRICS}
        return [{name: column[i] for name, column in columns.items() if column[i] == column[i]} for i in range(len(pairs))]

    def losses(self) -> tuple[Alignment, Perceptual]:
        """What Disentangle is optimised against: the directional loss of the encoder, and LPIPS; with gradients."""
        return (
            directional_alignment(self._embed_with_gradients, self.encoder.embed_captions),
            lambda images, others: self.lpips(images, others).reshape(-1),
        )

    def _embed_with_gradients(self, images: Tensor) -> Tensor:
        if not isinstance(self.encoder, ClipEncoder):
            return self.encoder.embed_images(images)
        model, processor = self.encoder.model, self.encoder.image_processor  # whose own preprocessing rounds to 8 bits
        mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (processor.image_mean, processor.image_std))
        size = model.config.vision_config.image_size
        pixels = (F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(-1, 1) / 2 + 0.5 - mean) / std
        return F.normalize(model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output), dim=-1)

    def _stack(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(tensors)).to(self.device)

    def _distances(self, images: Tensor, source: Tensor, pairs: Sequence[EditItem]) -> dict[str, Tensor]:
        """To the truth, where it is known, and to the source outside the mask, where there is one."""
        blank = torch.zeros_like(pairs[0].source[:1], dtype=torch.bool)  # no mask: neither an inside nor an outside
        mask = self._stack([blank if pair.mask is None else pair.mask for pair in pairs])
        local = torch.tensor([pair.has_outside for pair in pairs], device=self.device)
        values = edits.preservation(images, source, mask, cell=self.cell, lpips_map=self.lpips_map, has_outside=local)
        if any(pair.target is None for pair in pairs):
            return values
        truth = self._stack([pair.target for pair in pairs])
        found = edits.to_truth(images, truth, mask, lpips=self.lpips, lpips_map=self.lpips_map)
        inside = {name: value.masked_fill(~local, torch.nan) for name, value in found.items() if name.endswith("_inside")}
        return values | found | inside

    def _success(self, images: Tensor, source: Tensor, pairs: Sequence[EditItem]) -> dict[str, Tensor]:
        """By the encoder: alignment with the target's caption, nearer to it than to the source's, the direction; and the attribute."""
        captions = [pair.source_caption for pair in pairs], [pair.target_caption for pair in pairs]
        before, after = (self.encoder.embed_captions(texts) for texts in captions)
        shown, was = self.encoder.embed_images(images), self.encoder.embed_images(source)
        to_source, to_target = ((shown * caption).sum(-1) for caption in (before, after))
        values = {
            "alignment": 100 * to_target,
            "followed": (to_target > to_source).float(),
            "directional_alignment": edits.embedding_alignment(shown, was, after, before),
        }
        if self.attributes is not None and all(pair.target_record is not None for pair in pairs):
            values["attribute"] = self.attributes.success(images, [pair.kind for pair in pairs], [pair.target_record for pair in pairs])
        return values
