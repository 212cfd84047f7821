"""LoRA files as different programs write them, for the tiny pipeline: random factors, and the keys that each program gives them."""

import torch
from safetensors.torch import save_file
from tiny import noise
from torch import nn

from smoothlib.lora import LORA_TARGET_MODULES

TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
OLD_TEXT_NAMES = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


def projections(unet):
    """Names of the attention projections, found by their names alone."""
    ends = tuple(f".{attention}.{projection}" for attention in ("attn1", "attn2") for projection in LORA_TARGET_MODULES)
    return [name for name, _ in unet.named_modules() if name.endswith(ends)]


def all_layers(unet):
    """Names of all linear layers and convolutions."""
    return [name for name, layer in unet.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


def text_layers(text_encoder):
    return [name for name, _ in text_encoder.named_modules() if name.endswith(TEXT_TARGETS)]


def low_rank(module, names, scale=0.3, ranks=(2,)):
    """layer -> (A, B), random, in the form of the layer's weight; the ranks take turns."""
    factors = {}
    for i, name in enumerate(names):
        height, *width = module.get_submodule(name).weight.shape
        rank = ranks[i % len(ranks)]
        ones = [1] * (len(width) - 1)
        factors[name] = scale * noise(rank, *width, seed=2 * i), scale * noise(height, rank, *ones, seed=2 * i + 1)
    return factors


def added(factors, strengths=None):
    """layer -> s B A, flattened to (out, all inputs)."""
    return {name: (strengths or {}).get(name, 1.0) * b.flatten(1) @ a.flatten(1) for name, (a, b) in factors.items()}


def change(module, additions):
    """Add to the weights of the layers: what the LoRA must do."""
    for name, addition in additions.items():
        weight = module.get_submodule(name).weight
        weight.data += addition.reshape(weight.shape)


# Keys: (layer, part) -> key, for the parts "A", "B", "alpha", "magnitude" ---------------------------------------------------------------


def peft_key(name, part, component="unet"):
    end = {"alpha": "alpha", "magnitude": "lora_magnitude_vector"}.get(part, f"lora_{part}.weight")
    return f"{component}.{'text_model.' * (component == 'text_encoder')}{name}.{end}"


def peft_folder_key(name, part):
    return peft_key(name, part).replace("unet.", "base_model.model.")


def named_peft_key(name, part):
    """PEFT's own state dict, not cleaned of the adapter's name."""
    return peft_key(name, part).replace("_A.weight", "_A.default.weight").replace("_B.weight", "_B.default.weight")


def bare_key(name, part):
    """`unet.save_lora_adapter`."""
    return peft_key(name, part).removeprefix("unet.")


def diffusers_key(name, part, component="unet"):
    ends = {"A": "lora.down.weight", "B": "lora.up.weight", "alpha": "alpha"}
    if component == "text_encoder":
        return f"text_encoder.text_model.{name}." + ends[part].replace("lora.", "lora_linear_layer.")
    return f"unet.{name}.{ends[part]}"


def released_key(name, part, component="unet"):
    """The authors' file: attention processors' keys, without the `unet.` prefix."""
    ends = {"A": "lora.down.weight", "B": "lora.up.weight", "alpha": "lora.alpha"}
    parent, _, last = name.replace("to_out.0", "to_out").rpartition(".")
    if component == "text_encoder" and last in OLD_TEXT_NAMES:
        return f"text_encoder.text_model.{parent}.{OLD_TEXT_NAMES[last]}_{ends[part]}"
    if "attn" in parent and component == "unet":
        return f"{parent}.processor.{last}_{ends[part]}"
    return diffusers_key(name, part, component).removeprefix("unet.")


def kohya_key(name, part, component="unet"):
    prefix = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}[component]
    ends = {"A": "lora_down.weight", "B": "lora_up.weight", "alpha": "alpha", "magnitude": "dora_scale"}
    return f"{prefix}{name.replace('.', '_')}.{ends[part]}"


def entries(factors, key, **options):
    """All factors under their keys."""
    return {key(name, part, **options): w for name, pair in factors.items() for part, w in zip("AB", pair, strict=True)}


def write_adapter(folder, weights, metadata=None, file="pytorch_lora_weights.safetensors"):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: torch.as_tensor(w).contiguous() for key, w in weights.items()}, folder / file, metadata=metadata)
    return folder
