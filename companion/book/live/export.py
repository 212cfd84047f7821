"""What the browser loads, made when the book is built: networks, words and a manifest with the sha256 of every file.

The weights are read from `data/models` and compared with their cards. Nothing that is made here is kept in git.
"""

import gzip
import hashlib
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from companion.base.files import atomic_write
from companion.base.paths import ADAPTERS, MODELS, ROOT, SCENES
from companion.book.theme import THEME

from .menu import places, subjects, words
from .scenes import scene_bytes, scenes

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

MODEL, ADAPTER = "mini", "smooth"
STEPS = (8, 20)  # while a slider moves, and when it rests
MANIFEST, STYLE = "manifest.json", "theme.css"
HOME = ROOT / "_build" / "live"
RUNTIME = ROOT / "book" / "_static" / "vendor" / "ort"
RUNTIME_FILES = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm.gz")
PARTS = ("unet", "decoder", "text", "encoder")  # each is PART.onnx; a widget loads those that it needs, and the runtime
WITHOUT = "This copy of the book was built without the model for your browser: install the extra `live` and build the book again."


def can_export() -> bool:
    """Whether the extra `live` is installed, and the runtime is there."""
    return importlib.util.find_spec("onnx") is not None and all((RUNTIME / name).is_file() for name in RUNTIME_FILES)


def export(folder: Path = HOME) -> dict[str, Any]:
    """Fill `folder` with what the widgets load, unless it holds just that, and return the manifest."""
    manifest, key = folder / MANIFEST, _key()
    if manifest.is_file():
        known = json.loads(manifest.read_text(encoding="utf-8"))
        if known["key"] == key and all(_is_there(folder, name, entry) for name, entry in known["files"].items()):
            return known
    from companion.weights.pipelines import default_guidance_scale, load_pipeline

    pipe = load_pipeline(MODEL, adapter=ADAPTER)
    made = {STYLE: THEME.encode(), "scenes.bin": scene_bytes()} | network_bytes(pipe, half=True)
    files = {name: _written(folder, name, content) for name, content in made.items()}
    files |= {name: _listed(f"../vendor/ort/{name}", (RUNTIME / name).read_bytes()) for name in RUNTIME_FILES}
    side = pipe.unet.config.sample_size
    listed = {
        "key": key,
        "model": MODEL,
        "adapter": ADAPTER,
        "precision": "weights in half precision, arithmetic in single precision",
        "guidance": default_guidance_scale(MODEL),
        "latent": [pipe.unet.config.in_channels, side, side],
        "image": [pipe.vae.config.out_channels, *[side * pipe.vae_scale_factor] * 2],
        "width": pipe.unet.config.cross_attention_dim,
        "steps": STEPS,
        "schedule": schedule(pipe),
        "words": words(pipe.tokenizer),
        "subjects": subjects(),
        "places": places(),
        "scenes": scenes(),
        "files": files,
    }
    atomic_write(manifest, json.dumps(listed).encode())
    return listed


def loaded_bytes(manifest: dict[str, Any], parts: Iterable[str]) -> int:
    """What a widget that needs these of PARTS loads, the runtime included."""
    return sum(manifest["files"][name]["bytes"] for name in (*RUNTIME_FILES, *(f"{part}.onnx" for part in parts)))


def schedule(pipe: "StableDiffusionPipeline") -> dict[str, Any]:
    """What a page makes any number of steps of: step i of n asks the network at t_i = offset + i (T // n) for i = n - 1, ..., 0.

    It leads from the cumulative alpha at t_i to that at t_(i-1), the last one to `final`; inversion goes the same ways back.

    Raises:
        ValueError: the scheduler spaces its steps otherwise.
    """
    config = pipe.scheduler.config
    if config.timestep_spacing != "leading" or config.prediction_type != "epsilon":
        raise ValueError(
            f"pipe has timestep_spacing {config.timestep_spacing!r} and prediction_type {config.prediction_type!r}, "
            "but must have 'leading' and 'epsilon'"
        )
    alphas = [float(value) for value in pipe.scheduler.alphas_cumprod]
    return {"alphas": alphas, "final": float(pipe.scheduler.final_alpha_cumprod), "offset": config.steps_offset}


def network_bytes(pipe: "StableDiffusionPipeline", *, half: bool, parts: Iterable[str] = PARTS) -> dict[str, bytes]:
    """The networks as ONNX, PART.onnx each. What they take has any number of rows."""
    from .networks import Decoder, Encoder, ScaledUNet, TextEncoder
    from .onnx_files import onnx_bytes

    channels, side = pipe.unet.config.in_channels, pipe.unet.config.sample_size
    length, width, pixels = pipe.tokenizer.model_max_length, pipe.unet.config.cross_attention_dim, side * pipe.vae_scale_factor
    latents = torch.zeros(4, channels, side, side)
    embeddings, scales = torch.zeros(4, length, width), torch.tensor([0.0, 0.0, 1.0, 1.0])
    unet = {"latents": latents, "timesteps": torch.full((4,), 501.0), "embeddings": embeddings, "scales": scales}
    networks = {
        "unet": (ScaledUNet, unet, "noise"),
        "decoder": (Decoder, {"latents": latents}, "images"),
        "encoder": (Encoder, {"images": torch.zeros(4, 3, pixels, pixels)}, "latents"),
        "text": (TextEncoder, {"ids": torch.ones(4, length, dtype=torch.int32)}, "embeddings"),
    }
    chosen = {part: networks[part] for part in parts}
    return {f"{part}.onnx": onnx_bytes(kind(pipe), inputs, output, half=half) for part, (kind, inputs, output) in chosen.items()}


def _written(folder: Path, name: str, content: bytes) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / name, content)
    return _listed(f"model/{name}", content)


def _listed(path: str, content: bytes) -> dict[str, Any]:
    """What the manifest says of a file: the hash is that of what is packed inside, for a server may unpack it."""
    inner = gzip.decompress(content) if path.endswith(".gz") else content
    return {"path": path, "bytes": len(content), "sha256": hashlib.sha256(inner).hexdigest()}


def _is_there(folder: Path, name: str, entry: dict[str, Any]) -> bool:
    """Whether a file that was made here is as it was made; the runtime's are part of the key."""
    if name in RUNTIME_FILES:
        return True
    file = folder / name
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == entry["sha256"]


def _key() -> str:
    """A hash of what the files are made from: cards of the weights and scenes, this package, the plots' colours, the runtime."""
    cards = [folder / "card.json" for folder in (MODELS / MODEL, ADAPTERS / ADAPTER, SCENES)]
    sources = [*cards, *sorted(Path(__file__).parent.glob("*.py"))]
    digest = hashlib.sha256(THEME.encode())
    for file in (*sources, *(RUNTIME / name for name in RUNTIME_FILES)):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
