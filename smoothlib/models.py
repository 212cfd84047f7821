"""Pipelines and adapters: the only module that knows where weights are, and the one that decides whether they may be trusted.

Weights come from safetensors, never from pickles, and no remote code runs. What ships with the repository is compared with the sha256 in
its card; what comes from the Hugging Face hub is pinned to a commit (downloads obey `HF_HUB_OFFLINE` and `HF_HOME`).
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from . import paths
from .cards import CARD, read_card, read_checked
from .differences import FILE as DIFFERENCE
from .differences import add_difference
from .diffusion import ddim_scheduler

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, StableDiffusionPipeline

PAPER_GUIDANCE_SCALE = 7.5
PINNED_REVISIONS = {"stable-diffusion-v1-5/stable-diffusion-v1-5": "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"}
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")
LOADED_SUFFIXES = {".safetensors", ".json", ".txt"}  # what the libraries read from a model's folder
LORA_TARGET_MODULES = ("to_q", "to_k", "to_v", "to_out.0")  # every attention's projections
WITHOUT_CHECKER = dict(safety_checker=None, feature_extractor=None)


def load_pipeline(
    name: str = "mini",
    *,
    adapter: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    revision: str | None = None,
) -> "StableDiffusionPipeline":
    """A text-to-image latent diffusion pipeline with Stable Diffusion's DDIM scheduler, in evaluation mode, without a safety checker.

    Args:
        name: a model in `data/models` ("mini", the default), a folder with a diffusers pipeline, or a hub id, optionally `id@commit`.
        adapter: a Smooth-LoRA for `load_smooth_lora`, or a full fine-tune's difference; None for the base model.
        revision: commit (40 hex digits) of a hub id; known for Stable Diffusion 1.5.

    Raises:
        ValueError: no such kind of name, no pinned commit, a file that differs from its card, an adapter that does not fit.
        FileNotFoundError: the model, or a file that its card lists, is not there, or the download failed.
    """
    from diffusers import StableDiffusionPipeline

    with _no_progress_bars():
        folder = _trusted_folder(name, revision)
        options = dict(dtype=dtype, use_safetensors=True, local_files_only=True, requires_safety_checker=False, **WITHOUT_CHECKER)
        pipe = StableDiffusionPipeline.from_pretrained(str(folder), **options)
    pipe.scheduler = ddim_scheduler(pipe)
    pipe.set_progress_bar_config(disable=None)  # bars in a terminal only
    pipe.to(device)
    if adapter is not None:
        load_adapter(pipe, adapter)
    return pipe


def load_vae(
    name: str = "mini", *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", revision: str | None = None
) -> "AutoencoderKL":
    """The autoencoder alone of the pipeline that `name` means, in evaluation mode: arguments and errors are those of `load_pipeline`.

    The folder needs nothing besides `vae`: the second stage is trained where only the first is there yet.
    """
    from diffusers import AutoencoderKL

    with _no_progress_bars():
        folder = _trusted_folder(name, revision, needed="vae/config.json", part="vae/") / "vae"
        vae = AutoencoderKL.from_pretrained(str(folder), dtype=dtype, use_safetensors=True, local_files_only=True)
    return vae.to(device)


def default_guidance_scale(name: str = "mini") -> float:
    """The guidance scale w that the model's card recommends; 7.5, the paper's, where there is no card."""
    folder = _local_folder(name, "model_index.json")
    return float((read_card(folder) if folder else {}).get("guidance_scale", PAPER_GUIDANCE_SCALE))


def list_adapters() -> list[str]:
    """Names of the Smooth-LoRAs and full fine-tunes in `data/models/adapters`, sorted."""
    return sorted({file.parent.name for file in paths.ADAPTERS.glob("*/*.safetensors")})


def load_adapter(pipe: "StableDiffusionPipeline", name_or_folder: str | Path) -> None:
    """Load an adapter of either kind into the UNet: a Smooth-LoRA (`load_smooth_lora`), or the difference that a full fine-tune left.

    Raises FileNotFoundError and ValueError as `load_smooth_lora` does.
    """
    file = adapter_file(name_or_folder)
    if file.name == DIFFERENCE:
        add_difference(pipe.unet, file)
    else:
        load_smooth_lora(pipe, name_or_folder)


def load_smooth_lora(pipe: "StableDiffusionPipeline", name_or_folder: str | Path) -> None:
    """Load a Smooth-LoRA into the UNet and check that every attention projection changed (Eq. 6: W0 + BA with BA != 0).

    Reads diffusers' LoRA files and the layout that the authors released, whose keys lack the `unet.` prefix: diffusers by itself ignores
    those with a warning. After an error the pipeline computes what it did before.

    Args:
        name_or_folder: a name from `list_adapters`, a folder with one safetensors file, or such a file.

    Raises:
        FileNotFoundError: there is no such adapter.
        ValueError: a file that differs from its card, is no LoRA for this UNet, or leaves a projection unchanged.
    """
    file = adapter_file(name_or_folder)
    adapter_name = re.sub(r"\W", "_", Path(name_or_folder).resolve().name.removesuffix(".safetensors"))  # PEFT allows no dots
    others = set(getattr(pipe.unet, "peft_config", {}))
    if adapter_name in others:
        raise ValueError(f"adapter {adapter_name!r} is loaded already")
    try:
        source = dict(weight_name=file.name, use_safetensors=True, return_lora_metadata=True)
        weights, alphas, metadata = pipe.lora_state_dict(str(file.parent), **source)
        weights = {key if key.startswith("unet.") else f"unet.{key}": weight for key, weight in weights.items()}
        pipe.unet.load_lora_adapter(weights, prefix="unet", network_alphas=alphas, metadata=metadata, adapter_name=adapter_name)
        unchanged = _unchanged_projections(pipe.unet, adapter_name)
    except Exception as error:  # the libraries raise many kinds for a file that does not fit
        _remove_adapter(pipe.unet, adapter_name, others)
        raise ValueError(f"{file} is not a LoRA for this UNet: {str(error).splitlines()[0][:200]}") from error
    if unchanged:
        _remove_adapter(pipe.unet, adapter_name, others)
        raise ValueError(f"{file} leaves {len(unchanged)} of the UNet's attention projections unchanged or not finite, e.g. {unchanged[0]}")


def fingerprint(pipe_or_name: "StableDiffusionPipeline | str") -> str:
    """sha256 (hex) of what determines a pipeline's results: weights, active adapters, configurations, scheduler, tokenizer.

    Equal for equal pipelines wherever they were loaded from and whatever device they are on; a name stands for `load_pipeline(name)`.
    """
    pipe = load_pipeline(pipe_or_name) if isinstance(pipe_or_name, str) else pipe_or_name
    digest = hashlib.sha256()
    for part in ("unet", "vae", "text_encoder"):
        module = getattr(pipe, part)
        config = module.config if isinstance(module.config, dict) else module.config.to_dict()
        digest.update(f"{part} {_canonical(config)} {_adapter_state(module)}".encode())
        for key, tensor in sorted(module.state_dict().items()):
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    digest.update(f"{type(pipe.scheduler).__name__} {_canonical(pipe.scheduler.config)}".encode())
    tokenizer = json.loads(pipe.tokenizer.backend_tokenizer.to_str())
    rules = {key: tokenizer[key] for key in ("model", "normalizer", "pre_tokenizer", "added_tokens")}  # not padding, which calls change
    digest.update(f"{pipe.tokenizer.model_max_length} {json.dumps(rules, sort_keys=True)}".encode())
    return digest.hexdigest()


def _trusted_folder(name: str, revision: str | None, *, needed: str = "model_index.json", part: str = "") -> Path:
    """The folder that `name` means, its files (those whose names begin with `part`) checked; a hub id's is pinned by its commit."""
    folder = _local_folder(name, needed)
    if folder is None:
        return _download(name, revision)
    _check_files(folder, part)
    return folder


def _local_folder(name: str, needed: str) -> Path | None:
    """The folder that `name` means, in which the file `needed` is; None for a hub id."""
    shipped, folder = paths.MODELS / name, Path(name)
    if "/" not in name and (shipped.is_dir() or not folder.is_dir()):
        folder = shipped
    if folder.is_dir():
        if not (folder / needed).is_file():
            raise FileNotFoundError(f"{folder} has no {needed}: it is not the folder of a diffusers pipeline")
        return folder
    if "/" not in name:
        raise FileNotFoundError(
            f"the model {name!r} is not in {paths.MODELS}: restore the folder from the repository, train it with "
            "notebooks/train_base.ipynb, or name a folder with a diffusers pipeline or a hub id"
        )
    if HUB_ID.fullmatch(name.partition("@")[0]):
        return None
    raise ValueError(f"name must be a model in {paths.MODELS}, an existing folder or a hub id such as 'owner/model', not {name!r}")


def _download(name: str, revision: str | None) -> Path:
    """The local snapshot of a hub id, downloaded where the cache lacks it."""
    from diffusers import StableDiffusionPipeline

    hub_id, _, pinned = name.partition("@")
    revision = revision or pinned or PINNED_REVISIONS.get(hub_id) or ""
    if not COMMIT.fullmatch(revision):
        raise ValueError(
            f"{hub_id!r} is not a folder here, and to load it from the Hugging Face hub revision must be its commit of 40 hex digits "
            f"('{hub_id}@<commit>' for short), not {revision!r}"
        )
    try:
        return Path(StableDiffusionPipeline.download(hub_id, revision=revision, use_safetensors=True, **WITHOUT_CHECKER))
    except Exception as error:  # whatever the hub client raises, the remedy is the same
        raise FileNotFoundError(
            f"could not download {hub_id!r} at commit {revision} from the Hugging Face hub ({type(error).__name__}): get its "
            "model_index.json and its folders scheduler, text_encoder, tokenizer, unet and vae (safetensors) where there is internet, "
            "put them in one folder, and pass that folder's path as the model"
        ) from None


def _check_files(folder: Path, part: str = "") -> None:
    """Raise unless every file whose name begins with `part` is the one in the card; only folders outside `data/models` may lack a card."""
    card = read_card(folder)
    if not card:
        if folder.resolve().is_relative_to(paths.MODELS.resolve()):
            raise ValueError(f"{folder} has no {CARD} with its files' hashes: restore it, or write it with smoothlib.cards")
        return
    there = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.suffix in LOADED_SUFFIXES and file.name != CARD}
    for name in sorted({*card.get("files", ()), *there}):
        if name.startswith(part):
            read_checked(folder, name)


def adapter_file(name_or_folder: str | Path) -> Path:
    """The safetensors file of an adapter, its folder checked against its card."""
    path = Path(name_or_folder)
    if (paths.ADAPTERS / path).is_dir():
        path = paths.ADAPTERS / path
    if not path.exists():
        available = ", ".join(list_adapters()) or "none"
        raise FileNotFoundError(f"there is no adapter {str(name_or_folder)!r}: pass a folder, or a name in {paths.ADAPTERS} ({available})")
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if len(files) != 1 or files[0].suffix != ".safetensors":
        raise ValueError(
            f"{path} must be or contain exactly one .safetensors file; pickles (.bin, .pt) are not loaded: convert one once with "
            "`safetensors.torch.save_file(torch.load(file, weights_only=True), 'pytorch_lora_weights.safetensors')`"
        )
    _check_files(files[0].parent)
    return files[0]


def _unchanged_projections(unet: torch.nn.Module, adapter_name: str) -> list[str]:
    """Names of the attention projections whose weight change BA is absent, zero or not finite."""
    from diffusers.models.attention_processor import Attention
    from peft.tuners.lora import LoraLayer

    attentions = [name for name, module in unet.named_modules() if isinstance(module, Attention)]
    unchanged = []
    for name in (f"{attention}.{projection}" for attention in attentions for projection in LORA_TARGET_MODULES):
        layer = unet.get_submodule(name)
        changed = isinstance(layer, LoraLayer) and adapter_name in layer.lora_A
        if changed:
            delta = layer.get_delta_weight(adapter_name)
            changed = bool(delta.any() and delta.isfinite().all())
        if not changed:
            unchanged.append(name)
    return unchanged


def _remove_adapter(unet: torch.nn.Module, adapter_name: str, others: set[str]) -> None:
    if not others:
        unet.unload_lora()
    elif adapter_name in unet.peft_config:
        unet.delete_adapters(adapter_name)


def _adapter_state(module: torch.nn.Module) -> str:
    """Which adapters act on each layer, and how strongly; their weights are in the state dict."""
    layers = ((name, layer) for name, layer in module.named_modules() if hasattr(layer, "lora_A") and hasattr(layer, "scaling"))
    return json.dumps([[name, layer.disable_adapters, list(layer.active_adapters), layer.scaling] for name, layer in layers])


def _canonical(config: dict) -> str:
    """A configuration as text, without the private entries that record where it was loaded from and by which version."""
    ignored = {"transformers_version", "dtype", "torch_dtype", "architectures"}
    kept = {key: value for key, value in config.items() if not key.startswith("_") and key not in ignored}
    return json.dumps(kept, sort_keys=True, default=str)


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """The libraries' bars for loading a handful of files say nothing and would be stored in notebooks."""
    import diffusers.utils.logging
    import transformers.utils.logging

    libraries = [library for library in (diffusers.utils.logging, transformers.utils.logging) if library.is_progress_bar_enabled()]
    for library in libraries:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in libraries:
            library.enable_progress_bar()
