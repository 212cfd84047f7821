"""The two models that the app compares: a pipeline as it is, and the same pipeline with a Smooth adapter."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..studies.base import load_row
from ..studies.setup import check_adapters, errors_in_one_sentence
from ..weights import pipelines

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


@dataclass(frozen=True)
class Side:
    """One of the two columns of the page."""

    key: str  # base or smooth
    title: str
    pipe: "StableDiffusionPipeline"


@dataclass(frozen=True)
class Models:
    """What the app was started with."""

    name: str
    adapter: str
    size: int  # pixels of a picture's side
    guidance_scale: float  # what the model's card recommends
    device: str
    sides: tuple[Side, Side]


def load_models(name: str = "mini", adapter: str = "smooth", device: str = "cpu") -> Models:
    """Load both sides; they share one autoencoder, which no adapter changes.

    Args:
        name, adapter: as `pipelines.load_pipeline` takes them.

    Raises:
        ConfigurationError: one sentence: no such model or adapter, or the adapter is of another model; before any weights are read.
    """
    check_adapters([adapter], name)
    with errors_in_one_sentence():
        size, guidance_scale = pipelines.image_size(name), pipelines.default_guidance_scale(name)
        base, smooth = (load_row(name, one, device)[0] for one in (None, adapter))
    smooth.vae = base.vae
    sides = (Side("base", "Base model", base), Side("smooth", "Smooth Diffusion", smooth))
    return Models(name, adapter, size, guidance_scale, device, sides)
