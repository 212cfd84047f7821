"""Dragging as a whole: nothing to do is the reconstruction, handles come nearer, masks hold, images do not meet, nothing stays behind."""

import pytest
import torch
from tiny import IMAGE_SIZE, LATENT_SHAPE, assert_one_sentence, counted_calls, noise, smooth_tiny_pipeline

from companion.data.load import load_pairs, to_tensor
from companion.weights.adapters import load_adapter
from companion.weights.pipelines import load_pipeline
from smoothlib.editing import drag as dragging
from smoothlib.editing import drag_optimisation
from smoothlib.editing.drag import Drag, ImageLoraSettings, check_drag, drag, image_generators, train_image_loras

PROMPTS = ["a red car", "two cats"]
IMAGES = noise(2, 3, IMAGE_SIZE, IMAGE_SIZE, seed=3).clamp(-1, 1)
HANDLES, TARGETS = [[(3.0, 4.0)], [(3.0, 4.0), (9.0, 6.0)]], [[(11.0, 9.0)], [(12.0, 4.0), (9.0, 13.0)]]
SHORT = Drag(num_inference_steps=4, iterations=3, reach=0.5)
WITHOUT = ImageLoraSettings(steps=0)


@pytest.fixture
def pipe():
    return smooth_tiny_pipeline()


@pytest.fixture(scope="module")
def mini():
    """The embedded model, and a pair whose object moves."""
    pair = load_pairs("drags")[1]
    case = dict(images=to_tensor(pair.source)[None], prompts=[pair.record["source_caption"]], masks=torch.from_numpy(pair.mask)[None])
    return load_pipeline("mini"), case | {name: [pair.record[name]] for name in ("handles", "targets")}


def test_handles_that_are_at_their_targets_leave_the_reconstruction(pipe):
    dragged = drag(pipe, IMAGES, PROMPTS, HANDLES, HANDLES, settings=SHORT, lora=WITHOUT)
    assert torch.allclose(dragged.images, dragged.reconstructions, atol=1e-5)
    assert dragged.iterations.tolist() == [0, 0] and not dragged.distances.any()


def test_handles_come_nearer_and_what_is_outside_the_mask_stays(mini):
    pipe, case = mini
    settings = Drag(num_inference_steps=20, iterations=24, lr=0.03, reach=1.0)
    said = []
    dragged = drag(pipe, **case, settings=settings, lora=WITHOUT, report=lambda i, left: said.append((i, left)))
    assert dragged.distances[-1] < 0.8 * dragged.distances[0]
    assert said == [(i, pytest.approx(left.item())) for i, left in enumerate(dragged.distances)]
    moved = (dragged.images - dragged.reconstructions).abs().mean(dim=1)
    outside, inside = moved[~case["masks"]].mean(), moved[case["masks"]].mean()
    free = drag(pipe, **(case | dict(masks=None)), settings=settings, lora=WITHOUT)
    assert outside < 0.25 * inside
    assert outside < 0.5 * (free.images - free.reconstructions).abs().mean(dim=1)[~case["masks"]].mean()


def test_images_of_a_batch_do_not_meet(pipe):
    """Other numbers of points, and one that arrives at once, so that it leaves the batch."""
    targets = [[(3.2, 4.0)], TARGETS[1]]
    masks = torch.ones(2, IMAGE_SIZE, IMAGE_SIZE).index_fill_(1, torch.tensor([15]), 0)
    lora = ImageLoraSettings(rank=2, steps=3, noises=2)
    together = drag(pipe, IMAGES, PROMPTS, HANDLES, targets, masks=masks, settings=SHORT, lora=lora, generator=image_generators(None, 2))
    assert together.iterations.tolist() == [0, SHORT.iterations]
    for b in range(2):
        one = slice(b, b + 1)
        generator = image_generators(None, 2)[one]
        arguments = dict(masks=masks[one], settings=SHORT, lora=lora, generator=generator)
        alone = drag(pipe, IMAGES[one], PROMPTS[one], HANDLES[one], targets[one], **arguments)
        assert torch.allclose(alone.images, together.images[one], atol=1e-4)
        assert torch.allclose(alone.distances[:, 0], together.distances[:, b], atol=1e-4)
        assert torch.allclose(alone.points[0], together.points[b, : len(HANDLES[b])], atol=1e-4)


def test_one_optimisation_gives_all_numbers_of_updates(pipe):
    points = dragging.drag_points(HANDLES, TARGETS, size=(IMAGE_SIZE, IMAGE_SIZE))
    embeds = dragging.encode_prompts(pipe, PROMPTS)
    z = noise(2, *LATENT_SHAPE)
    found = dragging.optimise(pipe, z, embeds, points, SHORT, keep=(0, 1))
    assert found.latents.keys() == {0, 1, 3} and torch.equal(found.latents[0], z)
    once = dragging.optimise(pipe, z, embeds, points, Drag(num_inference_steps=4, iterations=1, reach=0.5))
    assert torch.equal(found.latents[1], once.latents[1]) and torch.equal(found.distances[:2], once.distances)
    assert (found.latents[1] - z).abs().max() == pytest.approx(SHORT.lr, rel=1e-2)  # Adam's first step
    with pytest.raises(ValueError, match="keep has 4, but must have numbers from 0 to iterations = 3"):
        dragging.optimise(pipe, z, embeds, points, SHORT, keep=(4,))


def test_evaluations_are_those_of_every_step(pipe):
    with counted_calls(pipe) as calls:
        dragged = drag(pipe, IMAGES, PROMPTS, HANDLES, TARGETS, settings=SHORT, lora=ImageLoraSettings(rank=2, steps=2))
    up = SHORT.steps_up  # 3 of 4
    assert dragged.evaluations == sum(calls) / 2 == 2 * 4 + up + (SHORT.iterations + 1) + 2 * up


def test_the_edited_picture_sees_the_originals_keys_and_values(mini):
    """From other latents than the original's, it then is another picture than without the original beside it."""
    pipe, case = mini
    embeds, z = dragging.encode_prompts(pipe, case["prompts"]), [noise(1, 4, 16, 16, seed=seed) for seed in (1, 2)]
    first, second = dragging.denoise(pipe, z, embeds, SHORT)
    (alone,) = dragging.denoise(pipe, z[1:], embeds, SHORT)
    assert torch.allclose(first, dragging.denoise(pipe, z[:1], embeds, SHORT)[0], atol=1e-4)  # the original sees itself
    assert (second - alone).abs().max() > 0.05


@pytest.mark.parametrize("where", ["motion_loss", "sample", "ddim_invert"])
def test_the_network_is_as_before_after_an_exception(pipe, monkeypatch, where):
    def fail(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(drag_optimisation if where == "motion_loss" else dragging, where, fail)

    def state():
        hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in pipe.unet.modules()]
        return dict(pipe.unet.attn_processors), hooks, [p.requires_grad for p in pipe.unet.parameters()]

    before = state()
    with pytest.raises(KeyboardInterrupt):
        drag(pipe, IMAGES, PROMPTS, HANDLES, TARGETS, settings=SHORT, lora=ImageLoraSettings(rank=2, steps=1))
    assert state() == before


def test_a_smooth_lora_acts_and_one_that_is_switched_off_is_refused(mini):
    _, case = mini
    settings, own = Drag(num_inference_steps=4, iterations=2), ImageLoraSettings(rank=4, steps=2)
    pipe = load_pipeline("mini")
    base = drag(pipe, **case, settings=settings, lora=own).latents
    load_adapter(pipe, "smooth")
    stacked = drag(pipe, **case, settings=settings, lora=own).latents
    pipe.unet.disable_adapters()
    with pytest.raises(ValueError, match="pipe has adapters that are all switched off") as raised:
        drag(pipe, **case, settings=settings, lora=own)
    assert_one_sentence(raised)
    pipe.unet.enable_adapters()
    pipe.unet.fuse_lora()
    pipe.unet.unload_lora()
    fused = drag(pipe, **case, settings=settings, lora=own).latents
    assert torch.allclose(fused, stacked, atol=1e-2) and (stacked - base).abs().mean() > 10 * (fused - stacked).abs().mean()


def test_loras_of_other_images_are_refused(pipe):
    loras = train_image_loras(pipe, IMAGES, PROMPTS, ImageLoraSettings(rank=2, steps=1), generators=image_generators(None, 2))
    with pytest.raises(ValueError, match="lora holds the LoRAs of 2 images, but must have 1, one per image"):
        check_drag(pipe, loras, 1)


def test_points_are_checked_before_the_network_is_asked(pipe):
    with counted_calls(pipe) as calls, pytest.raises(ValueError, match="must lie in the picture"):
        drag(pipe, IMAGES, PROMPTS, [[(99, 1)], [(1, 1)]], TARGETS, settings=SHORT)
    assert not calls


@pytest.mark.parametrize(
    "wrong",
    [
        dict(iterations=-1),
        dict(num_inference_steps=1),
        dict(strength=1.2),
        dict(strength=0),
        dict(lr=0),
        dict(reach=float("nan")),
        dict(tracking_radius=0),
        dict(motion_radius=True),
        dict(mask_weight=-1),
        dict(lora_strength=float("inf")),
    ],
)
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*, but must be"):
        Drag(**wrong)


def test_published_number_of_steps():
    assert Drag().steps_up == 35
