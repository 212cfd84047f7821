"""What determines a pipeline's results, as one hash: the key under which results are kept."""

import hashlib
import json
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

DECODER = ("decoder.", "post_quant_conv.")  # the autoencoder's weights behind the latents


def pipeline_hash(pipe: "StableDiffusionPipeline", *, decoder: bool = True) -> str:
    """sha256 (hex) of weights, active adapters, configurations, scheduler and tokenizer; equal on every device.

    `decoder=False` leaves the autoencoder's decoder out, on which no latent depends.
    """
    digest = hashlib.sha256()
    for part in ("unet", "vae", "text_encoder"):
        module = getattr(pipe, part)
        config = module.config if isinstance(module.config, dict) else module.config.to_dict()
        digest.update(f"{part} {_canonical(config)} {_adapter_state(module)}".encode())
        for key, tensor in sorted(module.state_dict().items()):
            if part == "vae" and not decoder and key.startswith(DECODER):
                continue
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    digest.update(f"{type(pipe.scheduler).__name__} {_canonical(pipe.scheduler.config)}".encode())
    tokenizer = json.loads(pipe.tokenizer.backend_tokenizer.to_str())
    rules = {key: tokenizer[key] for key in ("model", "normalizer", "pre_tokenizer", "added_tokens")}  # not padding, which calls change
    digest.update(f"{pipe.tokenizer.model_max_length} {json.dumps(rules, sort_keys=True)}".encode())
    return digest.hexdigest()


def _adapter_state(module: torch.nn.Module) -> str:
    """Which adapters act on each layer, and how strongly; their weights are in the state dict."""
    layers = ((name, layer) for name, layer in module.named_modules() if hasattr(layer, "lora_A") and hasattr(layer, "scaling"))
    return json.dumps([[name, layer.disable_adapters, list(layer.active_adapters), layer.scaling] for name, layer in layers])


def _canonical(config: dict) -> str:
    """A configuration as text, without the private entries that record where it was loaded from and by which version."""
    ignored = {"transformers_version", "dtype", "torch_dtype", "architectures"}
    kept = {key: value for key, value in config.items() if not key.startswith("_") and key not in ignored}
    return json.dumps(kept, sort_keys=True, default=str)
