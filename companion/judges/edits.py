"""All that is said about an edited picture, by the judges that ship: nearness to the truth, what was left alone, success."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from smoothlib.metrics import edits as measures

from .dual_encoder import load_scene_encoder
from .networks import lpips_network
from .scene_attributes import ASKED, CONVENTION, agreement, asked, load_scene_judge

CONVENTIONS = {
    **measures.CONVENTIONS,
    "text_alignment": "100 cos of the scene dual encoder's embeddings of the edited picture and the target's caption; not CLIP Score",
    "success": CONVENTION,
    "unasked_kept": "share of the record's other fields whose word the scene judge finds in the edited picture",
}


class EditJudge(nn.Module):
    """LPIPS, the scene dual encoder and the scene judge together; `.to(device)` moves all three.

    `held_out` is what the scene judge reached: by kind of edit its `ceiling` on true edits and its `floor` on untouched sources.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lpips, self.encoder, self.scene_judge = lpips_network(), load_scene_encoder(), load_scene_judge()
        self.held_out = self.scene_judge.held_out["edits"]

    @torch.no_grad()
    def values(self, edited: Tensor, items: Sequence[Any], *, cell: int) -> dict[str, Tensor]:
        """Values of edited pictures (B, 3, H, W) in [-1, 1], (B,) by the names of `CONVENTIONS`; NaN where one is not defined.

        Without a true edit, or without a record of the true scene, what needs it is NaN.

        Args:
            items: B items such as `companion.data.edits.EditItem`.
            cell: pixels of a latent cell's side.

        Raises:
            ValueError: there is not one item for each picture.
        """
        if len(items) != len(edited):
            raise ValueError(f"items has {len(items)} entries, but must have one for each of the {len(edited)} pictures.")
        found = {name: torch.full((len(items),), torch.nan) for name in CONVENTIONS}
        edited = edited.float().clamp(-1, 1)
        source = self._stack(edited, [item.source for item in items])
        target_text = self.encoder.embed_captions([item.target_caption for item in items])
        source_text = self.encoder.embed_captions([item.source_caption for item in items])
        after, before = self.encoder.embed_images(edited), self.encoder.embed_images(source)
        found["text_alignment"] = 100 * (after * target_text).sum(dim=-1)
        found["directional_alignment"] = measures.embedding_alignment(after, before, target_text, source_text)
        self._pixels(edited, source, items, cell, found)
        self._words(edited, items, found)
        return {name: value.cpu() for name, value in found.items()}

    def _pixels(self, edited: Tensor, source: Tensor, items: Sequence[Any], cell: int, found: dict[str, Tensor]) -> None:
        """What compares pixels: with the source where there is a mask, with the truth where there is one."""
        spatial = measures.spatial_lpips(self.lpips)
        masked = [i for i, item in enumerate(items) if item.mask is not None]
        if masked:
            masks = self._stack(edited, [items[i].mask for i in masked])
            outside = torch.tensor([bool(items[i].has_outside) for i in masked])
            kept = measures.preservation(edited[masked], source[masked], masks, cell=cell, lpips_map=spatial, has_outside=outside)
            _place(found, kept, masked)
        known = [i for i, item in enumerate(items) if item.target is not None]
        if known:
            truth = self._stack(edited, [items[i].target for i in known])
            blank = torch.zeros_like(source[0, :1], dtype=torch.bool)  # no inside: NaN
            masks = self._stack(edited, [blank if items[i].mask is None else items[i].mask for i in known])
            near = measures.to_truth(edited[known], truth, masks, lpips=self.lpips, lpips_map=spatial)
            _place(found, near, known)

    def _words(self, edited: Tensor, items: Sequence[Any], found: dict[str, Tensor]) -> None:
        known = [i for i, item in enumerate(items) if item.target_record is not None and item.kind in ASKED]
        if not known:
            return
        kinds, records = [items[i].kind for i in known], [items[i].target_record for i in known]
        agreeing = agreement(self.scene_judge.predict(edited[known]), records)
        _place(found, {"success": asked(agreeing, kinds), "unasked_kept": unasked(agreeing, kinds)}, known)

    @staticmethod
    def _stack(edited: Tensor, parts: Sequence[Tensor]) -> Tensor:
        return torch.stack([part.to(edited.device) for part in parts])


def unasked(agreeing: Mapping[str, Tensor], kinds: Sequence[str]) -> Tensor:
    """Of the agreement by field, each image's mean over the fields that its kind of edit does not ask for, (N,)."""
    rows = [torch.stack([values[i] for field, values in agreeing.items() if field != ASKED[kind]]) for i, kind in enumerate(kinds)]
    return torch.stack([row.nanmean() for row in rows])


def _place(found: dict[str, Tensor], values: Mapping[str, Tensor], rows: list[int]) -> None:
    for name, value in values.items():
        found[name][rows] = value.cpu().float()
