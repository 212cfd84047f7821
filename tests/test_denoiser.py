"""The door to a network: four kinds of output have one meaning, and UNets and transformers are called as each of them wants it."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, PixArtTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from tiny import LATENT_SHAPE, assert_one_sentence, noise, sd_scheduler, tiny_pipeline
from torch import nn

from smoothlib.denoiser import KINDS, call_network, denoiser_of_noise, estimate, network_of, noised, predict_noise, prediction_type_of
from smoothlib.inversion import ddim_invert, null_text_inversion
from smoothlib.regularizer.variation import StepwiseVariation, unit_directions
from smoothlib.sampling import encode_prompts, sample

ALPHA_BAR = sd_scheduler().alphas_cumprod.double()
VARIANCE = 0.25  # of the data x0 ~ N(0, VARIANCE)
T = torch.tensor([100, 459, 900])


def signal_and_noise(t, kind):
    """x_t = signal x0 + noise eps, at one ratio of the two for every kind: sigma = s / (sqrt(alpha_bar) + s) for flow."""
    signal, s = ALPHA_BAR[t].sqrt(), (1 - ALPHA_BAR[t]).sqrt()
    return (signal / (signal + s), s / (signal + s)) if kind == "flow" else (signal, s)


class LinearDenoiser(nn.Module):
    """The ideal denoiser of Gaussian data: E[x0 | x_t] = signal v / (signal^2 v + noise^2) x_t, given in the form of `kind`."""

    dtype, device = torch.float64, torch.device("cpu")

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, sample, timestep, encoder_hidden_states, return_dict):
        signal, s = (v.reshape(-1, *[1] * (sample.ndim - 1)) for v in signal_and_noise(timestep, self.kind))
        x0_hat = signal * VARIANCE / (signal**2 * VARIANCE + s**2) * sample
        eps = (sample - signal * x0_hat) / s
        return ({"epsilon": eps, "v_prediction": signal * eps - s * x0_hat, "sample": x0_hat, "flow": eps - x0_hat}[self.kind],)


def level(t, kind):
    return signal_and_noise(t, kind)[1] if kind == "flow" else ALPHA_BAR[t]


@pytest.mark.parametrize("kind", KINDS)
def test_one_denoiser_means_one_noise_and_one_x0_hat_whatever_it_gives(kind):
    x0, eps = noise(2, 3, 8, seed=1).double()
    x_t = noised(x0, eps, level(T, kind), kind)
    signal, s = (v[:, None] for v in signal_and_noise(T, kind))
    torch.testing.assert_close(x_t, signal * x0 + s * eps)
    output = call_network(LinearDenoiser(kind), x_t, T, torch.zeros(3, 1, 1))
    found = estimate(output, x_t, level(T, kind), kind)
    a, b = (v[:, None] for v in signal_and_noise(T, "epsilon"))  # the closed form, of the same x0 and eps in the units of Eq. 2
    x0_hat = a * VARIANCE / (a**2 * VARIANCE + b**2) * (a * x0 + b * eps)
    torch.testing.assert_close(found.x0_hat, x0_hat)
    torch.testing.assert_close(found.eps, (a * x0 + b * eps - a * x0_hat) / b)
    assert found.output is output


@pytest.mark.parametrize("kind", KINDS)
def test_the_regularizer_measures_the_closed_form_of_every_kind(kind):
    t, network = T, LinearDenoiser(kind)
    signal, s = signal_and_noise(t, kind)
    denoise = denoiser_of_noise(network, noise(3, 8, seed=2).double(), t, level(t, kind), torch.zeros(3, 1, 1), prediction_type=kind)
    found = StepwiseVariation().eval()(denoise, noise(3, 8).double(), s, t / 1000, noise(3, 8, seed=3))
    gain = signal * VARIANCE / (signal**2 * VARIANCE + s**2)  # x0_hat = gain x_t, and eps enters x_t times s
    torch.testing.assert_close(found.r, (s * gain * s).float(), rtol=1e-4, atol=0)


def pipeline_of(network, kind="epsilon"):
    flow = FlowMatchEulerDiscreteScheduler()
    return SimpleNamespace(unet=network, scheduler=flow if kind == "flow" else sd_scheduler(prediction_type=kind))


@pytest.mark.parametrize("kind", KINDS[:3])
def test_inversion_follows_the_closed_form_of_every_kind(kind):
    pipe, z = pipeline_of(LinearDenoiser(kind), kind), noise(2, *LATENT_SHAPE, seed=4).double()
    pivots = ddim_invert(pipe, z, torch.zeros(1, 1, 1), num_inference_steps=5)
    low = ALPHA_BAR[0]
    for t, pivot in zip((1, 201, 401, 601, 801), pivots[1:], strict=True):
        high = ALPHA_BAR[t]
        eps = (1 - high).sqrt() / (high * VARIANCE + 1 - high) * z
        z, low = high.sqrt() * (z - (1 - low).sqrt() * eps) / low.sqrt() + (1 - high).sqrt() * eps, high
        torch.testing.assert_close(pivot, z, rtol=1e-5, atol=1e-5)


def test_ddim_refuses_flow_by_its_scheduler():
    pipe = pipeline_of(LinearDenoiser("flow"), "flow")
    assert prediction_type_of(pipe) == "flow" and prediction_type_of(sd_scheduler(prediction_type="sample")) == "sample"
    z, embeds = torch.zeros(1, *LATENT_SHAPE).double(), torch.zeros(1, 1, 1)
    for use in (
        lambda: ddim_invert(pipe, z, embeds, num_inference_steps=5),
        lambda: null_text_inversion(pipe, z.expand(6, *z.shape), embeds, guidance_scale=2.0),
        lambda: sample(pipe, z, embeds, guidance_scale=1.0, num_inference_steps=5),
    ):
        with pytest.raises(ValueError, match=r"scheduler is FlowMatchEulerDiscreteScheduler.*, but must have DDIM's kind") as raised:
            use()
        assert_one_sentence(raised)


# Real classes, random and tiny ----------------------------------------------------------------------------------------------------


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def sdxl_unet():
    return seeded(
        lambda: UNet2DConditionModel(
            sample_size=LATENT_SHAPE[1],
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=4,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=6 * 4 + 8,
        )
    )


def sdxl_conditions(count, seed=0):
    return {"text_embeds": noise(count, 8, seed=seed), "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]]).expand(count, -1)}


def sd3_transformer():
    sizes = dict(num_layers=1, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=16)
    pooled = dict(pooled_projection_dim=8, pos_embed_max_size=8)
    return seeded(lambda: SD3Transformer2DModel(sample_size=8, in_channels=4, out_channels=4, **sizes, **pooled))


def pixart_transformer(**settings):
    sizes = dict(num_layers=1, attention_head_dim=8, num_attention_heads=2, cross_attention_dim=16, caption_channels=16)
    return seeded(lambda: PixArtTransformer2DModel(sample_size=8, in_channels=4, out_channels=8, **sizes, **settings))


X, EMBEDS, NULL = noise(2, *LATENT_SHAPE, seed=5), noise(2, 6, 16, seed=6), noise(2, 6, 16, seed=7)
POOLED = {"pooled_projections": noise(2, 8, seed=8)}
NO_SIZES = {"resolution": None, "aspect_ratio": None}
# network, its added conditions, the same call by hand, the kind of output
NETWORKS = {
    "sdxl": (
        sdxl_unet,
        sdxl_conditions(2),
        lambda network, x, t: network(x, t, EMBEDS, added_cond_kwargs=sdxl_conditions(2)).sample,
        "epsilon",
    ),
    "sd3": (sd3_transformer, POOLED, lambda network, x, t: network(x, EMBEDS, timestep=t.expand(2), **POOLED).sample, "flow"),
    "pixart": (
        pixart_transformer,
        {},
        lambda network, x, t: network(x, EMBEDS, timestep=t.expand(2), added_cond_kwargs=NO_SIZES).sample[:, :4],
        "epsilon",
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_each_network_is_called_in_its_own_way(name):
    make, added, by_hand, _ = NETWORKS[name]
    network, t = make(), torch.tensor(500)
    found = call_network(network, X, t, EMBEDS, added)
    assert torch.equal(found, by_hand(network, X, t)) and found.shape == X.shape
    torch.testing.assert_close(call_network(network, X, 500, EMBEDS, added), found)
    compiled = torch.compile(network, backend="eager")
    assert torch.equal(call_network(compiled, X, t.expand(2), EMBEDS, added), by_hand(network, X, t))


@pytest.mark.parametrize("name", NETWORKS)
def test_guidance_gives_both_prompts_their_own_conditions(name):
    make, added, _, _ = NETWORKS[name]
    network, null_added = make(), {key: 0.5 * value for key, value in added.items()}
    e_cond, e_null = call_network(network, X, 500, EMBEDS, added), call_network(network, X, 500, NULL, null_added)
    for t in (500, torch.tensor([500, 500])):
        guided = predict_noise(network, X, t, EMBEDS, NULL, 3.0, added, null_added)
        torch.testing.assert_close(guided, e_null + 3.0 * (e_cond - e_null), rtol=1e-4, atol=1e-4)
    shared = predict_noise(network, X, 500, EMBEDS, NULL, 3.0, added)
    assert not added or not torch.allclose(shared, guided, atol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_regularizer_trains_each_network(name):
    make, added, by_hand, kind = NETWORKS[name]
    network, t = make(), torch.tensor([500, 500])
    with torch.no_grad():
        for parameter in network.parameters():  # what is initialised with zeros must not hide a path
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    levels = torch.full((2,), 0.5)
    denoise = denoiser_of_noise(network, X, t, levels, EMBEDS, prediction_type=kind, added=added)
    eps, direction = noise(2, *LATENT_SHAPE, seed=9), noise(2, *LATENT_SHAPE, seed=10)
    s = levels if kind == "flow" else (1 - levels).sqrt()
    found = StepwiseVariation(difference=0.001)(denoise, eps, s, t / 1000, direction)
    found.loss.backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert gradients and all(g.isfinite().all() for g in gradients) and any(g.abs().max() > 0 for g in gradients)

    eps.requires_grad_()
    x_t = 0.5 * X + 0.5 * eps if kind == "flow" else 0.5**0.5 * (X + eps)
    output = by_hand(network, x_t, t[0])
    x0_hat = x_t - 0.5 * output if kind == "flow" else (x_t - 0.5**0.5 * output) / 0.5**0.5
    (product,) = torch.autograd.grad((x0_hat * unit_directions(direction)).sum(), eps)
    torch.testing.assert_close(found.r, s * product.flatten(1).norm(dim=1), rtol=1e-4, atol=1e-5)


def test_sdxl_is_inverted_and_sampled_with_its_conditions():
    pipe = tiny_pipeline()
    pipe.unet = sdxl_unet().requires_grad_(False)
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(0.03)  # smooth enough in x_t to be inverted
    z0, embeds, added = noise(2, *LATENT_SHAPE, seed=11), encode_prompts(pipe, ["a dog", "a red car"]), sdxl_conditions(2)
    pivots = ddim_invert(pipe, z0, embeds, num_inference_steps=4, added=added)
    back = sample(pipe, pivots[-1], embeds, guidance_scale=1.0, num_inference_steps=4, inverted=True, added=added)
    torch.testing.assert_close(back, z0, rtol=0, atol=0.05)
    settings = dict(guidance_scale=3.0, added=added, null_added=sdxl_conditions(2, seed=1))
    found = null_text_inversion(pipe, pivots, embeds, num_inner_steps=2, **settings)
    again = sample(pipe, pivots[-1], embeds, null_embeds=found.null_embeds, num_inference_steps=4, inverted=True, **settings)
    torch.testing.assert_close(again, found.latents, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "added", "message"),
    [
        (sdxl_unet, {}, "added has nothing, but must have text_embeds, time_ids too for UNet2DConditionModel"),
        (sd3_transformer, {}, "added has nothing, but must have pooled_projections too for SD3Transformer2DModel"),
        (sd3_transformer, POOLED | {"time_ids": X}, "added has time_ids, but must have only what SD3Transformer2DModel takes"),
        (lambda: pixart_transformer(use_additional_conditions=True), {}, "added has nothing, but must have resolution, aspect_ratio too"),
    ],
)
def test_missing_and_unknown_conditions_are_named(make, added, message):
    with pytest.raises(ValueError, match=message) as raised:
        call_network(make(), X, 500, EMBEDS, added)
    assert_one_sentence(raised)


def test_other_kinds_and_pipelines_without_a_network_are_refused():
    with pytest.raises(ValueError, match="prediction_type is 'score', but must be one of epsilon, v_prediction, sample, flow"):
        estimate(X, X, 0.5, "score")
    with pytest.raises(ValueError, match="pipe is SimpleNamespace, but must have a unet or a transformer"):
        network_of(SimpleNamespace(unet=None))
    assert network_of(SimpleNamespace(transformer=LinearDenoiser("flow"))).kind == "flow"
