"""A fused network is still the network that it was when its layers are trained, hooked, saved or given other parts afterwards."""

import io

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from test_second_order import LAYERS, lora_unet
from tiny import noise, tiny_unet
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from smoothlib.lora import LORA_TARGET_MODULES
from smoothlib.second_order.network import fuse_second_order


def second_derivatives(unet: nn.Module, height: int = 8, width: int = 8, dtype: torch.dtype = torch.float32) -> list[torch.Tensor | None]:
    """The output, and gradients in all that is trained of a norm of the output's derivative, for one sample."""
    x, prompt = noise(1, 4, height, width).to(dtype).requires_grad_(), noise(1, 16, 16, seed=5).to(dtype).requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        y = unet(x, torch.tensor([100]), prompt, return_dict=False)[0]
        (dx,) = torch.autograd.grad((y * noise(*y.shape, seed=2).to(dtype)).sum(), x, create_graph=True)
        loss = dx.float().square().sum() + y.float().square().mean()
        return [y.detach(), *torch.autograd.grad(loss, [prompt, *(p for p in unet.parameters() if p.requires_grad)], allow_unused=True)]


def assert_alike(usual: nn.Module, fused: nn.Module, tolerance: float = 1e-4, **case) -> None:
    for wanted, found in zip(second_derivatives(usual, **case), second_derivatives(fused, **case), strict=True):
        assert (wanted is None) == (found is None)
        if wanted is not None:
            assert (found - wanted).norm() <= tolerance * wanted.norm() + 1e-6


def layout(**settings) -> nn.Module:
    config = {**tiny_unet().config, **settings}
    config.pop("_use_default_values", None)
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(config).train(not settings.get("dropout")).requires_grad_(False)
    unet.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=list(LORA_TARGET_MODULES)))
    return unet


class Constant:
    """An attention processor that is not attention."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        return 0.5 * hidden_states


def train_edges(unet: nn.Module) -> None:
    for module in (unet.conv_in, unet.conv_norm_out, unet.down_blocks[0].resnets[0].norm1):
        module.requires_grad_(True)


def in_float16_with_lora_in_float32(unet: nn.Module) -> None:
    unet.half()
    for parameter in unet.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


CASES = {
    "plain, odd sizes": (lora_unet, lambda unet: None),
    "linear projection": (lambda: layout(use_linear_projection=True, upcast_attention=True), lambda unet: None),
    "scale and shift": (lambda: layout(resnet_time_scale_shift="scale_shift"), lambda unet: None),
    "dropout": (lambda: layout(dropout=0.5), lambda unet: None),
    "LoRA with bias": (lambda: lora_unet(lora_bias=True), lambda unet: None),
    "DoRA": (lambda: lora_unet(use_dora=True), lambda unet: None),
    "trained later": (lora_unet, train_edges),
    "another processor": (lora_unet, lambda unet: unet.set_attn_processor(Constant())),
    "a hook": (lora_unet, lambda unet: unet.mid_block.resnets[0].norm1.register_forward_hook(lambda module, x, y: 2 * y)),
}


@pytest.mark.parametrize(("name", "after"), [(name, after) for name in CASES for after in (False, True) if after or "later" not in name])
def test_other_layouts_and_later_changes_compute_what_they_would_have(name, after):
    make, change = CASES[name]
    usual, fused = make(), make()
    if after:
        fuse_second_order(fused)
    change(usual)
    change(fused)
    if not after:
        fuse_second_order(fused)
    assert_alike(usual, fused, height=10, width=6)


def test_a_lora_in_float32_on_weights_in_float16_needs_no_autocast():
    usual, fused = lora_unet(), lora_unet()
    fuse_second_order(fused)
    for unet in (usual, fused):
        in_float16_with_lora_in_float32(unet)
    assert_alike(usual, fused, tolerance=0.03, dtype=torch.float16)


def test_a_fused_network_can_be_written_whole():
    fused, file = lora_unet(), io.BytesIO()
    fuse_second_order(fused)
    torch.save(fused, file)
    file.seek(0)
    read = torch.load(file, weights_only=False)
    for wanted, found in zip(second_derivatives(fused), second_derivatives(read), strict=True):
        assert torch.equal(wanted, found)


def test_a_forward_that_others_put_around_a_layer_is_not_thrown_away():
    unet = lora_unet()
    inner, unet.conv_in.forward = unet.conv_in.forward, lambda x: inner(x)
    with pytest.raises(ValueError, match="network has a forward put around conv_in, as offloading does, but must be fused before"):
        fuse_second_order(unet)


@pytest.mark.parametrize("name", [name for name in LAYERS if name not in ("convolution", "joined")])
def test_a_third_derivative_is_refused_also_along_a_constant(name):
    ours, _, shapes = LAYERS[name]
    inputs = [noise(*shape, seed=i).double().requires_grad_() for i, shape in enumerate(shapes)]
    first = torch.autograd.grad(ours(*inputs).square().sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(x.sum() for x in first), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="a third derivative is asked for"):
        torch.autograd.grad(sum(x.square().sum() for x in second), inputs)
