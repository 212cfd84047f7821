"""What the name of a pipeline means: a folder whose files may be trusted, on this machine or from the Hugging Face hub.

Weights come from safetensors, never from pickles, and no remote code runs. What ships with the repository is compared with the sha256 in
its card; what comes from the hub is pinned to a commit (downloads obey `HF_HUB_OFFLINE` and `HF_HOME`). A folder may also hold a full
fine-tune, as the difference to the model that its card names.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from ..base import paths
from .cards import CARD, check_files, read_card
from .fine_tune import FILE as DIFFERENCE
from .pipeline_kind import PIPELINE, not_runnable

PINNED_REVISIONS = {"stable-diffusion-v1-5/stable-diffusion-v1-5": "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"}
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")
WITHOUT_CHECKER = dict(safety_checker=None, feature_extractor=None)
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}  # the libraries' file names


def trusted_folder(name: str, revision: str | None, *, needed: str = "model_index.json", part: str = "") -> Path:
    """The folder that `name` means, its files (those whose names begin with `part`) checked; a hub id's is pinned by its commit."""
    folder = local_folder(name, needed)
    if folder is None:
        folder = _download(name, revision)
    else:
        check_files(folder, part)
    _check_variants(folder, part)
    return folder


def _check_variants(folder: Path, part: str) -> None:
    """FileNotFoundError where a component (those whose names begin with `part`) has its weights as a variant (".fp16") or pickle only."""
    for component, stem in WEIGHTS.items():
        place = folder / component
        whole = any((place / f"{stem}.safetensors{end}").is_file() for end in ("", ".index.json"))
        variants = sorted(file.name for file in place.glob(f"{stem}.*.safetensors") if "-of-" not in file.name)
        if variants and not whole and f"{component}/".startswith(part):
            raise FileNotFoundError(
                f"{place} has its weights as the variant {variants[0]} only: make a plain folder of it once, with "
                "`python -m companion.weights.convert FOLDER NEW`; load_pipeline converts weights to the dtype that it is asked for"
            )
        if not whole and not variants and (pickles := sorted(place.glob("*.bin"))) and f"{component}/".startswith(part):
            raise FileNotFoundError(
                f"{place} has its weights as the pickle {pickles[0].name} only, which is not loaded: make safetensors of it once, with "
                "`python -m companion.weights.convert FOLDER NEW`"
            )


def _named_folder(name: str) -> Path:
    """The folder that `name` means, if it is one: of `data/models` for a plain name that exists there."""
    shipped, folder = paths.MODELS / name, Path(name)
    return shipped if "/" not in name and (shipped.is_dir() or not folder.is_dir()) else folder


def fine_tune_folder(name: str) -> Path | None:
    """The folder that `name` means where it holds a full fine-tune as a difference (`companion.weights.fine_tune`), else None."""
    folder = _named_folder(name)
    return folder if (folder / DIFFERENCE).is_file() else None


def local_folder(name: str, needed: str) -> Path | None:
    """The folder that `name` means, in which the file `needed` is; None for a hub id."""
    folder = _named_folder(name)
    if folder.is_dir():
        if not (folder / needed).is_file():
            raise FileNotFoundError(f"{folder} has no {needed}: it is not the folder of a diffusers pipeline")
        return folder
    if Path(name).suffix in (".safetensors", ".ckpt"):
        raise ValueError(
            f"name is {name!r}, but must be a model in {paths.MODELS}, a folder with a diffusers pipeline or a hub id: make a folder of a "
            "single file once, with `python -m companion.weights.convert FILE FOLDER --config SETTINGS`"
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


def lineage(folder: Path | None) -> Iterator[Path]:
    """The folder, its base's, the base's base's, as far as cards name them and the folders are here; None: no folder."""
    passed: list[Path] = []
    while folder is not None:
        yield folder
        passed.append(folder.resolve())
        base = read_card(folder).get("base")
        following = (fine_tune_folder(base["model"]) or local_folder(base["model"], "model_index.json")) if base else None
        if following is not None and following.resolve() in passed:
            raise ValueError(f"the {CARD} of {folder} names {base['model']!r} as the base model, which is made from it: restore it")
        folder = following


def whole_base(folder: Path) -> str:
    """The name of the whole pipeline that this fine-tune and its bases begin with; the fine-tunes' files are checked."""
    name = ""
    for fine_tune in lineage(folder):
        if not (fine_tune / DIFFERENCE).is_file():
            break
        check_files(fine_tune)
        base = read_card(fine_tune).get("base")
        if base is None:
            raise ValueError(f"{fine_tune} needs a {CARD} that names the base model and its fingerprint: restore it, or train it again")
        name = base["model"]
    return name
