"""Eq. 14 as a stranger calls it: closed forms for every prediction type, the lazy interval, what is drawn, and what is refused."""

import re

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from tiny import assert_one_sentence, noise, sd_scheduler
from torch import nn

from smoothlib.regularizer.variation import StepwiseVariation
from smoothlib.training_loss import regularized_loss

KINDS = ("epsilon", "v_prediction", "sample", "flow")
Z0, EMBEDS = noise(6, 4, 8, 8, seed=1), torch.full((6, 3, 5), 0.5)
T = torch.tensor([10, 200, 400, 600, 800, 990])


def scheduler_of(kind):
    return FlowMatchEulerDiscreteScheduler() if kind == "flow" else sd_scheduler(prediction_type=kind)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Linear(nn.Module):
    """gain * (mean of the prompt) * x_t: linear in x_t, so that J is a number times the identity."""

    def __init__(self, gain=1.0):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, sample, timestep, encoder_hidden_states, return_dict):
        return (self.gain * encoder_hidden_states.mean(dim=(1, 2)).reshape(-1, 1, 1, 1) * sample,)


class Perfect(nn.Module):
    """Gives the right answer, because it knows z0 (one sample's rows in the order of the batch)."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.scheduler, self.gain = kind, scheduler_of(kind), nn.Parameter(torch.tensor(1.0))

    def forward(self, sample, timestep, encoder_hidden_states, return_dict):
        if self.kind == "flow":
            return (self.gain * (sample - Z0) / (timestep / 1000).reshape(-1, 1, 1, 1),)
        level = self.scheduler.alphas_cumprod[timestep].reshape(-1, 1, 1, 1)
        eps = (sample - level.sqrt() * Z0) / (1 - level).sqrt()
        target = {"epsilon": eps, "sample": Z0, "v_prediction": level.sqrt() * eps - (1 - level).sqrt() * Z0}[self.kind]
        return (self.gain * target + 0 * sample,)  # all of it in the graph of the noise


def jacobian(kind, level, gain):
    """The factor j with d x0_hat / d eps = j for `Linear`, and the noise level, (B,)."""
    if kind == "flow":
        return level * (1 - level * gain), level
    signal, s = level.sqrt(), (1 - level).sqrt()
    return {"epsilon": (1 - s * gain) * s / signal, "v_prediction": (signal - s * gain) * s, "sample": gain * s}[kind], s


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_network_has_no_loss_of_either_part(kind):
    regularizer = StepwiseVariation(difference=0.001)
    found = regularized_loss(Perfect(kind), Z0, EMBEDS, scheduler_of(kind), regularizer, draws={"timesteps": T}, generator=generator())
    assert found.base < 1e-6 and found.variation.r.max() < 1e-3 and found.loss < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_both_parts_of_a_linear_network_have_their_closed_forms(kind):
    scheduler, network, eps = scheduler_of(kind), Linear(0.6), noise(*Z0.shape, seed=2)
    found = regularized_loss(
        network,
        Z0,
        EMBEDS,
        scheduler,
        StepwiseVariation(difference=0.001),
        regularization=3.0,
        draws={"timesteps": T, "eps": eps, "direction_noise": noise(*Z0.shape, seed=3)},
    )
    level = scheduler.sigmas[T] if kind == "flow" else scheduler.alphas_cumprod[T]
    wide = level.reshape(-1, 1, 1, 1)
    x_t = (1 - wide) * Z0 + wide * eps if kind == "flow" else scheduler.add_noise(Z0, eps, T)
    targets = {"epsilon": lambda: eps, "sample": lambda: Z0, "flow": lambda: eps - Z0}
    target = targets.get(kind, lambda: scheduler.get_velocity(Z0, eps, T))()
    base = (0.3 * x_t - target).square().mean()  # 0.6 times the prompt's mean
    j, s = jacobian(kind, level, 0.3)
    torch.testing.assert_close(found.base, base)
    torch.testing.assert_close(found.error, base.detach())
    torch.testing.assert_close(found.variation.r, s * j.abs(), rtol=1e-4, atol=1e-5)
    reg = (s * j.abs()).var(correction=0)  # the running mean starts at the first mean
    torch.testing.assert_close(found.loss, base + 3 * reg, rtol=1e-4, atol=1e-5)
    found.loss.backward()
    assert network.gain.grad.isfinite() and network.gain.grad != 0


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_min_snr_weights_the_error_of_x0_alike_for_every_type(kind):
    """min(SNR, gamma) times the squared error of x0_hat, whatever the network gives (Hang et al. 2023)."""
    scheduler, eps = scheduler_of(kind), noise(*Z0.shape, seed=2)
    found = regularized_loss(Linear(), Z0, EMBEDS, scheduler, min_snr_gamma=5.0, draws={"timesteps": T, "eps": eps})
    level = scheduler.alphas_cumprod[T].double()
    wide = level.reshape(-1, 1, 1, 1)
    x_t = wide.sqrt() * Z0 + (1 - wide).sqrt() * eps
    x0_hat = {
        "epsilon": (x_t - (1 - wide).sqrt() * 0.5 * x_t) / wide.sqrt(),
        "v_prediction": wide.sqrt() * x_t - (1 - wide).sqrt() * 0.5 * x_t,
        "sample": 0.5 * x_t,
    }[kind]
    error = (x0_hat - Z0).square().mean(dim=(1, 2, 3))
    expected = ((level / (1 - level)).clamp(max=5) * error).mean()
    torch.testing.assert_close(found.loss.double(), expected, rtol=1e-3, atol=0)


def test_every_kth_step_has_l_reg_k_times_as_strong_and_the_noises_are_the_same():
    def losses(every):
        regularizer, source = StepwiseVariation(difference=0.001), generator()
        options = dict(regularization=3.0, regularize_every=every, generator=source)
        return [regularized_loss(Linear(), Z0, EMBEDS, scheduler_of("epsilon"), regularizer, step=k, **options) for k in range(4)]

    always, lazy = losses(1), losses(2)
    assert [found.variation is None for found in lazy] == [False, True, False, True]
    assert all(torch.equal(a.base, b.base) for a, b in zip(always, lazy, strict=True))
    assert torch.equal(lazy[1].loss, lazy[1].base)
    torch.testing.assert_close(lazy[0].loss, lazy[0].base + 6 * lazy[0].variation.loss)
    torch.testing.assert_close(always[0].loss, always[0].base + 3 * always[0].variation.loss)


def test_a_share_of_the_batch_is_its_first_samples_and_leaves_the_base_alone():
    def loss(share):
        regularizer = StepwiseVariation(difference=0.001)
        return regularized_loss(Linear(), Z0, EMBEDS, scheduler_of("epsilon"), regularizer, regularized_share=share, generator=generator())

    whole, half = loss(1.0), loss(0.5)
    torch.testing.assert_close(half.base, whole.base)
    torch.testing.assert_close(half.variation.r, whole.variation.r[:3])


def test_guidance_is_of_l_reg_alone():
    """Linear in the prompt too, so that the guided prediction has the prompt's factor w c - (w - 1) c_null."""
    draws = {"timesteps": T, "eps": noise(*Z0.shape, seed=2), "direction_noise": noise(*Z0.shape, seed=3)}
    options = dict(draws=draws, regularized_guidance=2.0, null_embeds=torch.full((1, 3, 5), 0.2))
    found = regularized_loss(Linear(), Z0, EMBEDS, scheduler_of("sample"), StepwiseVariation(difference=0.001), **options)
    plain = regularized_loss(Linear(), Z0, EMBEDS, scheduler_of("sample"), draws={n: draws[n] for n in ("timesteps", "eps")})
    torch.testing.assert_close(found.base, plain.loss)
    s = (1 - scheduler_of("sample").alphas_cumprod[T]).sqrt()
    torch.testing.assert_close(found.variation.r, s * s * (2 * 0.5 - 0.2), rtol=1e-4, atol=0)
    each = options | {"null_embeds": torch.full((6, 3, 5), 0.2), "regularized_share": 0.5}  # a null embedding of each sample
    half = regularized_loss(Linear(), Z0, EMBEDS, scheduler_of("sample"), StepwiseVariation(difference=0.001), **each)
    torch.testing.assert_close(half.variation.r, found.variation.r[:3])


def test_embeddings_that_are_trained_get_their_share_of_the_gradient_of_l_reg():
    """Textual inversion: nothing but the prompt is trained. The evaluations beside eps must not leave it out."""
    found = {}
    for way in ("central", "double_backward"):
        embeds = EMBEDS.clone().requires_grad_()
        regularizer = StepwiseVariation(gradient=way, difference=0.001, decay=1.0)
        network = Linear().requires_grad_(False)
        options = dict(draws={"timesteps": T}, generator=generator())
        loss = regularized_loss(network, Z0, embeds, scheduler_of("sample"), regularizer, **options)
        (found[way],) = torch.autograd.grad(loss.variation.loss, embeds)
    assert found["central"].abs().max() > 1e-4
    torch.testing.assert_close(found["central"], found["double_backward"], rtol=1e-2, atol=1e-6)


def test_half_precision_latents_keep_their_type_in_the_network():
    seen = []

    class Half(Linear):
        def forward(self, sample, timestep, encoder_hidden_states, return_dict):
            seen.append(sample.dtype)
            return super().forward(sample, timestep, encoder_hidden_states, return_dict)

    network = Half().to(torch.bfloat16)
    found = regularized_loss(network, Z0.bfloat16(), EMBEDS.bfloat16(), scheduler_of("epsilon"), StepwiseVariation(), generator=generator())
    assert set(seen) == {torch.bfloat16} and found.loss.dtype == torch.float32
    found.loss.backward()
    assert network.gain.grad.isfinite()


BAD = [
    (dict(regularization=-1), "regularization is -1, but must be a number of at least 0"),
    (dict(regularize_every=0), "regularize_every is 0, but must be a whole number of at least 1"),
    (dict(regularized_share=1.5), "regularized_share is 1.5, but must be above 0 and at most 1"),
    (dict(regularized_guidance=0.5), "regularized_guidance is 0.5, but must be a number of at least 1"),
    (dict(regularized_guidance=2.0), "null_embeds is None, but must be the empty prompt's embedding for regularized_guidance 2.0"),
    (dict(min_snr_gamma=float("nan")), "min_snr_gamma is nan, but must be a number of at least 0"),
    (dict(latents=Z0[0, 0, 0]), "latents is torch.float32 of shape (8,), but must be floating-point (B, C, h, w)"),
    (dict(prompt_embeds=EMBEDS[:2]), "prompt_embeds has shape (2, 3, 5), but must have (B, L, D) with B = 6"),
    (dict(draws={"noise": Z0}), "draws has noise, but must have only eps, timesteps and direction_noise"),
    (dict(draws={"timesteps": T[:2]}), "draws['timesteps'] has shape (2,), but must have (6,)"),
    (dict(scheduler=FlowMatchEulerDiscreteScheduler(), min_snr_gamma=5.0), "min_snr_gamma is 5.0, but must be 0 for flow matching"),
]


@pytest.mark.parametrize(("options", "sentence"), BAD)
def test_bad_arguments_are_named_before_the_network_is_asked(options, sentence):
    class Unasked(nn.Module):
        def forward(self, *arguments, **named):
            pytest.fail("the network was asked")

    arguments = dict(latents=Z0, prompt_embeds=EMBEDS, scheduler=DDPMScheduler(), regularizer=StepwiseVariation()) | options
    with pytest.raises(ValueError, match=re.escape(sentence)) as raised:
        regularized_loss(Unasked(), **arguments)
    assert_one_sentence(raised)


def test_a_schedule_that_was_set_for_sampling_is_refused_where_its_levels_are_lost():
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(10)
    with pytest.raises(ValueError, match="scheduler has 11 noise levels set, but must have the 1000 that it was made with"):
        regularized_loss(Linear(), Z0, EMBEDS, scheduler, StepwiseVariation())
    sampling = DDIMScheduler()
    sampling.set_timesteps(10)  # alphas_cumprod stay
    same, fresh = (regularized_loss(Linear(), Z0, EMBEDS, s, generator=generator()).loss for s in (sampling, DDIMScheduler()))
    assert torch.equal(same, fresh)
