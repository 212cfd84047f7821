"""The schedules of sampling and inversion: their steps chain under every spacing, one denoiser has one inversion, others are refused."""

import contextlib
import warnings

import diffusers
import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from tiny import LATENT_SHAPE, assert_one_sentence, counted_calls, noise, sd_scheduler, smooth_tiny_pipeline, tiny_pipeline

from smoothlib.diffusion import ddim_inverse_scheduler, ddim_scheduler, noise_schedule, sampling_scheduler, set_timesteps
from smoothlib.interpolation.anid import anid
from smoothlib.interpolation.walk import latent_walk
from smoothlib.inversion import ddim_invert, null_text_inversion
from smoothlib.sampling import Sampling, encode_prompts, sample

KINDS = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "trailing", "linspace")
STEPS = (1, 7, 20, 50, 61, 300, 999)  # 20 and 50 divide 1000; 61 is the first that diffusers gives one "trailing" timestep too many
ALPHA_BAR = sd_scheduler().alphas_cumprod.double()
X0, EPS = noise(2, 64, seed=1).double()


def as_output(kind, x, t, eps):
    """What a network of a kind gives at x and t where it means the noise `eps`."""
    signal, s = ALPHA_BAR[int(t)].sqrt(), (1 - ALPHA_BAR[int(t)]).sqrt()
    x0_hat = (x - s * eps) / signal
    return {"epsilon": eps, "v_prediction": signal * eps - s * x0_hat, "sample": x0_hat}[kind]


def run(scheduler, steps, kind, x, denoiser):
    for t in set_timesteps(scheduler, steps):
        x = scheduler.step(as_output(kind, x, t, denoiser(x, t)), t, x, return_dict=False)[0]
    return x


def only_x0(x, t):
    """The denoiser of data that are X0 alone: exact on the line through X0 and EPS, and only at the level that x really has."""
    return (x - ALPHA_BAR[int(t)].sqrt() * X0) / (1 - ALPHA_BAR[int(t)]).sqrt()


def on_the_line(t):
    return ALPHA_BAR[t].sqrt() * X0 + (1 - ALPHA_BAR[t]).sqrt() * EPS


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_step_ends_where_the_next_begins(kind, steps, spacing):
    scheduler = ddim_scheduler(sd_scheduler(timestep_spacing=spacing, prediction_type=kind))
    timesteps = set_timesteps(scheduler, steps).tolist()
    assert len(timesteps) == steps and timesteps == sorted(set(timesteps), reverse=True) and timesteps[-1] >= 0
    torch.testing.assert_close(run(scheduler, steps, kind, on_the_line(timesteps[0]), only_x0), on_the_line(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", KINDS)
def test_inversion_is_the_exact_reverse_for_a_denoiser_that_ignores_the_sample(kind, steps, spacing):
    source = sd_scheduler(timestep_spacing=spacing, prediction_type=kind)
    inverse = ddim_inverse_scheduler(source)
    x_t = run(inverse, steps, kind, X0, lambda x, t: EPS * (1 + t / 1000))
    assert inverse.timesteps.tolist() == set_timesteps(ddim_scheduler(source), steps).tolist()[::-1]
    back = run(ddim_scheduler(source), steps, kind, x_t, lambda x, t: EPS * (1 + t / 1000))
    torch.testing.assert_close(back, X0, rtol=0, atol=1e-3)  # diffusers' levels are float32, and the way down divides by up to .07


@pytest.mark.parametrize("steps", [1, 20, 50, 91, 600])
def test_noise_prediction_under_leading_spacing_is_diffusers_to_the_last_bit(steps):
    eps, x = noise(2, *LATENT_SHAPE, seed=2)
    plain = DDIMInverseScheduler.from_config(sd_scheduler().config, clip_sample=False)
    for ours, theirs in ((ddim_scheduler(sd_scheduler()), sd_scheduler()), (ddim_inverse_scheduler(sd_scheduler()), plain)):
        theirs.set_timesteps(steps)
        assert torch.equal(set_timesteps(ours, steps), theirs.timesteps)
        for t in theirs.timesteps:
            for found, expected in zip(ours.step(eps, t, x, return_dict=False), theirs.step(eps, t, x, return_dict=False), strict=True):
                assert torch.equal(found, expected)


def test_a_timestep_of_no_schedule_is_refused():
    scheduler = ddim_inverse_scheduler(sd_scheduler())
    with pytest.raises(ValueError, match=r"timestep is 1, but must be one of the schedule's \(set_timesteps has not been called\)"):
        scheduler.step(EPS, 1, X0)
    set_timesteps(scheduler, 50)
    with pytest.raises(ValueError, match=r"timestep is 500, but must be one of the schedule's \(50 timesteps are set\)"):
        scheduler.step(EPS, 500, X0)


# Through pipelines ----------------------------------------------------------------------------------------------------------------


def pipeline_of(kind, spacing, monkeypatch):
    """The same denoiser for every kind: the tiny network's output is its noise, given in the form of `kind`."""
    pipe = smooth_tiny_pipeline(torch.float64)
    forward = pipe.unet.forward

    def changed(x, t, *args, **arguments):
        return (as_output(kind, x, t, forward(x, t, *args, **arguments)[0]),)

    monkeypatch.setattr(pipe.unet, "forward", changed)
    pipe.scheduler = sd_scheduler(prediction_type=kind, timestep_spacing=spacing)
    return pipe


@pytest.mark.parametrize("spacing", SPACINGS)
def test_one_denoiser_has_one_inversion_whatever_it_gives(spacing, monkeypatch):
    """DDIM inversion, null-text inversion and sampling, with guidance; x_T moves by 1 where v is taken at the sample's level."""
    z0, found = noise(2, *LATENT_SHAPE, seed=3).double(), {}
    for kind in KINDS:
        pipe = pipeline_of(kind, spacing, monkeypatch)
        embeds = encode_prompts(pipe, ["a red car", "a dog"])
        pivots = ddim_invert(pipe, z0, embeds, num_inference_steps=7, guidance_scale=2.0)
        nulls = null_text_inversion(pipe, pivots, embeds, guidance_scale=7.5, num_inner_steps=2)
        back = sample(pipe, pivots[-1], embeds, null_embeds=nulls.null_embeds, guidance_scale=7.5, num_inference_steps=7, inverted=True)
        torch.testing.assert_close(back, nulls.latents, rtol=0, atol=1e-6)
        found[kind] = pivots, nulls.null_embeds, back
    for kind in KINDS[1:]:
        for value, expected in zip(found[kind], found["epsilon"], strict=True):
            torch.testing.assert_close(value, expected, rtol=0, atol=1e-5)


def test_the_pipelines_own_kind_of_scheduler_is_kept_and_ddims_is_chained():
    pipe = tiny_pipeline()
    assert sampling_scheduler(pipe).below is None and isinstance(sampling_scheduler(pipe), DDIMScheduler)
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    assert type(sampling_scheduler(pipe)) is diffusers.EulerDiscreteScheduler


# Refusals and warnings ------------------------------------------------------------------------------------------------------------


BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
FOREIGN = [
    diffusers.FlowMatchEulerDiscreteScheduler(),
    diffusers.FlowMatchHeunDiscreteScheduler(),
    diffusers.EDMEulerScheduler(),
    diffusers.EDMDPMSolverMultistepScheduler(),
    diffusers.IPNDMScheduler(),
    diffusers.DPMSolverMultistepScheduler(**BETAS, use_flow_sigmas=True, prediction_type="flow_prediction"),
    diffusers.DDPMScheduler(beta_schedule="sigmoid"),
    diffusers.EulerDiscreteScheduler(**BETAS, timestep_type="continuous", prediction_type="v_prediction"),
]


@pytest.mark.parametrize("scheduler", FOREIGN, ids=lambda scheduler: type(scheduler).__name__)
def test_other_noise_schedules_are_refused_by_name_before_any_work(scheduler):
    name, pipe = type(scheduler).__name__, tiny_pipeline()
    embeds, x = encode_prompts(pipe, ["a dog"]), noise(1, *LATENT_SHAPE)
    pipe.scheduler = scheduler
    uses = [
        lambda: ddim_scheduler(scheduler),
        lambda: ddim_inverse_scheduler(pipe),
        lambda: sample(pipe, x, embeds, guidance_scale=1.0, num_inference_steps=50),
        lambda: ddim_invert(pipe, x, embeds, num_inference_steps=50),
        lambda: null_text_inversion(pipe, x.expand(3, 1, *LATENT_SHAPE), embeds, guidance_scale=2.0),
    ]
    for use in uses:
        with counted_calls(pipe) as calls, pytest.raises(ValueError, match=f"scheduler is {name}.*, but must have") as raised:
            use()
        assert calls == []
        assert_one_sentence(raised)


@pytest.mark.parametrize("kind", ["PNDMScheduler", "HeunDiscreteScheduler"])
def test_a_scheduler_that_takes_more_calls_than_steps_is_refused(kind):
    """The loop over T steps would end before the last of them."""
    pipe = tiny_pipeline()
    pipe.scheduler = getattr(diffusers, kind).from_config(pipe.scheduler.config)
    with pytest.raises(ValueError, match=rf"scheduler is {kind}, which takes \d+ timesteps for 20, but must take as many"):
        sample(pipe, noise(1, *LATENT_SHAPE), torch.zeros(1, 16, 16), guidance_scale=1.0, num_inference_steps=20)


def test_anid_needs_latents_of_unit_variance():
    pipe = tiny_pipeline()
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    images = torch.zeros(1, 3, 16, 16)
    with pytest.raises(ValueError, match="scheduler is EulerDiscreteScheduler, but must keep latents at unit variance for ANID"):
        anid(pipe, images, images, torch.zeros(1, 16, 16), noise(1, *LATENT_SHAPE), Sampling(1.0))


@pytest.mark.parametrize("steps", [2, 20, 25, 50, 100, 200, 999])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_noise_is_taken_without_a_word_where_it_is_nearly_x_t(steps, spacing):
    quiet = spacing == "trailing" or steps > 2
    with warnings.catch_warnings() if quiet else pytest.warns(UserWarning, match="num_inference_steps is 2: .* timestep 501"):
        warnings.simplefilter("error" if quiet else "always")
        start(steps, spacing)


@pytest.mark.parametrize(("steps", "first", "left"), [(1, 1, "0.999"), (600, 600, "0.401"), (91, 901, "0.118")])
def test_the_signal_that_few_or_odd_steps_leave_in_x_t_is_said(steps, first, left):
    message = rf"num_inference_steps is {steps}: sampling starts at timestep {first}, where sqrt\(alpha_bar\) = {left} .* \(0\.068 at"
    with pytest.warns(UserWarning, match=message):
        start(steps)
    with pytest.warns(UserWarning, match=message):
        start(steps, walk=True)
    with warnings.catch_warnings():  # an inverted latent has the signal of that timestep
        warnings.simplefilter("error")
        start(steps, inverted=True)


def start(steps, spacing="leading", walk=False, **arguments):
    """Begin to sample; the network is not called."""
    pipe = tiny_pipeline()
    pipe.scheduler = sd_scheduler(timestep_spacing=spacing)
    pipe.unet.forward = None  # what would be called next
    settings = dict(guidance_scale=1.0, num_inference_steps=steps, **arguments)
    x, embeds = noise(1, *LATENT_SHAPE), torch.zeros(1, 16, 16)
    with contextlib.suppress(TypeError):
        latent_walk(pipe, x, x, embeds, Sampling(1.0, steps), frames=2) if walk else sample(pipe, x, embeds, **settings)


def test_a_configuration_alone_says_what_it_is():
    config = dict(diffusers.FlowMatchEulerDiscreteScheduler().config)
    for given, name in ((config, "a configuration"), (config | {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatch")):
        with pytest.raises(ValueError, match=f"scheduler is {name}.* with beta_schedule None, but must have DDIM's kind"):
            noise_schedule(given)
    assert noise_schedule(sd_scheduler()) == noise_schedule(dict(sd_scheduler().config))
