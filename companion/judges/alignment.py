"""Text alignment by the two encoders at hand: OpenAI's CLIP, and the packaged dual encoder for scenes."""

from pathlib import Path
from typing import Any

from smoothlib.metrics.text_alignment import CaptionAlignment

from .clip import DEFAULT_CLIP, load_clip_encoder
from .dual_encoder import load_scene_encoder


class CLIPScore(CaptionAlignment):
    """CLIP score (Hessel et al. 2021) of OpenAI's CLIP: 100 cos(E_I, E_C) per pair, not cut at 0.

    torchmetrics' score is the same mean, cut at 0, which real pairs never come near; its own class does not run on transformers 5, whose
    `get_image_features` no longer returns a tensor. Images are rounded to 8 bits and resized, cropped and normalised as the model's own
    configuration says. Captions of more than 77 tokens are cut.

    Args:
        model: hub id `openai/clip-vit-base-patch32` (ViT-B/32, the default) or `openai/clip-vit-large-patch14` (ViT-L/14), another CLIP as
            `id@commit`, or a folder with its files. Raises as `load_clip_encoder` does.
        value_range, batch_size, kwargs: as in `CaptionAlignment`.
    """

    def __init__(self, model: str | Path = DEFAULT_CLIP, value_range: tuple[float, float] = (-1.0, 1.0), **kwargs: Any) -> None:
        super().__init__(load_clip_encoder(model), value_range, settings={"model": str(model)}, **kwargs)


class SceneAlignment(CaptionAlignment):
    """Alignment of scenes with captions by the packaged scene dual encoder: 100 cos per pair. It is not CLIP and not comparable with it.

    How far it can be trusted is in `held_out`, measured on scenes that it was not trained on: `accuracy` of retrieval among
    `num_captions`, `chance`, and the mean value of true captions (`matched_mean`, the ceiling of what a model can be expected to reach) and
    of other images' captions (`mismatched_mean`, the floor).

    Args:
        value_range, batch_size, kwargs: as in `CaptionAlignment`.
        weights_folder: folder with the encoder and its card; default: the shipped one. Raises as `load_scene_encoder` does.
    """

    def __init__(self, value_range: tuple[float, float] = (-1.0, 1.0), *, weights_folder: Path | str | None = None, **kwargs: Any) -> None:
        super().__init__(load_scene_encoder(weights_folder), value_range, settings={"weights_folder": str(weights_folder)}, **kwargs)

    @property
    def held_out(self) -> dict[str, dict[str, float]]:
        """Split of scenes -> what the encoder reached on it when it was trained, from its card."""
        return self.encoder.held_out
