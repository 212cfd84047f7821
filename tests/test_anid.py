"""ANID: end frames, noise levels, and each form as the procedure that it names, on a tiny pipeline."""

import math

import pytest
import torch
from tiny import IMAGE_SIZE, LATENT_SHAPE, counted_calls, noise, smooth_tiny_pipeline, tiny_pipeline
from walking import FIRST, SAMPLING, SECOND, SETTINGS, T, differ, generated, same, with_sampling

from smoothlib.diffusion import ddim_scheduler, slerp
from smoothlib.interpolation.anid import add_noise, anid, anid_coarse_to_fine, level_steps
from smoothlib.interpolation.real_images import vae_interpolation
from smoothlib.sampling import Sampling, decode_latents, encode_images, encode_prompts, sample_steps


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
    walk = anid(pipe, FIRST, SECOND, embeds, shared, second_embeds=other_embeds, frames=5, level=level, sampling=SAMPLING)
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
    plain, denoised = (anid(pipe, FIRST, SECOND, embeds, shared, frames=3, denoise_ends=flag, sampling=SAMPLING) for flag in (False, True))
    same(plain[:, 1], denoised[:, 1])
    alpha_bar = levels_of(2)
    noisy = math.sqrt(alpha_bar) * encode_images(pipe, SECOND) + math.sqrt(1 - alpha_bar) * shared
    same(denoised[:, 2], generated(pipe, noisy, embeds, first_step=2))
    differ(plain[:, 2], denoised[:, 2])


def test_anid_between_equal_images_stays_at_one_image(pipe, embeds):
    shared = noise(2, *LATENT_SHAPE, seed=8).double()
    walk = anid(pipe, FIRST, FIRST, embeds, shared, frames=4, denoise_ends=True, sampling=SAMPLING)
    same(walk, walk[:, :1].expand_as(walk))


def test_coarse_to_fine_on_five_frames_equals_the_procedure_step_by_step(pipe, embeds, other_embeds):
    """Levels at 2 and 4 of 8 steps: the middle frame at 4, its neighbours at 2, all to the end; each frame with its own prompt mix."""
    steps, noises = 8, noise(2, 2, *LATENT_SHAPE, seed=9).double()
    settings = dict(guidance_scale=3.0, num_inference_steps=steps)
    walk = anid_coarse_to_fine(
        pipe, FIRST, SECOND, embeds, noises, Sampling(**settings, batch_size=3), second_embeds=other_embeds, frames=5
    )

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
    walk = anid_coarse_to_fine(pipe, FIRST, SECOND, embeds, noises, Sampling(1.0, 16))
    assert walk.shape == (2, 17, 3, IMAGE_SIZE, IMAGE_SIZE)
    steps = level_steps(17, 16)
    assert steps == [4, 5, 7, 8]
    assert calls == [2 * 1] * (8 - 7) + [2 * 3] * (7 - 5) + [2 * 7] * (5 - 4) + [2 * 15] * 4


def test_levels_of_the_coarse_to_fine_form():
    assert level_steps(17, 200) == [50, 67, 83, 100]
    assert level_steps(3, 10) == [5] and level_steps(5, 8) == [2, 4]


# Faults -------------------------------------------------------------------------------------------------------------------------


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
        anid(pipe, **with_sampling(arguments))
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
        anid_coarse_to_fine(pipe, **with_sampling(arguments | SETTINGS | dict(num_inference_steps=8) | changes))
    assert calls == []
