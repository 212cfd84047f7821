"""Pipelines: with `companion.weights.adapters` the only module that knows where weights are and decides whether they may be trusted.

Weights come from safetensors, never from pickles, and no remote code runs. What ships with the repository is compared with the sha256 in
its card; what comes from the Hugging Face hub is pinned to a commit (downloads obey `HF_HUB_OFFLINE` and `HF_HOME`).
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from smoothlib.diffusion import ddim_scheduler

from ..base import paths
from ..base.progress import no_library_bars
from .adapters import adapter_file, check_adapter, list_adapters, load_adapter
from .cards import CARD, check_files, read_card
from .fine_tune import FILE as DIFFERENCE
from .fine_tune import add_difference
from .pipeline_hash import DECODER, pipeline_hash
from .pipeline_kind import PIPELINE, check_pipeline_kind, not_runnable

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, StableDiffusionPipeline

__all__ = [
    "DECODER", "adapter_file", "blank_modules", "check_adapter", "default_guidance_scale", "fingerprint", "image_size", "list_adapters",
    "list_fine_tunes", "load_adapter", "load_pipeline", "load_vae",
]  # fmt: skip

PAPER_GUIDANCE_SCALE = 7.5
PINNED_REVISIONS = {"stable-diffusion-v1-5/stable-diffusion-v1-5": "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"}
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")
WITHOUT_CHECKER = dict(safety_checker=None, feature_extractor=None)
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}  # the libraries' file names


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
        name: a model in `data/models` ("mini", the default), a folder with a diffusers pipeline, or a hub id, optionally `id@commit`. A
            folder may also hold a full fine-tune as the difference to the model that its card names: that model is loaded, then changed.
        adapter: a Smooth-LoRA for `load_adapter`, or a full fine-tune's difference; None for the model as it is.
        revision: commit (40 hex digits) of a hub id; known for Stable Diffusion 1.5.

    Raises:
        ValueError: no such kind of name, no pinned commit, a file that differs from its card, an adapter that does not fit, another kind of
            pipeline than Stable Diffusion's text-to-image (SDXL, inpainting, ...) or another kind of noise schedule than DDIM's.
        FileNotFoundError: the model, or a file that its card lists, is not there, or the download failed.
    """
    folder = _fine_tune(name)
    pipe = _load_whole(name, dtype, revision) if folder is None else _load_fine_tune(folder)
    if pipe.unet.dtype != dtype:
        pipe.to(dtype)
    pipe.to(device)
    if adapter is not None:
        load_adapter(pipe, adapter)
    return pipe


def _load_whole(name: str, dtype: torch.dtype, revision: str | None) -> "StableDiffusionPipeline":
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    with no_library_bars():
        folder = _trusted_folder(name, revision)
        check_pipeline_kind(folder)
        options = dict(dtype=dtype, use_safetensors=True, local_files_only=True, requires_safety_checker=False, **WITHOUT_CHECKER)
        pipe = StableDiffusionPipeline.from_pretrained(str(folder), **options)
    # diffusers' own class, so that what is saved loads without this package; `sampling.sample` chains its steps
    pipe.scheduler = DDIMScheduler.from_config(ddim_scheduler(pipe).config)
    pipe.set_progress_bar_config(disable=None)  # bars in a terminal only
    return pipe


def _load_fine_tune(folder: Path) -> "StableDiffusionPipeline":
    """The base model that the folder's card names, in float32, plus the difference. The base's weights must be those of the training."""
    _whole_base(folder)  # the cards lead somewhere
    base = read_card(folder)["base"]
    pipe = load_pipeline(base["model"])
    if fingerprint(pipe, decoder=False) != base["fingerprint"]:
        raise ValueError(f"{folder} is a fine-tune of other weights than those that {base['model']!r} has now: train it again")
    add_difference(pipe.unet, folder / DIFFERENCE)
    return pipe


def _lineage(folder: Path | None) -> Iterator[Path]:
    """The folder, its base's, the base's base's, as far as cards name them and the folders are here; None: no folder."""
    passed: list[Path] = []
    while folder is not None:
        yield folder
        passed.append(folder.resolve())
        base = read_card(folder).get("base")
        following = (_fine_tune(base["model"]) or _local_folder(base["model"], "model_index.json")) if base else None
        if following is not None and following.resolve() in passed:
            raise ValueError(f"the {CARD} of {folder} names {base['model']!r} as the base model, which is made from it: restore it")
        folder = following


def _whole_base(folder: Path) -> str:
    """The name of the whole pipeline that this fine-tune and its bases begin with; the fine-tunes' files are checked."""
    name = ""
    for fine_tune in _lineage(folder):
        if not (fine_tune / DIFFERENCE).is_file():
            break
        check_files(fine_tune)
        base = read_card(fine_tune).get("base")
        if base is None:
            raise ValueError(f"{fine_tune} needs a {CARD} that names the base model and its fingerprint: restore it, or train it again")
        name = base["model"]
    return name


def blank_modules(name: str = "mini", *, revision: str | None = None) -> dict[str, torch.nn.Module]:
    """{"unet": ..., "text_encoder": ...} of the pipeline that `name` means, without storage: what `check_adapter` needs, at once.

    Arguments and errors are those of `load_pipeline`; no weights are read, but a hub id's files are downloaded where the cache lacks them.
    """
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    fine_tune = _fine_tune(name)
    with no_library_bars(), torch.device("meta"):
        folder = _trusted_folder(name if fine_tune is None else _whole_base(fine_tune), revision)
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(str(folder), subfolder="unet"))
        text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(str(folder), subfolder="text_encoder", local_files_only=True))
    return {"unet": unet, "text_encoder": text_encoder}


def load_vae(
    name: str = "mini", *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", revision: str | None = None
) -> "AutoencoderKL":
    """The autoencoder alone of the pipeline that `name` means, in evaluation mode: arguments and errors are those of `load_pipeline`.

    The folder needs nothing besides `vae`: the second stage is trained where only the first is there yet.
    """
    from diffusers import AutoencoderKL

    with no_library_bars():
        folder = _trusted_folder(name, revision, needed="vae/config.json", part="vae/") / "vae"
        vae = AutoencoderKL.from_pretrained(str(folder), dtype=dtype, use_safetensors=True, local_files_only=True)
    return vae.to(device)


def default_guidance_scale(name: str = "mini") -> float:
    """The guidance scale w that the model's card recommends, or its base's; 7.5, the paper's, where there is no card."""
    lineage = _lineage(_fine_tune(name) or _local_folder(name, "model_index.json"))
    known = (card["guidance_scale"] for card in map(read_card, lineage) if "guidance_scale" in card)
    return float(next(known, PAPER_GUIDANCE_SCALE))


def image_size(name: str = "mini") -> int:
    """Side in pixels of the images that a pipeline was made for, from its configuration files; `name` and errors as in `load_pipeline`."""
    fine_tune = _fine_tune(name)
    name = name if fine_tune is None else _whole_base(fine_tune)
    folder = _trusted_folder(name, None, needed="unet/config.json", part="unet/config.json")
    check_files(folder, "vae/config.json")
    unet, vae = (json.loads((folder / part / "config.json").read_text(encoding="utf-8")) for part in ("unet", "vae"))
    if not isinstance(unet.get("sample_size"), int):
        raise ValueError(f"{folder / 'unet' / 'config.json'} must give one whole number as sample_size, not {unet.get('sample_size')!r}")
    return unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)


def list_fine_tunes() -> list[str]:
    """Names of the full fine-tunes in `data/models`, sorted: models that `load_pipeline` makes of another one and a difference."""
    return sorted(file.parent.name for file in paths.MODELS.glob(f"*/{DIFFERENCE}"))


def fingerprint(pipe_or_name: "StableDiffusionPipeline | str", *, decoder: bool = True) -> str:
    """sha256 (hex) of what determines a pipeline's results: weights, active adapters, configurations, scheduler, tokenizer.

    Equal for equal pipelines wherever they were loaded from and whatever device they are on; a name stands for `load_pipeline(name)`.
    `decoder=False` leaves the autoencoder's decoder out: what remains determines the latents, and so what a fine-tune was trained on.
    """
    pipe = load_pipeline(pipe_or_name) if isinstance(pipe_or_name, str) else pipe_or_name
    return pipeline_hash(pipe, decoder=decoder)


def _trusted_folder(name: str, revision: str | None, *, needed: str = "model_index.json", part: str = "") -> Path:
    """The folder that `name` means, its files (those whose names begin with `part`) checked; a hub id's is pinned by its commit."""
    folder = _local_folder(name, needed)
    if folder is None:
        folder = _download(name, revision)
    else:
        check_files(folder, part)
    _check_variants(folder, part)
    return folder


def _check_variants(folder: Path, part: str) -> None:
    """Raise FileNotFoundError where a component (those whose names begin with `part`) has its weights as a variant (".fp16") only."""
    for component, stem in WEIGHTS.items():
        place = folder / component
        whole = any((place / f"{stem}.safetensors{end}").is_file() for end in ("", ".index.json"))
        variants = sorted(file.name for file in place.glob(f"{stem}.*.safetensors") if "-of-" not in file.name)
        if variants and not whole and f"{component}/".startswith(part):
            raise FileNotFoundError(
                f"{place} has its weights as the variant {variants[0]} only: rename it {stem}.safetensors, and so in each component; "
                "load_pipeline converts weights to the dtype that it is asked for"
            )


def _named_folder(name: str) -> Path:
    """The folder that `name` means, if it is one: of `data/models` for a plain name that exists there."""
    shipped, folder = paths.MODELS / name, Path(name)
    return shipped if "/" not in name and (shipped.is_dir() or not folder.is_dir()) else folder


def _fine_tune(name: str) -> Path | None:
    """The folder that `name` means where it holds a full fine-tune as a difference (`companion.weights.fine_tune`), else None."""
    folder = _named_folder(name)
    return folder if (folder / DIFFERENCE).is_file() else None


def _local_folder(name: str, needed: str) -> Path | None:
    """The folder that `name` means, in which the file `needed` is; None for a hub id."""
    folder = _named_folder(name)
    if folder.is_dir():
        if not (folder / needed).is_file():
            raise FileNotFoundError(f"{folder} has no {needed}: it is not the folder of a diffusers pipeline")
        return folder
    if Path(name).suffix in (".safetensors", ".ckpt"):
        raise ValueError(
            f"name is {name!r}, but must be a model in {paths.MODELS}, a folder with a diffusers pipeline or a hub id: make a folder of a "
            "single file once, with `StableDiffusionPipeline.from_single_file(file).save_pretrained(folder)`"
        )
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
    from huggingface_hub import hf_hub_download

    hub_id, _, pinned = name.partition("@")
    revision = revision or pinned or PINNED_REVISIONS.get(hub_id) or ""
    if not COMMIT.fullmatch(revision):
        raise ValueError(
            f"{hub_id!r} is not a folder here, and to load it from the Hugging Face hub revision must be its commit of 40 hex digits "
            f"('{hub_id}@<commit>' for short), not {revision!r}"
        )
    try:
        index = json.loads(Path(hf_hub_download(hub_id, "model_index.json", revision=revision)).read_text(encoding="utf-8"))
        if index.get("_class_name") == PIPELINE:
            return Path(StableDiffusionPipeline.download(hub_id, revision=revision, use_safetensors=True, **WITHOUT_CHECKER))
    except Exception as error:  # whatever the hub client raises, the remedy is the same
        raise FileNotFoundError(
            f"could not download {hub_id!r} at commit {revision} from the Hugging Face hub ({type(error).__name__}): get its "
            "model_index.json and its folders scheduler, text_encoder, tokenizer, unet and vae (safetensors) where there is internet, "
            "put them in one folder, and pass that folder's path as the model"
        ) from None
    raise not_runnable(hub_id, index)
