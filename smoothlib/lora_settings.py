"""What a LoRA file says about itself besides its weights: PEFT's settings, in the file's header or in `adapter_config.json` beside it.

diffusers writes `LoraConfig` into the header, with the component's name before each key (`save_lora_weights`) or without
(`save_lora_adapter`); PEFT writes it as `adapter_config.json`. Strengths are read; a setting with which the layers would compute anything
else than `lora_file` says is refused, known to this module or not.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEADER_KEY = "lora_adapter_metadata"  # diffusers'
PEFT_FILE = "adapter_config.json"
READ = {"peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "init_lora_weights"}
WITHOUT_EFFECT = {  # on trained layers outside of training; which layers there are, the file's entries say
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform",
    "lora_dropout", "peft_version", "revision", "target_modules", "task_type",
}  # fmt: skip
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # initialisations that leave the base model's weights as they are


def read_settings(file: Path, header: Mapping[str, str], components: list[str]) -> dict[str, dict[str, Any]]:
    """Component -> its settings, as far as the file has any.

    Args:
        header: the file's metadata, text by text.
        components: those that the file has layers of.

    Raises:
        ValueError: settings that cannot be read, twice or of no known component.
    """
    sources = {name: text for name, text in ((HEADER_KEY, header.get(HEADER_KEY)), (PEFT_FILE, _beside(file))) if text}
    if len(sources) > 1:
        raise ValueError(f"its settings are there twice, as {HEADER_KEY} in the file and as {PEFT_FILE} beside it: remove one")
    found: dict[str, dict[str, Any]] = {}
    for source, text in sources.items():
        try:
            settings = json.loads(text)
        except ValueError:
            settings = None
        if not isinstance(settings, dict):
            raise ValueError(f"its settings ({source}) are no JSON object")
        for key, value in settings.items():
            component, _, rest = key.rpartition(".")
            owners = [component] if component else components
            if len(owners) != 1 or not set(owners) <= {"unet", "text_encoder"}:
                raise ValueError(f"its settings ({source}) have {key}, but do not say for which of {', '.join(components) or 'its parts'}")
            found.setdefault(owners[0], {})[rest] = value
    for component, settings in found.items():
        _check(component, settings)
    return found


def _beside(file: Path) -> str | None:
    beside = file.parent / PEFT_FILE
    try:
        return beside.read_text(encoding="utf-8") if beside.is_file() else None
    except UnicodeDecodeError:
        return "not a text"


def _check(component: str, settings: Mapping[str, Any]) -> None:
    """Raise ValueError for a setting that is not understood and not PEFT's default."""
    from peft import LoraConfig

    defaults = LoraConfig().to_dict()
    if settings.get("peft_type", "LORA") != "LORA":
        raise ValueError(f"its settings for the {component} have peft_type {settings['peft_type']!r}, but must have 'LORA'")
    start = settings.get("init_lora_weights", True)
    if not any(start is plain or start == plain for plain in PLAIN_STARTS):
        raise ValueError(f"its settings for the {component} have init_lora_weights {start!r}, which changes the base model's weights too")
    for key in sorted(settings.keys() - READ - WITHOUT_EFFECT):
        value, default = settings[key], defaults.get(key)
        if value != default and (value or default):  # empty is absent
            raise ValueError(f"its settings for the {component} have {key} {value!r}, and only {default!r} can be applied")


def strength(settings: Mapping[str, Any], name: str, rank: int) -> tuple[float, bool]:
    """alpha of the layer that the file calls `name` (without component), and whether alpha / sqrt(rank) counts instead of alpha / rank.

    Raises:
        ValueError: numbers that are none, or a rank other than the layer's, `rank`.
    """
    rank_here, alpha = _of_layer(settings, "rank_pattern", "r", name, 8), _of_layer(settings, "alpha_pattern", "lora_alpha", name, 8)
    if rank_here != rank:
        raise ValueError(f"its settings give {name} rank {rank_here}, but its entries have rank {rank}")
    return float(alpha), bool(settings.get("use_rslora", False))


def _of_layer(settings: Mapping[str, Any], pattern: str, default_key: str, name: str, default: float) -> float:
    """PEFT's rule: the first pattern that matches the end of the layer's name, else the value for all layers."""
    from peft.utils.other import get_pattern_key

    patterns = settings.get(pattern) or {}
    if not isinstance(patterns, dict):
        raise ValueError(f"its settings have {pattern} {patterns!r}, but it must be an object")
    key = get_pattern_key(patterns, name)
    value = patterns[key] if key in patterns else settings.get(default_key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"its settings have {default_key} {value!r} for {name}, but it must be a number")
    return value
