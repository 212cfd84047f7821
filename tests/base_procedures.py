"""Each procedure of the table of base models as one short run on a tiny pipeline: name in the table -> function of the view."""

import json
import tempfile
from pathlib import Path

import torch
from tiny import noise

from companion.weights.pipeline_kind import check_pipeline_kind
from smoothlib import (
    InterpolationStandardDeviation,
    Sampling,
    StepwiseVariation,
    ddim_invert,
    encode_images,
    encode_prompts,
    latent_walk,
    null_text_inversion,
    real_image_interpolation,
    regularized_loss,
    vae_interpolation,
)
from smoothlib.editing import METHODS, settings_class
from smoothlib.editing.drag import Drag, drag
from smoothlib.editing.image_lora import ImageLoraSettings
from smoothlib.editing.inversions import Inversion
from smoothlib.interpolation.anid import anid

IMAGES = noise(2, 3, 16, 16, seed=21).clamp(-1, 1)
SOURCES, TARGETS = ["a red car", "a dog"], ["a red cat", "a cat"]
FEW = Sampling(guidance_scale=3.0, num_inference_steps=2)


def train(view):
    trained = getattr(view, "trained", None) or view.unet
    for parameter in trained.parameters():
        parameter.requires_grad_()
    z0, embeds = encode_images(view, IMAGES), encode_prompts(view, SOURCES)
    scheduler = getattr(view, "trained_scheduler", view.scheduler)
    found = regularized_loss(trained, z0, embeds, scheduler, StepwiseVariation(difference=0.01), generator=torch.Generator().manual_seed(0))
    found.loss.backward()
    changed = [p for p in trained.parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert found.variation.loss > 0 and len(changed) > 5 and all(p.grad.isfinite().all() for p in changed)


def walk(view):
    prompt = encode_prompts(view, ["a red car"])
    frames = latent_walk(view, noise(1, 4, 8, 8, seed=1), noise(1, 4, 8, 8, seed=2), prompt, FEW, frames=3)
    istd = InterpolationStandardDeviation()
    istd.update(frames)
    assert frames.shape == (1, 3, 3, 16, 16) and istd.compute()["istd"] >= 0


def invert(view):
    pivots = ddim_invert(view, encode_images(view, IMAGES), encode_prompts(view, SOURCES), num_inference_steps=2)
    assert pivots.shape == (3, 2, 4, 8, 8) and pivots.isfinite().all()


def null_text(view):
    prompts = encode_prompts(view, SOURCES)
    pivots = ddim_invert(view, encode_images(view, IMAGES), prompts, num_inference_steps=2)
    found = null_text_inversion(view, pivots, prompts, guidance_scale=3.0, num_inner_steps=2)
    assert (found.null_embeds - encode_prompts(view, [""])).abs().max() > 1e-3


def between_images(view):
    prompt = encode_prompts(view, ["a red car"])
    walked, _ = real_image_interpolation(view, IMAGES[:1], IMAGES[1:], prompt, FEW, frames=3, num_inner_steps=1)
    assert walked.shape == (1, 3, 3, 16, 16)
    assert vae_interpolation(view, IMAGES[:1], IMAGES[1:], frames=3).isfinite().all()


def wang_golland(view):
    arguments = dict(noise=noise(1, 4, 8, 8, seed=3), sampling=Sampling(3.0, 4), frames=3)
    assert anid(view, IMAGES[:1], IMAGES[1:], encode_prompts(view, ["a dog"]), **arguments).isfinite().all()


def edit(name):
    def run(view):
        own = {"cycle_diffusion": "own", "disentangle": "own", "edict": "own", "sdedit": "own"}.get(name, "ddim")
        settings, more = dict(num_inference_steps=2, guidance_scale=3.0), dict(generator=torch.Generator().manual_seed(0))
        if name == "disentangle":
            settings |= dict(epochs=1)
            more |= dict(
                alignment=lambda images, sources, targets, before: (before - images).mean(dim=(1, 2, 3)),
                perceptual=lambda a, b: (a - b).abs().mean(dim=(1, 2, 3)),
            )
        made = settings_class(name)(**settings)
        edited = METHODS[name].edit(view, IMAGES, SOURCES, TARGETS, inversion=Inversion(own), settings=made, **more)
        assert edited.images.shape == IMAGES.shape and edited.images.isfinite().all()

    return run


def dragged(view):
    settings, points = Drag(num_inference_steps=4, iterations=1), [[(4, 4)], [(5, 5)]]
    lora = ImageLoraSettings(rank=2, steps=1)
    assert drag(view, IMAGES, SOURCES, points, [[(8, 4)], [(9, 5)]], settings=settings, lora=lora).images.isfinite().all()


def pages(view):
    """By the settings alone, as `load_pipeline` looks at them before it reads weights."""
    pipe = getattr(view, "pipe", view)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "the pipeline's folder"
        (place / "tokenizer").mkdir(parents=True)
        (place / "tokenizer" / "tokenizer_config.json").touch()
        parts = {name: ["library", type(part).__name__] for name, part in pipe.components.items()}
        (place / "model_index.json").write_text(json.dumps({"_class_name": type(pipe).__name__, **parts}))
        try:
            check_pipeline_kind(place)
        except ValueError as error:
            raise ValueError(str(error).replace(str(place), place.name)) from None


RUNS = {
    "Training with L_reg": train,
    "Walks, ISTD": walk,
    "DDIM inversion": invert,
    "Null-text inversion": null_text,
    "Interpolation of real images": between_images,
    "ANID": wang_golland,
    **{name: edit(name) for name in METHODS},
    "drag": dragged,
    "The book's pages and commands": pages,
}
