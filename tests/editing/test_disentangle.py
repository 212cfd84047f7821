"""Disentanglement: the identities, gradients written out, batches, counts, refusals."""

from functools import cache

import pytest
import torch
from edit_cases import SOURCES, TARGETS, assert_batch_equals_one_at_a_time, assert_refused, fail_at, pictures, seeded
from tiny import counted_calls, noise, smooth_tiny_pipeline

from companion.weights.pipelines import load_pipeline
from smoothlib.editing.disentangle import Disentangle, edit
from smoothlib.editing.inversions import Inversion, invert
from smoothlib.editing.judges import directional_alignment
from smoothlib.sampling import encode_images, encode_prompts, sample

OWN, T, GUIDANCE = Inversion("own"), 6, 3.0


@cache
def tiny(dtype=torch.float32):
    return smooth_tiny_pipeline(dtype)


def brighter(images, source_prompts, target_prompts, reconstructions):
    """A judge that wants more of a fixed pattern; steep, so that Adam's epsilon is nothing beside its gradients."""
    return 1000 * (reconstructions - images).mul(noise(1, *images.shape[1:], dtype=images.dtype)).mean(dim=(1, 2, 3))


def distance(a, b):
    return (a - b).square().mean(dim=(1, 2, 3))


def run(pipe, which=slice(None), targets=TARGETS, inversion=OWN, alignment=brighter, **settings):
    images = pictures(dtype=pipe.unet.dtype)[which]
    settings = Disentangle(**{"num_inference_steps": T, "guidance_scale": GUIDANCE, "epochs": 2, **settings})
    judges = dict(alignment=alignment, perceptual=distance)
    generator = seeded(3)[which]
    return edit(pipe, images, SOURCES[which], targets[which], inversion=inversion, settings=settings, generator=generator, **judges)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("kind", ["own", "ddim", "null_text"])
def test_the_same_prompt_with_all_residuals_gives_the_image_back(dtype, tolerance, kind):
    """The mixture of two equal embeddings is that embedding, but for rounding, and each residual leads to the next latent by definition."""
    pipe, inversion = tiny(dtype), Inversion(kind, num_inner_steps=1)
    edited = run(pipe, targets=SOURCES, inversion=inversion, residual_share=1, epochs=1)
    z0 = encode_images(pipe, pictures(dtype=dtype))
    torch.testing.assert_close(edited.latents, z0, rtol=0, atol=tolerance)


def test_the_same_prompt_gives_the_reconstruction_on_the_embedded_model():
    """After two thirds of the steps, the residuals' last latent is the pivot, and plain sampling goes on from there."""
    pipe, prompts = load_pipeline("mini"), ["a photo of a red sofa", "a photo of a dog"]
    images = pictures(2, 64)
    shared = dict(guidance_scale=GUIDANCE, num_inference_steps=T)
    inverted = invert(pipe, images, prompts, Inversion("ddim"), **shared)
    expected = sample(pipe, inverted.pivots[2], inverted.prompt_embeds, first_step=4, inverted=True, **shared)
    judges = dict(alignment=brighter, perceptual=distance)
    edited = edit(pipe, images, prompts, prompts, inversion=inverted, settings=Disentangle(**shared, epochs=1), **judges)
    torch.testing.assert_close(edited.latents, expected, rtol=0, atol=1e-4)  # rounding, passed on by six guided steps


def test_without_epochs_the_chain_is_a_switch_of_prompts():
    """With no residuals and w = 1 in the first two of six steps: Eq. 15 at r = 2/3."""
    pipe = tiny(torch.float64)
    inverted = invert(pipe, pictures(dtype=torch.float64), SOURCES, Inversion("ddim"), guidance_scale=GUIDANCE, num_inference_steps=T)
    source, target = encode_prompts(pipe, SOURCES), encode_prompts(pipe, TARGETS)
    arguments = dict(guidance_scale=GUIDANCE, num_inference_steps=T, inverted=True)
    expected = sample(pipe, inverted.pivots[-1], lambda i: source if i < 2 else target, **arguments)
    edited = run(pipe, inversion=inverted, epochs=0, residual_share=0)
    torch.testing.assert_close(edited.latents, expected, rtol=0, atol=1e-6)  # the scheduler's levels are float32


def test_one_epoch_moves_the_weights_against_the_gradient_of_the_whole_chain():
    """Adam's first step has length lr and the gradient's sign, found here by differences of whole edits."""
    pipe, lr, h = tiny(torch.float64), 0.5, 1e-4
    shared = dict(guidance_scale=GUIDANCE, num_inference_steps=T)
    inverted = invert(pipe, pictures(dtype=torch.float64)[:1], SOURCES[:1], Inversion("ddim"), **shared)
    source, target = encode_prompts(pipe, SOURCES[:1]), encode_prompts(pipe, TARGETS[:1])

    def chain(weights):
        embeds = torch.stack([w * source + (1 - w) * target for w in weights])
        return sample(pipe, inverted.pivots[-1], embeds, inverted=True, **shared)

    def loss(weights):
        with torch.no_grad():
            images, before = (
                pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample.clamp(-1, 1) for z in (chain(weights), chain([1] * T))
            )
        return (brighter(images, None, None, before) + 0.05 * distance(images, before)).item()

    start = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    moved = []
    for i, w in enumerate(start):
        up, down = ([*start[:i], w + change, *start[i + 1 :]] for change in (h, -h))
        slope = loss(up) - loss(down)
        assert abs(slope) > 1e-7
        moved.append(w - lr * (1 if slope > 0 else -1))
    edited = run(pipe, slice(1), inversion=inverted, epochs=1, residual_share=0, lr=lr)
    torch.testing.assert_close(edited.latents, chain(moved), rtol=0, atol=2e-5)
    assert (chain(moved) - chain(start)).abs().max() > 1e-3


def test_more_epochs_bring_the_judges_loss_down():
    pipe, losses = tiny(), []

    def watched(*arguments):
        loss = brighter(*arguments)
        losses.append(loss.detach().sum().item())
        return loss

    run(pipe, alignment=watched, epochs=6, perceptual_weight=0)
    first, *_, last = losses[1:]  # the first call only tries the judge
    assert len(losses) == 7 and last < first


def test_a_batch_equals_its_images_one_at_a_time():
    assert_batch_equals_one_at_a_time(lambda which: run(tiny(torch.float64), which), tolerance=1e-9)


def test_evaluations_are_counted():
    """The steps that are computed again on the way back are counted too."""
    with counted_calls(tiny()) as calls:
        edited = run(tiny(), epochs=3)
    assert calls == [6] * (2 * T + 2 * 3 * T + T) and edited.evaluations == 2 * T * (1 + 1 + 2 * 3 + 1)
    assert run(tiny(), inversion=Inversion("ddim"), guidance_scale=1, epochs=0).evaluations == 3 * T


@pytest.mark.parametrize("call", [0, T, 2 * T, 3 * T])
def test_all_is_restored_after_an_exception(monkeypatch, call):
    pipe = smooth_tiny_pipeline()
    for module in (pipe.unet.conv_in, pipe.vae.decoder):
        module.requires_grad_(True)
    with monkeypatch.context() as patch:
        fail_at(pipe.unet, patch, call)
        with pytest.raises(KeyboardInterrupt):
            run(pipe)
    assert pipe.unet.conv_in.weight.requires_grad and all(p.requires_grad for p in pipe.vae.decoder.parameters())
    assert not pipe.unet._forward_pre_hooks and all(p.grad is None for p in pipe.unet.parameters())


def test_directional_alignment_measures_the_angle_of_two_changes():
    table = {"a": [1.0, 0.0], "b": [1.0, 2.0], "c": [3.0, 0.0]}
    judge = directional_alignment(lambda images: images[:, :2, 0, 0], lambda prompts: torch.tensor([table[prompt] for prompt in prompts]))
    before = torch.zeros(3, 3, 4, 4)
    after = before + torch.tensor([0.0, 0.5, 0.0])[:, None, None]
    torch.testing.assert_close(judge(after, ["a", "a", "b"], ["b", "c", "a"], before), torch.tensor([0.0, 1.0, 2.0]))
    assert judge(after, ["a"] * 3, ["a"] * 3, before).tolist() == [1, 1, 1]  # equal prompts have no direction
    flat = directional_alignment(lambda images: images.mean(dim=(2, 3)), lambda prompts: torch.ones(len(prompts), 3))
    assert run(tiny(), targets=SOURCES, alignment=flat).latents.isfinite().all()


def test_a_loss_that_is_not_finite_names_the_epoch_and_the_image():
    calls = []

    def broken(images, *_):
        calls.append(1)
        return images.mean(dim=(1, 2, 3)) + torch.tensor([0, float("nan") if len(calls) == 3 else 0, 0])

    with pytest.raises(RuntimeError, match="loss is not finite at epoch 1 of 2, image 1 of the batch"):
        run(tiny(), alignment=broken)


def test_bad_settings_are_refused_in_one_sentence():
    for settings, match in [
        (dict(epochs=-1), "epochs is -1, but must be a whole number of at least 0"),
        (dict(lr=float("inf")), "lr is inf, but must be"),
        (dict(perceptual_weight=-0.1), "perceptual_weight is -0.1, but must be"),
        (dict(source_share=1.5), "source_share is 1.5, but must be a number from 0 to 1"),
        (dict(residual_share=-1), "residual_share is -1, but must be a number from 0 to 1"),
    ]:
        with pytest.raises(ValueError, match=match):
            Disentangle(**settings)


def test_bad_input_is_refused_before_the_network_runs():
    pipe = tiny()
    good = dict(inversion=OWN, settings=Disentangle(num_inference_steps=T), generator=seeded(3), alignment=brighter, perceptual=distance)

    def refused(match, **changed):
        assert_refused(pipe, lambda: edit(pipe, pictures(), SOURCES, TARGETS, **{**good, **changed}), match)

    refused("generator is None, but must be given: disentangle's own inversion draws noise", generator=None)
    refused("inversion is of the kind 'edict', but must be 'own' or", inversion=Inversion("edict"))
    refused("alignment is a str, but must be a function that gives a loss per image", alignment="clip")
    refused(r"perceptual gives \(\), but must give a tensor of shape \(3,\), a loss per image", perceptual=lambda a, b: (a - b).mean())
