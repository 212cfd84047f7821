"""What the browser loads, made when the book is built: networks, captions and a manifest with the sha256 of every file.

The weights are read from `data/models` and compared with their cards. Nothing that is made here is kept in git.
"""

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from companion.base.files import atomic_write
from companion.base.paths import ADAPTERS, MODELS, ROOT

from .menu import captions, places, subjects

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

MODEL, ADAPTER = "mini", "smooth"
STEPS = (8, 20)  # while a slider moves, and when it rests
RUNTIME = ROOT / "book" / "_static" / "vendor" / "ort"
RUNTIME_FILES = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm.gz")
WITHOUT = "This copy of the book was built without the model for your browser: install the extra `live` and build the book again."


def can_export() -> bool:
    """Whether the extra `live` is installed."""
    return importlib.util.find_spec("onnx") is not None


def export(folder: Path) -> dict[str, Any]:
    """Fill `folder` with what the widgets load, unless it holds just that, and return the manifest."""
    manifest, key = folder / "manifest.json", _key()
    if manifest.is_file():
        known = json.loads(manifest.read_text(encoding="utf-8"))
        if known["key"] == key and all((folder / name).is_file() for name in known["files"] if name not in RUNTIME_FILES):
            return known
    from companion.weights.pipelines import default_guidance_scale, load_pipeline

    pipe = load_pipeline(MODEL, adapter=ADAPTER)
    made = {name: _write(folder, name, content) for name, content in _contents(pipe)}
    runtime = {name: _listed(f"../vendor/ort/{name}", (RUNTIME / name).read_bytes()) for name in RUNTIME_FILES}
    files = {**made, **runtime}
    side, length = pipe.unet.config.sample_size, pipe.tokenizer.model_max_length
    made_from = {
        "key": key,
        "model": MODEL,
        "adapter": ADAPTER,
        "precision": "weights in half precision, arithmetic in single precision",
        "guidance": default_guidance_scale(MODEL),
        "latent": [pipe.unet.config.in_channels, side, side],
        "words": [length, pipe.unet.config.cross_attention_dim],
        "schedules": {str(steps): schedule(pipe, steps) for steps in STEPS},
        "subjects": [{"word": one.word, "colour": one.colour, "file": one.file} for one in subjects()],
        "places": places(),
        "bytes": sum(entry["bytes"] for name, entry in files.items() if not name.startswith("captions/")),
        "files": files,
    }
    atomic_write(manifest, json.dumps(made_from).encode())
    return made_from


def schedule(pipe: "StableDiffusionPipeline", steps: int) -> list[list[float]]:
    """[t, cumulative alpha at t, that at the end of the step] for each step of DDIM, as the pipeline's scheduler has them."""
    from smoothlib.diffusion import set_timesteps

    timesteps = set_timesteps(pipe.scheduler, steps, torch.device("cpu")).tolist()
    ends = [float(pipe.scheduler.alphas_cumprod[t]) for t in timesteps[1:]] + [float(pipe.scheduler.final_alpha_cumprod)]
    return [[t, float(pipe.scheduler.alphas_cumprod[t]), end] for t, end in zip(timesteps, ends, strict=True)]


def network_bytes(pipe: "StableDiffusionPipeline", *, half: bool) -> dict[str, bytes]:
    """The two networks as ONNX: `unet.onnx` and `decoder.onnx`."""
    from .networks import Decoder, ScaledUNet
    from .onnx_files import onnx_bytes

    side = pipe.unet.config.sample_size
    latents = torch.randn(4, pipe.unet.config.in_channels, side, side)
    embeddings = torch.randn(4, pipe.tokenizer.model_max_length, pipe.unet.config.cross_attention_dim)
    inputs = {
        "latents": latents,
        "timesteps": torch.full((4,), 501.0),
        "embeddings": embeddings,
        "scales": torch.tensor([0.0, 0.0, 1.0, 1.0]),
    }
    return {
        "unet.onnx": onnx_bytes(ScaledUNet(pipe), inputs, "noise", half=half),
        "decoder.onnx": onnx_bytes(Decoder(pipe), {"latents": latents}, "images", half=half),
    }


def _contents(pipe: "StableDiffusionPipeline"):
    """(name, content) of every file that is made."""
    from smoothlib.sampling import encode_prompts

    yield from network_bytes(pipe, half=True).items()
    yield "empty.bin", _halves(encode_prompts(pipe, [""]))
    for subject in subjects():
        yield subject.file, _halves(encode_prompts(pipe, captions(subject)))


def _halves(embeddings: torch.Tensor) -> bytes:
    return embeddings.cpu().numpy().astype("<f2").tobytes()


def _write(folder: Path, name: str, content: bytes) -> dict[str, Any]:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / name, content)
    return _listed(f"model/{name}", content)


def _listed(path: str, content: bytes) -> dict[str, Any]:
    """What the manifest says of a file: the hash is that of what is packed inside, for a server may unpack it."""
    import gzip

    inner = gzip.decompress(content) if path.endswith(".gz") else content
    return {"path": path, "bytes": len(content), "sha256": hashlib.sha256(inner).hexdigest()}


def _key() -> str:
    """A hash of what the files are made from: cards of the weights, this package, the runtime."""
    sources = [MODELS / MODEL / "card.json", ADAPTERS / ADAPTER / "card.json", *sorted(Path(__file__).parent.glob("*.py"))]
    digest = hashlib.sha256()
    for file in (*sources, *(RUNTIME / name for name in RUNTIME_FILES)):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
