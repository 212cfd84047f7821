"""LoRA files of every common program as one form, target layer -> A, B, alpha: each entry is used, or the file is refused by its name.

Read are the keys of PEFT, diffusers, its older attention processors (the authors' release) and Kohya's scripts, for the UNet and the text
encoder, with PEFT's settings, alphas of single layers, and DoRA's magnitudes over a layer's outputs. A layer's weight W0 becomes
W = W0 + s B A, where s = alpha / rank or, rank-stabilised, alpha / sqrt(rank); with magnitudes m each row W_i becomes m_i W_i / |W_i|.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from .lora_settings import read_settings, strength

PARTS = {  # of a layer -> how its key ends
    "A": r"\.lora_A(\.\w+)?\.weight|[._]lora\.down\.weight|\.lora_linear_layer\.down\.weight|\.lora_down\.weight",
    "B": r"\.lora_B(\.\w+)?\.weight|[._]lora\.up\.weight|\.lora_linear_layer\.up\.weight|\.lora_up\.weight",
    "alpha": r"([._]lora|\.lora_linear_layer)?\.alpha",
    "magnitude": r"\.lora_magnitude_vector(\.\w+){0,2}|\.dora_scale",
}
OTHER_KINDS = {  # what else files hold, by a part of its keys
    "embeddings of new tokens": r"^bundle_emb\.|^emb_params$|string_to_param",
    "full differences": r"\.(diff|diff_b|w_norm|b_norm|set_weight)$",
    "LoHa factors": r"\.hada_",
    "LoKr factors": r"\.lokr_",
    "OFT blocks": r"\.(oft_|boft_)",
    "Tucker cores": r"\.lora_mid\.",
    "LoRA biases": r"\.lora_B(\.\w+)?\.bias$|\.lora_up\.bias$|lora\.up\.bias$",
    "embedding LoRAs": r"\.lora_embedding_",
}
TEXT_PROJECTIONS = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}  # diffusers' older names for CLIP's
KOHYA = {"unet": ("lora_unet_",), "text_encoder": ("lora_te_", "lora_te1_")}


@dataclass(frozen=True)
class LoraLayer:
    """The factors A (r, in, ...) and B (out, r, ...) of one layer, in its own weight's form, and DoRA's magnitudes (out,), if any."""

    a: Tensor
    b: Tensor
    alpha: float
    rank_stabilised: bool = False
    magnitude: Tensor | None = None

    def product(self) -> Tensor:
        """B A, (out, all inputs), in float32."""
        return self.b.float().flatten(1) @ self.a.float().flatten(1)


Lora = dict[str, dict[str, LoraLayer]]  # component ("unet", "text_encoder") -> layer's name in it -> factors


def read_lora(file: Path, content: bytes, modules: Mapping[str, nn.Module]) -> Lora:
    """What the safetensors `content` of `file` adds to each layer of `modules` (component -> module), every entry accounted for.

    Nothing is changed, and of the modules only names, shapes and types are used: they may be on the meta device.

    Raises:
        ValueError: the content is damaged, or an entry is not finite, of no layer here, of a kind that cannot be applied, incomplete, of
            another shape than its layer, or at odds with the file's settings. One sentence without the file's name says which.

    Example:
        >>> from pathlib import Path
        >>> import torch
        >>> from safetensors.torch import save
        >>> from smoothlib import read_lora
        >>> unet = torch.nn.ModuleDict({"to_q": torch.nn.Linear(4, 4)})
        >>> content = save({"unet.to_q.lora_A.weight": torch.ones(2, 4), "unet.to_q.lora_B.weight": torch.ones(4, 2)})
        >>> read_lora(Path("lora.safetensors"), content, {"unet": unet})["unet"]["to_q"].product().shape
        torch.Size([4, 4])
    """
    try:
        entries = dict(sorted(safetensors.torch.load(content).items()))  # the library's order changes from call to call
    except SafetensorError as error:
        raise ValueError(f"it is damaged ({error})") from None
    if not entries:
        raise ValueError("it has no entries")
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__") or {}
    kinds = {component: next(module.parameters()).dtype for component, module in modules.items()}
    if wrong := [key for key, tensor in entries.items() if not _is_finite(tensor, *kinds.values())]:
        raise ValueError(f"{_are(wrong)} not finite")
    placed = _placed(entries, modules)
    settings = read_settings(file, header, sorted({component for component, _ in placed}))
    if settings and (alphas := [parts["alpha"] for parts in placed.values() if "alpha" in parts]):
        raise ValueError(f"its settings and {_some(alphas)} are both there and give the strength twice")
    shapes = {component: layer_shapes(module) for component, module in modules.items()}
    lora: Lora = {}
    for (component, name), parts in placed.items():
        layer = _layer(entries, parts, shapes[component][name], settings.get(component), kinds[component])
        lora.setdefault(component, {})[name] = layer
    for component, layers in lora.items():
        decomposed = [name for name, layer in layers.items() if layer.magnitude is not None]
        if decomposed and (len(decomposed) < len(layers)):
            raise ValueError(f"it has DoRA magnitudes for {len(decomposed)} of its {len(layers)} {component} layers, e.g. {decomposed[0]}")
        if component in settings and bool(settings[component].get("use_dora")) != bool(decomposed):
            raise ValueError(f"its settings and its entries disagree on whether the {component} has DoRA magnitudes")
    return lora


def layer_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the weight, of every linear layer and convolution; layers that carry adapters already keep their names."""
    return {
        name.removesuffix(".base_layer"): tuple(layer.weight.shape)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and not re.search(r"\.lora_[AB]\.", name)
    }


def _is_finite(tensor: Tensor, *kinds: torch.dtype) -> bool:
    """Finite also in the types that the modules compute in; no complex number is taken for its real part."""
    return not tensor.is_complex() and all(bool(tensor.to(kind).isfinite().all()) for kind in kinds)


def _some(keys: list[str], at_most: int = 180) -> str:
    """The first keys as far as they fit, and how many they are."""
    shown = list(keys[:1])
    for key in keys[1:3]:
        if len(", ".join([*shown, key])) <= at_most:
            shown.append(key)
    more = f" and {len(keys) - len(shown)} more" if len(keys) > len(shown) else ""
    return f"{len(keys)} of its entries ({', '.join(shown)}{more})" if len(keys) > 1 else f"its entry {keys[0]}"


def _are(keys: list[str]) -> str:
    return f"{_some(keys)} {'are' if len(keys) > 1 else 'is'}"


# Names ----------------------------------------------------------------------------------------------------------------------------


def _placed(entries: Mapping[str, Tensor], modules: Mapping[str, nn.Module]) -> dict[tuple[str, str], dict[str, str]]:
    """(component, layer) -> part -> key, "name" -> the layer's name in the file; all keys are placed, or ValueError says which are not."""
    known = {spelling: (component, name) for component, name, spelling in _spellings(modules)}
    placed: dict[tuple[str, str], dict[str, str]] = {}
    unplaced, twice = [], []
    for key in entries:
        name, part = _split(key)
        if name not in known or not part:
            unplaced.append(key)
        elif part in (parts := placed.setdefault(known[name], {"name": name})):
            twice += [parts[part], key]
        else:
            parts[part] = key
    if unplaced:
        raise ValueError(_not_used(unplaced, " or ".join(modules)))
    if twice:
        raise ValueError(f"{_are(twice)} the same part of one layer")
    for parts in placed.values():
        if missing := {"A", "B"} - parts.keys():
            given = next(key for part, key in parts.items() if part != "name")
            raise ValueError(f"its entry {given} has no LoRA factor {' or '.join(sorted(missing))} beside it")
    return placed


def _split(key: str) -> tuple[str, str]:
    """A key's layer and part, the part empty where it is none."""
    matches = ((re.search(rf"({ending})$", key), part) for part, ending in PARTS.items())
    return next(((key[: match.start()], part) for match, part in matches if match), (key, ""))


def _not_used(keys: list[str], components: str) -> str:
    """Which entries nothing uses, and what they are."""
    for kind, pattern in OTHER_KINDS.items():
        if found := [key for key in keys if re.search(pattern, key)]:
            return f"{_are(found)} not applied here: {kind}"
    if layers := [key for key in keys if _split(key)[1]]:
        return f"{_are(layers)} of no layer that the {components} has"
    return f"{_are(keys)} of no kind known here"


def _spellings(modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, str, str]]:
    """(component, layer, one way in which files spell it), for every layer and every way."""
    for component, module in modules.items():
        for layer in layer_shapes(module):
            for name in _older_names(component, layer):
                for prefix in ("", "base_model.model."):
                    yield component, layer, f"{prefix}{name}"
                    yield component, layer, f"{component}.{prefix}{name}"
                    yield component, layer, f"{prefix}{component}.{name}"
                for prefix in KOHYA.get(component, ()):
                    yield component, layer, prefix + name.replace(".", "_")


def _older_names(component: str, layer: str) -> list[str]:
    """The layer's name, and what other versions of diffusers and transformers call it."""
    if component == "text_encoder":  # transformers had, or has, its CLIP text model inside another module
        names = [layer, layer.removeprefix("text_model.") if layer.startswith("text_model.") else f"text_model.{layer}"]
        for name in list(names):
            parent, _, last = name.rpartition(".")
            names += [f"{parent}.{TEXT_PROJECTIONS[last]}"] if last in TEXT_PROJECTIONS else []
        return names
    names = [layer]
    parent, _, last = layer.removesuffix(".0").rpartition(".")
    if last in ("to_q", "to_k", "to_v", "to_out"):  # diffusers kept LoRAs in the attention's processor once
        names += [f"{parent}.{last}", f"{parent}.processor.{last}", f"{parent}.processor.{layer.removeprefix(parent + '.')}"]
    return names


# Values ---------------------------------------------------------------------------------------------------------------------------


def _layer(
    entries: Mapping[str, Tensor], parts: Mapping[str, str], shape: tuple[int, ...], settings: dict | None, kind: torch.dtype
) -> LoraLayer:
    """The layer of weight `shape` from the entries of its `parts`, as `kind`."""
    rank = entries[parts["A"]].shape[0] if entries[parts["A"]].ndim else 0
    a = _fitted(entries, parts["A"], (rank, *shape[1:]), parts["name"])
    b = _fitted(entries, parts["B"], (shape[0], rank, *[1] * (len(shape) - 2)), parts["name"])
    alpha, rank_stabilised, magnitude = float(rank), False, None
    if settings is not None:
        own_name = re.sub(r"^((base_model\.model|unet|text_encoder)\.)+", "", parts["name"])
        alpha, rank_stabilised = strength(settings, own_name, rank)
    if "alpha" in parts:
        if entries[parts["alpha"]].numel() != 1:
            raise ValueError(f"its entry {parts['alpha']} has shape {tuple(entries[parts['alpha']].shape)}, but must be one number")
        alpha = float(entries[parts["alpha"]])
    if "magnitude" in parts:
        magnitude = _magnitudes(entries[parts["magnitude"]], parts["magnitude"], shape).to(kind)
    return LoraLayer(a.to(kind), b.to(kind), alpha, rank_stabilised, magnitude)


def _fitted(entries: Mapping[str, Tensor], key: str, wanted: tuple[int, ...], name: str) -> Tensor:
    """The entry in the wanted shape; kernels of one pixel may be written out or left out."""
    tensor, kernel = entries[key], wanted[2:]
    written = tuple(tensor.shape[2:])
    same_kernel = written == kernel or (set(written) | set(kernel) == {1})
    if 0 in wanted or tuple(tensor.shape[:2]) != wanted[:2] or not same_kernel:
        raise ValueError(f"its entry {key} has shape {tuple(tensor.shape)}, but {name} needs {wanted} here, its rank being at least 1")
    return tensor.reshape(wanted)


def _magnitudes(tensor: Tensor, key: str, shape: tuple[int, ...]) -> Tensor:
    """DoRA's magnitudes, one per output: (out,) and (1, out, 1, 1) in PEFT, (out, 1, 1, 1) elsewhere.

    Some programs norm over the outputs instead and store one magnitude per input, (1, in): PEFT has no such layer.
    """
    out, ones = shape[0], {1}
    if key.endswith(".dora_scale"):
        fits = tensor.ndim > 1 and tensor.shape[0] == out and set(tensor.shape[1:]) <= ones
    else:
        fits = tensor.numel() == out and max(tensor.shape, default=0) == out
    if not fits:
        raise ValueError(f"its entry {key} has shape {tuple(tensor.shape)}, but DoRA needs one magnitude for each of {out} outputs here")
    return tensor.reshape(out)
