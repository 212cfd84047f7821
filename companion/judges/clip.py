"""OpenAI's CLIP from the Hugging Face hub or a folder: pinned to a commit, safetensors only."""

from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from smoothlib.pixels import to_uint8

from ..weights.places import COMMIT, HUB_ID

DEFAULT_CLIP = "openai/clip-vit-base-patch32"
PINNED_REVISIONS = {
    DEFAULT_CLIP: "c237dc49a33fc61debc9276459120b7eac67e7ef",  # the hub's own conversion to safetensors: the main branch has a pickle only
    "openai/clip-vit-large-patch14": "32bd64288804d66eefd0ccbe215aa642df71cc41",
}
FILES = ("*.json", "merges.txt", "model.safetensors")


class ClipEncoder(nn.Module):
    """A CLIP model with its preprocessing: images and strings in, unit vectors (B, D) out."""

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer, image_processor: CLIPImageProcessor):
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.image_processor = tokenizer, image_processor

    def embed_images(self, images: Tensor) -> Tensor:
        """Embeddings of images (B, 3, H, W) in [-1, 1]."""
        inputs = self.image_processor(images=list(to_uint8(images).cpu()), return_tensors="pt").pixel_values.to(self.model.device)
        pooled = self.model.vision_model(pixel_values=inputs).pooler_output
        return F.normalize(self.model.visual_projection(pooled), dim=-1)

    def embed_captions(self, captions: Sequence[str]) -> Tensor:
        """Embeddings of captions."""
        longest = self.model.config.text_config.max_position_embeddings
        inputs = self.tokenizer(list(captions), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        pooled = self.model.text_model(**inputs.to(self.model.device)).pooler_output
        return F.normalize(self.model.text_projection(pooled), dim=-1)


def load_clip_encoder(model: str | Path = DEFAULT_CLIP) -> ClipEncoder:
    """CLIP in float32: `model` is a folder, one of the two hub ids of `PINNED_REVISIONS`, or another as `id@commit`.

    Raises:
        ValueError: no such kind of name, or no pinned commit.
        FileNotFoundError: the folder lacks a file, or the model could not be downloaded.
    """
    folder = Path(model)
    if not folder.is_dir():
        folder = _download(str(model))
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(f"{folder} has no model.safetensors: it must hold a CLIP model as transformers saves it")
    weights = CLIPModel.from_pretrained(folder, use_safetensors=True, local_files_only=True, dtype="float32")
    return ClipEncoder(
        weights,
        CLIPTokenizer.from_pretrained(folder, local_files_only=True),
        CLIPImageProcessor.from_pretrained(folder, local_files_only=True),
    )


def _download(name: str) -> Path:
    """The local snapshot of a hub id, downloaded where the cache lacks it."""
    from huggingface_hub import snapshot_download

    hub_id, _, pinned = name.partition("@")
    revision = pinned or PINNED_REVISIONS.get(hub_id, "")
    if not HUB_ID.fullmatch(hub_id):
        raise ValueError(f"model must be an existing folder or a hub id such as {DEFAULT_CLIP!r}, not {name!r}")
    if not COMMIT.fullmatch(revision):
        raise ValueError(f"{hub_id!r} needs its commit of 40 hex digits ('{hub_id}@<commit>'); known are {', '.join(PINNED_REVISIONS)}")
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(FILES)))
    except Exception as error:  # whatever the hub client raises, the remedy is the same
        raise FileNotFoundError(
            f"could not download {hub_id!r} at commit {revision} from the Hugging Face hub ({type(error).__name__}): get its json files, "
            "merges.txt and model.safetensors where there is internet, put them in one folder, and pass that folder's path as the model"
        ) from None
