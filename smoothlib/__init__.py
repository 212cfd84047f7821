"""The method of Smooth Diffusion (arXiv:2312.04410) on tensors and a diffusers pipeline: training loss, inversion, interpolation, metrics.

The names below are imported from their modules when they are first used, so that `import smoothlib` does not wait for PyTorch.
"""

__version__ = "0.1.0"

import warnings
from importlib import import_module
from typing import Any

# tqdm's advice to install ipywidgets, with the path of its own file: it would be stored in every notebook
warnings.filterwarnings("ignore", message="IProgress not found")

_NAMES = {  # module -> what it gives here
    "diffusion": ("slerp",),
    "interpolation.real_images": ("real_image_interpolation", "vae_interpolation"),
    "interpolation.walk": ("latent_walk",),
    "inversion": ("ddim_invert", "null_text_inversion"),
    "lora": ("add_lora", "load_smooth_lora"),
    "lora_file": ("read_lora",),
    "metrics.frechet": ("FrechetDistance", "frechet_distance_from_features"),
    "metrics.istd": ("InterpolationStandardDeviation", "step_distances", "step_statistics"),
    "metrics.kernel_distance": ("kernel_distance_from_features",),
    "metrics.reconstruction": ("LearnedPerceptualImagePatchSimilarity", "MeanSquaredError", "PeakSignalNoiseRatio", "StructuralSimilarity"),
    "pixels": ("from_uint8", "to_uint8"),
    "predictions": ("predict_x0",),
    "regularizer.variation": ("StepwiseVariation",),
    "sampling": ("Sampling", "decode_latents", "encode_images", "encode_prompts", "sample"),
    "training_loss": ("regularized_loss",),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
