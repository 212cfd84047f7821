"""The ways to the gradient of r on networks: against double backward, with fused attention, checkpointing, half precision, compilation."""

import weakref

import pytest
import torch
from tiny import gradients, noise, sd_scheduler, tiny_unet
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from companion.weights.pipelines import load_pipeline
from smoothlib.predictions import predict_x0
from smoothlib.regularizer.gradients import GRADIENTS, STENCILS
from smoothlib.regularizer.length import step_variation
from smoothlib.regularizer.variation import StepwiseVariation, unit_directions

ALPHA_BAR = sd_scheduler().alphas_cumprod


def unet_case(unet, batch, context, side):
    torch.manual_seed(0)
    alpha_bar = ALPHA_BAR[torch.linspace(50, 950, batch).long()]
    z0, t = noise(batch, 4, side, side, seed=1), torch.linspace(50, 950, batch).long()
    a, s = alpha_bar.sqrt().view(-1, 1, 1, 1), (1 - alpha_bar).sqrt().view(-1, 1, 1, 1)

    def denoise(eps):
        x_t = a * z0 + s * eps
        output = unet(x_t, t, context).sample
        return predict_x0(output, x_t, alpha_bar), output

    return denoise, noise(batch, 4, side, side, seed=2), (1 - alpha_bar).sqrt(), t / 1000, noise(batch, 4, side, side, seed=3)


def regularizer_gradient(regularizer, unet, case):
    parameters = [p for name, p in unet.named_parameters() if "to_q" in name or "to_v" in name or "to_out.0.weight" in name]
    with regularizer.attention_kernel():
        found = regularizer(*case)
        return gradients(found.loss, parameters), found


def with_target(gradient, target=0.1, **options):
    """A regularizer in evaluation mode, so that the penalty's target is the same for every way."""
    regularizer = StepwiseVariation(gradient=gradient, **options).eval()
    regularizer.running_mean.fill_(target)
    return regularizer


@pytest.mark.parametrize(("gradient", "error"), [("central", 0.002), ("one_sided", 0.01), ("forward_mode", 1e-5)])
def test_first_order_ways_agree_with_double_backward_in_every_weight_of_the_embedded_model(gradient, error):
    pipe = load_pipeline("mini")
    unet = pipe.unet.requires_grad_(True)
    case = unet_case(unet, 4, noise(4, 24, unet.config.cross_attention_dim, seed=5), 16)
    wanted, exact = regularizer_gradient(with_target("double_backward"), unet, case)
    found, first_order = regularizer_gradient(with_target(gradient), unet, case)
    torch.testing.assert_close(first_order.r, exact.r, rtol=1e-4, atol=1e-6)
    assert (found - wanted).norm() < error * wanted.norm()


def test_one_sided_difference_is_close_for_a_small_step():
    unet = tiny_unet()
    case = unet_case(unet, 3, noise(3, 16, 16, seed=5), 8)
    wanted, _ = regularizer_gradient(with_target("double_backward"), unet, case)
    near, _ = regularizer_gradient(with_target("one_sided", difference=0.002), unet, case)
    far, _ = regularizer_gradient(with_target("one_sided", difference=0.2), unet, case)
    assert (near - wanted).norm() < 0.01 * wanted.norm() < 0.1 * (far - wanted).norm()


def test_fused_attention_serves_the_first_order_ways_and_not_double_backward():
    unet = tiny_unet()
    case = unet_case(unet, 2, noise(2, 16, 16, seed=5), 8)
    parameters = list(unet.mid_block.parameters())[:4]
    for gradient in STENCILS:
        by_kernel = {}
        for kernel in (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
            with sdpa_kernel([kernel]):
                by_kernel[kernel] = gradients(with_target(gradient)(*case).loss, parameters)
        fused, plain = by_kernel[SDPBackend.FLASH_ATTENTION], by_kernel[SDPBackend.MATH]
        assert (fused - plain).norm() < 0.01 * plain.norm()  # a difference quotient magnifies the kernels' rounding
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]), pytest.raises(RuntimeError, match=r"derivative|not implemented"):
        gradients(with_target("double_backward")(*case).loss, parameters)


def test_under_autocast_the_differences_are_taken_in_float32_unless_told_otherwise():
    """In bfloat16 the first backward pass rounds u; the differences must add nothing to it in float32, and do add in bfloat16."""
    unet = tiny_unet()
    case, parameters = unet_case(unet, 2, noise(2, 16, 16, seed=5), 8), list(unet.mid_block.attentions.parameters())
    errors = {}
    with sdpa_kernel(SDPBackend.MATH):
        wanted = gradients(with_target("double_backward")(*case).loss, parameters)
    for way, options in {
        "float32": dict(gradient="central"),
        "forward mode": dict(gradient="forward_mode"),
        "network": dict(gradient="central", difference_precision="network"),
        "drowned": dict(gradient="central", difference_precision="network", difference=0.0003),
    }.items():
        with sdpa_kernel(SDPBackend.MATH):
            with torch.autocast("cpu", torch.bfloat16):
                variation = with_target(**options)(*case, parameters)
            found = gradients(variation.loss, parameters)
        errors[way] = ((found - wanted).norm() / wanted.norm()).item()
    assert errors["float32"] == pytest.approx(errors["forward mode"], rel=0.05) and errors["float32"] < 0.05
    assert errors["drowned"] > 3 * errors["network"] > 3 * errors["float32"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(gradient="one_sided"), "gradient must be central, paired, double_backward or forward_mode in half precision, got one_sided"),
        (dict(gradient="one_sided", difference=0.01), "in half precision, got one_sided"),
        (dict(gradient="forward_mode", difference_precision="network"), "must be float32 for forward_mode under autocast, got 'network'"),
    ],
)
def test_what_half_precision_cannot_do_is_refused(options, sentence):
    unet = tiny_unet()
    case = unet_case(unet, 2, noise(2, 16, 16, seed=5), 8)
    for regularizer in (with_target(**options), with_target(**options).train()):
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match=sentence):
            regularizer(*case, list(unet.parameters()))


@pytest.mark.parametrize("gradient", GRADIENTS[:3])
def test_gradient_checkpointing_leaves_the_gradient_as_it_is(gradient):
    unet = tiny_unet().train()
    case = unet_case(unet, 2, noise(2, 16, 16, seed=5), 8)
    plain, _ = regularizer_gradient(with_target(gradient), unet, case)
    unet.enable_gradient_checkpointing()
    again, _ = regularizer_gradient(with_target(gradient), unet, case)
    torch.testing.assert_close(again, plain, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("gradient", ["central", "one_sided"])
def test_evaluations_in_the_backward_pass_give_the_same_gradient(gradient, checkpointing, half):
    if half and gradient == "one_sided":
        return  # refused, see above
    unet = tiny_unet().train()
    if checkpointing:
        unet.enable_gradient_checkpointing()
    case, parameters = unet_case(unet, 2, noise(2, 16, 16, seed=5), 8), list(unet.parameters())
    found = {}
    for name, trained in (("at once", None), ("later", parameters)):
        unet.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            variation = with_target(gradient)(*case, trained)
        (variation.output.float().square().mean() + variation.loss).backward()  # outside of autocast, as accelerate does it
        found[name] = (variation.loss.detach(), torch.cat([p.grad.flatten() for p in parameters]))
    assert torch.equal(found["later"][0], found["at once"][0])
    difference = (found["later"][1] - found["at once"][1]).norm() / found["at once"][1].norm()
    assert difference < (0.05 if half else 1e-3)  # rounding: two sums over 1 / h times as large as what is left of them


@pytest.mark.parametrize("gradient", ["central", "one_sided"])
def test_one_graph_at_a_time_is_held_when_the_parameters_are_given(gradient):
    layer, alive, seen = nn.Linear(6, 6), [], []

    def denoise(eps):
        seen.append(sum(activation() is not None for activation in alive))
        hidden = torch.tanh(layer(eps))  # kept by the graph alone
        alive.append(weakref.ref(hidden))
        x = layer(hidden)
        return x, x

    directions, weight = unit_directions(noise(4, 6, seed=1)), torch.ones(4)
    r, output = step_variation(denoise, noise(4, 6), directions, weight, gradient=gradient, parameters=list(layer.parameters()))
    assert seen == [0]
    total = (r - 0.1).square().mean() + output.square().mean()
    del r, output
    total.backward()
    assert seen == [0] * (3 if gradient == "central" else 2) and layer.weight.grad.abs().max() > 0


def test_forward_mode_is_exact_through_layer_norm_and_softmax():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.layer = nn.LayerNorm(6), nn.Linear(6, 6)

        def forward(self, x):
            x = self.layer(self.norm(self.layer(x)))
            return ((x @ x.transpose(1, 2)).softmax(-1) @ x,) * 2

    torch.manual_seed(0)
    network, eps, direction = Attention(), noise(2, 5, 6), unit_directions(noise(2, 5, 6, seed=1))
    parameters = [network.layer.weight, network.norm.weight]
    found, wanted = (
        gradients(step_variation(network, eps, direction, torch.ones(2), gradient=way)[0].square().sum(), parameters)
        for way in ("forward_mode", "double_backward")
    )
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_compiled_graphs_serve_the_first_order_way():
    network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6))
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    eps, direction, weight = noise(3, 6), unit_directions(noise(3, 6, seed=1)), torch.ones(3)
    results = [
        gradients(step_variation(lambda e, f=f: (f(e),) * 2, eps, direction, weight)[0].sum(), list(network.parameters())[:3])
        for f in (network, compiled)
    ]
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-6)
