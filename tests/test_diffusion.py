"""x0_hat, slerp and the DDIM scheduler pair against closed forms and against diffusers."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler
from tiny import noise, sd_scheduler

from smoothlib.diffusion import ddim_inverse_scheduler, ddim_scheduler, set_timesteps, slerp
from smoothlib.predictions import predict_eps, predict_x0, predict_x0_flow

ALPHA_BAR = sd_scheduler().alphas_cumprod
SHAPE = (3, 4, 8, 8)


def forward_process(t):
    """x0, eps, x_t and the exact network output of each prediction type at timesteps t, (B,), in float64."""
    x0, eps = noise(*SHAPE, seed=1, dtype=torch.float64), noise(*SHAPE, seed=2, dtype=torch.float64)
    signal, s = (root[:, None, None, None] for root in (ALPHA_BAR[t].double().sqrt(), (1 - ALPHA_BAR[t].double()).sqrt()))
    return x0, eps, signal * x0 + s * eps, {"epsilon": eps, "v_prediction": signal * eps - s * x0, "sample": x0}


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_exact_output_gives_back_x0_at_every_noise_level(prediction_type):
    t = torch.tensor([0, 500, 999])
    x0, _, x_t, outputs = forward_process(t)
    torch.testing.assert_close(predict_x0(outputs[prediction_type], x_t, ALPHA_BAR[t].double(), prediction_type), x0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("t", [1, 501, 981])
def test_equals_the_schedulers_pred_original_sample(prediction_type, t):
    scheduler = sd_scheduler(prediction_type=prediction_type)
    set_timesteps(scheduler, 50)
    output, x_t = noise(*SHAPE, seed=1), noise(*SHAPE, seed=2)
    expected = scheduler.step(output, t, x_t).pred_original_sample
    torch.testing.assert_close(predict_x0(output, x_t, ALPHA_BAR[t], prediction_type), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(predict_x0(output, x_t, float(ALPHA_BAR[t]), prediction_type), expected, rtol=1e-6, atol=1e-6)


def test_x0_hat_is_differentiable_with_the_slope_of_its_formula():
    eps = noise(*SHAPE).requires_grad_()
    predict_x0(eps, noise(*SHAPE, seed=1), 0.25).sum().backward()
    torch.testing.assert_close(eps.grad, torch.full(SHAPE, -math.sqrt(0.75) / math.sqrt(0.25)))


def test_flow_matching_gives_back_x0():
    x0, eps, sigma = noise(*SHAPE, seed=1), noise(*SHAPE, seed=2), torch.tensor([0.0, 0.3, 1.0])
    x_t = (1 - sigma[:, None, None, None]) * x0 + sigma[:, None, None, None] * eps
    torch.testing.assert_close(predict_x0_flow(eps - x0, x_t, sigma), x0, rtol=0, atol=1e-6)


def test_half_precision_keeps_its_dtype():
    assert predict_x0(noise(*SHAPE).half(), noise(*SHAPE).half(), ALPHA_BAR[:3]).dtype == torch.float16
    assert slerp(noise(*SHAPE).bfloat16(), noise(*SHAPE, seed=1).bfloat16(), 0.5).dtype == torch.bfloat16


def test_bad_input_is_named():
    x = noise(*SHAPE)
    with pytest.raises(ValueError, match=r"prediction_type must be .* not 'velocity'"):
        predict_x0(x, x, 0.5, "velocity")
    with pytest.raises(ValueError, match="alpha_bar_t must be one number or one per sample"):
        predict_x0(x, x, ALPHA_BAR[:2])
    with pytest.raises(ValueError, match="model_output and x_t must have one shape"):
        predict_x0(x[:1], x, 0.5)
    with pytest.raises(ValueError, match="eta must be one number or a vector"):
        slerp(x, x, torch.zeros(2, 2))
    for eta in (-0.1, 1.1, math.nan, torch.tensor([0.5, math.inf])):
        with pytest.raises(ValueError, match=r"eta is .*, but must be from 0 to 1"):
            slerp(x, x, eta)
    for a, b, name in ((x * math.nan, x, "a"), (x, x / 0, "b")):
        with pytest.raises(ValueError, match=f"{name} contains NaN or infinity, but must be finite"):
            slerp(a, b, 0.5)
    with pytest.raises(ValueError, match=r"a and b point in opposite directions in sample 1 \(cosine -1\.0000\)"):
        slerp(x, torch.stack([x[1], -2 * x[1], x[0]]), 0.5)


@pytest.mark.parametrize("level", [0.0, -1.0, 1.01, math.nan, torch.tensor([0.5, 0.0, 0.5])])
def test_a_level_outside_the_schedule_is_refused(level):
    x = noise(*SHAPE)
    with pytest.raises(ValueError, match=r"alpha_bar_t is .*, but must lie in \(0, 1\]"):
        predict_x0(x, x, level)
    if level is not math.nan and torch.as_tensor(level).min() == 0:  # pure noise, from which v and the sample can be read
        assert torch.equal(predict_x0(x, 2 * x, torch.zeros(3), "v_prediction"), -x)
    else:
        with pytest.raises(ValueError, match=r"sigma is .*, but must lie in \[0, 1\]"):
            predict_x0_flow(x, x, level)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_exact_output_gives_back_the_noise(prediction_type):
    t = torch.tensor([1, 500, 999])
    _, eps, x_t, outputs = forward_process(t)
    level = ALPHA_BAR[t].double()[:, None, None, None]
    torch.testing.assert_close(predict_eps(outputs[prediction_type], x_t, level, prediction_type), eps, rtol=0, atol=1e-12)


def test_slerp_hits_both_ends_exactly():
    a, b = noise(*SHAPE, seed=1), noise(*SHAPE, seed=2)
    path = slerp(a, b, torch.linspace(0, 1, 11))
    assert path.shape == (11, *SHAPE)
    assert torch.equal(path[0], a)
    torch.testing.assert_close(path[-1], b, rtol=0, atol=1e-7)  # sin((1 - 1) theta) is 0; the other weight rounds once


def test_slerp_walks_the_great_circle_at_constant_speed():
    a, b = noise(*SHAPE, seed=1, dtype=torch.float64).flatten(1), noise(*SHAPE, seed=2, dtype=torch.float64).flatten(1)
    a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    theta = (a * b).sum(1).acos()
    for eta in (0.1, 0.5, 0.8):
        middle = slerp(a, b, eta)
        torch.testing.assert_close(middle.norm(dim=1), torch.ones(3, dtype=torch.float64))
        torch.testing.assert_close((a * middle).sum(1).acos(), eta * theta)
        torch.testing.assert_close((b * middle).sum(1).acos(), (1 - eta) * theta)


def test_slerp_of_a_right_angle_is_sine_and_cosine():
    a, b = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 5.0]])  # lengths differ: each end keeps its own
    torch.testing.assert_close(slerp(a, b, 1 / 3), torch.tensor([[3 * math.cos(math.pi / 6), 5 * math.sin(math.pi / 6)]]))


def test_slerp_treats_samples_and_ratios_independently():
    a, b, etas = noise(*SHAPE, seed=1), noise(*SHAPE, seed=2), torch.tensor([0.2, 0.9])
    path = slerp(a, b, etas)
    for n, eta in enumerate(etas.tolist()):
        for i in range(3):
            torch.testing.assert_close(path[n, i], slerp(a[i : i + 1], b[i : i + 1], eta)[0])


def test_slerp_falls_back_to_lerp_only_for_nearly_parallel_samples():
    a = noise(2, 64, seed=1)
    b = torch.stack([a[0] + 1e-3 * noise(64, seed=2), noise(64, seed=3)])  # sample 0 parallel, sample 1 not
    middle = slerp(a, b, 0.3)
    torch.testing.assert_close(middle[0], 0.7 * a[0] + 0.3 * b[0])
    assert (middle[1] - (0.7 * a[1] + 0.3 * b[1])).abs().max() > 0.1
    assert torch.isfinite(slerp(a, a, 0.5)).all()


@pytest.mark.parametrize(("d", "expected"), [(1024, 0.0088), (16384, 0.0022)])
def test_slerps_steps_between_two_noises_are_nearly_equal(d, expected):
    """As book/method.md says: the two noises differ a little in length, and with them the ten steps, by 1 / sqrt(d) times a constant."""
    first, second = noise(2, 300, d, seed=1)
    steps = slerp(first, second, torch.linspace(0, 1, 11)).diff(dim=0).norm(dim=2)  # (10, 300)
    spread = steps.std(dim=0, correction=0) / steps.mean(dim=0)
    assert spread.mean().item() == pytest.approx(expected, rel=0.08)  # the standard error of 300 pairs is 4 %


@pytest.mark.parametrize("make", [DDIMScheduler, PNDMScheduler, EulerDiscreteScheduler])
def test_scheduler_pair_keeps_the_noise_schedule_and_sets_the_conventions(make):
    schedule = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading")
    source = make(**schedule, prediction_type="v_prediction")
    for scheduler in (ddim_scheduler(source), ddim_inverse_scheduler(source.config)):
        torch.testing.assert_close(scheduler.alphas_cumprod, ALPHA_BAR)
        assert scheduler.config.steps_offset == 1 and not scheduler.config.set_alpha_to_one and not scheduler.config.clip_sample
        assert scheduler.config.prediction_type == "v_prediction"


def test_timesteps_of_the_pair_are_each_others_reverse():
    down, up = set_timesteps(ddim_scheduler(sd_scheduler()), 50), set_timesteps(ddim_inverse_scheduler(sd_scheduler()), 50)
    assert down.tolist() == list(range(981, 0, -20))
    assert up.tolist() == down.tolist()[::-1]


@pytest.mark.parametrize("t, t_below", [(981, 961), (501, 481), (1, 0)])  # below t = 1 is the first trained level, not 1.0
def test_inverse_step_is_equation_4_with_its_missing_factor(t, t_below):
    scheduler = ddim_inverse_scheduler(sd_scheduler())
    set_timesteps(scheduler, 50)
    x, eps = noise(*SHAPE, seed=1), noise(*SHAPE, seed=2)
    low, high = ALPHA_BAR[t_below].double(), ALPHA_BAR[t].double()
    expected = (high / low).sqrt() * x + high.sqrt() * ((1 / high - 1).sqrt() - (1 / low - 1).sqrt()) * eps
    up = scheduler.step(eps, torch.tensor(t), x, return_dict=False)[0]
    torch.testing.assert_close(up, expected.float(), rtol=0, atol=5e-6)
    down = ddim_scheduler(sd_scheduler())
    set_timesteps(down, 50)
    torch.testing.assert_close(down.step(eps, torch.tensor(t), up).prev_sample, x, rtol=0, atol=2e-5)  # with the same eps, a round trip


@pytest.mark.parametrize("bad", [0, 1001, 2.5, -3])
def test_number_of_steps_is_checked(bad):
    with pytest.raises(ValueError, match="num_inference_steps must be an integer from 1 to 1000"):
        set_timesteps(sd_scheduler(), bad)


def test_steps_beyond_the_trained_range_are_refused():
    with pytest.raises(ValueError, match="beyond the last trained one"):
        set_timesteps(sd_scheduler(), 1000)
    assert set_timesteps(sd_scheduler(), 999)[0] == 999
    with pytest.raises(ValueError, match="source must be a pipeline"):
        ddim_scheduler(3)
