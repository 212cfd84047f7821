"""Layers with fused second derivatives compute what PyTorch's own compute, once and twice differentiated."""

import copy
import json
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig
from tiny import gradients, noise, tiny_unet
from torch import nn

from companion.base.paths import ROOT
from smoothlib.lora import LORA_TARGET_MODULES
from smoothlib.regularizer.variation import StepwiseVariation
from smoothlib.second_order import attention as attention_module
from smoothlib.second_order.attention import attention
from smoothlib.second_order.convolutions import convolution
from smoothlib.second_order.gates import gated
from smoothlib.second_order.joining import joined
from smoothlib.second_order.network import fuse_second_order
from smoothlib.second_order.norms import group_norm, layer_norm

WEIGHT, BIAS = noise(6, seed=1).double(), noise(6, seed=2).double()
KERNEL = noise(4, 3, 3, 3, seed=3).double()
SETTINGS = ((2, 1), (1, 0), (1, 1), 2)
SDPA = F.scaled_dot_product_attention

LAYERS = {  # ours, PyTorch's, shapes of the inputs
    "attention": (attention, SDPA, [(2, 2, 7, 6), (2, 2, 5, 6), (2, 2, 5, 6)]),
    "group norm": (lambda x: group_norm(x, 3, WEIGHT, BIAS), lambda x: F.group_norm(x, 3, WEIGHT, BIAS), [(2, 6, 3, 2)]),
    "group norm, SiLU": (
        lambda x: group_norm(x, 3, WEIGHT, BIAS, silu=True),
        lambda x: F.silu(F.group_norm(x, 3, WEIGHT, BIAS)),
        [(2, 6, 3, 2)],
    ),
    "layer norm": (lambda x: layer_norm(x, WEIGHT, BIAS), lambda x: F.layer_norm(x, (6,), WEIGHT, BIAS), [(2, 3, 6)]),
    "gate": (gated, lambda x: x[..., :3] * F.gelu(x[..., 3:]), [(4, 6)]),
    "convolution": (
        lambda x: convolution(x, KERNEL, BIAS[:4], SETTINGS),
        lambda x: F.conv2d(x, KERNEL, BIAS[:4], *SETTINGS),
        [(2, 6, 5, 5)],
    ),
    "joined": (joined, lambda x, y: torch.cat([x, y], 1), [(2, 3, 2, 2), (2, 1, 2, 2)]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_and_both_of_its_derivatives_are_right(name):
    ours, theirs, shapes = LAYERS[name]
    inputs = tuple(noise(*shape, seed=i).double().requires_grad_() for i, shape in enumerate(shapes))
    torch.testing.assert_close(ours(*inputs), theirs(*inputs))
    assert torch.autograd.gradcheck(ours, inputs) and torch.autograd.gradgradcheck(ours, inputs)


def test_attention_in_parts_is_attention(monkeypatch):
    inputs = tuple(noise(2, 3, 5, 4, seed=i).double().requires_grad_() for i in range(3))
    whole = gradients(attention(*inputs).square().sum(), inputs)
    monkeypatch.setattr(attention_module, "ENTRIES", 50)  # two heads at a time
    assert torch.equal(gradients(attention(*inputs).square().sum(), inputs), whole)


def test_the_kernels_compute_the_formulas():
    pytest.importorskip("triton")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests" / "interpreted_kernels.py")]
    found = json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    # half precision rounds inputs of products and results to 11 bits
    assert {name: error < (5e-4 if "attention" in name else 1e-6) for name, error in found.items()} == dict.fromkeys(found, True), found


def lora_unet(**settings) -> nn.Module:
    torch.manual_seed(0)
    unet = tiny_unet().train().requires_grad_(False)
    unet.add_adapter(LoraConfig(r=2, lora_alpha=3, init_lora_weights=False, target_modules=list(LORA_TARGET_MODULES), **settings))
    return unet


def gradient_of_a_step(unet: nn.Module, half: bool = False) -> torch.Tensor:
    """Of L_base + L_reg in the LoRA, by double backward."""
    regularizer = StepwiseVariation(gradient="double_backward").eval()
    regularizer.running_mean.fill_(0.3)

    def denoise(eps):
        output = unet(eps, torch.tensor([100, 700]), noise(2, 16, 16, seed=5), return_dict=False)[0].float()
        return 2 * eps - output, output

    with regularizer.attention_kernel(), torch.autocast("cpu", torch.float16, enabled=half):
        found = regularizer(denoise, noise(2, 4, 8, 8), torch.tensor([0.4, 0.9]), torch.zeros(2), noise(2, 4, 8, 8, seed=3))
        loss = found.output.square().mean() + found.loss
    return gradients(1024 * loss, [p for p in unet.parameters() if p.requires_grad]) / 1024


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_fused_network_has_the_gradients_the_names_and_the_output_that_it_had(layout, checkpointing):
    usual, fused = lora_unet(), lora_unet().to(memory_format=layout)
    if checkpointing:
        fused.enable_gradient_checkpointing()
    names = list(fused.state_dict())
    count = fuse_second_order(fused)
    kinds = (nn.Conv2d, nn.GroupNorm, nn.LayerNorm)
    assert count > sum(isinstance(module, kinds) for module in usual.modules()) and list(fused.state_dict()) == names
    wanted, found = gradient_of_a_step(usual), gradient_of_a_step(fused)
    assert wanted.norm() > 0 and (found - wanted).norm() < 1e-4 * wanted.norm()


def test_half_precision_costs_a_fused_gradient_less_than_a_percent():
    exact, fused = gradient_of_a_step(lora_unet()), lora_unet()
    fuse_second_order(fused)
    found = gradient_of_a_step(fused, half=True)
    assert 0 < (found - exact).norm() < 0.01 * exact.norm()


def test_an_adapter_that_is_not_simply_added_is_left_to_peft():
    usual, fused = lora_unet(lora_dropout=0.5).eval(), lora_unet(lora_dropout=0.5).eval()
    fuse_second_order(fused)
    torch.testing.assert_close(gradient_of_a_step(fused), gradient_of_a_step(usual), rtol=1e-3, atol=1e-6)
    for unet in (usual, fused):
        unet.disable_adapters()
    x = noise(2, 4, 8, 8), torch.tensor([100, 700]), noise(2, 16, 16, seed=5)
    torch.testing.assert_close(fused(*x).sample, usual(*x).sample, rtol=1e-3, atol=1e-5)


def test_a_copy_of_a_fused_network_computes_with_its_own_weights():
    fused = lora_unet()
    fuse_second_order(fused)
    twin = copy.deepcopy(fused)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(0.9)
    assert not torch.allclose(gradient_of_a_step(twin), gradient_of_a_step(fused), rtol=1e-2)
    assert fuse_second_order(fused) == fuse_second_order(lora_unet())  # a second time changes nothing


def test_what_cannot_be_fused_is_refused():
    with pytest.raises(ValueError, match=r"network trains .*norm.*, but its norms must be frozen"):
        fuse_second_order(tiny_unet())
    with pytest.raises(ValueError, match="network is ReLU, but must have layers to fuse"):
        fuse_second_order(nn.ReLU())
