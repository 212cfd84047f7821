"""How a network computes does not change what: rounded frozen weights, compiled blocks, half precision behind a float32 door."""

import pytest
import torch
from peft import LoraConfig
from tiny import gradients, noise, smooth_tiny_pipeline, tiny_pipeline, tiny_unet

from smoothlib.execution import compile_blocks, in_half_precision, round_frozen_weights
from smoothlib.inversion import ddim_invert, null_text_inversion
from smoothlib.lora import LORA_TARGET_MODULES
from smoothlib.regularizer.variation import StepwiseVariation
from smoothlib.sampling import encode_prompts, sample

CONTEXT = noise(2, 16, 16, seed=5)


def lora_unet():
    torch.manual_seed(0)
    unet = tiny_unet().train().requires_grad_(False)
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=list(LORA_TARGET_MODULES)))
    return unet


def call(unet, x=None, context=None):
    x, context = noise(2, 4, 8, 8) if x is None else x, CONTEXT if context is None else context
    return unet(x, torch.tensor([100, 700]), context, return_dict=False)[0]


def test_rounded_frozen_weights_give_the_bits_that_autocast_gives():
    exact, rounded = lora_unet(), lora_unet()
    count = round_frozen_weights(rounded, torch.bfloat16)
    frozen = [p for p in rounded.parameters() if not p.requires_grad]
    assert count == sum(p.numel() for p in frozen if p.dtype == torch.bfloat16) > 0.9 * sum(p.numel() for p in frozen)
    assert all(p.dtype == torch.float32 for p in rounded.parameters() if p.requires_grad)
    found = []
    for unet in (exact, rounded):
        with torch.autocast("cpu", torch.bfloat16):
            output = call(unet)
        found.append((output, gradients(output.float().square().mean(), [p for p in unet.parameters() if p.requires_grad])))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1]) and found[0][1].abs().max() > 0


@pytest.mark.parametrize("gradient", ["central", "one_sided", "paired"])
def test_compiled_blocks_keep_the_gradients_the_names_and_the_hooks(gradient):
    """The backend traces and runs what it traced; what a code generator rounds otherwise is not of interest here."""

    def one(compiled):
        unet = lora_unet()
        names, seen = list(unet.state_dict()), []
        if compiled:
            assert compile_blocks(unet.mid_block.attentions[0], backend="aot_eager") == 1  # to compile all takes long
        block = unet.mid_block.attentions[0].transformer_blocks[0]
        block.register_forward_hook(lambda *arguments: seen.append(1))
        regularizer = StepwiseVariation(gradient=gradient, difference=0.01).eval()
        trained = [p for p in unet.parameters() if p.requires_grad]
        denoise = lambda eps: (call(unet, eps),) * 2  # noqa: E731
        variation = regularizer(denoise, noise(2, 4, 8, 8), torch.ones(2), torch.zeros(2), noise(2, 4, 8, 8, seed=3), trained)
        loss = variation.loss + variation.output.square().mean()
        assert list(unet.state_dict()) == names
        return gradients(loss, trained), len(seen)

    (plain, calls), (found, compiled_calls) = one(False), one(True)
    assert compiled_calls == calls > 0
    assert (found - plain).norm() < 1e-3 * plain.norm()


def test_a_compiled_block_takes_an_adapter_that_comes_later():
    unet, wanted = tiny_pipeline().unet, tiny_pipeline().unet
    assert compile_blocks(tiny_unet().mid_block) == 3  # attention between two residual blocks, compiled when first called
    compile_blocks(unet.mid_block.attentions[0], backend="eager")
    torch.testing.assert_close(call(unet), call(wanted))
    before = call(wanted)
    for network in (unet, wanted):
        torch.manual_seed(1)
        network.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    torch.testing.assert_close(call(unet), call(wanted))
    assert not torch.allclose(call(unet), before)


def test_a_network_without_blocks_is_refused():
    with pytest.raises(ValueError, match="network is Linear, but must have blocks to compile: BasicTransformerBlock, ResnetBlock2D"):
        compile_blocks(torch.nn.Linear(2, 2))


def test_null_text_inversion_in_half_precision_keeps_embeddings_and_losses_in_float32_and_finds_the_same():
    pipe = smooth_tiny_pipeline()
    fast = in_half_precision(pipe)
    assert fast.unet.module is pipe.unet and fast.unet.config is pipe.unet.config and fast.unet.dtype == torch.float32
    embeds, z0 = encode_prompts(pipe, ["a", "b"]), noise(2, 4, 8, 8)
    found = []
    for one in (pipe, fast):
        pivots = ddim_invert(one, z0, embeds, num_inference_steps=3)
        inversion = null_text_inversion(one, pivots, embeds, guidance_scale=3, num_inner_steps=3)
        again = sample(one, pivots[-1], embeds, null_embeds=inversion.null_embeds, guidance_scale=3, num_inference_steps=3, inverted=True)
        torch.testing.assert_close(again, inversion.latents, rtol=0, atol=1e-3)
        assert {t.dtype for t in (pivots, inversion.null_embeds, inversion.losses, inversion.latents)} == {torch.float32}
        found.append((pivots, inversion.latents))
    for exact, rounded in zip(*found, strict=True):
        error = (rounded - exact).norm() / exact.norm()
        assert 0 < error < 0.01
    assert not any(p.requires_grad for p in pipe.unet.parameters())


def test_a_pipeline_in_half_precision_already_is_refused():
    with pytest.raises(ValueError, match=r"pipe is in torch\.bfloat16, but must be in float32"):
        in_half_precision(tiny_pipeline(dtype=torch.bfloat16))
