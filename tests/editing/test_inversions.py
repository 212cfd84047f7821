"""The four inversions: each one's definition written out, what it costs, and that images of a batch do not meet."""

import itertools

import pytest
import torch
from editing_cases import GUIDANCE, IMAGES, SOURCE, T, mini, pipe64, scenes
from tiny import assert_one_sentence

from smoothlib.diffusion import ddim_inverse_scheduler, ddim_scheduler, set_timesteps
from smoothlib.editing.inversions import Inversion, invert, inverted_for, source_branch
from smoothlib.inversion import ddim_invert, null_text_inversion
from smoothlib.sampling import encode_images, encode_prompts, predict_noise

KINDS = ("ddim", "null_text", "direct", "fixed_point")
SETTINGS = dict(guidance_scale=GUIDANCE, num_inference_steps=T)
INNER = 2


def inverted(kind, images=IMAGES, prompts=SOURCE, **options):
    return invert(pipe64(), images, prompts, Inversion(kind, num_inner_steps=INNER, **options), **SETTINGS)


@pytest.mark.parametrize("kind", ["ddim", "null_text", "direct"])
def test_three_kinds_share_the_pivots_of_ddim_inversion(kind):
    pipe = pipe64()
    z0, embeds = encode_images(pipe, IMAGES), encode_prompts(pipe, SOURCE)
    found, pivots = inverted(kind), ddim_invert(pipe, z0, embeds, num_inference_steps=T)
    assert torch.equal(found.pivots, pivots) and torch.equal(found.prompt_embeds, embeds)
    assert (found.null_embeds is not None) == (kind == "null_text") and (found.offsets is not None) == (kind == "direct")
    if kind == "null_text":
        alone = null_text_inversion(pipe, pivots, embeds, guidance_scale=GUIDANCE, num_inner_steps=INNER)
        assert torch.equal(found.null_embeds, alone.null_embeds) and found.null_embeds.shape == (T, 3, 16, 16)


def test_direct_inversions_offsets_are_the_gaps_of_guided_steps_from_the_pivots():
    pipe, found = pipe64(), inverted("direct")
    scheduler, null = ddim_scheduler(pipe), encode_prompts(pipe, [""] * 3)
    for i, t in enumerate(set_timesteps(scheduler, T)):
        z = found.pivots[T - i]
        e_null, e_cond = (predict_noise(pipe.unet, z, t, embeds) for embeds in (null, found.prompt_embeds))
        below = scheduler.step(e_null + GUIDANCE * (e_cond - e_null), t, z).prev_sample
        torch.testing.assert_close(found.offsets[i], found.pivots[T - i - 1] - below, rtol=0, atol=1e-12)
    assert found.offsets.abs().amax((1, 2, 3, 4)).min() > 1e-6  # each step has a gap to close


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_direct_inversions_source_branch_returns_through_the_pivots(guidance_scale):
    """An offset closes its gap up to two roundings, of the offset and of the sum: at most 2.4e-7 each for numbers below 8."""
    images, captions = scenes()
    found = invert(mini(), images, captions, Inversion("direct"), guidance_scale=guidance_scale, num_inference_steps=5)
    for z, pivot in zip(source_branch(mini(), found), found.pivots[:-1].flip(0), strict=True):
        torch.testing.assert_close(z, pivot, rtol=0, atol=1e-6)


def test_one_substitution_of_the_fixed_point_is_ddim_inversion():
    pipe = pipe64()
    pivots = ddim_invert(pipe, encode_images(pipe, IMAGES), encode_prompts(pipe, SOURCE), num_inference_steps=T)
    torch.testing.assert_close(inverted("fixed_point", num_iterations=1).pivots, pivots, rtol=0, atol=1e-12)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_the_fixed_point_solves_the_implicit_step(monkeypatch, prediction_type):
    """z_{t+1} is where the step up from z_t with the noise at z_{t+1} ends; the substitution is linear in the latent here.

    The output c z of a network makes an implicit step a linear equation of one unknown, z_{t+1} = a z_t + b eps(z_{t+1}).
    """
    pipe, c = pipe64(), 0.2
    scheduler = pipe.scheduler
    monkeypatch.setattr(pipe, "scheduler", type(scheduler).from_config(scheduler.config, prediction_type=prediction_type))
    monkeypatch.setattr(pipe.unet, "forward", lambda x, t, **_: (c * x,))
    found = inverted("fixed_point", num_iterations=60, inversion_guidance_scale=GUIDANCE)
    alpha_bar = scheduler.alphas_cumprod.double()
    expected = [found.pivots[0]]
    timesteps = ddim_inverse_scheduler(pipe)
    levels = [alpha_bar[0], *alpha_bar[set_timesteps(timesteps, T)]]
    for low, high in itertools.pairwise(levels):
        share = {"epsilon": c, "v_prediction": high.sqrt() * c + (1 - high).sqrt()}
        share["sample"] = (1 - high.sqrt() * c) / (1 - high).sqrt()
        k = share[prediction_type]  # eps = k z
        b = (1 - high).sqrt() - (high / low * (1 - low)).sqrt()
        expected.append((high / low).sqrt() * expected[-1] / (1 - b * k))
    torch.testing.assert_close(found.pivots, torch.stack(expected), rtol=1e-6, atol=1e-6)  # the schedule is in float32


def test_a_converged_fixed_point_is_taken_back_exactly_by_sampling_at_its_guidance():
    """Both ways then use one noise at one latent: what is left is the iteration's remainder and float32's schedule."""
    found = inverted("fixed_point", num_iterations=40, inversion_guidance_scale=GUIDANCE)
    back = torch.stack(list(source_branch(pipe64(), found)))
    torch.testing.assert_close(back, found.pivots[:-1].flip(0), rtol=0, atol=2e-6)


def test_the_fixed_point_loses_less_than_ddim_inversion_on_every_scene():
    images, captions = scenes()
    error = {}
    for kind in ("ddim", "fixed_point"):
        found = invert(mini(), images, captions, Inversion(kind), guidance_scale=1.0, num_inference_steps=10)
        *_, z0 = source_branch(mini(), found)
        error[kind] = (z0 - found.pivots[0]).square().mean((1, 2, 3))
    assert (error["fixed_point"] < 0.2 * error["ddim"]).all(), error


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_equals_one_image_at_a_time(kind):
    together = inverted(kind)
    for b in range(3):
        alone = inverted(kind, IMAGES[b : b + 1], SOURCE[b : b + 1])
        for name in ("pivots", "null_embeds", "offsets"):
            if getattr(alone, name) is not None:
                torch.testing.assert_close(getattr(alone, name)[:, 0], getattr(together, name)[:, b], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "kind, options, guidance_scale, evaluations",
    [
        ("ddim", {}, GUIDANCE, T),
        ("ddim", dict(inversion_guidance_scale=2.0), GUIDANCE, 2 * T),
        ("direct", {}, GUIDANCE, T + 2 * T),
        ("direct", {}, 1.0, T + T),
        ("fixed_point", dict(num_iterations=3), GUIDANCE, 3 * T),
        ("fixed_point", dict(num_iterations=3, inversion_guidance_scale=2.0), GUIDANCE, 6 * T),
        ("null_text", dict(num_inner_steps=1), GUIDANCE, T + 3 * T),  # e_cond, one inner step, and the step that advances
    ],
)
def test_evaluations_are_counted(kind, options, guidance_scale, evaluations):
    found = invert(pipe64(), IMAGES, SOURCE, Inversion(kind, **options), guidance_scale=guidance_scale, num_inference_steps=T)
    assert found.evaluations == evaluations and (found.guidance_scale, found.num_inference_steps) == (guidance_scale, T)


def test_what_was_inverted_before_is_taken_as_it_is():
    found = inverted("direct")
    assert inverted_for(pipe64(), IMAGES, SOURCE, found, **SETTINGS) is found
    other = dict(SETTINGS, guidance_scale=1.0)
    plain = inverted("ddim")  # nothing of it belongs to a guidance
    assert inverted_for(pipe64(), IMAGES, SOURCE, plain, **other) is plain


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(kind="ddpm"), "kind is 'ddpm', but must be one of ddim, null_text, direct"),
        (dict(num_inner_steps=0), "num_inner_steps is 0, but must be a whole number of at least 1"),
        (dict(num_iterations=2.5), "num_iterations is 2.5, but must be a whole number of at least 1"),
        (dict(lr=0.0), "lr is 0.0, but must be positive"),
        (dict(lr=float("nan")), "lr is nan, but must be a finite number"),
        (dict(inversion_guidance_scale=None), "inversion_guidance_scale is None, but must be a finite number"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(options, message):
    with pytest.raises(ValueError, match=message) as raised:
        Inversion(**options)
    assert_one_sentence(raised)
