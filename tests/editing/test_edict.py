"""EDICT: exact inverses, the equations written out, batches, counts, refusals."""

from functools import cache

import pytest
import torch
from edit_cases import SOURCES, TARGETS, assert_batch_equals_one_at_a_time, assert_refused, pictures
from tiny import LATENT_SHAPE, counted_calls, noise, smooth_tiny_pipeline

from companion.weights.pipelines import load_pipeline
from smoothlib.editing.chains import ddim_steps
from smoothlib.editing.edict import EDICT, CoupledChain, edit
from smoothlib.editing.inversions import Inversion
from smoothlib.sampling import encode_images, encode_prompts, prompt_switch, sample

OWN = Inversion("own")


@cache
def tiny(dtype=torch.float32):
    return smooth_tiny_pipeline(dtype)


def run(pipe, which=slice(None), targets=TARGETS, **settings):
    images, settings = pictures(dtype=pipe.unet.dtype)[which], EDICT(**{"num_inference_steps": 10, **settings})
    return edit(pipe, images, SOURCES[which], targets[which], inversion=OWN, settings=settings)


def chain(pipe, **changed):
    null = encode_prompts(pipe, [""]).expand(3, -1, -1)
    return CoupledChain(pipe.unet, **{**dict(steps=ddim_steps(pipe, 4), null_embeds=null, guidance_scale=3, mixing=0.93), **changed})


@pytest.mark.parametrize("steps", [10, 11])
def test_the_same_prompt_gives_the_image_back_in_float64_on_the_embedded_model(steps):
    """Rounding of 1e-16 grows by 1 / .93^2 per step on the way up."""
    pipe, prompts = load_pipeline("mini", dtype=torch.float64), ["a photo of a red sofa", "a photo of a dog"]
    images = pictures(2, 64, torch.float64)
    edited = edit(pipe, images, prompts, prompts, inversion=OWN, settings=EDICT(num_inference_steps=steps))
    torch.testing.assert_close(edited.latents, encode_images(pipe, images), rtol=0, atol=1e-9)


def test_the_same_prompt_gives_the_image_back_in_float32():
    """Within what rounding leaves: 1e-7 of values near 3, times .93^-16 for 8 steps, passed on through the network."""
    pipe, prompts = load_pipeline("mini"), ["a photo of a red sofa", "a photo of a dog"]
    images = pictures(2, 64)
    edited = edit(pipe, images, prompts, prompts, inversion=OWN, settings=EDICT(num_inference_steps=10))
    torch.testing.assert_close(edited.latents, encode_images(pipe, images), rtol=0, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 4, 5])
def test_down_undoes_up_and_up_undoes_down(steps):
    pipe = tiny(torch.float64)
    coupled, embeds = chain(pipe, steps=ddim_steps(pipe, steps)), encode_prompts(pipe, SOURCES)
    pair = [noise(3, *LATENT_SHAPE, seed=seed, dtype=torch.float64) for seed in (0, 1)]  # not equal: a state like any other
    for there, back in ((coupled.up, coupled.down), (coupled.down, coupled.up)):
        moved = there(tuple(pair), embeds)
        assert (moved[0] - pair[0]).abs().max() > 1e-3
        for end, start in zip(back(moved, embeds), pair, strict=True):
            torch.testing.assert_close(end, start, rtol=0, atol=1e-12)


def test_a_step_down_is_the_papers():
    """Equations 14 and 15 with guidance, the second step with the chains' order reversed."""
    pipe = tiny(torch.float64)
    embeds, null, steps = encode_prompts(pipe, SOURCES), encode_prompts(pipe, [""]).expand(3, -1, -1), ddim_steps(pipe, 2)
    x, y = (noise(3, *LATENT_SHAPE, seed=seed, dtype=torch.float64) for seed in (0, 1))

    def moved(step, z, asked):
        e_null, e_cond = (pipe.unet(asked, step.t, encoder_hidden_states=which).sample for which in (null, embeds))
        eps = e_null + 3 * (e_cond - e_null)
        a = (step.alpha_bar_below / step.alpha_bar).sqrt()
        b = (1 - step.alpha_bar_below).sqrt() - (step.alpha_bar_below * (1 - step.alpha_bar) / step.alpha_bar).sqrt()
        return a * z + b * eps

    with torch.no_grad():
        given = chain(pipe, steps=steps).down((x, y), embeds)
        x = moved(steps[0], x, y)
        y = moved(steps[0], y, x)
        x = 0.93 * x + 0.07 * y
        y = 0.07 * x + 0.93 * y
        y = moved(steps[1], y, x)
        x = moved(steps[1], x, y)
        x = 0.93 * x + 0.07 * y
        y = 0.07 * x + 0.93 * y
    torch.testing.assert_close(given, (x, y), rtol=0, atol=1e-13)


def test_where_both_chains_agree_the_steps_are_plain_ddim(monkeypatch):
    """For a network that ignores the latent both chains are one, and to mix them does nothing."""
    pipe = smooth_tiny_pipeline(torch.float64)
    pattern = noise(1, *LATENT_SHAPE, dtype=torch.float64)

    def forward(x, t, encoder_hidden_states, **_):
        return (pattern * (1 + t / 1000) * (0.1 + encoder_hidden_states[:, :, 0].mean(dim=1))[:, None, None, None],)

    monkeypatch.setattr(pipe.unet, "forward", forward)
    z, embeds = noise(3, *LATENT_SHAPE, seed=2, dtype=torch.float64), encode_prompts(pipe, SOURCES)
    x, y = chain(pipe).down((z, z), embeds)
    expected = sample(pipe, z, embeds, guidance_scale=3, num_inference_steps=4)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-6)  # the scheduler's levels are float32
    torch.testing.assert_close(x, y, rtol=0, atol=1e-13)
    assert (x - z).abs().max() > 0.1


@pytest.mark.parametrize("strength", [0.5, 0.6])
def test_it_is_the_prompt_switch_with_an_exact_inversion(strength):
    """All the way up, down under the source prompt to the switch, then under the target prompt: the first part comes to nothing."""
    pipe, steps = tiny(torch.float64), 10
    source, target = encode_prompts(pipe, SOURCES), encode_prompts(pipe, TARGETS)
    coupled, z0 = chain(pipe, steps=ddim_steps(pipe, steps)), encode_images(pipe, pictures(dtype=torch.float64))
    switch = prompt_switch(source, target, ratio=strength, num_inference_steps=steps)
    x, _ = coupled.down(coupled.up((z0, z0), source), switch)
    torch.testing.assert_close(run(pipe, strength=strength).latents, x, rtol=0, atol=1e-11)


def test_another_prompt_changes_the_image():
    pipe = tiny()
    assert ((run(pipe).latents - run(pipe, targets=SOURCES).latents).abs().amax(dim=(1, 2, 3)) > 1e-3).all()


def test_a_batch_equals_its_images_one_at_a_time():
    assert_batch_equals_one_at_a_time(lambda which: run(tiny(), which), tolerance=1e-4)


def test_evaluations_are_counted():
    with counted_calls(tiny()) as calls:
        edited = run(tiny())
    assert calls == [6] * 32 and edited.evaluations == 64  # 8 steps, two chains, with guidance, up and down
    assert run(tiny(), guidance_scale=1).evaluations == 32
    assert torch.equal(run(tiny(), strength=0).latents, encode_images(tiny(), pictures()))


def test_bad_settings_are_refused_in_one_sentence():
    for settings, match in [
        (dict(mixing=0), "mixing is 0, but must be above 0"),
        (dict(mixing=1.1), "mixing is 1.1, but must be a number from 0 to 1"),
        (dict(strength=2), "strength is 2, but must be"),
        (dict(num_inference_steps=2.5), "num_inference_steps is 2.5, but must be"),
        (dict(guidance_scale="3"), "guidance_scale is '3', but must be"),
    ]:
        with pytest.raises(ValueError, match=match):
            EDICT(**settings)


def test_bad_input_is_refused_before_the_network_runs():
    pipe = tiny()

    def refused(match, images=None, targets=TARGETS, inversion=OWN):
        images = pictures() if images is None else images
        assert_refused(pipe, lambda: edit(pipe, images, SOURCES, targets, inversion=inversion, settings=EDICT()), match)

    refused("inversion is of the kind 'direct', but must be 'own' or 'edict' for edict", inversion=Inversion("direct"))
    refused("target_prompts is 'a dog', but must be a list of strings", targets="a dog")
    refused("images must have a height and width divisible by 2", images=pictures(3, 15))
