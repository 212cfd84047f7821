"""How what was trained is written: in diffusers' format, UNet and LoRA in half precision, which diffusers loads as float32.

The text encoder stays in float32, because transformers would keep it in the precision of its file. `pipe.load_lora_weights(folder)` reads
a LoRA; the difference that a full fine-tune makes (`fine_tune.save_difference`) is read by `pipelines.load_adapter` and, as a model of its
own, by `pipelines.load_pipeline`.
"""

import copy
import json
from pathlib import Path
from typing import Any

from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import get_peft_model_state_dict

from ...base.files import atomic_write


def forget_origin(folder: Path) -> None:
    """Remove the path that diffusers writes into the configuration of a module that was loaded from a folder."""
    for file in folder.glob("*/config.json"):
        config = json.loads(file.read_text())
        if config.pop("_name_or_path", None) is not None:
            atomic_write(file, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


def save_lora(unet: UNet2DConditionModel, folder: Path) -> None:
    """diffusers' LoRA file."""
    # PEFT's keys, which diffusers reads; its own conversion renames the attention's alone and so leaves a mixture that it misreads
    layers = {name: weight.half() for name, weight in get_peft_model_state_dict(unet).items()}
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers, safe_serialization=True)


def save_pipeline(folder: Path, *, unet: UNet2DConditionModel, **parts: Any) -> None:
    """The whole pipeline; `parts`: vae, text_encoder, tokenizer, scheduler."""
    absent = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    StableDiffusionPipeline(unet=copy.deepcopy(unet).half(), **parts, **absent).save_pretrained(folder)
    forget_origin(folder)
