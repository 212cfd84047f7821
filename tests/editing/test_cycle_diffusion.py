"""CycleDiffusion: the identity, diffusers' class at batch 1, batches, counts, refusals."""

import warnings
from functools import cache

import pytest
import torch
from edit_cases import SOURCES, TARGETS, assert_batch_equals_one_at_a_time, assert_refused, pictures, seeded
from tiny import LATENT_SHAPE, counted_calls, noise, smooth_tiny_pipeline

from companion.weights.pipelines import load_pipeline
from smoothlib.editing.chains import ddim_steps
from smoothlib.editing.cycle_diffusion import CycleDiffusion, edit
from smoothlib.editing.inversions import Inversion
from smoothlib.sampling import encode_images, encode_prompts

OWN = Inversion("own")


@cache
def tiny(dtype=torch.float32):
    return smooth_tiny_pipeline(dtype)


def run(pipe, which=slice(None), targets=TARGETS, generator=None, **settings):
    images = pictures(dtype=pipe.unet.dtype)[which]
    settings = CycleDiffusion(**{"num_inference_steps": 10, **settings})
    generator = generator or seeded(3)[which]
    return edit(pipe, images, SOURCES[which], targets[which], inversion=OWN, settings=settings, generator=generator)


# Rounding alone stands between the two: in float32 one part in 1e7 per step of values near 3, passed on by the network from step to step.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-6), (torch.float64, 1e-13)])
def test_the_same_prompt_and_scale_give_the_image_back_on_the_embedded_model(dtype, tolerance):
    pipe, prompts = load_pipeline("mini", dtype=dtype), ["a photo of a red sofa", "a photo of a dog"]
    images = pictures(2, 64, dtype)
    settings = CycleDiffusion(num_inference_steps=10, guidance_scale=3, source_guidance_scale=3)
    generator = torch.Generator().manual_seed(0)
    edited = edit(pipe, images, prompts, prompts, inversion=OWN, settings=settings, generator=generator)
    torch.testing.assert_close(edited.latents, encode_images(pipe, images), rtol=0, atol=tolerance)
    assert edited.evaluations == 8 * 4  # 8 of 10 steps, two branches with guidance


def test_another_prompt_changes_every_image_of_a_batch():
    """The deprecated class of diffusers drops the target prompts of batches."""
    pipe = tiny()
    same, other = run(pipe, targets=SOURCES, guidance_scale=1).latents, run(pipe, guidance_scale=1).latents
    assert ((same - other).abs().amax(dim=(1, 2, 3)) > 1e-3).all()


@pytest.mark.parametrize("eta", [0.1, 1.0])
def test_one_image_equals_diffusers_class(eta):
    from diffusers import CycleDiffusionPipeline

    pipe, arguments = tiny(), dict(guidance_scale=7.5, eta=eta, strength=0.8, num_inference_steps=10)
    parts = {name: pipe.components[name] for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        theirs = CycleDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    z0 = encode_images(pipe, pictures()[:1])
    settings = dict(output_type="latent", generator=torch.Generator().manual_seed(7), **arguments)
    expected = theirs(prompt=TARGETS[0], source_prompt=SOURCES[0], image=z0, **settings).images
    ours = run(pipe, slice(1), generator=torch.Generator().manual_seed(7), **arguments).latents
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-5)
    assert (ours - z0).abs().max() > 0.1


def test_a_network_that_is_sure_of_an_image_moves_it_by_the_prompts_difference(monkeypatch):
    """In closed form. Let the network be sure that the clean latent is z0 + d(prompt), and D = d(target) - d(source).

    The chains' distance delta is 0 at first. A step makes it sqrt(ab') D + k (delta - sqrt(ab) D) / s, with k^2 = 1 - ab' - sigma^2.
    """
    pipe = smooth_tiny_pipeline(torch.float64)
    z0, pattern = encode_images(pipe, pictures(dtype=torch.float64)), noise(1, *LATENT_SHAPE, dtype=torch.float64)
    steps = ddim_steps(pipe, 10, share=0.8, eta=0.1)
    level = {int(step.t): step for step in steps}

    def shift(embeds):
        return pattern * embeds[:, :, 0].mean(dim=1)[:, None, None, None]

    def forward(x, t, encoder_hidden_states, **_):
        return (level[int(t)].noise_between(x, z0.repeat(len(x) // 3, 1, 1, 1) + shift(encoder_hidden_states)),)

    monkeypatch.setattr(pipe.unet, "forward", forward)
    difference = shift(encode_prompts(pipe, TARGETS)) - shift(encode_prompts(pipe, SOURCES))
    assert difference.abs().amax(dim=(1, 2, 3)).min() > 0.01
    delta = torch.zeros_like(z0)
    for step in steps:
        k = (1 - step.alpha_bar_below - step.sigma**2).sqrt()
        delta = step.alpha_bar_below.sqrt() * difference + k / (1 - step.alpha_bar).sqrt() * (delta - step.alpha_bar.sqrt() * difference)
    torch.testing.assert_close(run(pipe, guidance_scale=1).latents, z0 + delta, rtol=0, atol=1e-12)


def test_a_batch_equals_its_images_one_at_a_time():
    assert_batch_equals_one_at_a_time(lambda which: run(tiny(), which), tolerance=2e-5)
    generator = torch.Generator().manual_seed(3)
    together = run(tiny(), generator=generator).latents
    generator.manual_seed(3)  # one generator, in turn
    alone = torch.cat([run(tiny(), slice(i, i + 1), generator=generator).latents for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)


def test_evaluations_are_counted():
    with counted_calls(tiny()) as calls:
        edited = run(tiny())
    assert calls == [9] * 8 and edited.evaluations == 24
    assert run(tiny(), strength=0).evaluations == 0
    assert torch.equal(run(tiny(), strength=0).latents, encode_images(tiny(), pictures()))


def test_bad_settings_are_refused_in_one_sentence():
    for settings, match in [
        (dict(eta=0), "eta is 0, but must be above 0"),
        (dict(eta=1.5), "eta is 1.5, but must be a number from 0 to 1"),
        (dict(strength=-0.1), "strength is -0.1, but must be"),
        (dict(num_inference_steps=0), "num_inference_steps is 0, but must be"),
        (dict(guidance_scale=float("nan")), "guidance_scale is nan, but must be"),
        (dict(source_guidance_scale=float("inf")), "source_guidance_scale is inf, but must be"),
    ]:
        with pytest.raises(ValueError, match=match):
            CycleDiffusion(**settings)


def test_bad_input_is_refused_before_the_network_runs():
    pipe, settings = tiny(), CycleDiffusion(num_inference_steps=10)
    good = dict(inversion=OWN, settings=settings, generator=seeded(3))

    def refused(match, images=None, sources=SOURCES, **changed):
        images = pictures() if images is None else images
        assert_refused(pipe, lambda: edit(pipe, images, sources, TARGETS, **{**good, **changed}), match)

    refused("generator is None, but must be given: cycle_diffusion draws noise", generator=None)
    refused("generator has 2 generators, but must have 3", generator=seeded(2))
    refused("inversion is of the kind 'ddim', but must be 'own' for cycle_diffusion", inversion=Inversion("ddim"))
    refused("source_prompts has 1 prompts, but must have 3", sources=["a dog"])
    refused("images must be floating-point in", images=pictures() * 2)
    refused("num_inference_steps must be an integer from 1 to 1000", settings=CycleDiffusion(num_inference_steps=2000))
