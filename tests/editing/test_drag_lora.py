"""Each image's own LoRA: equal to PEFT's trained alone, added to a Smooth-LoRA, gone after use."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from tiny import IMAGE_SIZE, LATENT_SHAPE, noise, tiny_pipeline

from smoothlib.editing.image_lora import ImageLoraSettings, new_image_loras, train_image_loras
from smoothlib.lora import LORA_TARGET_MODULES
from smoothlib.sampling import encode_images, encode_prompts

PROMPTS = ["a red car", "two cats"]
IMAGES = noise(2, 3, IMAGE_SIZE, IMAGE_SIZE).clamp(-1, 1)
SETTINGS = ImageLoraSettings(rank=4, steps=12, noises=2)


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def output(pipe, images=2):
    with torch.no_grad():
        embeds = encode_prompts(pipe, PROMPTS[:images])
        return pipe.unet(noise(images, *LATENT_SHAPE, seed=5), 300, encoder_hidden_states=embeds).sample


@pytest.fixture(scope="module")
def trained():
    pipe = tiny_pipeline()
    return pipe, train_image_loras(pipe, IMAGES, PROMPTS, SETTINGS, generators=generators(1, 2))


def peft_trained(image, seed):
    """The same training written out for one image with PEFT's LoRA: pipeline and layer names -> (A, B)."""
    pipe, generator = tiny_pipeline(), torch.Generator().manual_seed(seed)
    start = new_image_loras(pipe.unet, SETTINGS.rank, [generator])
    config = LoraConfig(r=4, lora_alpha=4, init_lora_weights="gaussian", target_modules=list(LORA_TARGET_MODULES))
    inject_adapter_in_model(config, pipe.unet, adapter_name="own")
    for name, weight in start.down.items():
        pipe.unet.get_submodule(name).lora_A["own"].weight.data.copy_(weight[0])
    parameters = [weight for name, weight in pipe.unet.named_parameters() if "lora_" in name]
    optimizer = torch.optim.AdamW(parameters, lr=SETTINGS.lr, weight_decay=SETTINGS.weight_decay)
    z0, embeds = encode_images(pipe, IMAGES[image : image + 1]), encode_prompts(pipe, PROMPTS[image : image + 1])
    for _ in range(SETTINGS.steps):
        eps = torch.randn(SETTINGS.noises, *LATENT_SHAPE, generator=generator)
        t = torch.randint(1000, (SETTINGS.noises,), generator=generator)
        noisy = pipe.scheduler.add_noise(z0.expand_as(eps), eps, t)
        e = pipe.unet(noisy, t, encoder_hidden_states=embeds.expand(SETTINGS.noises, -1, -1)).sample
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(e, eps).backward()
        optimizer.step()
    layers = {name: pipe.unet.get_submodule(name) for name in start.down}
    return pipe, {name: (layer.lora_A["own"].weight, layer.lora_B["own"].weight) for name, layer in layers.items()}


@pytest.mark.parametrize("image", [0, 1])
def test_batched_equals_pefts_lora_trained_alone(trained, image):
    _, loras = trained
    pipe, alone = peft_trained(image, seed=image + 1)
    assert alone.keys() == loras.down.keys() and len(alone) == 4 * 2 * 4  # four transformers, two attentions each, four projections
    for name, (down, up) in alone.items():
        assert torch.allclose(loras.down[name][image], down, atol=1e-4) and torch.allclose(loras.up[name][image], up, atol=1e-4), name
    with loras.acting(trained[0].unet):
        batched = output(trained[0])
    assert torch.allclose(batched[image], output(pipe)[image], atol=1e-4)
    assert (batched[image] - output(trained[0])[image]).abs().max() > 1e-2


def test_strength_scales_what_is_added_and_copies_of_the_batch_get_their_images_own(trained):
    pipe, loras = trained
    before = output(pipe)
    with loras.acting(pipe.unet, 0.0):
        assert torch.equal(output(pipe), before)
    with loras.of([1]).acting(pipe.unet):
        only = output(pipe)
    with loras.acting(pipe.unet):
        both = output(pipe)
    assert torch.allclose(only[1], both[1], atol=1e-6) and not torch.allclose(only[0], both[0], atol=1e-3)
    assert torch.equal(output(pipe), before)


def test_a_smooth_lora_acts_beside_it(trained):
    """As PEFT's adapter or fused into the weights: the sum is the same, and neither part is lost."""
    pipe, (_, loras) = tiny_pipeline(), trained
    config = LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=list(LORA_TARGET_MODULES))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe.unet.add_adapter(config, "smooth")
    smooth = output(pipe)
    with loras.acting(pipe.unet):
        stacked = output(pipe)
    with loras.acting(trained[0].unet):
        own = output(trained[0])
    assert all((stacked - other).abs().max() > 1e-2 for other in (smooth, own))
    pipe.unet.fuse_lora()
    pipe.unet.unload_lora()
    with loras.acting(pipe.unet):
        assert torch.allclose(output(pipe), stacked, atol=1e-5)
    again = train_image_loras(pipe, IMAGES, PROMPTS, SETTINGS, generators=generators(1, 2))
    assert any(not torch.allclose(again.up[name], loras.up[name], atol=1e-5) for name in loras.up)  # it is trained on top of it


def test_nothing_stays_after_an_exception(trained):
    pipe, loras = trained
    before, flags = output(pipe), [p.requires_grad for p in pipe.unet.parameters()]
    with pytest.raises(KeyboardInterrupt), loras.acting(pipe.unet):
        raise KeyboardInterrupt

    def stop(steps):
        yield 0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_image_loras(pipe, IMAGES, PROMPTS, SETTINGS, generators=generators(1, 2), progress=stop)
    assert torch.equal(output(pipe), before) and [p.requires_grad for p in pipe.unet.parameters()] == flags


@pytest.mark.parametrize("wrong", [dict(rank=0), dict(steps=-1), dict(noises=1.5), dict(lr=0), dict(weight_decay=float("nan"))])
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*, but must be"):
        ImageLoraSettings(**wrong)


def test_a_lora_that_does_not_act_is_an_error():
    pipe = tiny_pipeline()
    pipe.unet.conv_out.weight.data.zero_()  # no gradient comes through
    with pytest.raises(RuntimeError, match="the LoRA of image 0 has weights of size 0 in "):
        train_image_loras(pipe, IMAGES, PROMPTS, SETTINGS, generators=generators(1, 2))
