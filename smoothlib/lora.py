"""LoRAs in a model: which layers a Smooth-LoRA must change, and how one is put onto UNet and text encoder through PEFT."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from .lora_file import Lora, LoraLayer, read_lora

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

LORA_TARGET_MODULES = ("to_q", "to_k", "to_v", "to_out.0")  # every attention's projections


def unchanged_layers(lora: Lora, modules: Mapping[str, nn.Module]) -> str:
    """Which layers keep their weights although they must not, as the end of a sentence; empty where all is well.

    All attention projections of the UNet must change (Eq. 6), and every UNet layer that the LoRA names. Of the text encoder it is enough
    that some do: in common trainings its last layer gets no gradient, because the layer before it is what the UNet is shown.
    """
    from diffusers.models.attention_processor import Attention

    products = {(component, name): layer.product() for component, layers in lora.items() for name, layer in layers.items()}
    if wrong := [name for (_, name), product in products.items() if not product.isfinite().all()]:
        return f"{len(wrong)} layers with weights that are not finite, e.g. {wrong[0]}"
    changed = {(component, name) for (component, name), product in products.items() if lora[component][name].alpha and product.any()}
    attentions = [name for name, module in modules["unet"].named_modules() if isinstance(module, Attention)]
    projections = [f"{attention}.{projection}" for attention in attentions for projection in LORA_TARGET_MODULES]
    if still := [name for name in projections if ("unet", name) not in changed]:
        return f"{len(still)} of the UNet's attention projections unchanged, e.g. {still[0]}"
    if still := [name for name in lora.get("unet", {}) if ("unet", name) not in changed]:
        return f"{len(still)} of the layers that it names unchanged, e.g. {still[0]}"
    if "text_encoder" in lora and not any(component == "text_encoder" for component, _ in changed):
        return f"all {len(lora['text_encoder'])} layers of the text encoder that it names unchanged"
    return ""


def fitting_lora(file: Path, content: bytes, modules: Mapping[str, nn.Module]) -> Lora:
    """The LoRA in `content`, that of `file`; ValueError unless it is one for these modules that changes all that it must."""
    try:
        lora = read_lora(file, content, modules)
    except ValueError as error:
        raise ValueError(f"{file} is not a LoRA for this UNet: {error}") from None
    if unchanged := unchanged_layers(lora, modules):
        raise ValueError(f"{file} leaves {unchanged}")
    return lora


def lora_modules(target: "StableDiffusionPipeline | nn.Module | Mapping[str, nn.Module]") -> dict[str, nn.Module]:
    """Component -> module, of those of a pipeline (or a UNet, or such a mapping) that a LoRA may have layers of."""
    if isinstance(target, nn.Module):
        return {"unet": target}
    if not isinstance(target, Mapping):
        target = {name: getattr(target, name, None) for name in ("unet", "text_encoder")}
    return {name: module for name, module in target.items() if module is not None}


def load_smooth_lora(pipe: "StableDiffusionPipeline", file: str | Path, name: str | None = None) -> str:
    """Load a LoRA that changes every attention projection of the UNet (Eq. 6: W0 + BA with BA != 0), whole and at the file's strength.

    See `lora_file` for the formats. Its layers of the text encoder, if any, go there. Afterwards it acts alone, enabled, whatever adapters
    were loaded or disabled before. After an error the pipeline computes what it did before.

    Args:
        file: a safetensors file.
        name: what to call it in the pipeline; default: the file's name without its ending.

    Returns:
        its name in the pipeline: `name` with "_" for what PEFT does not allow, and longer where that is taken.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no safetensors file, is loaded already, is no LoRA for this pipeline (see `lora_file.read_lora`), or leaves a
            projection or a layer that it names unchanged.

    Example:
        >>> from companion.base.paths import ADAPTERS
        >>> from companion.weights.pipelines import load_pipeline
        >>> from smoothlib import load_smooth_lora
        >>> load_smooth_lora(load_pipeline("mini"), ADAPTERS / "smooth" / "pytorch_lora_weights.safetensors", name="smooth")
        'smooth'
    """
    file = Path(file)
    if file.suffix != ".safetensors":
        raise ValueError(f"file is {file}, but must be a .safetensors file")
    if not file.is_file():
        raise FileNotFoundError(f"file is {file}, but must be a .safetensors file that exists")
    content, modules = file.read_bytes(), lora_modules(pipe)
    lora = fitting_lora(file, content, modules)
    try:
        return add_lora(modules, lora, re.sub(r"\W", "_", name or file.stem), hashlib.sha256(content).hexdigest())
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def add_lora(modules: Mapping[str, nn.Module], lora: Lora, name: str, identity: str) -> str:
    """Put `lora` onto the modules (component -> module) as the only active adapter, and return its name there.

    Args:
        name: what to call it; where PEFT or the modules use that name already, a part of `identity` is added.
        identity: a hash of its content.

    Raises:
        ValueError: these modules have a LoRA of this identity, or weights that are not in memory.

    Example:
        >>> import torch
        >>> from smoothlib import add_lora
        >>> from smoothlib.lora_file import LoraLayer
        >>> unet = torch.nn.ModuleDict({"to_q": torch.nn.Linear(4, 4, bias=False)})
        >>> x = torch.ones(1, 4)
        >>> before = unet["to_q"](x)
        >>> layer = LoraLayer(torch.ones(2, 4), torch.ones(4, 2), alpha=2.0)  # B A is 2 everywhere, alpha / rank is 1
        >>> add_lora({"unet": unet}, {"unet": {"to_q": layer}}, name="mine", identity="0123456789")
        'mine'
        >>> torch.allclose(unet["to_q"](x) - before, torch.full((1, 4), 8.0))
        True
    """
    for component, module in modules.items():
        if any(parameter.is_meta for parameter in module.parameters()):
            raise ValueError(f"the {component}'s weights are not in memory: load adapters before the pipeline is offloaded")
    known = {adapter: of for adapter, of in getattr(modules["unet"], "_lora_identities", {}).items() if adapter in _adapters(modules)}
    if identity in known.values():
        raise ValueError(f"adapter {next(adapter for adapter, of in known.items() if of == identity)!r} is loaded already")
    name = _free_name(name, identity, modules)
    before = _adapters(modules)
    try:
        for component, layers in lora.items():
            _inject(modules[component], layers, name)
    except Exception:  # PEFT's injection is not atomic
        for module in modules.values():
            _remove(module, name, alone=not before)
        raise
    for component, module in modules.items():
        _activate(module, [name] if component in lora else [])
    modules["unet"]._lora_identities = known | {name: identity}
    return name


def _adapters(modules: Mapping[str, nn.Module]) -> set[str]:
    return {name for module in modules.values() for name in getattr(module, "peft_config", None) or ()}


def _free_name(name: str, identity: str, modules: Mapping[str, nn.Module]) -> str:
    """PEFT keeps adapters as attributes of its containers: what these have (train, float, ...) is taken, like other adapters' names."""
    taken = {"", "weight", "bias", *dir(nn.ModuleDict()), *_adapters(modules)}
    longer = (f"{name}_{identity[:length]}" for length in range(8, len(identity) + 1))
    return next(free for free in (name, *longer) if free not in taken)


def _inject(module: nn.Module, layers: Mapping[str, LoraLayer], name: str) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    ranks, alphas = ({layer: value(of) for layer, of in layers.items()} for value in (lambda of: of.a.shape[0], lambda of: of.alpha))
    (rank, _), (alpha, _) = (Counter(values.values()).most_common(1)[0] for values in (ranks, alphas))
    some = next(iter(layers.values()))
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        rank_pattern={f"^{re.escape(layer)}": value for layer, value in ranks.items() if value != rank},
        alpha_pattern={f"^{re.escape(layer)}": value for layer, value in alphas.items() if value != alpha},
        target_modules="|".join(re.escape(layer) for layer in layers),
        use_rslora=some.rank_stabilised,
        use_dora=some.magnitude is not None,
        init_lora_weights=False,
    )
    inject_adapter_in_model(config, module, adapter_name=name)
    module._hf_peft_config_loaded = True
    for layer, of in layers.items():
        tuner = module.get_submodule(layer)
        _set(tuner.lora_A[name].weight, of.a)
        _set(tuner.lora_B[name].weight, of.b)
        if of.magnitude is not None:
            _set(tuner.lora_magnitude_vector[name].weight, of.magnitude)


@torch.no_grad()
def _set(parameter: nn.Parameter, value: torch.Tensor) -> None:
    parameter.copy_(value.reshape(parameter.shape))


def _activate(module: nn.Module, names: list[str]) -> None:
    """Let these adapters act and no other, also where adapters had been disabled."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in module.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.enable_adapters(True)
            layer.set_adapter(names)


def _remove(module: nn.Module, name: str, alone: bool) -> None:
    """Take the adapter away; where it was `alone`, PEFT's layers too."""
    from diffusers.utils.peft_utils import delete_adapter_layers, recurse_remove_peft_layers

    if alone:
        recurse_remove_peft_layers(module)
        module.__dict__.pop("peft_config", None)
        module._hf_peft_config_loaded = False
    elif name in (getattr(module, "peft_config", None) or {}):
        delete_adapter_layers(module, name)
