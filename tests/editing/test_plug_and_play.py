"""Plug-and-Play: what is injected is the source's, and the ends of its range are known results."""

import doctest
from dataclasses import replace

import pytest
import torch
from attention_cases import GUIDANCE, STEPS, interrupted, mini_case, nothing_is_left, tiny_case
from diffusers.models.attention_processor import AttnProcessor2_0
from tiny import counted_calls

from smoothlib.diffusion import ddim_scheduler, set_timesteps
from smoothlib.editing import layers, plug_and_play
from smoothlib.editing.attention import sites
from smoothlib.editing.inversions import Inversion, invert
from smoothlib.editing.layers import decoder_self
from smoothlib.editing.plug_and_play import PlugAndPlay, _Injection, edit
from smoothlib.sampling import encode_prompts, sample

NONE = PlugAndPlay(feature_injection=0, attention_injection=0, guidance_scale=GUIDANCE, num_inference_steps=STEPS)
ALL = replace(NONE, feature_injection=1, attention_injection=1)
PUBLISHED = replace(NONE, feature_injection=0.8, attention_injection=0.5)
SHARED = dict(guidance_scale=GUIDANCE, num_inference_steps=STEPS)


@pytest.fixture(scope="module", params=[mini_case, tiny_case], ids=["mini", "tiny"])
def case(request):
    return request.param()


@pytest.fixture(scope="module")
def inverted(case):
    return invert(case.pipe, case.images, list(case.source), Inversion("ddim"), **SHARED)


def latents(case, inversion, settings):
    return edit(case.pipe, case.images, *case.prompts(), inversion=inversion, settings=settings).latents


def test_without_injection_it_is_plain_sampling(case, inverted):
    target, negative = encode_prompts(case.pipe, list(case.target)), encode_prompts(case.pipe, ["red"])
    plain = sample(case.pipe, inverted.pivots[-1], target, inverted=True, **SHARED)
    assert torch.equal(latents(case, inverted, NONE), plain)
    plain = sample(case.pipe, inverted.pivots[-1], target, null_embeds=negative, inverted=True, **SHARED)
    assert torch.equal(latents(case, inverted, replace(NONE, negative_prompt="red")), plain)
    for settings in (replace(NONE, feature_injection=1 / STEPS), replace(NONE, attention_injection=1 / STEPS)):
        assert not torch.allclose(latents(case, inverted, settings), latents(case, inverted, NONE), atol=1e-4)


def test_null_embeddings_of_the_inversion_are_used(case):
    found = invert(case.pipe, case.images, list(case.source), Inversion("null_text", num_inner_steps=1), **SHARED)
    arguments = dict(null_embeds=found.null_embeds, inverted=True, **SHARED)
    plain = sample(case.pipe, found.pivots[-1], encode_prompts(case.pipe, list(case.target)), **arguments)
    assert torch.equal(latents(case, found, NONE), plain)


def test_full_injection_returns_the_source(case, inverted, monkeypatch):
    """Where all of the network's output is the source's, each step is that of the source at its pivot, whatever the target says."""
    monkeypatch.setattr(plug_and_play, "injected_modules", lambda unet: [unet.conv_out])
    scheduler = ddim_scheduler(case.pipe)
    z = inverted.pivots[-1]
    for i, t in enumerate(set_timesteps(scheduler, STEPS)):
        with torch.no_grad():
            e = case.pipe.unet(inverted.pivots[STEPS - i], t, encoder_hidden_states=inverted.prompt_embeds).sample
        z = scheduler.step(e, t, z).prev_sample
    edited = latents(case, inverted, ALL)
    assert torch.allclose(edited, z, atol=1e-4)
    half = latents(case, inverted, replace(ALL, feature_injection=0.5))
    assert (edited - inverted.pivots[0]).norm() < 0.5 * (half - inverted.pivots[0]).norm()


def test_a_target_that_says_what_the_source_says_returns_the_source(case):
    """Fixed-point inversion comes back along its pivots, and guidance between equal prompts does nothing."""
    prompt = case.source[0]
    inversion = Inversion("fixed_point", num_iterations=20)
    arguments = dict(inversion=inversion, settings=replace(ALL, negative_prompt=prompt))
    found = invert(case.pipe, case.images, [prompt] * 2, inversion, **SHARED)
    edited = edit(case.pipe, case.images, [prompt] * 2, [prompt] * 2, **arguments | {"inversion": found}).latents
    assert torch.allclose(edited, found.pivots[0], atol=2e-2)


def test_what_is_injected_is_the_sources(case, inverted, monkeypatch):
    seen = {"features": 0, "attention": 0}
    plain_features, plain_change = _Injection.features, _Injection.change

    def read_features(inject, module, output):
        new = plain_features(inject, module, output)
        if new is not None:
            assert all(torch.equal(rows, output[:2]) for rows in new.chunk(3)) and not torch.equal(output[:2], output[4:])
            seen["features"] += 1
        return new

    def read_change(inject, site, q, k, v):
        new_q, new_k, new_v = plain_change(inject, site, q, k, v)
        for new, old in ((new_q, q), (new_k, k)):
            assert all(torch.equal(rows, old[:2]) for rows in new.chunk(3))
        assert new_v is v
        seen["attention"] += 1
        return new_q, new_k, new_v

    monkeypatch.setattr(_Injection, "features", read_features)
    monkeypatch.setattr(_Injection, "change", read_change)
    latents(case, inverted, PUBLISHED)
    assert seen == {"features": 4, "attention": 2 * len(decoder_self(case.pipe.unet))}  # .8 and .5 of 5 steps, rounded down


def test_the_source_branch_lies_on_the_pivots(case, inverted):
    rows = []
    hook = case.pipe.unet.register_forward_pre_hook(lambda module, arguments: rows.append(arguments[0]))
    try:
        latents(case, inverted, ALL)
    finally:
        hook.remove()
    assert all(torch.equal(x[:2], inverted.pivots[STEPS - i]) for i, x in enumerate(rows)) and len(rows) == STEPS


def test_its_own_inversion_takes_the_empty_prompt(case, inverted):
    empty = invert(case.pipe, case.images, ["", ""], Inversion("ddim"), **SHARED)
    own = latents(case, Inversion("own"), PUBLISHED)
    assert torch.equal(own, latents(case, empty, PUBLISHED))
    assert not torch.allclose(own, latents(case, inverted, PUBLISHED), atol=1e-4)


def test_a_batch_is_its_images_one_by_one(case):
    together = latents(case, Inversion("own"), PUBLISHED)
    for b in range(2):
        arguments = dict(inversion=Inversion("own"), settings=PUBLISHED)
        alone = edit(case.pipe, case.images[b : b + 1], [case.source[b]], [case.target[b]], **arguments).latents
        assert torch.allclose(alone, together[b : b + 1], atol=1e-3)


def test_cost_is_counted(case, inverted):
    """The source is evaluated in four of five steps: 4 x 3 + 2, and 5 for the inversion."""
    arguments = dict(inversion=Inversion("own"), settings=PUBLISHED)
    assert edit(case.pipe, case.images, *case.prompts(), **arguments).evaluations == 5 + 14
    assert edit(case.pipe, case.images, *case.prompts(), inversion=inverted, settings=PUBLISHED).evaluations == 14
    arguments["settings"] = replace(PUBLISHED, guidance_scale=1.0)
    assert edit(case.pipe, case.images, *case.prompts(), **arguments).evaluations == 5 + 9


def test_nothing_stays_behind_after_an_interruption(case):
    with pytest.raises(KeyboardInterrupt):
        arguments = dict(inversion=Inversion("own"), settings=PUBLISHED)
        edit(case.pipe, case.images, *case.prompts(), progress=interrupted(STEPS), **arguments)
    assert nothing_is_left(case.pipe.unet)


def test_untouched_attentions_stay_fused(case, inverted):
    touched, kinds = {site.module for site in decoder_self(case.pipe.unet)}, []

    def progress(indices):
        for i in indices:
            kinds.extend(type(site.module.processor) for site in sites(case.pipe.unet) if site.module not in touched)
            yield i

    edit(case.pipe, case.images, *case.prompts(), inversion=inverted, settings=PUBLISHED, progress=progress)
    assert set(kinds) == {AttnProcessor2_0} and nothing_is_left(case.pipe.unet)


def test_a_lora_acts_fused_or_not():
    case = mini_case(adapter="smooth")
    apart = latents(case, Inversion("own"), PUBLISHED)
    case.pipe.fuse_lora()
    case.pipe.unload_lora_weights()
    assert torch.allclose(apart, latents(case, Inversion("own"), PUBLISHED), atol=1e-4)
    assert not torch.allclose(apart, latents(mini_case(), Inversion("own"), PUBLISHED), atol=1e-3)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"feature_injection": 1.5}, "feature_injection is 1.5, but must be a number from 0 to 1"),
        ({"attention_injection": None}, "attention_injection is None, but must be a number from 0 to 1"),
        ({"negative_prompt": None}, "negative_prompt is None, but must be a string"),
    ],
)
def test_settings_out_of_range_are_refused(setting, sentence):
    with pytest.raises(ValueError) as raised:
        replace(PUBLISHED, **setting)
    assert str(raised.value) == sentence


@pytest.mark.parametrize(
    ("setting", "inversion", "start"),
    [
        ({"negative_prompt": "a b c d e f g h i j k l m n o p q r s t u v w x y z"}, Inversion("own"), "negative_prompt has "),
        ({}, Inversion("edict"), "inversion is of the kind 'edict', but must be "),
    ],
)
def test_what_cannot_be_edited_is_refused_before_any_work(case, setting, inversion, start):
    with counted_calls(case.pipe) as calls, pytest.raises(ValueError) as raised:
        edit(case.pipe, case.images, *case.prompts(), inversion=inversion, settings=replace(PUBLISHED, **setting))
    assert str(raised.value).startswith(start) and "\n" not in str(raised.value) and not calls


@pytest.mark.parametrize("module", [plug_and_play, layers])
def test_the_examples_run(module):
    failed, tried = doctest.testmod(module)
    assert tried and not failed
