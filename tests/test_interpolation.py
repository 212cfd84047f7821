"""Walks between latents and real images: end frames, batching, prompts per frame, and each as the composition that it names."""

import math
from dataclasses import replace

import pytest
import torch
from tiny import IMAGE_SIZE, counted_calls, noise, smooth_tiny_pipeline
from walking import END, FIRST, SAMPLING, SECOND, SETTINGS, START, T, differ, generated, same, with_sampling

from smoothlib.diffusion import slerp
from smoothlib.interpolation.real_images import invert_pairs, real_image_interpolation, vae_interpolation
from smoothlib.interpolation.walk import latent_walk
from smoothlib.inversion import ddim_invert, null_text_inversion
from smoothlib.sampling import Sampling, decode_latents, encode_images, encode_prompts


@pytest.fixture(scope="module")
def pipe():
    """In float64, so that batching changes nothing but the last digits."""
    return smooth_tiny_pipeline(torch.float64)


@pytest.fixture
def calls(pipe):
    """Batch sizes of the UNet calls made during a test."""
    with counted_calls(pipe) as sizes:
        yield sizes


@pytest.fixture(scope="module")
def embeds(pipe):
    return encode_prompts(pipe, ["a red car", "a dog"])


@pytest.fixture(scope="module")
def other_embeds(pipe):
    return encode_prompts(pipe, ["two cats", "a house"])


# Latent walks ---------------------------------------------------------------------------------------------------------------------


def test_walk_ends_at_the_plain_samples_and_each_frame_is_one_on_the_arc(pipe, embeds):
    walk = latent_walk(pipe, START, END, embeds, frames=5, sampling=SAMPLING)
    assert walk.shape == (2, 5, 3, IMAGE_SIZE, IMAGE_SIZE) and walk.dtype == torch.float32 and walk.abs().max() <= 1
    same(walk[:, 0], generated(pipe, START, embeds))
    same(walk[:, -1], generated(pipe, END, embeds))
    same(walk[:, 1], generated(pipe, slerp(START, END, 0.25), embeds))
    differ(walk[:, 1], walk[:, 2])


def test_default_is_eleven_frames_at_the_papers_ratios(pipe, embeds):
    walk = latent_walk(pipe, START[:1], END[:1], embeds[:1], Sampling(1.0, 1))
    assert walk.shape[1] == 11
    same(walk[:, 3], generated(pipe, slerp(START[:1], END[:1], 0.3), embeds[:1], guidance_scale=1.0, num_inference_steps=1))


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
def test_batch_size_changes_the_calls_and_nothing_else(pipe, embeds, calls, batch_size):
    nulls = encode_prompts(pipe, [""]) + 0.5 * noise(T, 2, 16, 16, seed=5)  # per step and walk: a chunk must take its own
    whole = latent_walk(pipe, START, END, embeds, sampling=replace(SAMPLING, null_embeds=nulls), frames=3)
    assert calls == [12] * T  # 2 walks x 3 frames, guided
    calls.clear()
    same(whole, latent_walk(pipe, START, END, embeds, sampling=replace(SAMPLING, null_embeds=nulls, batch_size=batch_size), frames=3))
    assert max(calls) == 2 * min(batch_size, 6) and sum(calls) == 12 * T


def test_walks_do_not_depend_on_each_other(pipe, embeds):
    together = latent_walk(pipe, START, END, embeds, frames=3, sampling=SAMPLING)
    for b in range(2):
        alone = latent_walk(pipe, START[b : b + 1], END[b : b + 1], embeds[b : b + 1], frames=3, sampling=SAMPLING)
        same(together[b : b + 1], alone)


def test_every_form_of_null_embeddings_belongs_to_the_walk(pipe, embeds):
    null = encode_prompts(pipe, [""])
    per_walk = null + 0.5 * noise(2, 16, 16, seed=6)
    walk = latent_walk(pipe, START, END, embeds, sampling=replace(SAMPLING, null_embeds=per_walk), frames=3)
    same(walk[:, 0], generated(pipe, START, embeds, null_embeds=per_walk))
    same(walk[:, 2], generated(pipe, END, embeds, null_embeds=per_walk))
    per_step = per_walk.expand(T, -1, -1, -1)
    same(walk, latent_walk(pipe, START, END, embeds, sampling=replace(SAMPLING, null_embeds=per_step), frames=3))
    same(walk, latent_walk(pipe, START, END, embeds, sampling=replace(SAMPLING, null_embeds=lambda i: per_walk, batch_size=4), frames=3))
    plain = latent_walk(pipe, START, END, embeds, frames=3, sampling=SAMPLING)
    same(plain, latent_walk(pipe, START, END, embeds, sampling=replace(SAMPLING, null_embeds=null), frames=3))
    differ(plain, walk)


def test_two_prompts_are_mixed_linearly_over_the_frames(pipe, embeds, other_embeds):
    walk = latent_walk(pipe, START, START, embeds, second_embeds=other_embeds, frames=5, sampling=SAMPLING)
    same(walk[:, 0], generated(pipe, START, embeds))
    same(walk[:, -1], generated(pipe, START, other_embeds))
    same(walk[:, 1], generated(pipe, START, 0.75 * embeds + 0.25 * other_embeds))
    differ(walk[:, 0], walk[:, -1])


def test_one_prompt_may_stand_for_all_walks(pipe, embeds, other_embeds):
    one = latent_walk(pipe, START, END, embeds[:1], second_embeds=other_embeds[:1], frames=3, sampling=SAMPLING)
    both = latent_walk(pipe, START, END, embeds[[0, 0]], second_embeds=other_embeds[[0, 0]], frames=3, sampling=SAMPLING)
    same(one, both)


# Real images ----------------------------------------------------------------------------------------------------------------------


def test_vae_interpolation_goes_straight_between_the_reconstructions(pipe):
    walk = vae_interpolation(pipe, FIRST, SECOND, frames=5)
    z_first, z_second = encode_images(pipe, FIRST), encode_images(pipe, SECOND)
    same(walk[:, 0], decode_latents(pipe, z_first))
    same(walk[:, -1], decode_latents(pipe, z_second))
    same(walk[:, 3], decode_latents(pipe, 0.25 * z_first + 0.75 * z_second))
    same(walk, vae_interpolation(pipe, FIRST, SECOND, frames=5, batch_size=3))


def test_pairs_are_inverted_with_a_null_series_of_their_own(pipe, embeds, other_embeds):
    settings = dict(guidance_scale=7.5, num_inner_steps=3)
    found = invert_pairs(pipe, FIRST, SECOND, embeds, Sampling(7.5, T), second_embeds=other_embeds, num_inner_steps=3)
    assert found.null_embeds.shape == (T, 2, 16, 16) and found.losses.shape == (T, 2, 2) and found.inner_steps.shape == (T, 2)
    for b in range(2):
        z0 = encode_images(pipe, torch.stack([FIRST[b], SECOND[b]]))
        prompts = torch.stack([embeds[b], other_embeds[b]])
        pivots = ddim_invert(pipe, z0, prompts, num_inference_steps=T)
        alone = null_text_inversion(pipe, pivots, prompts, shared=True, **settings)
        same(found.start[b], pivots[-1, 0])
        same(found.end[b], pivots[-1, 1])
        same(found.null_embeds[:, b], alone.null_embeds[:, 0])
        same(found.losses[:, b], alone.losses)
        assert torch.equal(found.inner_steps[:, b], alone.inner_steps[:, 0])
    differ(found.null_embeds[:, 0], found.null_embeds[:, 1])


def test_shared_null_text_inversion_reconstructs_both_ends_better_than_ddim(pipe, embeds):
    """And the frames between are the slerp of the inverted noises under the same nulls (A.4)."""
    settings = dict(sampling=Sampling(7.5, T), frames=3)
    walk, found = real_image_interpolation(pipe, FIRST, SECOND, embeds, num_inner_steps=10, **settings)
    ddim = latent_walk(pipe, found.start, found.end, embeds, **settings)
    vae = vae_interpolation(pipe, FIRST, SECOND, frames=2)
    error, ddim_error = ((x[:, [0, -1]] - vae).square().mean(dim=(2, 3, 4)) for x in (walk, ddim))  # (2 pairs, 2 ends)
    assert (error < ddim_error).all()
    assert (error.sum(1) < 0.95 * ddim_error.sum(1)).all()  # of the pair, as Eq. 20 has it
    middle = generated(pipe, slerp(found.start, found.end, 0.5), embeds, guidance_scale=7.5, null_embeds=found.null_embeds)
    same(walk[:, 1], middle)


# Faults ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(frames=1), "frames must be an integer of at least 2, not 1"),
        (dict(frames=2.0), "frames must be an integer of at least 2, not 2.0"),
        (dict(batch_size=0), "batch_size must be at least 1, or None for all at once, not 0"),
        (dict(end=END[:1]), r"start and end must have one shape \(B, 4, h, w\)"),
        (dict(prompt_embeds=torch.zeros(3, 16, 16)), r"prompt_embeds must have shape \(2 or 1, L, D\)"),
        (dict(prompt_embeds=torch.zeros(T, 2, 16, 16)), r"prompt_embeds must have shape \(2 or 1, L, D\)"),
        (dict(second_embeds=torch.zeros(3, 16, 16)), r"second_embeds must have shape \(2 or 1, L, D\)"),
        (dict(null_embeds=torch.zeros(6, 16, 16)), r"null_embeds must have shape \(2 or 1, L, D\)"),
        (dict(null_embeds=torch.zeros(3, 2, 16, 16)), r"null_embeds must have shape"),
        (dict(num_inference_steps=0), "num_inference_steps must be an integer from 1"),
        (dict(start=START * math.nan), "start contains NaN or infinity, but must be finite"),
        (dict(guidance_scale=math.nan), "guidance_scale is nan, but must be a finite number"),
    ],
)
def test_bad_walks_are_named_before_any_work(pipe, embeds, calls, changes, message):
    arguments = dict(start=START, end=END, prompt_embeds=embeds, frames=3) | SETTINGS | changes
    with pytest.raises(ValueError, match=message):
        latent_walk(pipe, **with_sampling(arguments))
    assert calls == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(second=SECOND[:1]), "first and second must have one shape"),
        (dict(first=FIRST * 200, second=SECOND * 200), r"floating-point in \[-1, 1\]"),
        (dict(frames=0), "frames must be an integer of at least 2, not 0"),
        (dict(guidance_scale=1.0), "guidance_scale must differ from 1"),
        (dict(null_embeds=torch.zeros(1, 16, 16)), "sampling has null_embeds, but must have none: the inversion finds them"),
        (dict(prompt_embeds=torch.zeros(3, 16, 16)), r"prompt_embeds must have shape \(2 or 1, L, D\)"),
    ],
)
def test_bad_real_images_are_named_before_any_work(pipe, embeds, calls, changes, message):
    arguments = dict(first=FIRST, second=SECOND, prompt_embeds=embeds) | SETTINGS | changes
    with pytest.raises(ValueError, match=message):
        real_image_interpolation(pipe, **with_sampling(arguments))
    assert calls == []
