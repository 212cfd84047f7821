"""The sampling loop against StableDiffusionPipeline, with plain, per-step and switched embeddings."""

import itertools
import math

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from tiny import IMAGE_SIZE, LATENT_SHAPE, counted_calls, noise, sd_scheduler, tiny_pipeline

from smoothlib.embeddings import pipeline_arguments
from smoothlib.sampling import (
    decode_latents,
    encode_images,
    encode_prompts,
    predict_noise,
    prompt_switch,
    sample,
    sample_steps,
)

PROMPTS = ["a red car", "a dog"]
T = 5
X_T = noise(2, *LATENT_SHAPE, seed=3)


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture
def calls(pipe):
    """Batch sizes of the UNet calls made during a test."""
    with counted_calls(pipe) as sizes:
        yield sizes


def through_pipeline(pipe, guidance_scale, **arguments):
    return pipe(latents=X_T, num_inference_steps=T, guidance_scale=guidance_scale, output_type="latent", **arguments).images


def per_step_nulls(pipe):
    """(T, 2, L, D): clearly different from step to step and image to image."""
    return encode_prompts(pipe, [""]) + 0.5 * noise(T, 2, 16, 16, seed=4)


@pytest.mark.parametrize("guidance_scale", [1.0, 7.5])
def test_equals_the_pipeline_for_plain_prompts(pipe, guidance_scale):
    ours = sample(pipe, X_T, encode_prompts(pipe, PROMPTS), guidance_scale=guidance_scale, num_inference_steps=T)
    assert torch.equal(ours, through_pipeline(pipe, guidance_scale, prompt=PROMPTS))


def test_equals_the_pipeline_with_another_scheduler_and_its_noise_scale(pipe):
    original, pipe.scheduler = pipe.scheduler, EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    try:
        ours = sample(pipe, X_T, encode_prompts(pipe, PROMPTS), guidance_scale=3.0, num_inference_steps=T)
        torch.testing.assert_close(ours, through_pipeline(pipe, 3.0, prompt=PROMPTS), rtol=1e-5, atol=1e-5)
    finally:
        pipe.scheduler = original


def test_stochastic_ddim_equals_the_pipeline_from_the_same_generator(pipe):
    embeds = encode_prompts(pipe, PROMPTS)
    generators = [torch.Generator().manual_seed(7) for _ in range(2)]
    ours = sample(pipe, X_T, embeds, guidance_scale=3.0, num_inference_steps=T, eta=0.5, generator=generators[0])
    theirs = through_pipeline(pipe, 3.0, prompt=PROMPTS, eta=0.5, generator=generators[1])
    assert torch.equal(ours, theirs)
    assert not torch.allclose(ours, sample(pipe, X_T, embeds, guidance_scale=3.0, num_inference_steps=T), atol=1e-2)


def test_per_step_nulls_equal_their_replay_through_the_pipelines_callback(pipe):
    embeds, nulls = encode_prompts(pipe, PROMPTS), per_step_nulls(pipe)
    settings = dict(guidance_scale=7.5, num_inference_steps=T)
    ours = sample(pipe, X_T, embeds, null_embeds=nulls, **settings)
    assert torch.equal(ours, through_pipeline(pipe, 7.5, **pipeline_arguments(embeds, nulls)))
    for step in (0, T - 1):  # both ends matter: step 0 goes in as an argument, the last one through the callback
        changed = nulls.clone()
        changed[step] += 0.5
        assert not torch.allclose(ours, sample(pipe, X_T, embeds, null_embeds=changed, **settings), atol=1e-3)


@pytest.mark.parametrize("guidance_scale", [1.0, 7.5])
def test_prompt_switch_equals_its_replay_through_the_pipeline(pipe, guidance_scale):
    source, target = encode_prompts(pipe, PROMPTS), encode_prompts(pipe, ["a cat", "a red dog"])
    switch = prompt_switch(source, target, ratio=0.6, num_inference_steps=T)
    nulls = per_step_nulls(pipe)[:, :1]  # one null for both images, as shared null-text inversion gives
    arguments = pipeline_arguments(switch, nulls, batch_size=2)
    ours = sample(pipe, X_T, switch, null_embeds=nulls, guidance_scale=guidance_scale, num_inference_steps=T)
    assert torch.equal(ours, through_pipeline(pipe, guidance_scale, **arguments))
    as_tensor = torch.stack([source, source, target, target, target])
    assert torch.equal(ours, sample(pipe, X_T, as_tensor, null_embeds=nulls, guidance_scale=guidance_scale, num_inference_steps=T))
    plain = sample(pipe, X_T, source, null_embeds=nulls, guidance_scale=guidance_scale, num_inference_steps=T)
    assert not torch.allclose(ours, plain, atol=1e-2)


@pytest.mark.parametrize(
    "steps, ratio, source_steps", [(50, 0.6, 20), (50, 0.7, 15), (50, 0.8, 10), (50, 0.9, 5), (10, 0.75, 3), (50, 1, 0), (50, 0, 50)]
)
def test_prompt_switch_counts_steps_without_rounding_noise(steps, ratio, source_steps):
    switch = prompt_switch("source", "target", ratio=ratio, num_inference_steps=steps)
    assert [switch(i) for i in range(steps)] == ["source"] * source_steps + ["target"] * (steps - source_steps)


def test_guidance_is_equation_5_in_one_call_and_absent_at_one(pipe, calls):
    x, (cond, null) = X_T[:1], encode_prompts(pipe, ["a red car", ""]).split(1)
    e_cond, e_null = predict_noise(pipe.unet, x, 500, cond), predict_noise(pipe.unet, x, 500, null)
    guided = predict_noise(pipe.unet, x, 500, cond, null, 7.5)
    torch.testing.assert_close(guided, 7.5 * e_cond + (1 - 7.5) * e_null, rtol=0, atol=1e-5)
    assert calls == [1, 1, 2]
    sample(pipe, X_T, cond, guidance_scale=1.0, num_inference_steps=T)
    sample(pipe, X_T, cond, guidance_scale=2.0, num_inference_steps=T)
    assert calls[3:] == [2] * T + [4] * T


def test_generator_yields_every_latent_and_can_start_in_the_middle(pipe):
    embeds, nulls = encode_prompts(pipe, PROMPTS), per_step_nulls(pipe)
    settings = dict(null_embeds=nulls, guidance_scale=3.0, num_inference_steps=T)
    latents = list(sample_steps(pipe, X_T, embeds, **settings))
    assert len(latents) == T and not any(x.requires_grad for x in latents)
    assert torch.equal(latents[-1], sample(pipe, X_T, embeds, **settings))
    assert torch.equal(latents[-1], sample(pipe, latents[1], embeds, first_step=2, **settings))


def test_ideal_gaussian_denoiser_scales_the_noise_by_the_product_of_cosines(pipe, monkeypatch):
    """For unit Gaussian data eps = s_t x_t; with alpha_bar = cos^2 a each DDIM step multiplies by cos(a_t - a_{t-1})."""
    alpha_bar = sd_scheduler().alphas_cumprod.double()
    monkeypatch.setattr(pipe.unet, "forward", lambda x, t, **_: ((1 - alpha_bar[int(t)]).sqrt().float() * x,))
    angles = [math.acos(math.sqrt(alpha_bar[t])) for t in (801, 601, 401, 201, 1, 0)]
    factor = math.prod(math.cos(high - low) for high, low in itertools.pairwise(angles))
    z0 = sample(pipe, X_T, torch.zeros(1, 16, 16), guidance_scale=1.0, num_inference_steps=T)
    torch.testing.assert_close(z0, factor * X_T, rtol=1e-5, atol=1e-6)


def test_images_are_encoded_at_the_posterior_mode_and_decoded_back_into_range(pipe):
    images = noise(2, 3, IMAGE_SIZE, IMAGE_SIZE, seed=5).clamp(-1, 1)
    z0 = encode_images(pipe, images)
    assert z0.shape == (2, *LATENT_SHAPE)
    with torch.no_grad():
        mean = pipe.vae.quant_conv(pipe.vae.encoder(images)).chunk(2, dim=1)[0]
        decoded = pipe.vae.decode(z0 / 0.7).sample
    torch.testing.assert_close(z0, 0.7 * mean)
    assert torch.equal(encode_images(pipe, images), z0)
    torch.testing.assert_close(decode_latents(pipe, z0), decoded.clamp(-1, 1))
    extreme = decode_latents(pipe, 100 * z0)
    assert extreme.min() == -1 and extreme.max() == 1


def test_prompts_are_encoded_as_the_pipeline_does(pipe):
    embeds = encode_prompts(pipe, [*PROMPTS, ""])
    cond, null = pipe.encode_prompt(PROMPTS, "cpu", 1, True)
    torch.testing.assert_close(embeds, torch.cat([cond, null[:1]]))


def test_the_pipelines_scheduler_is_left_alone(pipe):
    pipe.scheduler.set_timesteps(7)
    sample(pipe, X_T, encode_prompts(pipe, PROMPTS), guidance_scale=1.0, num_inference_steps=T)
    assert len(pipe.scheduler.timesteps) == 7


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(num_inference_steps=0), "num_inference_steps must be an integer from 1 to 1000, not 0"),
        (dict(num_inference_steps=1001), "num_inference_steps must be an integer from 1 to 1000, not 1001"),
        (dict(first_step=5), "first_step must be from 0 to num_inference_steps - 1 = 4, not 5"),
        (dict(eta=0.5), "generator must be given when eta > 0"),
        (dict(eta=2.0), "eta is 2.0, but must be a number from 0 to 1"),
        (dict(eta=-1.0), "eta is -1.0, but must be a number from 0 to 1"),
        (dict(eta=math.nan), "eta is nan, but must be a number from 0 to 1"),
        (dict(guidance_scale=math.nan), "guidance_scale is nan, but must be a finite number"),
        (dict(guidance_scale=math.inf), "guidance_scale is inf, but must be a finite number"),
        (dict(guidance_scale=None), "guidance_scale is None, but must be a finite number"),
        (dict(latents=X_T / 0), "latents contains NaN or infinity, but must be finite"),
        (dict(prompt_embeds=torch.full((2, 16, 16), math.nan)), "prompt_embeds contains NaN or infinity, but must be finite"),
        (dict(null_embeds=torch.full((T, 2, 16, 16), math.nan)), "null_embeds contains NaN or infinity, but must be finite"),
        (dict(null_embeds=torch.zeros(4, 2, 16, 16)), r"null_embeds must have shape .* not \(4, 2, 16, 16\)"),
        (dict(null_embeds=torch.zeros(3, 16, 16)), r"null_embeds must have shape .* not \(3, 16, 16\)"),
    ],
)
def test_bad_arguments_are_named_before_any_work(pipe, calls, change, message):
    arguments = dict(latents=X_T, prompt_embeds=torch.zeros(2, 16, 16), guidance_scale=2.0, num_inference_steps=T) | change
    with pytest.raises(ValueError, match=message):
        sample_steps(pipe, **arguments)
    assert calls == []


def test_the_step_and_image_that_become_not_finite_are_named(pipe, monkeypatch):
    overflow = torch.tensor([1.0, math.inf])[:, None, None, None]
    monkeypatch.setattr(pipe.unet, "forward", lambda x, t, **_: (x * overflow if t < 500 else x,))
    with pytest.raises(RuntimeError, match="the latents are not finite after step 2 of 5, image 1 of the batch"):
        sample(pipe, X_T, torch.zeros(1, 16, 16), guidance_scale=1.0, num_inference_steps=T)


@pytest.mark.parametrize(
    "images, message",
    [
        (torch.zeros(3, 16, 16), "images must have shape"),
        (torch.zeros(1, 3, 15, 16), "divisible by 2"),
        (torch.full((1, 3, 16, 16), 255.0), r"floating-point in \[-1, 1\]"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), r"floating-point in \[-1, 1\]"),
        (torch.full((1, 3, 16, 16), math.nan), r"floating-point in \[-1, 1\], not torch.float32 from nan to nan"),
        (torch.full((1, 3, 16, 16), -math.inf), r"floating-point in \[-1, 1\]"),
        (torch.zeros(0, 3, 16, 16), "images must have shape"),
    ],
)
def test_bad_images_are_refused(pipe, images, message):
    with pytest.raises(ValueError, match=message):
        encode_images(pipe, images)


def test_latents_that_are_not_finite_are_not_decoded(pipe):
    with pytest.raises(ValueError, match="z contains NaN or infinity, but must be finite"):
        decode_latents(pipe, X_T * math.nan)


def test_bad_prompts_and_ratio_are_refused(pipe):
    with pytest.raises(ValueError, match="prompts must be a list"):
        encode_prompts(pipe, "a red car")
    with pytest.raises(ValueError, match="ratio must be from 0 to 1"):
        prompt_switch(X_T, X_T, ratio=1.2, num_inference_steps=T)
