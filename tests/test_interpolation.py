"""Walks and ANID: end frames, batching, prompts per frame, and each method as the composition that it names, on a tiny pipeline."""

import math

import pytest
import torch
from tiny import IMAGE_SIZE, LATENT_SHAPE, counted_calls, noise, smooth_tiny_pipeline, tiny_pipeline

from smoothlib.diffusion import ddim_scheduler, slerp
from smoothlib.interpolation.anid import add_noise, anid, anid_coarse_to_fine, level_steps
from smoothlib.interpolation.real_images import invert_pairs, real_image_interpolation, vae_interpolation
from smoothlib.interpolation.walk import latent_walk
from smoothlib.inversion import ddim_invert, null_text_inversion
from smoothlib.sampling import decode_latents, encode_images, encode_prompts, sample, sample_steps

T = 4
SETTINGS = dict(guidance_scale=3.0, num_inference_steps=T)
START, END = (noise(2, *LATENT_SHAPE, seed=seed).double() for seed in (1, 2))
FIRST, SECOND = (torch.tanh(noise(2, 3, IMAGE_SIZE, IMAGE_SIZE, seed=seed)).double() for seed in (3, 4))


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


def generated(pipe, latents, embeds, **changes):
    return decode_latents(pipe, sample(pipe, latents, embeds, **(SETTINGS | changes)))


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)  # images are float32


def differ(a, b):
    assert (a - b).abs().max() > 1e-3


# Latent walks ---------------------------------------------------------------------------------------------------------------------


def test_walk_ends_at_the_plain_samples_and_each_frame_is_one_on_the_arc(pipe, embeds):
    walk = latent_walk(pipe, START, END, embeds, frames=5, **SETTINGS)
    assert walk.shape == (2, 5, 3, IMAGE_SIZE, IMAGE_SIZE) and walk.dtype == torch.float32 and walk.abs().max() <= 1
    same(walk[:, 0], generated(pipe, START, embeds))
    same(walk[:, -1], generated(pipe, END, embeds))
    same(walk[:, 1], generated(pipe, slerp(START, END, 0.25), embeds))
    differ(walk[:, 1], walk[:, 2])


def test_default_is_eleven_frames_at_the_papers_ratios(pipe, embeds):
    walk = latent_walk(pipe, START[:1], END[:1], embeds[:1], guidance_scale=1.0, num_inference_steps=1)
    assert walk.shape[1] == 11
    same(walk[:, 3], generated(pipe, slerp(START[:1], END[:1], 0.3), embeds[:1], guidance_scale=1.0, num_inference_steps=1))


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
def test_batch_size_changes_the_calls_and_nothing_else(pipe, embeds, calls, batch_size):
    nulls = encode_prompts(pipe, [""]) + 0.5 * noise(T, 2, 16, 16, seed=5)  # per step and walk: a chunk must take its own
    whole = latent_walk(pipe, START, END, embeds, null_embeds=nulls, frames=3, **SETTINGS)
    assert calls == [12] * T  # 2 walks x 3 frames, guided
    calls.clear()
    same(whole, latent_walk(pipe, START, END, embeds, null_embeds=nulls, frames=3, batch_size=batch_size, **SETTINGS))
    assert max(calls) == 2 * min(batch_size, 6) and sum(calls) == 12 * T


def test_walks_do_not_depend_on_each_other(pipe, embeds):
    together = latent_walk(pipe, START, END, embeds, frames=3, **SETTINGS)
    for b in range(2):
        alone = latent_walk(pipe, START[b : b + 1], END[b : b + 1], embeds[b : b + 1], frames=3, **SETTINGS)
        same(together[b : b + 1], alone)


def test_every_form_of_null_embeddings_belongs_to_the_walk(pipe, embeds):
    null = encode_prompts(pipe, [""])
    per_walk = null + 0.5 * noise(2, 16, 16, seed=6)
    walk = latent_walk(pipe, START, END, embeds, null_embeds=per_walk, frames=3, **SETTINGS)
    same(walk[:, 0], generated(pipe, START, embeds, null_embeds=per_walk))
    same(walk[:, 2], generated(pipe, END, embeds, null_embeds=per_walk))
    per_step = per_walk.expand(T, -1, -1, -1)
    same(walk, latent_walk(pipe, START, END, embeds, null_embeds=per_step, frames=3, **SETTINGS))
    same(walk, latent_walk(pipe, START, END, embeds, null_embeds=lambda i: per_walk, frames=3, batch_size=4, **SETTINGS))
    plain = latent_walk(pipe, START, END, embeds, frames=3, **SETTINGS)
    same(plain, latent_walk(pipe, START, END, embeds, null_embeds=null, frames=3, **SETTINGS))
    differ(plain, walk)


def test_two_prompts_are_mixed_linearly_over_the_frames(pipe, embeds, other_embeds):
    walk = latent_walk(pipe, START, START, embeds, second_embeds=other_embeds, frames=5, **SETTINGS)
    same(walk[:, 0], generated(pipe, START, embeds))
    same(walk[:, -1], generated(pipe, START, other_embeds))
    same(walk[:, 1], generated(pipe, START, 0.75 * embeds + 0.25 * other_embeds))
    differ(walk[:, 0], walk[:, -1])


def test_one_prompt_may_stand_for_all_walks(pipe, embeds, other_embeds):
    one = latent_walk(pipe, START, END, embeds[:1], second_embeds=other_embeds[:1], frames=3, **SETTINGS)
    both = latent_walk(pipe, START, END, embeds[[0, 0]], second_embeds=other_embeds[[0, 0]], frames=3, **SETTINGS)
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
    found = invert_pairs(pipe, FIRST, SECOND, embeds, second_embeds=other_embeds, num_inference_steps=T, **settings)
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
    settings = dict(guidance_scale=7.5, frames=3, num_inference_steps=T)
    walk, found = real_image_interpolation(pipe, FIRST, SECOND, embeds, num_inner_steps=10, **settings)
    ddim = latent_walk(pipe, found.start, found.end, embeds, **settings)
    vae = vae_interpolation(pipe, FIRST, SECOND, frames=2)
    error, ddim_error = ((x[:, [0, -1]] - vae).square().mean(dim=(2, 3, 4)) for x in (walk, ddim))  # (2 pairs, 2 ends)
    assert (error < ddim_error).all()
    assert (error.sum(1) < 0.95 * ddim_error.sum(1)).all()  # of the pair, as Eq. 20 has it
    middle = generated(pipe, slerp(found.start, found.end, 0.5), embeds, guidance_scale=7.5, null_embeds=found.null_embeds)
    same(walk[:, 1], middle)


# ANID -----------------------------------------------------------------------------------------------------------------------------


def levels_of(steps, num_inference_steps=T):
    """alpha_bar at which the last `steps` sampling steps start, from the scheduler itself."""
    scheduler = ddim_scheduler(tiny_pipeline())
    scheduler.set_timesteps(num_inference_steps)
    return float(scheduler.alphas_cumprod[scheduler.timesteps[-steps]])


def test_noise_added_in_two_stages_is_a_forward_diffusion():
    """Closed form: signal and noise variances after both stages are alpha_bar and 1 - alpha_bar; and diffusers' own at one stage."""
    z, first, second = noise(3, 1, 4, 100, 100, seed=7).double()
    x = add_noise(add_noise(z, first, 1.0, 0.7), second, 0.7, 0.2)
    torch.testing.assert_close(x, math.sqrt(0.2) * z + math.sqrt(0.2 / 0.7 * 0.3) * first + math.sqrt(1 - 0.2 / 0.7) * second)
    assert 0.2 / 0.7 * 0.3 + 1 - 0.2 / 0.7 == pytest.approx(0.8)
    scheduler = ddim_scheduler(tiny_pipeline())
    wanted = scheduler.add_noise(z, first, torch.tensor([500]))
    torch.testing.assert_close(add_noise(z, first, 1.0, float(scheduler.alphas_cumprod[500])), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("level", "steps"), [(0.25, 1), (0.5, 2), (1.0, 4)])
def test_anid_mixes_at_one_noise_level_and_denoises_from_there(pipe, embeds, other_embeds, calls, level, steps):
    shared = noise(2, *LATENT_SHAPE, seed=8).double()
    walk = anid(pipe, FIRST, SECOND, embeds, shared, second_embeds=other_embeds, frames=5, level=level, **SETTINGS)
    assert calls == [2 * 2 * 3] * steps  # the end frames are not denoised
    z_first, z_second = encode_images(pipe, FIRST), encode_images(pipe, SECOND)
    same(walk[:, 0], decode_latents(pipe, z_first))
    same(walk[:, -1], decode_latents(pipe, z_second))
    alpha_bar = levels_of(steps)
    x_first, x_second = (math.sqrt(alpha_bar) * z + math.sqrt(1 - alpha_bar) * shared for z in (z_first, z_second))
    mixed = slerp(x_first, x_second, 0.25)
    same(walk[:, 1], generated(pipe, mixed, 0.75 * embeds + 0.25 * other_embeds, first_step=T - steps))


def test_anid_denoises_the_ends_on_request(pipe, embeds):
    shared = noise(2, *LATENT_SHAPE, seed=8).double()
    plain, denoised = (anid(pipe, FIRST, SECOND, embeds, shared, frames=3, denoise_ends=flag, **SETTINGS) for flag in (False, True))
    same(plain[:, 1], denoised[:, 1])
    alpha_bar = levels_of(2)
    noisy = math.sqrt(alpha_bar) * encode_images(pipe, SECOND) + math.sqrt(1 - alpha_bar) * shared
    same(denoised[:, 2], generated(pipe, noisy, embeds, first_step=2))
    differ(plain[:, 2], denoised[:, 2])


def test_anid_between_equal_images_stays_at_one_image(pipe, embeds):
    shared = noise(2, *LATENT_SHAPE, seed=8).double()
    walk = anid(pipe, FIRST, FIRST, embeds, shared, frames=4, denoise_ends=True, **SETTINGS)
    same(walk, walk[:, :1].expand_as(walk))


def test_coarse_to_fine_on_five_frames_equals_the_procedure_step_by_step(pipe, embeds, other_embeds):
    """Levels at 2 and 4 of 8 steps: the middle frame at 4, its neighbours at 2, all to the end; each frame with its own prompt mix."""
    steps, noises = 8, noise(2, 2, *LATENT_SHAPE, seed=9).double()
    settings = dict(guidance_scale=3.0, num_inference_steps=steps)
    walk = anid_coarse_to_fine(pipe, FIRST, SECOND, embeds, noises, second_embeds=other_embeds, frames=5, batch_size=3, **settings)

    def denoise(x, eta, first_step, last_step):
        mixed = (1 - eta) * embeds + eta * other_embeds
        return list(sample_steps(pipe, x, mixed, first_step=first_step, **settings))[last_step - first_step - 1]

    low, high = levels_of(2, steps), levels_of(4, steps)
    at_low, at_high = [], []
    for images in (FIRST, SECOND):
        at_low.append(math.sqrt(low) * encode_images(pipe, images) + math.sqrt(1 - low) * noises[0])
        at_high.append(math.sqrt(high / low) * at_low[-1] + math.sqrt(1 - high / low) * noises[1])
    middle = denoise(slerp(*at_high, 0.5), 0.5, 4, 6)
    left = denoise(slerp(at_low[0], middle, 0.5), 0.25, 6, 8)
    right = denoise(slerp(middle, at_low[1], 0.5), 0.75, 6, 8)
    middle = denoise(middle, 0.5, 6, 8)
    inner = torch.stack([decode_latents(pipe, z) for z in (left, middle, right)], dim=1)
    same(walk[:, 1:4], inner)
    same(walk[:, [0, -1]], vae_interpolation(pipe, FIRST, SECOND, frames=2))


def test_coarse_to_fine_at_full_length_runs_each_frame_from_its_own_level(pipe, embeds, calls):
    noises = noise(4, 2, *LATENT_SHAPE, seed=9).double()
    walk = anid_coarse_to_fine(pipe, FIRST, SECOND, embeds, noises, guidance_scale=1.0, num_inference_steps=16)
    assert walk.shape == (2, 17, 3, IMAGE_SIZE, IMAGE_SIZE)
    steps = level_steps(17, 16)
    assert steps == [4, 5, 7, 8]
    assert calls == [2 * 1] * (8 - 7) + [2 * 3] * (7 - 5) + [2 * 7] * (5 - 4) + [2 * 15] * 4


def test_levels_of_the_coarse_to_fine_form():
    assert level_steps(17, 200) == [50, 67, 83, 100]
    assert level_steps(3, 10) == [5] and level_steps(5, 8) == [2, 4]


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
        latent_walk(pipe, **arguments)
    assert calls == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(second=SECOND[:1]), "first and second must have one shape"),
        (dict(first=FIRST * 200, second=SECOND * 200), r"floating-point in \[-1, 1\]"),
        (dict(frames=0), "frames must be an integer of at least 2, not 0"),
        (dict(guidance_scale=1.0), "guidance_scale must differ from 1"),
        (dict(prompt_embeds=torch.zeros(3, 16, 16)), r"prompt_embeds must have shape \(2 or 1, L, D\)"),
    ],
)
def test_bad_real_images_are_named_before_any_work(pipe, embeds, calls, changes, message):
    arguments = dict(first=FIRST, second=SECOND, prompt_embeds=embeds) | SETTINGS | changes
    with pytest.raises(ValueError, match=message):
        real_image_interpolation(pipe, **arguments)
    assert calls == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(level=0.0), r"level must be in \(0, 1\], not 0.0"),
        (dict(level=1.5), r"level must be in \(0, 1\], not 1.5"),
        (dict(noise=noise(1, *LATENT_SHAPE)), r"noise must have shape \(2, 4, 8, 8\), not \(1, 4, 8, 8\)"),
        (dict(second=SECOND[:1]), "first and second must have one shape"),
        (dict(noise=noise(2, *LATENT_SHAPE) / 0), "noise contains NaN or infinity, but must be finite"),
    ],
)
def test_bad_anid_arguments_are_named_before_any_work(pipe, embeds, calls, changes, message):
    arguments = dict(first=FIRST, second=SECOND, prompt_embeds=embeds, noise=noise(2, *LATENT_SHAPE), frames=3) | SETTINGS | changes
    with pytest.raises(ValueError, match=message):
        anid(pipe, **arguments)
    assert calls == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(frames=11), r"frames must be 2\^n \+ 1 \(3, 5, 9, 17, ...\) for the coarse-to-fine form, not 11"),
        (dict(frames=2), r"frames must be 2\^n \+ 1"),
        (dict(levels=(0.6, 0.5)), r"levels must be \(lowest, highest\)"),
        (dict(frames=17, num_inference_steps=5), "num_inference_steps must be larger for 4 different levels"),
        (dict(noises=noise(3, 2, *LATENT_SHAPE)), r"noise must have shape \(2, 2, 4, 8, 8\)"),
    ],
)
def test_bad_coarse_to_fine_arguments_are_named_before_any_work(pipe, embeds, calls, changes, message):
    arguments = dict(first=FIRST, second=SECOND, prompt_embeds=embeds, noises=noise(2, 2, *LATENT_SHAPE), frames=5)
    with pytest.raises(ValueError, match=message):
        anid_coarse_to_fine(pipe, **(arguments | SETTINGS | dict(num_inference_steps=8) | changes))
    assert calls == []
