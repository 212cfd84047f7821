"""Pix2Pix-Zero: diffusers' class at batch 1, plain sampling as a limit, the losses written out, batches, restored hooks, refusals."""

import itertools
import math
import warnings
from functools import cache

import pytest
import torch
from edit_cases import SOURCES, TARGETS, assert_batch_equals_one_at_a_time, assert_refused, fail_at, pictures, seeded
from tiny import LATENT_SHAPE, counted_calls, noise, tiny_pipeline

from companion.weights.pipelines import load_pipeline
from smoothlib.diffusion import ddim_inverse_scheduler
from smoothlib.editing import regularised
from smoothlib.editing.inversions import Inversion, invert
from smoothlib.editing.pix2pix_zero import Pix2PixZero, direction, edit
from smoothlib.inversion import ddim_invert
from smoothlib.sampling import encode_images, encode_prompts, sample

OWN, T = Inversion("own"), 4


def unit_pipeline():
    """Random weights whose noise estimates have mean 0 and variance 1, as those of a trained network."""
    pipe = tiny_pipeline(dtype=torch.float64)
    with torch.no_grad():
        x = noise(16, *LATENT_SHAPE, dtype=torch.float64)
        given = pipe.unet(x, 500, encoder_hidden_states=encode_prompts(pipe, ["a dog"] * 16)).sample
        pipe.unet.conv_out.bias.sub_(given.mean(dim=(0, 2, 3)))
        for parameter in (pipe.unet.conv_out.weight, pipe.unet.conv_out.bias):
            parameter.div_(given.sub(given.mean(dim=(0, 2, 3), keepdim=True)).std())
    return pipe


@cache
def tiny():
    return unit_pipeline()


def run(pipe, which=slice(None), targets=TARGETS, inversion=OWN, generator=None, sentences=None, **settings):
    images, settings = pictures(dtype=pipe.unet.dtype)[which], Pix2PixZero(**{"num_inference_steps": T, **settings})
    arguments = dict(inversion=inversion, settings=settings, generator=generator or seeded(3)[which], **(sentences or {}))
    return edit(pipe, images, SOURCES[which], targets[which], **arguments)


def invert_regularised(pipe, which=slice(None), **settings):
    z0, embeds = encode_images(pipe, pictures(dtype=pipe.unet.dtype)[which]), encode_prompts(pipe, SOURCES[which])
    settings = Pix2PixZero(num_inference_steps=T, **settings)
    return regularised.regularised_inversion(pipe, z0, embeds, settings, seeded(3)[which])


def their_pipeline(pipe):
    from diffusers import DDIMInverseScheduler, StableDiffusionPix2PixZeroPipeline

    parts = {name: pipe.components[name] for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    unused = dict.fromkeys(("safety_checker", "feature_extractor", "caption_generator", "caption_processor"))
    inverse = DDIMInverseScheduler.from_config(ddim_inverse_scheduler(pipe).config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        theirs = StableDiffusionPix2PixZeroPipeline(**parts, **unused, inverse_scheduler=inverse, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    return theirs


@pytest.mark.parametrize("guidance_amount", [0.0, 0.1, 3.0])
def test_one_image_equals_diffusers_class(monkeypatch, guidance_amount):
    """Inversion and edit. Their class draws its rolls in another order, and from 0 instead of 1: it is given ours."""
    pipe = unit_pipeline()  # their class leaves its processors behind
    settings = dict(num_inference_steps=T, cross_attention_guidance=guidance_amount)
    images = pictures(dtype=torch.float64)[:1]
    z0 = encode_images(pipe, images)
    monkeypatch.setattr(regularised, "random_shifts", lambda generator, batch_size, shape, sides: noise(1, *shape).gt(0) + 1)
    ours = edit(pipe, images, SOURCES[:1], TARGETS[:1], inversion=OWN, settings=Pix2PixZero(**settings), generator=seeded(1))
    rolls = iter((noise(1, T, 5, 5, 4, 1).gt(0) + 1).flatten())
    monkeypatch.setattr(torch, "randint", lambda *_, **__: next(rolls))
    theirs = their_pipeline(pipe)
    inverted = theirs.invert(prompt=SOURCES[0], image=z0, num_inference_steps=T, output_type="pt").latents
    assert next(rolls, None) is None
    embeds = dict(source_embeds=encode_prompts(pipe, SOURCES[:1]), target_embeds=encode_prompts(pipe, TARGETS[:1]))
    arguments = dict(guidance_scale=5.0, negative_prompt=SOURCES[0], num_inference_steps=T, cross_attention_guidance_amount=guidance_amount)
    expected = theirs(prompt=SOURCES[0], latents=inverted, output_type="latent", **embeds, **arguments).images
    torch.testing.assert_close(ours.latents, expected, rtol=0, atol=2e-5)


def test_the_descent_moves_the_latents():
    pipe = tiny()
    assert (run(pipe, cross_attention_guidance=3.0).latents - run(pipe, cross_attention_guidance=0).latents).abs().max() > 1e-3


def test_without_regularisation_it_is_ddim_inversion():
    pipe = tiny()
    expected = ddim_invert(pipe, encode_images(pipe, pictures(dtype=torch.float64)), encode_prompts(pipe, SOURCES), num_inference_steps=T)[
        -1
    ]
    torch.testing.assert_close(invert_regularised(pipe, lambda_auto_corr=0, lambda_kl=0), expected, rtol=0, atol=1e-5)
    assert (invert_regularised(pipe) - expected).abs().max() > 1e-2


def test_without_the_descent_it_samples_under_the_target_with_the_source_as_the_negative_prompt():
    pipe = tiny()
    source, target = encode_prompts(pipe, SOURCES), encode_prompts(pipe, TARGETS)
    arguments = dict(null_embeds=source, guidance_scale=5.0, num_inference_steps=T, inverted=True)
    expected = sample(pipe, invert_regularised(pipe), target, **arguments)
    torch.testing.assert_close(run(pipe, cross_attention_guidance=0).latents, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_prompt_gives_the_reconstruction_on_the_embedded_model(dtype):
    """The maps agree, so there is nothing to descend, and guidance between equal prompts is none: what is left is rounding.

    A difference of maps near 1e-7 makes a gradient of that order, and guidance 5 multiplies rounding by 9.
    """
    pipe, prompts = load_pipeline("mini", dtype=dtype), ["a photo of a red sofa", "a photo of a dog"]
    images = pictures(2, 64, dtype)
    shared = dict(guidance_scale=5.0, num_inference_steps=T)
    inverted = invert(pipe, images, prompts, Inversion("ddim"), **shared)
    edited = edit(pipe, images, prompts, prompts, inversion=inverted, settings=Pix2PixZero(num_inference_steps=T))
    expected = sample(pipe, inverted.pivots[-1], inverted.prompt_embeds, guidance_scale=1, num_inference_steps=T, inverted=True)
    # the scheduler's float32 levels: 1e-7
    torch.testing.assert_close(edited.latents, expected, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-5)


def test_the_direction_is_the_difference_of_mean_embeddings():
    pipe = tiny()
    one, two, three = (encode_prompts(pipe, [prompt])[0] for prompt in ("a dog", "two dogs", "a cat"))
    found = direction(pipe, [["a dog", "two dogs"]], [["a cat"]])
    torch.testing.assert_close(found, (three - (one + two) / 2)[None], rtol=0, atol=1e-6)
    plain = run(pipe, slice(1), generator=seeded(1))
    sentences = dict(source_sentences=[[SOURCES[0]]], target_sentences=[[TARGETS[0]] * 2])
    torch.testing.assert_close(run(pipe, slice(1), sentences=sentences).latents, plain.latents, rtol=0, atol=1e-5)
    other = dict(source_sentences=[["a dog", "two dogs"]], target_sentences=[["a cat"]])
    assert (run(pipe, slice(1), sentences=other).latents - plain.latents).abs().max() > 1e-3


def test_auto_correlation_is_the_published_sum():
    maps, shifts = noise(2, 4, 16, 16, dtype=torch.float64), torch.tensor([1, 3, 5, 2, 7, 4, 6, 1] * 2).reshape(2, 4, 2)
    assert regularised.pyramid_sides(16, 16) == [16, 8] and regularised.pyramid_sides(64, 64) == [64, 32, 16, 8]
    expected = torch.zeros(2, dtype=torch.float64)
    for b, c in itertools.product(range(2), range(4)):
        level = maps[b, c]
        for shift in shifts[b, c].tolist():
            expected[b] += (level * level.roll(shift, 0)).mean() ** 2 + (level * level.roll(shift, 1)).mean() ** 2
            level = level.unflatten(0, (-1, 2)).unflatten(2, (-1, 2)).mean(dim=(1, 3))
    torch.testing.assert_close(regularised.auto_correlation(maps, shifts), expected, rtol=1e-12, atol=0)


def test_kl_divergence_is_zero_for_unit_moments_only():
    maps = noise(2, 4, 8, 8, dtype=torch.float64).flatten(1)
    unit = ((maps - maps.mean(1, keepdim=True)) / maps.std(1, keepdim=True)).unflatten(1, (4, 8, 8))
    assert regularised.kl_divergence(unit).abs().max() < 1e-6
    expected = torch.full((2,), 4 + 9 - 1 - math.log(4), dtype=torch.float64)  # standard deviation 2, mean 3
    torch.testing.assert_close(regularised.kl_divergence(2 * unit + 3), expected, rtol=1e-6, atol=0)


def test_each_regularisation_brings_its_loss_down():
    blurred = torch.nn.functional.avg_pool2d(noise(2, 4, 16, 16), 3, 1, 1) + 0.5
    shifts = regularised.random_shifts(seeded(2), 2, (5, 5, 4, 2), [16, 8])
    less_shift = regularised.regularise(blurred, shifts, Pix2PixZero(lambda_kl=0))
    less_far = regularised.regularise(blurred, None, Pix2PixZero())
    assert (regularised.auto_correlation(less_shift, shifts[:, 0, 0]) < 0.9 * regularised.auto_correlation(blurred, shifts[:, 0, 0])).all()
    assert (regularised.kl_divergence(less_far) < 0.9 * regularised.kl_divergence(blurred)).all()


def test_rolls_reach_every_distance_but_none():
    shifts = regularised.random_shifts(seeded(2), 2, (2000, 2), [16, 8])
    assert set(shifts[..., 0].flatten().tolist()) == set(range(1, 8)) and set(shifts[..., 1].flatten().tolist()) == {1, 2, 3}
    assert torch.equal(shifts[1:], regularised.random_shifts(seeded(1, first=1), 1, (2000, 2), [16, 8]))


def test_a_batch_equals_its_images_one_at_a_time():
    assert_batch_equals_one_at_a_time(lambda which: run(tiny(), which), tolerance=1e-9)


def test_evaluations_are_counted():
    with counted_calls(tiny()) as calls:
        edited = run(tiny())
    assert calls == [3] * T + [3, 6, 6] * T and edited.evaluations == 6 * T
    assert run(tiny(), guidance_scale=1).evaluations == 4 * T
    inverted = invert(tiny(), pictures(dtype=torch.float64), SOURCES, Inversion("ddim"), guidance_scale=5.0, num_inference_steps=T)
    assert run(tiny(), inversion=inverted).evaluations == 5 * T


@pytest.mark.parametrize("call", [0, T, T + 1, T + 2])
def test_all_is_restored_after_an_exception(monkeypatch, call):
    pipe = unit_pipeline()
    pipe.unet.conv_in.weight.requires_grad_(True)
    processors = pipe.unet.attn_processors
    with monkeypatch.context() as patch:
        fail_at(pipe.unet, patch, call)
        with pytest.raises(KeyboardInterrupt):
            run(pipe)
    assert pipe.unet.attn_processors == processors and pipe.unet.conv_in.weight.requires_grad
    assert not pipe.unet._forward_pre_hooks and not pipe.unet._forward_hooks


def test_bad_settings_are_refused_in_one_sentence():
    for settings, match in [
        (dict(cross_attention_guidance=-1), "cross_attention_guidance is -1, but must be"),
        (dict(lambda_kl=float("nan")), "lambda_kl is nan, but must be"),
        (dict(num_reg_steps=-1), "num_reg_steps is -1, but must be a whole number of at least 0"),
        (dict(num_auto_corr_rolls=True), "num_auto_corr_rolls is True, but must be"),
    ]:
        with pytest.raises(ValueError, match=match):
            Pix2PixZero(**settings)


def test_bad_input_is_refused_before_the_network_runs():
    pipe, good = tiny(), dict(inversion=OWN, settings=Pix2PixZero(num_inference_steps=T), generator=seeded(3))

    def refused(match, images=None, **changed):
        images = pictures() if images is None else images
        assert_refused(pipe, lambda: edit(pipe, images, SOURCES, TARGETS, **{**good, **changed}), match)

    refused("generator is None, but must be given: the regularised inversion", generator=None)
    refused("inversion is of the kind 'null_text', but must be 'own' or 'ddim' or 'fixed_point'", inversion=Inversion("null_text"))
    refused("source_sentences is 2 lists, but must be 3 lists", source_sentences=[["a"], ["b"]])
    refused("target_sentences is 'a dog' for image 0, but must be a list", target_sentences=["a dog", ["b"], ["c"]])
    refused("target_sentences has 24 tokens in prompt 0, but at most 16", target_sentences=[["a " * 22], ["b"], ["c"]])
    refused("images have latents of 3 x 3, but must have at least 4", images=pictures(3, 6))
