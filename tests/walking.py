"""Ends of walks on the tiny pipeline, how they are sampled, and comparisons of what comes out."""

import torch
from tiny import IMAGE_SIZE, LATENT_SHAPE, noise

from smoothlib.sampling import Sampling, decode_latents, sample

T = 4
SETTINGS = dict(guidance_scale=3.0, num_inference_steps=T)
SAMPLING = Sampling(**SETTINGS)
START, END = (noise(2, *LATENT_SHAPE, seed=seed).double() for seed in (1, 2))
FIRST, SECOND = (torch.tanh(noise(2, 3, IMAGE_SIZE, IMAGE_SIZE, seed=seed)).double() for seed in (3, 4))


def generated(pipe, latents, embeds, **changes):
    return decode_latents(pipe, sample(pipe, latents, embeds, **(SETTINGS | changes)))


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)  # images are float32


def differ(a, b):
    assert (a - b).abs().max() > 1e-3


def with_sampling(arguments):
    """Arguments in which guidance, steps, null embeddings and batch are one `Sampling`."""
    own = {key: value for key, value in arguments.items() if key in Sampling.__dataclass_fields__}
    return {key: value for key, value in arguments.items() if key not in own} | dict(sampling=Sampling(**own))
