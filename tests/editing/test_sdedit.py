"""SDEdit against diffusers' image-to-image pipeline, its ends, its noise, and its count of evaluations."""

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from editing_cases import GUIDANCE, IMAGES, SOURCE, TARGET, generators, mini, pipe64, scenes
from tiny import tiny_pipeline

from smoothlib.editing.inversions import Inversion
from smoothlib.editing.sdedit import SDEdit, edit
from smoothlib.sampling import decode_latents, encode_images, encode_prompts, sample

T = 10
OWN = Inversion("own")


def edited(strength, images=IMAGES, source=SOURCE, target=TARGET, generator=None, pipe=None, **options):
    settings = SDEdit(strength, **(dict(guidance_scale=GUIDANCE, num_inference_steps=T) | options))
    generator = generators(len(images)) if generator is None else generator
    return edit(pipe or pipe64(), images, source, target, inversion=OWN, settings=settings, generator=generator)


def through_diffusers(pipe, images, target, strength):
    """From the same z0, so that its generators are left for the noise."""
    theirs = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    arguments = dict(strength=strength, num_inference_steps=T, guidance_scale=GUIDANCE, generator=generators(len(images)))
    return theirs(target, image=encode_images(pipe, images), output_type="latent", **arguments).images


@pytest.mark.parametrize("strength", [0.3, 0.8, 1.0])
def test_it_equals_diffusers_on_a_random_pipeline(strength):
    """The same operations in the same order: the largest difference is rounding of the same sums, 1e-6 of latents below 8."""
    pipe = tiny_pipeline()
    theirs = through_diffusers(pipe, IMAGES, TARGET, strength)
    torch.testing.assert_close(edited(strength, pipe=pipe).latents, theirs, rtol=0, atol=8e-6)


def test_it_equals_diffusers_on_the_embedded_model():
    images, captions = scenes()
    target = [f"{caption} at night" for caption in captions]
    theirs = through_diffusers(mini(), images, target, 0.6)
    torch.testing.assert_close(edited(0.6, images, captions, target, pipe=mini()).latents, theirs, rtol=0, atol=8e-6)


def test_strength_0_is_the_autoencoders_copy():
    result = edited(0.0)
    assert torch.equal(result.latents, encode_images(pipe64(), IMAGES)) and result.evaluations == 0
    assert torch.equal(result.images, decode_latents(pipe64(), result.latents))


@pytest.mark.parametrize("strength, steps", [(0.05, 0), (0.3, 3), (0.7, 7), (0.99, 9), (1.0, 10)])
def test_a_share_of_the_steps_is_taken_and_counted(strength, steps):
    assert edited(strength).evaluations == 2 * steps and edited(strength, guidance_scale=1.0).evaluations == steps


def test_whole_steps_are_counted_without_rounding_noise():
    """50 x .58 is 28.999... in floating point, which diffusers rounds down to 28."""
    assert edited(0.58, num_inference_steps=50, guidance_scale=1.0).evaluations == 29


def test_the_noisy_latent_is_the_forward_diffusion_at_the_first_timestep():
    """One step of strength: x_t = sqrt(alpha_bar) z0 + s eps at the last timestep, 1, with each image's own noise."""
    pipe = pipe64()
    alpha_bar = pipe.scheduler.alphas_cumprod[1].double()
    eps = torch.stack([torch.randn(4, 8, 8, generator=one, dtype=torch.float64) for one in generators()])
    x = alpha_bar.sqrt() * encode_images(pipe, IMAGES) + (1 - alpha_bar).sqrt() * eps
    settings = dict(guidance_scale=GUIDANCE, num_inference_steps=T, first_step=T - 1)
    z0 = sample(pipe, x, encode_prompts(pipe, TARGET), **settings)
    torch.testing.assert_close(edited(0.1).latents, z0, rtol=0, atol=1e-6)  # the schedule is in float32


def test_a_generator_per_image_makes_the_result_independent_of_the_batch():
    together = edited(0.8)
    for b, one in enumerate(generators()):
        alone = edited(0.8, IMAGES[b : b + 1], SOURCE[b : b + 1], TARGET[b : b + 1], generator=one)
        torch.testing.assert_close(alone.latents[0], together.latents[b], rtol=0, atol=1e-9)


def test_the_source_prompt_plays_no_part_and_the_seed_does():
    assert torch.equal(edited(0.8).latents, edited(0.8, source=["x", "y", "z"]).latents)
    other = edited(0.8, generator=torch.Generator().manual_seed(9))
    assert (other.latents - edited(0.8).latents).abs().amax((1, 2, 3)).min() > 0.1


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"strength is -0\.1, but must be a number from 0 to 1"):
        SDEdit(strength=-0.1)
    with pytest.raises(ValueError, match="guidance_scale is nan, but must be a finite number"):
        SDEdit(guidance_scale=float("nan"))
    with pytest.raises(ValueError, match=r"num_inference_steps is 2.5, but must be a whole number of at least 1"):
        SDEdit(num_inference_steps=2.5)
