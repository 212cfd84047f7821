"""Prompt-to-Prompt: what is replaced is the source's, what is not is the plain network's, and the ends of its range are known results."""

import doctest
from dataclasses import replace

import pytest
import torch
from attention_cases import GUIDANCE, STEPS, interrupted, mini_case, nothing_is_left, tiny_case
from diffusers.models.attention_processor import AttnProcessor2_0
from tiny import counted_calls

from smoothlib.editing import local_blend, prompt_to_prompt, token_alignment
from smoothlib.editing.attention import sites
from smoothlib.editing.inversions import Inversion, invert, source_branch
from smoothlib.editing.layers import coarse_self
from smoothlib.editing.local_blend import LocalBlend
from smoothlib.editing.prompt_to_prompt import PromptToPrompt, _Control, edit
from smoothlib.sampling import encode_prompts, sample

NONE = PromptToPrompt(cross_replace=0, self_replace=0, guidance_scale=GUIDANCE, num_inference_steps=STEPS)
ALL = replace(NONE, cross_replace=1, self_replace=1)
PUBLISHED = replace(NONE, cross_replace=0.8, self_replace=0.5)


@pytest.fixture(scope="module", params=[mini_case, tiny_case], ids=["mini", "tiny"])
def case(request):
    return request.param()


@pytest.fixture(scope="module")
def inverted(case):
    kinds = {"ddim": Inversion("ddim"), "null_text": Inversion("null_text", num_inner_steps=1), "direct": Inversion("direct")}
    shared = dict(guidance_scale=GUIDANCE, num_inference_steps=STEPS)
    return {kind: invert(case.pipe, case.images, list(case.source), inversion, **shared) for kind, inversion in kinds.items()}


def latents(case, inversion, settings, target=None):
    return edit(case.pipe, case.images, list(case.source), list(target or case.target), inversion=inversion, settings=settings).latents


@pytest.mark.parametrize("kind", ["ddim", "null_text"])
def test_without_replacing_it_is_plain_sampling(case, inverted, kind):
    found = inverted[kind]
    shared = dict(guidance_scale=GUIDANCE, num_inference_steps=STEPS, null_embeds=found.null_embeds, inverted=True)
    plain = sample(case.pipe, found.pivots[-1], encode_prompts(case.pipe, list(case.target)), **shared)
    assert torch.equal(latents(case, found, NONE), plain)
    # the first maps are replaced while 1/T of the steps lasts
    assert not torch.allclose(latents(case, found, replace(NONE, cross_replace=1 / STEPS)), plain, atol=1e-3)
    assert torch.equal(latents(case, found, replace(NONE, cross_replace=0.9 / STEPS)), plain)


@pytest.mark.parametrize("settings", [ALL, PUBLISHED, NONE], ids=["all", "published", "none"])
@pytest.mark.parametrize("kind", ["ddim", "null_text"])
def test_equal_prompts_give_the_reconstruction(case, inverted, kind, settings):
    (*_, reconstruction) = source_branch(case.pipe, inverted[kind])
    assert torch.allclose(latents(case, inverted[kind], settings, case.source), reconstruction, atol=1e-4)


def test_maps_that_are_replaced_are_the_sources(case, inverted, monkeypatch):
    seen = {"cross": 0, "self": 0}
    plain_map, plain_change = _Control.change_map, _Control.change

    def read_map(control, site, p):
        out = plain_map(control, site, p)
        assert torch.equal(out[:-2], p[:-2])  # the null half and the source itself
        for b in range(2):
            source, target, own = out[-4 + b], out[-2 + b], p[-2 + b]  # (heads, N, L)
            expected = source @ control.matrix[b, 0]
            taken = control.shared[b, 0, 0] == 1
            assert torch.allclose(target[..., taken], expected[..., taken], atol=1e-6)
            assert torch.equal(target[..., ~taken], own[..., ~taken])
            single = taken & (control.matrix[b, 0].max(0).values == 1) & (control.matrix[b, 0].sum(0) == 1)
            rows = control.matrix[b, 0].argmax(0)
            assert torch.equal(target[..., single], source[..., rows[single]]) and single.sum() > 3
        seen["cross"] += 1
        return out

    def read_change(control, site, q, k, v):
        new_q, new_k, new_v = plain_change(control, site, q, k, v)
        assert new_v is v and torch.equal(new_q[-2:], q[-4:-2]) and torch.equal(new_k[-2:], k[-4:-2])
        assert torch.equal(new_q[:-2], q[:-2]) and torch.equal(new_k[:-2], k[:-2]) and not torch.equal(new_q[-2:], q[-2:])
        seen["self"] += 1
        return new_q, new_k, new_v

    monkeypatch.setattr(_Control, "change_map", read_map)
    monkeypatch.setattr(_Control, "change", read_change)
    latents(case, inverted["ddim"], PUBLISHED)
    pairs = len(sites(case.pipe.unet)) // 2
    assert seen == {"cross": 4 * pairs, "self": 2 * len(coarse_self(case.pipe.unet))}  # .8 and .5 of 5 steps, rounded down


def test_direct_inversion_keeps_the_source_on_its_pivots(case, inverted, monkeypatch):
    """Offsets are the source's alone: what stays on the pivots gives maps, and the target gets no offset."""
    rows = []
    unet = case.pipe.unet
    hook = unet.register_forward_pre_hook(lambda module, arguments: rows.append(arguments[0]))
    try:
        with_offsets = latents(case, inverted["direct"], ALL)
    finally:
        hook.remove()
    for i, x in enumerate(rows):
        assert torch.allclose(x[:2], inverted["direct"].pivots[STEPS - i], atol=1e-4)
    assert torch.equal(latents(case, inverted["direct"], NONE), latents(case, inverted["ddim"], NONE))
    assert not torch.allclose(with_offsets, latents(case, inverted["ddim"], ALL), atol=1e-4)


def test_a_batch_is_its_images_one_by_one(case, inverted):
    settings = replace(PUBLISHED, blend_words="changed")
    together = latents(case, Inversion("ddim"), settings)
    for b in range(2):
        prompts = [case.source[b]], [case.target[b]]
        alone = edit(case.pipe, case.images[b : b + 1], *prompts, inversion=Inversion("ddim"), settings=settings).latents
        assert torch.allclose(alone, together[b : b + 1], atol=1e-3)


def test_the_equalizer_multiplies_the_maps_of_its_words(case, inverted, monkeypatch):
    word = case.target[0].split()[0]
    same, none = (replace(PUBLISHED, equalizer={word: weight}) for weight in (1, 0))
    assert torch.equal(latents(case, inverted["ddim"], same), latents(case, inverted["ddim"], PUBLISHED))
    assert none.equalizer == ((word, 0),) and hash(none)
    maps = []
    plain = _Control.change_map
    monkeypatch.setattr(_Control, "change_map", lambda control, site, p: maps.append(plain(control, site, p)) or maps[-1])
    target = [case.target[0]] * 2
    other = latents(case, inverted["ddim"], none, target)
    assert all(not p[-2:, :, :, 1].any() and p[:-2, :, :, 1].all() for p in maps)
    assert not torch.allclose(other, latents(case, inverted["ddim"], PUBLISHED, target), atol=1e-4)


def test_the_local_blend_keeps_the_source_elsewhere(case, inverted):
    (*_, source) = source_branch(case.pipe, inverted["ddim"])
    blend = replace(NONE, blend_words="changed", blend_start=0)
    masks = []

    class Kept(LocalBlend):
        def mask(self, height, width):
            masks.append(super().mask(height, width))
            return masks[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompt_to_prompt, "LocalBlend", Kept)
        edited = latents(case, inverted["ddim"], replace(blend, blend_threshold=0.9))
    mask = masks[-1].expand_as(edited).bool()
    assert len(masks) == STEPS and 0 < mask.float().mean() < 1
    difference = (edited - source).abs()
    assert difference[~mask].max() < 1e-3 < difference[mask].max()
    # no place is above the largest value, and where no word differs there is nothing to blend in
    assert torch.allclose(latents(case, inverted["ddim"], replace(blend, blend_threshold=1)), source, atol=1e-3)
    assert torch.allclose(latents(case, inverted["ddim"], blend, case.source), source, atol=1e-3)
    words = (case.target[0].split()[-1], case.target[1].split()[-1])
    with pytest.raises(ValueError, match=r"^blend_words has .* but must have words of the prompts, which "):
        latents(case, inverted["ddim"], replace(blend, blend_words=words))


def test_cost_is_counted(case, inverted):
    """The source's branch is evaluated in four of five steps: 4 x 4 + 2, and 5 for the inversion."""
    arguments = dict(inversion=Inversion("ddim"), settings=PUBLISHED)
    assert edit(case.pipe, case.images, *case.prompts(), **arguments).evaluations == 5 + 18
    assert edit(case.pipe, case.images, *case.prompts(), inversion=inverted["ddim"], settings=PUBLISHED).evaluations == 18
    arguments["settings"] = replace(PUBLISHED, guidance_scale=1.0)
    assert edit(case.pipe, case.images, *case.prompts(), **arguments).evaluations == 5 + 9
    arguments["settings"] = replace(PUBLISHED, blend_words="changed")
    assert edit(case.pipe, case.images, *case.prompts(), **arguments).evaluations == 5 + 20


def test_nothing_stays_behind_after_an_interruption(case):
    arguments = dict(inversion=Inversion("ddim"), settings=replace(PUBLISHED, blend_words="changed"))
    with pytest.raises(KeyboardInterrupt):
        edit(case.pipe, case.images, *case.prompts(), progress=interrupted(STEPS), **arguments)
    assert nothing_is_left(case.pipe.unet)


def test_untouched_attentions_stay_fused(case, inverted):
    coarse = {site.module for site in coarse_self(case.pipe.unet)}
    kinds = []

    def progress(indices):
        for i in indices:
            kinds.extend(type(site.module.processor) for site in sites(case.pipe.unet) if site.kind == "self" and site.module not in coarse)
            yield i

    edit(case.pipe, case.images, *case.prompts(), inversion=inverted["ddim"], settings=PUBLISHED, progress=progress)
    assert set(kinds) <= {AttnProcessor2_0} and nothing_is_left(case.pipe.unet)


def test_a_lora_acts_fused_or_not():
    case = mini_case(adapter="smooth")
    arguments = dict(inversion=Inversion("ddim"), settings=PUBLISHED)
    apart = edit(case.pipe, case.images, *case.prompts(), **arguments).latents
    case.pipe.fuse_lora()
    case.pipe.unload_lora_weights()
    fused = edit(case.pipe, case.images, *case.prompts(), **arguments).latents
    assert torch.allclose(apart, fused, atol=1e-4)
    assert not torch.allclose(apart, latents(mini_case(), Inversion("ddim"), PUBLISHED), atol=1e-3)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"cross_replace": 1.5}, "cross_replace is 1.5, but must be a number from 0 to 1"),
        ({"self_replace": -1}, "self_replace is -1, but must be a number from 0 to 1"),
        ({"self_side": 2}, "self_side is 2, but must be a number from 0 to 1"),
        ({"kind": "swap"}, "kind is 'swap', but must be one of auto, replace, refine"),
        ({"equalizer": {"a": float("nan")}}, "equalizer of 'a' is nan, but must be a finite number"),
        ({"blend_words": "sofa"}, "blend_words is 'sofa', but must be 'changed', a tuple of words or None"),
        ({"blend_words": ()}, "blend_words is (), but must have at least one word, or be None for no local blend"),
        ({"blend_threshold": "x"}, "blend_threshold is 'x', but must be a number from 0 to 1"),
    ],
)
def test_settings_out_of_range_are_refused(setting, sentence):
    with pytest.raises(ValueError) as raised:
        replace(PUBLISHED, **setting)
    assert str(raised.value) == sentence


@pytest.mark.parametrize(
    ("setting", "inversion", "start"),
    [
        ({"kind": "replace"}, Inversion("ddim"), "kind is 'replace', but must be 'refine' or 'auto' for "),
        ({"equalizer": {"zebra": 2}}, Inversion("ddim"), "equalizer has the word 'zebra', but must have words of every target prompt"),
        ({"blend_words": ("zebra",)}, Inversion("ddim"), "blend_words has 'zebra', but must have words of the prompts"),
        ({}, Inversion("own"), "inversion is of the kind 'own', but must be "),
    ],
)
def test_what_cannot_be_edited_is_refused_before_any_work(case, setting, inversion, start):
    with counted_calls(case.pipe) as calls, pytest.raises(ValueError) as raised:
        edit(case.pipe, case.images, *case.prompts(), inversion=inversion, settings=replace(PUBLISHED, **setting))
    assert str(raised.value).startswith(start) and "\n" not in str(raised.value) and not calls


@pytest.mark.parametrize("module", [prompt_to_prompt, local_blend, token_alignment])
def test_the_examples_run(module):
    failed, tried = doctest.testmod(module)
    assert tried and not failed
