"""The prompt switch (Eq. 15): both ends of the ratio, equal prompts, each inversion, and its count of evaluations."""

import pytest
import torch
from editing_cases import GUIDANCE, IMAGES, SOURCE, TARGET, T, mini, pipe64, scenes

from smoothlib.diffusion import ddim_scheduler, set_timesteps
from smoothlib.editing.inversions import Inversion, invert, source_branch
from smoothlib.editing.prompt_switch import PromptSwitch, edit
from smoothlib.sampling import decode_latents, encode_prompts, predict_noise, sample

KINDS = ("ddim", "null_text", "direct", "fixed_point")
SETTINGS = dict(guidance_scale=GUIDANCE, num_inference_steps=T)


@pytest.fixture(scope="module")
def inverted():
    """Of each kind, for the three images."""
    return {kind: invert(pipe64(), IMAGES, SOURCE, Inversion(kind, num_inner_steps=2), **SETTINGS) for kind in KINDS}


def switched(inversion, ratio, images=IMAGES, source=SOURCE, target=TARGET):
    return edit(pipe64(), images, source, target, inversion=inversion, settings=PromptSwitch(ratio, **SETTINGS))


@pytest.mark.parametrize("kind", KINDS)
def test_ratio_0_is_the_reconstruction(inverted, kind):
    """The tolerance is float64's rounding; direct inversion's reconstruction is z0 itself."""
    *_, z0 = source_branch(pipe64(), inverted[kind])
    edited = switched(inverted[kind], 0.0)
    torch.testing.assert_close(edited.latents, z0, rtol=0, atol=1e-10)
    torch.testing.assert_close(edited.images, decode_latents(pipe64(), z0), rtol=0, atol=1e-6)
    if kind == "direct":
        assert torch.equal(edited.latents, inverted[kind].pivots[0])


@pytest.mark.parametrize("kind", KINDS)
def test_ratio_1_samples_the_target_from_the_inverted_noise(inverted, kind):
    found = inverted[kind]
    z0 = sample(pipe64(), found.pivots[-1], encode_prompts(pipe64(), TARGET), null_embeds=found.null_embeds, **SETTINGS)
    edited = switched(found, 1.0)
    assert torch.equal(edited.latents, z0) and edited.evaluations == 2 * T
    assert edited.images.shape == IMAGES.shape and edited.images.dtype == torch.float32


@pytest.mark.parametrize("kind", ["ddim", "null_text", "fixed_point"])
@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_equal_prompts_give_the_reconstruction_at_every_ratio(inverted, kind, ratio):
    *_, z0 = source_branch(pipe64(), inverted[kind])
    torch.testing.assert_close(switched(inverted[kind], ratio, target=SOURCE).latents, z0, rtol=0, atol=1e-10)


def test_a_converged_inversion_gives_the_image_back_for_equal_prompts():
    """Fixed-point inversion at the guidance of sampling: z0, to the iteration's remainder (see test_inversions)."""
    inversion = Inversion("fixed_point", num_iterations=40, inversion_guidance_scale=GUIDANCE)
    found = invert(pipe64(), IMAGES, SOURCE, inversion, **SETTINGS)
    torch.testing.assert_close(switched(found, 0.5, target=SOURCE).latents, found.pivots[0], rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ratio, source_steps", [(0.25, 3), (0.5, 2), (0.7, 2), (0.75, 1)])
def test_the_switch_is_equation_15_written_out(inverted, kind, ratio, source_steps):
    """The source's null embeddings stay, and direct inversion's offsets are added under the source prompt alone."""
    pipe, found = pipe64(), inverted[kind]
    scheduler, plain = ddim_scheduler(pipe), encode_prompts(pipe, [""] * 3)
    source, target = encode_prompts(pipe, SOURCE), encode_prompts(pipe, TARGET)
    z = found.pivots[-1]
    for i, t in enumerate(set_timesteps(scheduler, T)):
        null = plain if found.null_embeds is None else found.null_embeds[i]
        eps = predict_noise(pipe.unet, z, t, source if i < source_steps else target, null, GUIDANCE)
        z = scheduler.step(eps, t, z).prev_sample
        if found.offsets is not None and i < source_steps:
            z = z + found.offsets[i]
    torch.testing.assert_close(switched(found, ratio).latents, z, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_equals_one_image_at_a_time(inverted, kind):
    together = switched(inverted[kind], 0.5)
    for b in range(3):
        one = slice(b, b + 1)
        alone = switched(inverted[kind].inversion, 0.5, IMAGES[one], SOURCE[one], TARGET[one])
        torch.testing.assert_close(alone.latents[0], together.latents[b], rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind, made_here", [("ddim", T), ("direct", 3 * T), ("fixed_point", 5 * T)])
@pytest.mark.parametrize("ratio, target_steps", [(0.0, 0), (0.5, 2), (1.0, T)])
def test_evaluations_are_counted_with_the_inversion_when_it_is_made_here(inverted, kind, made_here, ratio, target_steps):
    sampling = 2 * (target_steps if kind == "direct" else T)
    assert switched(inverted[kind], ratio).evaluations == sampling
    assert switched(Inversion(kind), ratio).evaluations == sampling + made_here


def test_it_works_on_scenes_and_stays_nearer_to_the_source_at_smaller_ratios():
    images, captions = scenes()
    found = invert(mini(), images, captions, Inversion("direct"), guidance_scale=3.0, num_inference_steps=5)
    target = [caption.replace("a photo", "an oil painting") + ", at night" for caption in captions]
    far = []
    for ratio in (0.2, 1.0):
        settings = PromptSwitch(ratio, guidance_scale=3.0, num_inference_steps=5)
        edited = edit(mini(), images, captions, target, inversion=found, settings=settings)
        far.append((edited.latents - found.pivots[0]).square().mean((1, 2, 3)))
    assert (far[0] < far[1]).all() and (far[0] > 0).all()


def test_progress_is_the_callers():
    seen = []

    def progress(steps):
        for i in steps:
            yield i
            seen.append(i)

    settings = PromptSwitch(0.5, **SETTINGS)
    edit(pipe64(), IMAGES, SOURCE, TARGET, inversion=Inversion("ddim"), settings=settings, progress=progress)
    assert seen == [*range(T)] * 2


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(ratio=1.2), "ratio is 1.2, but must be a number from 0 to 1"),
        (dict(ratio=float("nan")), "ratio is nan, but must be a number from 0 to 1"),
        (dict(guidance_scale=float("inf")), "guidance_scale is inf, but must be a finite number"),
        (dict(num_inference_steps=0), "num_inference_steps is 0, but must be a whole number of at least 1"),
        (dict(num_inference_steps=True), "num_inference_steps is True, but must be a whole number of at least 1"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PromptSwitch(**options)
