"""The hook mechanism: where attentions are, what a callable sees, what it may change, and that nothing stays behind."""

import doctest

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from tiny import LATENT_SHAPE, noise, tiny_pipeline

from companion.weights.pipelines import load_pipeline
from smoothlib.editing import attention
from smoothlib.editing.attention import attention_hooks, feature_hooks, sites


@pytest.fixture(scope="module")
def mini():
    return load_pipeline("mini")


@pytest.fixture(scope="module")
def tiny():
    return tiny_pipeline()


def places(unet):
    return [(site.kind, site.block, site.index, site.layer, site.factor) for site in sites(unet)]


def evaluate(pipe, batch=2):
    """The network at one timestep, (B, 4, h, w)."""
    size = pipe.unet.config.sample_size
    embeds = noise(batch, pipe.tokenizer.model_max_length, pipe.unet.config.cross_attention_dim, seed=1)
    with torch.no_grad():
        return pipe.unet(noise(batch, 4, size, size), 500, encoder_hidden_states=embeds).sample


def unchanged(site, *tensors):
    return tensors if len(tensors) > 1 else tensors[0]


def test_sites_are_found_by_place(mini, tiny):
    pairs = [("down", 0, 0, 1), ("down", 1, 0, 2), ("mid", 0, 0, 4), ("up", 1, 0, 2), ("up", 1, 1, 2), ("up", 2, 0, 1), ("up", 2, 1, 1)]
    assert places(mini.unet) == [(kind, *pair) for pair in pairs for kind in ("self", "cross")]
    pairs = [("down", 0, 0, 1), ("mid", 0, 0, 2), ("up", 1, 0, 1), ("up", 1, 1, 1)]
    assert places(tiny.unet) == [(kind, *pair) for pair in pairs for kind in ("self", "cross")]
    assert [site.order for site in sites(mini.unet)] == list(range(14))


def test_sites_of_stable_diffusion():
    """The published layer choices are those of this UNet: 16 transformers, the coarsest in the middle."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    down = [("down", block, layer, 2**block) for block in range(3) for layer in range(2)]
    up = [("up", block, layer, 2 ** (3 - block)) for block in range(1, 4) for layer in range(3)]
    assert places(unet) == [(kind, *place) for place in [*down, ("mid", 0, 0, 8), *up] for kind in ("self", "cross")]


@pytest.mark.parametrize("size", [(16, 16), (10, 14), (16, 7)])
def test_the_sites_run_in_their_order_on_their_grid(mini, size):
    seen = []

    def read(site, q, k, v):
        seen.append((site.order, q.shape[2], k.shape[2]))
        return q, k, v

    embeds = noise(1, 24, 192)
    with torch.no_grad(), attention_hooks(sites(mini.unet), change=read):
        mini.unet(noise(1, 4, *size), 500, encoder_hidden_states=embeds)
    expected = []
    for site in sites(mini.unet):
        height, width = site.grid(*size)
        expected.append((site.order, height * width, height * width if site.kind == "self" else 24))
    assert seen == expected


@pytest.mark.parametrize("pipe_name", ["mini", "tiny"])
def test_what_is_not_changed_is_the_same(pipe_name, request):
    pipe = request.getfixturevalue(pipe_name)
    plain = evaluate(pipe)
    with attention_hooks(sites(pipe.unet), change=unchanged):  # the same fused attention
        assert torch.equal(evaluate(pipe), plain)
    with attention_hooks(sites(pipe.unet), change_map=unchanged):
        assert torch.allclose(evaluate(pipe), plain, atol=1e-5)
    with attention_hooks(sites(pipe.unet), change_map=lambda site, p: p * 0, active=lambda site: False):
        assert torch.equal(evaluate(pipe), plain)
    with attention_hooks(sites(pipe.unet), change_map=lambda site, p: p * 0, active=lambda site: site.order == 3):
        assert not torch.allclose(evaluate(pipe), plain, atol=1e-3)


def test_maps_are_softmax_of_queries_and_keys(tiny):
    seen = {}

    def read(site, q, k, v):
        seen[site.order] = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)
        return q, k, v

    def compare(site, p):
        assert torch.allclose(p, seen[site.order], atol=1e-6) and torch.allclose(p.sum(-1), torch.ones(()), atol=1e-5)
        return p

    with attention_hooks(sites(tiny.unet), change=read, change_map=compare):
        evaluate(tiny)
    assert len(seen) == 8


def test_keys_and_values_may_have_more_tokens(tiny):
    """Twice the same keys and values are the same attention."""
    chosen = [site for site in sites(tiny.unet) if site.kind == "self"]
    with attention_hooks(chosen, change=lambda site, q, k, v: (q, torch.cat([k, k], dim=2), torch.cat([v, v], dim=2))):
        doubled = evaluate(tiny)
    assert torch.allclose(doubled, evaluate(tiny), atol=1e-5)


def test_gradients_flow_through_the_maps(tiny):
    x = noise(1, *LATENT_SHAPE).requires_grad_()
    maps = []
    with attention_hooks([sites(tiny.unet)[-1]], change_map=lambda site, p: maps.append(p) or p):
        tiny.unet(x, 500, encoder_hidden_states=noise(1, 16, 16))
    maps[0].square().sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() > 0


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, RuntimeError])
def test_everything_is_put_back(tiny, error):
    plain, processors = evaluate(tiny), tiny.unet.attn_processors
    own = {site.module: AttnProcessor() for site in sites(tiny.unet)[:2]}
    for module, processor in own.items():
        module.set_processor(processor)
    resnet = tiny.unet.up_blocks[1].resnets[1]

    def fail(site, q, k, v):
        if error is not None and site.order == 4:
            raise error
        return q, k, v

    try:
        with attention_hooks(sites(tiny.unet), change=fail), feature_hooks([resnet], lambda module, output: output * 2):
            evaluate(tiny)
        assert error is None
    except (KeyboardInterrupt, RuntimeError):
        assert error is not None
    assert all(module.processor is processor for module, processor in own.items())
    assert not resnet._forward_hooks
    tiny.unet.set_attn_processor(dict(processors))
    assert torch.equal(evaluate(tiny), plain)


def test_other_sites_keep_the_fused_attention(mini):
    chosen = [site for site in sites(mini.unet) if site.kind == "cross" and site.block == "up"]
    with attention_hooks(chosen, change_map=unchanged):
        kinds = [type(site.module.processor) for site in sites(mini.unet)]
        assert kinds.count(AttnProcessor2_0) == 14 - len(chosen) == 10
    assert all(type(site.module.processor) is AttnProcessor2_0 for site in sites(mini.unet))


def test_features_are_read_and_replaced(tiny):
    resnet, read = tiny.unet.up_blocks[1].resnets[1], []
    plain = evaluate(tiny)
    with feature_hooks([resnet, resnet], lambda module, output: read.append(output)):
        assert torch.equal(evaluate(tiny), plain)
    assert [output.shape for output in read] == [(2, 16, 8, 8)]
    with feature_hooks([tiny.unet.conv_out], lambda module, output: output[:1].expand_as(output)):
        assert torch.equal(evaluate(tiny), plain[:1].expand_as(plain))


def test_what_cannot_be_hooked_is_refused(tiny):
    class Own(AttnProcessor2_0):
        pass

    chosen = sites(tiny.unet)
    with pytest.raises(ValueError, match=r"^change and change_map are None, but one of them must be a callable$"):
        with attention_hooks(chosen):
            pass
    with pytest.raises(ValueError, match=r"^chosen has one attention twice, but must have each once$"):
        with attention_hooks([chosen[0], chosen[0]], change=unchanged):
            pass
    with attention_hooks(chosen[:1], change=unchanged):
        with pytest.raises(ValueError, match=r"^self attention 0 of down block 0 is hooked already"):
            with attention_hooks(sites(tiny.unet), change=unchanged):
                pass
    chosen[1].module.set_processor(Own())
    with pytest.raises(ValueError, match=r"^cross attention 0 of down block 0 has the processor Own, but must have a plain one: "):
        with attention_hooks(chosen, change=unchanged):
            pass
    chosen[1].module.set_processor(AttnProcessor2_0())
    assert all(type(site.module.processor) is AttnProcessor2_0 for site in chosen)
    with pytest.raises(ValueError, match=r"^unet is a AutoencoderKL without down_blocks, but must be a UNet of down"):
        sites(tiny.vae)


def test_the_examples_run():
    failed, tried = doctest.testmod(attention)
    assert tried >= 10 and not failed
