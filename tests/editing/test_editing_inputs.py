"""Bad input is one sentence before the denoising network is evaluated, whichever method it is given to."""

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from editing_cases import GUIDANCE, IMAGES, SOURCE, TARGET, T, generators, pipe64
from tiny import assert_one_sentence, counted_calls, noise, tiny_pipeline

from smoothlib import editing
from smoothlib.editing import prompt_switch, sdedit
from smoothlib.editing.edited import counted
from smoothlib.editing.inputs import image_noise
from smoothlib.editing.inversions import Inversion, invert
from smoothlib.editing.prompt_switch import PromptSwitch
from smoothlib.editing.sdedit import SDEdit
from smoothlib.sampling import encode_prompts, predict_noise

SETTINGS = dict(guidance_scale=GUIDANCE, num_inference_steps=T)
CALLS = {
    "invert": lambda pipe, images, source, target, **rest: invert(pipe, images, source, Inversion("direct"), **SETTINGS),
    "prompt_switch": lambda *given, **rest: prompt_switch.edit(*given, settings=PromptSwitch(**SETTINGS), **rest),
    "sdedit": lambda *given, **rest: sdedit.edit(*given, settings=SDEdit(**SETTINGS), **rest),
}
INVERSIONS = {"invert": None, "prompt_switch": Inversion("ddim"), "sdedit": Inversion("own")}
NAN = IMAGES.clone()
NAN[1, 0, 0, 0] = float("nan")


def refused(call, message, pipe=None, images=IMAGES, source=SOURCE, target=TARGET, **rest):
    pipe = pipe or pipe64()
    rest = {"inversion": INVERSIONS[call]} | rest
    with counted_calls(pipe) as calls, pytest.raises(ValueError, match=message) as raised:
        CALLS[call](pipe, images, source, target, **rest)
    assert calls == []
    assert_one_sentence(raised)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "change, message",
    [
        (dict(images=IMAGES.numpy()), "images is a ndarray, but must be a tensor"),
        (dict(images=IMAGES[0]), r"images must have shape \(B, 3, H, W\), not \(3, 16, 16\)"),
        (dict(images=IMAGES[:0]), "images must have shape"),
        (dict(images=IMAGES[..., :15]), r"images must have a height and width divisible by 2, not \(16, 15\)"),
        (dict(images=127.5 * (IMAGES + 1)), r"images must be floating-point in \[-1, 1\]"),
        (dict(images=NAN), r"images must be floating-point in \[-1, 1\], not torch.float32 from nan to nan"),
        (dict(source="a red car"), "source_prompts is 'a red car', but must be a list of strings, one per image"),
        (dict(source=["a", "b", None]), "source_prompts is .* but must be a list of strings"),
        (dict(source=["a", "b"]), "source_prompts has 2 prompts, but must have 3, one per image"),
        (dict(source=["a", "b", "x" * 15]), "source_prompts has 17 tokens in prompt 2, but at most 16 are read"),
    ],
)
def test_images_and_prompts(call, change, message):
    refused(call, message, **change)


@pytest.mark.parametrize("call", ["prompt_switch", "sdedit"])
@pytest.mark.parametrize(
    "change, message",
    [
        (dict(target=TARGET[:2]), "target_prompts has 2 prompts, but must have 3, one per image"),
        (dict(target=["a", "x" * 20, "b"]), "target_prompts has 22 tokens in prompt 1, but at most 16 are read"),
        (dict(generator=7), "generator is a int, but must be a torch.Generator or a list of them, one per image"),
        (dict(generator=generators(2)), "generator has 2 generators, but must have 3, one per image"),
        (dict(inversion="ddim"), "inversion is of the type str, but must be an Inversion or an Inverted"),
        (dict(inversion=Inversion("edict")), "inversion is of the kind 'edict', but must be '"),
    ],
)
def test_targets_generators_and_kinds(call, change, message):
    refused(call, message, **change)


def test_a_method_says_which_inversions_it_takes():
    refused("sdedit", "inversion is of the kind 'ddim', but must be 'own' for sdedit", inversion=Inversion("ddim"))
    others = "'ddim' or 'null_text' or 'direct' or 'fixed_point'"
    refused("prompt_switch", f"inversion is of the kind 'own', but must be {others} for prompt_switch", inversion=Inversion("own"))


def test_null_text_inversion_needs_guidance_and_full_precision():
    with counted_calls(pipe64()) as calls, pytest.raises(ValueError, match="guidance_scale must differ from 1"):
        invert(pipe64(), IMAGES, SOURCE, Inversion("null_text"), guidance_scale=1.0, num_inference_steps=T)
    with pytest.raises(ValueError, match="num_inference_steps must be an integer from 1 to 1000, not 1001"):
        invert(pipe64(), IMAGES, SOURCE, Inversion("ddim"), guidance_scale=3.0, num_inference_steps=1001)
    assert calls == []


@pytest.mark.parametrize("call", CALLS)
def test_the_scheduler_must_be_ddims_with_the_conventions_of_inversion(call):
    pipe = tiny_pipeline()
    config = pipe.scheduler.config
    pipe.scheduler = EulerDiscreteScheduler.from_config(config)
    refused(call, "scheduler is EulerDiscreteScheduler, but must be DDIM's for an edit", pipe)
    pipe.scheduler = DDIMScheduler.from_config(config, steps_offset=0)
    refused(call, "scheduler has steps_offset 0, but must have 1 for an edit", pipe)


@pytest.fixture(scope="module")
def inverted():
    return invert(pipe64(), IMAGES, SOURCE, Inversion("direct"), **SETTINGS)


def edit_with(inverted, images=IMAGES, source=SOURCE, target=TARGET, **settings):
    return prompt_switch.edit(pipe64(), images, source, target, inversion=inverted, settings=PromptSwitch(**(SETTINGS | settings)))


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(num_inference_steps=5), "inverted has 4 steps, but must belong to this edit, which has 5"),
        (dict(guidance_scale=2.0), "inverted was made for guidance_scale 3, but must belong to this edit, which has 2"),
        (
            dict(images=IMAGES[:2], source=SOURCE[:2], target=TARGET[:2]),
            "inverted holds 3 images, but must belong to this edit, which has 2",
        ),
        (dict(images=IMAGES[[0, 2, 1]]), "inverted was made for another image at index 1|at index 2"),
        (dict(images=noise(3, 3, 32, 16).clamp(-1, 1)), "inverted was made for another size of image"),
        (dict(source=["a red car", "a bus", "two cats"]), "inverted was made for another source prompt at index 1"),
    ],
)
def test_what_was_inverted_for_something_else_is_refused(inverted, change, message):
    with counted_calls(pipe64()) as calls, pytest.raises(ValueError, match=message) as raised:
        edit_with(inverted, **change)
    assert calls == []
    assert_one_sentence(raised)


def test_images_that_differ_by_a_bits_rounding_are_the_same(inverted):
    """Encoded alone or in a batch, on another device: far less than between two images."""
    torch.testing.assert_close(edit_with(inverted, IMAGES + 1e-6 * noise(*IMAGES.shape)).latents, edit_with(inverted).latents)


def test_each_image_draws_its_own_noise():
    like = torch.zeros(3, 4, 8, 8)
    together = image_noise(generators(), like)
    assert all(torch.equal(image_noise(one, like[:1])[0], together[b]) for b, one in enumerate(generators()))
    in_turn = image_noise(torch.Generator().manual_seed(0), like)
    assert torch.equal(in_turn[0], together[0]) and not torch.equal(in_turn[1], together[1])


def test_the_counter_adds_the_size_of_every_batch_and_is_removed_after_an_error():
    pipe, x = pipe64(), torch.zeros(2, 4, 8, 8, dtype=torch.float64)
    embeds = encode_prompts(pipe, ["a"]).expand(2, -1, -1)
    with counted(pipe.unet) as outer:
        with pytest.raises(KeyError), counted(pipe.unet) as inner:
            predict_noise(pipe.unet, x, 5, embeds, embeds, 2.0)
            raise KeyError
        pipe.unet(sample=x, timestep=5, encoder_hidden_states=embeds)
    predict_noise(pipe.unet, x, 5, embeds)
    assert (inner.total, outer.total, outer.per_image(2)) == (4, 6, 3.0)


def test_methods_are_found_by_name_and_load_late():
    assert len(editing.METHODS) == 8 and "prompt_to_prompt" in editing.METHODS and "drag" not in editing.METHODS
    assert editing.METHODS["sdedit"] is sdedit and editing.settings_class("prompt_switch") is PromptSwitch
    with pytest.raises(ValueError, match="method is 'nothing', but must be one of prompt_switch, sdedit, "):
        editing.settings_class("nothing")
