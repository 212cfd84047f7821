"""r along diffusion time: the regularizer's own value, and a bad timestep's sentence."""

import pytest
import torch
from tiny import noise, tiny_pipeline

from smoothlib.predictions import predict_x0
from smoothlib.regularizer.length import step_variation
from smoothlib.regularizer.profile import variation_profile
from smoothlib.regularizer.variation import unit_directions
from smoothlib.sampling import encode_prompts


def test_it_is_the_regularizers_r():
    pipe = tiny_pipeline()
    size = pipe.unet.config.sample_size
    z0, embeds = noise(2, pipe.unet.config.in_channels, size, size, seed=3), encode_prompts(pipe, ["a cat", "a dog"])
    found = variation_profile(pipe, z0, embeds, [100, 800], seed=2)
    assert found.shape == (2, 2) and not found.requires_grad
    for t, row in zip([100, 800], found, strict=True):
        generator = torch.Generator().manual_seed(2 * 1000 + t)
        eps, direction = (torch.randn(z0.shape, generator=generator) for _ in range(2))
        alpha_bar, step = pipe.scheduler.alphas_cumprod[t].expand(2), torch.full((2,), t)

        def denoise(eps, step=step, alpha_bar=alpha_bar):
            x_t = pipe.scheduler.add_noise(z0, eps, step)
            output = pipe.unet(x_t, step, embeds).sample
            return predict_x0(output, x_t, alpha_bar), output

        r, _ = step_variation(denoise, eps, unit_directions(direction), (1 - alpha_bar).sqrt())
        torch.testing.assert_close(row, r.detach())


def test_a_timestep_beyond_the_schedule_is_named():
    pipe = tiny_pipeline()
    with pytest.raises(ValueError, match=r"timesteps must lie in \[0, 999\], got 1000"):
        variation_profile(pipe, noise(1, 4, 8, 8), encode_prompts(pipe, [""]), [1000])
