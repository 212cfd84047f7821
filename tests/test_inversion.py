"""DDIM inversion and null-text inversion: closed forms, exact models, a straight-line reference, and batch against single images."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from tiny import LATENT_SHAPE, counted_calls, noise, sd_scheduler, smooth_tiny_pipeline, tiny_pipeline

from smoothlib.diffusion import ddim_scheduler, set_timesteps
from smoothlib.embeddings import pipeline_arguments
from smoothlib.inversion import ddim_invert, null_text_inversion
from smoothlib.sampling import encode_prompts, sample

PROMPTS = ["a red car", "a dog", "two cats"]
T, GUIDANCE = 4, 7.5
# With these, images stop after different numbers of steps.
SETTINGS = dict(guidance_scale=GUIDANCE, lr=0.1, num_inner_steps=12, tolerance=7e-4, tolerance_growth=1e-4)


def make_case(dtype):
    """Three images inverted, and null-text inversion's result on the three as one batch."""
    pipe = smooth_tiny_pipeline(dtype)
    embeds = encode_prompts(pipe, PROMPTS)
    pivots = ddim_invert(pipe, latents(pipe), embeds, num_inference_steps=T)
    with counted_calls(pipe) as calls:
        found = null_text_inversion(pipe, pivots, embeds, **SETTINGS)
    return SimpleNamespace(pipe=pipe, embeds=embeds, pivots=pivots, found=found, calls=calls)


@pytest.fixture(scope="module")
def case():
    return make_case(torch.float32)


@pytest.fixture(scope="module")
def case64():
    return make_case(torch.float64)


@pytest.fixture(scope="module")
def pipe(case):
    return case.pipe


def latents(pipe):
    """Three z0 of different sizes, so that the images converge at different speeds."""
    return noise(3, *LATENT_SHAPE, seed=1).to(pipe.unet.dtype) * torch.tensor([0.3, 1.0, 2.0])[:, None, None, None]


def reconstruct(pipe, pivots, embeds, guidance_scale, **arguments):
    return sample(pipe, pivots[-1], embeds, guidance_scale=guidance_scale, num_inference_steps=len(pivots) - 1, **arguments)


def per_image_mse(a, b):
    return (a - b).square().mean(dim=(1, 2, 3))


@pytest.mark.parametrize("guidance_scale", [1.0, GUIDANCE])
def test_inversion_is_exact_for_a_model_that_ignores_the_latent(pipe, monkeypatch, guidance_scale):
    """Then the noise at z*_t equals that at z*_{t+1}, the only approximation, whatever the step and the prompt."""

    def forward(x, t, encoder_hidden_states, **_):
        direction = encoder_hidden_states.mean(dim=(1, 2))[:, None, None, None]  # (B, 1, 1, 1): the prompt matters
        return ((direction + t / 1000) * torch.linspace(-1, 1, x[0].numel()).reshape(x[:1].shape).expand_as(x),)

    monkeypatch.setattr(pipe.unet, "forward", forward)
    embeds = encode_prompts(pipe, PROMPTS) + 0.3
    pivots = ddim_invert(pipe, latents(pipe), embeds, num_inference_steps=10, guidance_scale=guidance_scale)
    assert (pivots[-1] - math.sqrt(sd_scheduler().alphas_cumprod[901]) * pivots[0]).abs().max() > 0.1  # noise was added at all
    torch.testing.assert_close(reconstruct(pipe, pivots, embeds, guidance_scale), latents(pipe), rtol=0, atol=5e-5)


def test_inversion_evaluates_the_noise_at_the_upper_end_of_each_step(case64, monkeypatch):
    """For eps = s_t x (the ideal denoiser of unit Gaussian data) every step is a known factor, with s_t at the level that is entered."""
    alpha_bar = sd_scheduler().alphas_cumprod.double()
    monkeypatch.setattr(case64.pipe.unet, "forward", lambda x, t, **_: ((1 - alpha_bar[int(t)]).sqrt() * x,))
    pivots = ddim_invert(case64.pipe, latents(case64.pipe), torch.zeros(3, 16, 16), num_inference_steps=T)
    levels = [0, 1, 251, 501, 751]
    expected = latents(case64.pipe)
    for n, (low, high) in enumerate(itertools.pairwise(levels)):
        s_low, s_high = (1 - alpha_bar[low]).sqrt(), (1 - alpha_bar[high]).sqrt()
        expected = (alpha_bar[high] / alpha_bar[low]).sqrt() * (expected - s_low * s_high * expected) + s_high * s_high * expected
        torch.testing.assert_close(pivots[n + 1], expected, rtol=1e-6, atol=1e-6)


def test_pivots_start_at_z0_and_do_not_depend_on_the_batch(case):
    z0 = latents(case.pipe)
    assert case.pivots.shape == (T + 1, 3, *LATENT_SHAPE) and torch.equal(case.pivots[0], z0)
    for b in range(3):
        alone = ddim_invert(case.pipe, z0[b : b + 1], case.embeds[b : b + 1], num_inference_steps=T)
        torch.testing.assert_close(alone[:, 0], case.pivots[:, b], rtol=1e-5, atol=1e-6)


def test_inversion_with_guidance_uses_the_given_null(case):
    def invert(**arguments):
        return ddim_invert(case.pipe, latents(case.pipe), case.embeds, num_inference_steps=T, guidance_scale=3.0, **arguments)

    plain = invert()
    assert torch.equal(plain, invert(null_embeds=encode_prompts(case.pipe, [""])))
    cancelling = invert(null_embeds=case.embeds)
    torch.testing.assert_close(cancelling, case.pivots, rtol=1e-4, atol=1e-5)  # e + w (e - e) = e
    assert (plain - cancelling).abs().max() > 1e-3


def reference_null_text_inversion(pipe, pivots, cond, **settings):
    """One image, straight down the published procedure: ordinary autograd, one parameter, two network calls a step."""
    scheduler, null = ddim_scheduler(pipe), encode_prompts(pipe, [""])
    timesteps = set_timesteps(scheduler, len(pivots) - 1)
    z, nulls, taken = pivots[-1], [], []
    for i, t in enumerate(timesteps):
        null = null.clone().requires_grad_()
        optimizer = torch.optim.Adam([null], lr=settings["lr"] * (1 - i / 100))
        for _ in range(settings["num_inner_steps"]):
            e_cond, e_null = (pipe.unet(z, t, encoder_hidden_states=embeds).sample for embeds in (cond, null))
            loss = torch.nn.functional.mse_loss(scheduler.step(e_null + GUIDANCE * (e_cond - e_null), t, z).prev_sample, pivots[-2 - i])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            taken.append(i)
            if loss.item() < settings["tolerance"] + settings["tolerance_growth"] * i:
                break
        null = null.detach()
        with torch.no_grad():
            e_cond, e_null = (pipe.unet(z, t, encoder_hidden_states=embeds).sample for embeds in (cond, null))
            z = scheduler.step(e_null + GUIDANCE * (e_cond - e_null), t, z).prev_sample
        nulls.append(null)
    return torch.stack(nulls), z, [taken.count(i) for i in range(len(timesteps))]


def test_a_batch_equals_the_published_procedure_on_each_image(case64):
    found, pivots, embeds = case64.found, case64.pivots, case64.embeds
    assert found.null_embeds.shape == (T, 3, 16, 16) and found.losses.shape == found.inner_steps.shape == (T, 3)
    for b in range(3):
        nulls, z0, taken = reference_null_text_inversion(case64.pipe, pivots[:, b : b + 1], embeds[b : b + 1], **SETTINGS)
        torch.testing.assert_close(found.null_embeds[:, b : b + 1], nulls, rtol=0, atol=1e-9)
        assert found.inner_steps[:, b].tolist() == taken
        torch.testing.assert_close(found.latents[b], z0[0], rtol=0, atol=1e-9)
        torch.testing.assert_close(found.losses[-1, b], (z0 - pivots[0, b]).square().mean(), rtol=1e-9, atol=0)
    assert sum(len(set(row)) > 1 for row in found.inner_steps.tolist()) >= 2  # images did stop apart


def test_a_batch_equals_single_images_in_float32(case):
    """Adam divides by the gradient, so rounding moves components that have none; the losses, and what is reconstructed, do not move."""
    for b in range(3):
        alone = null_text_inversion(case.pipe, case.pivots[:, b : b + 1], case.embeds[b : b + 1], **SETTINGS)
        assert alone.inner_steps[:, 0].tolist() == case.found.inner_steps[:, b].tolist()
        torch.testing.assert_close(alone.losses[:, 0], case.found.losses[:, b], rtol=1e-3, atol=1e-7)
        torch.testing.assert_close(alone.null_embeds[:, 0], case.found.null_embeds[:, b], rtol=0, atol=1e-2)


def test_stopped_images_cost_nothing_and_the_conditional_noise_is_computed_once(case):
    assert sum(case.calls) == int(case.found.inner_steps.sum()) + 2 * 3 * T  # plus e_cond and the final e_null of each step
    assert case.found.inner_steps.min() < SETTINGS["num_inner_steps"]


def test_reconstruction_with_guidance_is_better_than_plain_ddim_on_every_image(case):
    plain = per_image_mse(reconstruct(case.pipe, case.pivots, case.embeds, GUIDANCE), case.pivots[0])
    ours = per_image_mse(reconstruct(case.pipe, case.pivots, case.embeds, GUIDANCE, null_embeds=case.found.null_embeds), case.pivots[0])
    assert (ours < 0.4 * plain).all()
    torch.testing.assert_close(ours, case.found.losses[-1], rtol=1e-3, atol=1e-7)  # sampling replays exactly what was optimised


def test_replay_through_the_pipelines_callback_equals_our_loop(case):
    arguments = pipeline_arguments(case.embeds, case.found.null_embeds)
    settings = dict(num_inference_steps=T, guidance_scale=GUIDANCE, output_type="latent")
    replayed = case.pipe(latents=case.pivots[-1], **settings, **arguments).images
    ours = reconstruct(case.pipe, case.pivots, case.embeds, GUIDANCE, null_embeds=case.found.null_embeds)
    torch.testing.assert_close(replayed, ours, rtol=0, atol=1e-6)
    torch.testing.assert_close(case.found.latents, ours, rtol=0, atol=1e-5)


def test_shared_null_text_inversion_is_equation_20(case64):
    """The first step of two images written out: one embedding, the sum of their losses, the threshold on that sum."""
    pipe, pair, cond = case64.pipe, case64.pivots[:, :2], case64.embeds[:2]
    found = null_text_inversion(pipe, pair, cond, shared=True, **SETTINGS)
    assert found.null_embeds.shape == (T, 1, 16, 16) and found.losses.shape == (T, 2)
    assert torch.equal(found.inner_steps[:, 0], found.inner_steps[:, 1])

    scheduler, null = ddim_scheduler(pipe), encode_prompts(pipe, [""]).requires_grad_()
    t, optimizer = set_timesteps(scheduler, T)[0], torch.optim.Adam([null], lr=SETTINGS["lr"])
    taken = 0
    while taken < SETTINGS["num_inner_steps"]:
        loss, taken = 0.0, taken + 1
        for b in range(2):
            z = pair[-1, b : b + 1]
            e_cond, e_null = (pipe.unet(z, t, encoder_hidden_states=e).sample for e in (cond[b : b + 1], null))
            z = scheduler.step(e_null + GUIDANCE * (e_cond - e_null), t, z).prev_sample
            loss = loss + torch.nn.functional.mse_loss(z, pair[-2, b : b + 1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < SETTINGS["tolerance"]:
            break
    torch.testing.assert_close(found.null_embeds[0], null.detach(), rtol=0, atol=1e-9)
    assert found.inner_steps[0, 0] == taken and 1 < taken < SETTINGS["num_inner_steps"]


def test_shared_equals_the_ordinary_run_for_one_image(case64):
    shared = null_text_inversion(case64.pipe, case64.pivots[:, :1], case64.embeds[:1], shared=True, **SETTINGS)
    torch.testing.assert_close(shared.null_embeds, case64.found.null_embeds[:, :1], rtol=0, atol=1e-9)
    assert torch.equal(shared.inner_steps, case64.found.inner_steps[:, :1])


def test_learning_rate_stays_positive_beyond_100_steps(pipe, monkeypatch):
    rates = []

    class RecordingAdam(torch.optim.Adam):
        def __init__(self, params, lr):
            rates.append(lr)
            super().__init__(params, lr=lr)

    monkeypatch.setattr(torch.optim, "Adam", RecordingAdam)
    monkeypatch.setattr(pipe.unet, "forward", lambda x, t, encoder_hidden_states, **_: (x * encoder_hidden_states.mean(),))
    null_text_inversion(pipe, noise(106, 1, *LATENT_SHAPE), torch.ones(1, 16, 16), guidance_scale=2.0, num_inner_steps=1)
    assert rates[:2] == [1e-2, pytest.approx(0.99e-2)] and rates[99:] == [pytest.approx(1e-4)] * 6


def test_gradients_stay_with_the_embedding_and_flags_are_restored(case):
    pipe, embeds, pivots = case.pipe, case.embeds, case.pivots
    pipe.unet.requires_grad_(True)
    pipe.unet.conv_in.requires_grad_(False)
    before = [parameter.requires_grad for parameter in pipe.unet.parameters()]
    try:
        with torch.no_grad():  # works inside a caller's no_grad, too
            found = null_text_inversion(pipe, pivots[-3:], embeds, guidance_scale=GUIDANCE, num_inner_steps=2)
        assert [parameter.requires_grad for parameter in pipe.unet.parameters()] == before
        assert all(parameter.grad is None for parameter in pipe.unet.parameters())
        assert not (found.null_embeds.requires_grad or found.losses.requires_grad)
        with pytest.raises(RuntimeError, match="not finite"):
            null_text_inversion(pipe, pivots * float("nan"), embeds, **SETTINGS)
        assert [parameter.requires_grad for parameter in pipe.unet.parameters()] == before
    finally:
        pipe.unet.requires_grad_(False)


def test_non_finite_loss_names_step_and_image(case):
    pivots = case.pivots.clone()
    pivots[-3, 1, 0, 0, 0] = float("nan")  # the target of step 1 of image 1
    with pytest.raises(RuntimeError, match="not finite at step 1 of 4, image 1 of the batch"):
        null_text_inversion(case.pipe, pivots, case.embeds, **SETTINGS)


def test_progress_is_the_callers(case):
    seen = []

    def progress(steps):
        for i in steps:
            yield i
            seen.append(i)

    pivots = ddim_invert(case.pipe, latents(case.pipe), case.embeds, num_inference_steps=2, progress=progress)
    null_text_inversion(case.pipe, pivots, case.embeds, guidance_scale=GUIDANCE, num_inner_steps=1, progress=progress)
    assert seen == [0, 1] * 2


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(guidance_scale=1), "guidance_scale must differ from 1"),
        (dict(num_inner_steps=0), "num_inner_steps must be at least 1, not 0"),
        (dict(lr=0.0), "lr must be positive and finite, not 0.0"),
        (dict(guidance_scale=math.nan), "guidance_scale is nan, but must be a finite number"),
        (dict(tolerance=math.nan), "tolerance is nan, but must be a finite number"),
        (dict(prompt_embeds=torch.full((3, 16, 16), math.inf)), "prompt_embeds contains NaN or infinity, but must be finite"),
        (dict(pivots=torch.zeros(1, 3, *LATENT_SHAPE)), "pivots must have shape"),
        (dict(prompt_embeds=torch.zeros(2, 16, 16)), r"prompt_embeds must have shape .* not \(2, 16, 16\)"),
        (dict(prompt_embeds=torch.zeros(4, 3, 16, 16)), r"prompt_embeds must have shape .* not \(4, 3, 16, 16\)"),
    ],
)
def test_bad_arguments_are_named_before_any_work(pipe, change, message):
    arguments = dict(pivots=torch.zeros(T + 1, 3, *LATENT_SHAPE), prompt_embeds=torch.zeros(3, 16, 16)) | SETTINGS | change
    with counted_calls(pipe) as calls, pytest.raises(ValueError, match=message):
        null_text_inversion(pipe, **arguments)
    assert calls == []


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(z0=torch.full((1, *LATENT_SHAPE), math.nan)), "z0 contains NaN or infinity, but must be finite"),
        (dict(prompt_embeds=torch.full((1, 16, 16), math.nan)), "prompt_embeds contains NaN or infinity, but must be finite"),
        (dict(guidance_scale=math.inf), "guidance_scale is inf, but must be a finite number"),
    ],
)
def test_ddim_inversion_names_bad_arguments_before_any_work(pipe, change, message):
    arguments = dict(z0=torch.zeros(1, *LATENT_SHAPE), prompt_embeds=torch.zeros(1, 16, 16)) | change
    with counted_calls(pipe) as calls, pytest.raises(ValueError, match=message):
        ddim_invert(pipe, **arguments)
    assert calls == []


def test_half_precision_is_refused():
    pipe = tiny_pipeline(dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"pipe must be in float32 .* not torch.bfloat16"):
        null_text_inversion(pipe, torch.zeros(2, 1, *LATENT_SHAPE), torch.zeros(1, 16, 16), guidance_scale=2.0)
