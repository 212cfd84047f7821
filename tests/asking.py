"""Requests to the local app that the tiny pipeline can carry out, and its two sides."""

import numpy as np
from tiny import IMAGE_SIZE, tiny_pipeline

from companion.app.models import Models, Side

GREY = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), 128, np.uint8)
WALK = dict(kind="walk", between="prompts", first_prompt="a dog", second_prompt="a cat", first=None, second=None, frames=3)
WALK |= dict(num_inference_steps=2, guidance_scale=3, first_seed=0, second_seed=1, num_inner_steps=1)
RECONSTRUCT = dict(
    kind="reconstruct", picture="p", prompt="a dog", inversion="ddim", num_inner_steps=1, num_inference_steps=2, guidance_scale=3
)
EDIT = dict(kind="edit", picture="p", source_prompt="a dog", target_prompt="a cat", method="sdedit", inversion="ddim", strength=0.8, seed=0)
EDIT |= dict(num_inference_steps=2, guidance_scale=3)
DRAG = dict(
    kind="drag", picture="p", prompt="a dog", num_inference_steps=4, strength=0.5, iterations=2, lr=0.01, lora_steps=1, reach=1, seed=0
)
DRAG |= dict(handles=[[4, 4]], targets=[[8, 8]], mask=None)


def tiny_models():
    """Both sides are one model, so that their pictures must be equal."""
    sides = (Side("base", "Base model", tiny_pipeline()), Side("smooth", "Smooth Diffusion", tiny_pipeline()))
    return Models("tiny", "none", IMAGE_SIZE, 3.0, "cpu", sides)
