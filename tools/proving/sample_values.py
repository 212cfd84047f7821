"""A few results of everything that records hold, as hashes of their bits: `python sample_values.py OUT`, with the packages on the path.

The model is the shipped one with its adapter, at sizes of seconds: a value is as good as another for telling two programs apart.
"""

import hashlib
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from companion.data.load import load_items, load_pairs, load_scenes
from companion.studies.interpolation.pairs import pairs_from
from companion.studies.reconstruction.reconstruct import Method, Reconstruction
from companion.studies.setup import check_adapters, chosen_device
from companion.studies.smoothness.walks import LatentWalk, walk_prompts_from, walk_prompts_of
from companion.weights.pipelines import fingerprint, load_adapter, load_pipeline
from smoothlib import sampling
from smoothlib.editing.drag import Drag, drag
from smoothlib.editing.image_lora import ImageLoraSettings
from smoothlib.editing.inverted import Inversion
from smoothlib.editing.prompt_switch import PromptSwitch, edit
from smoothlib.inversion import ddim_invert, null_text_inversion

STEPS, GUIDANCE = 4, 3.0


def digest(value: Any) -> str:
    """Equal for equal bits; what a clock says is left out."""
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray):
        return hashlib.sha256(repr((value.shape, value.dtype.str)).encode() + value.tobytes()).hexdigest()[:16]
    if isinstance(value, dict):
        return repr({key: digest(entry) for key, entry in value.items() if "seconds" not in key})
    if isinstance(value, list | tuple):
        return repr([digest(entry) for entry in value])
    return digest(vars(value)) if hasattr(value, "__dataclass_fields__") else repr(value)


def of_data() -> Iterator[tuple[str, Any]]:
    """What is read, chosen and paired."""
    yield "load_items", load_items(limit=5)
    yield "load_items, another seed", load_items(split="compositional", limit=5, seed=3, size=32)
    yield "load_pairs", load_pairs("edits")[:3]
    scenes = load_scenes("test")
    yield "pairs_from", [*pairs_from(scenes, 3), *pairs_from(scenes, 3, seed=2, skip=1, prompt="a photo of a {cls}")]
    yield "walk prompts", [*walk_prompts_from(scenes, 4, 1), *walk_prompts_of(scenes.captions[:3], 2)]
    with tempfile.TemporaryDirectory() as folder:
        (place := Path(folder) / "val").mkdir()
        (Path(folder) / "annotations").mkdir()
        for number in (1, 2, 3):
            Image.fromarray(np.random.default_rng(number).integers(0, 255, (40, 60, 3), np.uint8)).save(place / f"{number}.png")
        lists = {
            "images": [{"id": number, "file_name": f"{number}.png"} for number in (1, 2, 3)],
            "annotations": [{"id": 9 - number, "image_id": number, "caption": f"car {number}"} for number in (1, 2, 3)],
        }
        (Path(folder) / "annotations" / "captions_val.json").write_text(json.dumps(lists))
        yield "items of COCO", load_items(folder, "val", 2, size=32)


def of_the_model(pipe: Any) -> Iterator[tuple[str, Any]]:
    """What the method computes with a pipeline."""
    items = load_items(limit=2)
    images, captions = torch.stack([item.image for item in items]), [item.caption for item in items]
    embeds, z0 = sampling.encode_prompts(pipe, captions), sampling.encode_images(pipe, images)
    noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(0))
    yield "embeddings and latents", [embeds, z0, sampling.decode_latents(pipe, z0)]
    for guidance in (1.0, GUIDANCE):
        yield f"sampled at {guidance}", sampling.sample(pipe, noise, embeds, guidance_scale=guidance, num_inference_steps=STEPS)
    pivots = ddim_invert(pipe, z0, embeds, num_inference_steps=STEPS)
    yield "DDIM inversion", pivots
    yield "null-text inversion", null_text_inversion(pipe, pivots, embeds, guidance_scale=GUIDANCE, num_inner_steps=2)
    steps = dict(num_inference_steps=STEPS, num_inner_steps=2)
    for kind, guidance in (("vae", 1.0), ("ddim", GUIDANCE), ("nti", GUIDANCE)):
        yield f"reconstruction, {kind}", Reconstruction(pipe, Method(kind, guidance), **steps)(items)
    walk = LatentWalk(pipe, sampling.Sampling(GUIDANCE, STEPS), frames=4)
    yield "walk and its steps", walk(walk_prompts_of(captions))
    settings = PromptSwitch(guidance_scale=GUIDANCE, num_inference_steps=STEPS)
    for kind in ("ddim", "null_text", "direct"):
        found = edit(pipe, images, captions, captions[::-1], inversion=Inversion(kind, num_inner_steps=2), settings=settings)
        yield f"prompt switch, {kind}", found
    points, goals = [[[20.0, 20.0]]] * 2, [[[30.0, 30.0]]] * 2
    settings = Drag(num_inference_steps=STEPS, iterations=2)
    yield "drag", drag(pipe, images, captions, points, goals, settings=settings, lora=ImageLoraSettings(steps=0))


def main() -> None:
    """Write name -> digest, and the modules that were imported."""
    torch.manual_seed(0)
    warnings.simplefilter("ignore")  # so few steps do not begin at pure noise
    check_adapters([None, "smooth"], "mini")
    pipe = load_pipeline("mini", device=chosen_device("cpu"))
    found = {name: digest(value) for name, value in of_data()}
    found |= {f"{name}, base": digest(value) for name, value in of_the_model(pipe)}
    load_adapter(pipe, "smooth")
    found["fingerprint"] = fingerprint(pipe)
    found |= {f"{name}, smooth": digest(value) for name, value in of_the_model(pipe)}
    Path(sys.argv[1]).write_text(json.dumps({"digests": found, "imported": sorted(sys.modules)}))


if __name__ == "__main__":
    main()
