"""Other base models: the views compute what diffusers' own pipelines compute, and the book's table says what really runs on which."""

import re

import numpy as np
import pytest
import torch
from base_procedures import IMAGES, RUNS, SOURCES
from diffusers import EDMDPMSolverMultistepScheduler, StableDiffusionXLInpaintPipeline
from peft import LoraConfig
from tiny import assert_one_sentence, noise
from tiny_bases import NAMES, network, pipeline, smooth

from companion.base.paths import ROOT
from smoothlib import (
    StepwiseVariation,
    ddim_invert,
    decode_latents,
    encode_images,
    encode_prompts,
    load_smooth_lora,
    regularized_loss,
    sample,
)
from smoothlib.bases.conditions import pack, unpack
from smoothlib.bases.flow import diffusion_scheduler, noise_levels
from smoothlib.bases.views import base_view

X = noise(2, 4, 8, 8, seed=1)
TABLE = re.findall(r"^\| ([^|]+) \| ((?:yes|no)[^|]*) \| (.+) \|$", (ROOT / "book" / "bases.md").read_text(encoding="utf-8"), re.MULTILINE)


def view(name):
    pipe = smooth(pipeline(name))
    return base_view(pipe, size=16) if name != "sd2" else base_view(pipe)


def patches(x):
    """FLUX's rows of 2 x 2 latents."""
    return x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).reshape(len(x), -1, 16)


# Parity with diffusers' own calls -------------------------------------------------------------------------------------------------


def assert_parity(seen, latents, expected):
    found = sample(seen, latents, encode_prompts(seen, ["a dog", "a red car"]), num_inference_steps=5, **expected[0])
    torch.testing.assert_close(found, expected[1], rtol=0, atol=2e-3)
    assert (found - latents).abs().max() > 0.1


def test_sdxl_samples_as_its_own_pipeline():
    seen = view("sdxl")
    arguments = dict(latents=X, num_inference_steps=5, guidance_scale=3.0, output_type="latent", height=16, width=16)
    assert_parity(seen, X, (dict(guidance_scale=3.0), seen.pipe(["a dog", "a red car"], **arguments).images))


def test_sd3_samples_as_its_own_pipeline():
    seen = view("sd3")
    arguments = dict(latents=X, num_inference_steps=5, guidance_scale=3.0, output_type="latent", height=16, width=16)
    images = seen.pipe(["a dog", "a red car"], sigmas=np.linspace(1, 1 / 5, 5), **arguments).images
    assert_parity(seen, X, (dict(guidance_scale=3.0), images))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_flux_samples_as_its_own_pipeline(guidance):
    seen = view("flux")
    arguments = dict(latents=patches(X), num_inference_steps=5, guidance_scale=3.5, output_type="latent", height=16, width=16)
    arguments |= dict(negative_prompt=["", ""], true_cfg_scale=guidance) if guidance != 1 else {}
    packed = seen.pipe(["a dog", "a red car"], **arguments).images
    images = seen.pipe._unpack_latents(packed, 16, 16, seen.pipe.vae_scale_factor)
    assert torch.equal(patches(images), packed)
    assert_parity(seen, X, (dict(guidance_scale=guidance), images))


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_shifted_latents_are_the_pipelines(name):
    seen = view(name)
    z = encode_images(seen, IMAGES)
    config, vae = seen.pipe.vae.config, seen.pipe.vae
    torch.testing.assert_close(z, (vae.encode(IMAGES).latent_dist.mode() - config.shift_factor) * config.scaling_factor)
    torch.testing.assert_close(
        decode_latents(seen, z), vae.decode(z / config.scaling_factor + config.shift_factor).sample.clamp(-1, 1), atol=1e-5, rtol=0
    )


# Flow matching as diffusion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_the_schedules_levels_are_the_flows(name):
    scheduler = pipeline(name).scheduler
    sigmas = noise_levels(scheduler, 16)
    alpha_bar = diffusion_scheduler(sigmas).alphas_cumprod.double()
    torch.testing.assert_close((1 - alpha_bar).sqrt() / (alpha_bar.sqrt() + (1 - alpha_bar).sqrt()), sigmas, rtol=0, atol=1e-3)
    torch.testing.assert_close(alpha_bar, (1 - sigmas) ** 2 / ((1 - sigmas) ** 2 + sigmas**2), rtol=0, atol=1e-6)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 10, 10), mu=0.5 + (1.15 - 0.5) * (16 - 256) / (4096 - 256))
    torch.testing.assert_close(sigmas[99::100].flip(0).float(), scheduler.sigmas[:-1], rtol=0, atol=2e-4)


def test_inversion_of_a_flow_is_eulers_way_back():
    """x' = x + (sigma' - sigma) u(x, sigma'), the velocity asked at the upper end of the step, as the noise is for diffusion."""
    seen = view("sd3")
    embeds, z = encode_prompts(seen, SOURCES), X
    pivots = ddim_invert(seen, z, embeds, num_inference_steps=5)
    sigmas = noise_levels(seen.pipe.scheduler, 16).float()[[199, 399, 599, 799, 999]]
    tokens, added = unpack(embeds, seen.trained.sizes)
    for low, high, pivot in zip([0, *sigmas[:-1]], sigmas, pivots[1:], strict=True):
        n_low, n_high = (((1 - s) ** 2 + s**2) ** 0.5 for s in (low, high))
        asked = z * n_high / n_low  # the network sees a sample of the level that it is asked at
        u = seen.pipe.transformer(asked, tokens, added["pooled_projections"], (1000 * high).expand(2)).sample
        eps = asked + (1 - high) * u  # of the denoiser at that level; x0_hat is what leaves the sample z
        z = (1 - high) / (1 - low) * (z - low * eps) + high * eps
        torch.testing.assert_close(pivot * n_high, z, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_inverted_is_sampled_again(name):
    """Up to the error of finite steps, which smaller ones lessen."""
    seen = view(name)
    z0, embeds = encode_images(seen, IMAGES), encode_prompts(seen, SOURCES)
    missed = []
    for steps in (5, 20):
        pivots = ddim_invert(seen, z0, embeds, num_inference_steps=steps)
        back = sample(seen, pivots[-1], embeds, guidance_scale=1.0, num_inference_steps=steps, inverted=True)
        missed.append((back - z0).square().mean().sqrt())
    assert missed[1] < 0.8 * missed[0] and (pivots[-1] - z0).abs().max() > 0.05


# Conditions and training ----------------------------------------------------------------------------------------------------------


def test_conditions_come_back_and_are_not_optimised():
    embeds, pooled, sizes = noise(2, 5, 4), noise(2, 6, seed=1), noise(2, 3, seed=2)
    packed = pack(embeds, {"pooled": pooled, "sizes": sizes}).requires_grad_()
    tokens, added = unpack(packed, {"pooled": 6, "sizes": 3})
    assert torch.equal(tokens, embeds) and torch.equal(added["pooled"], pooled) and torch.equal(added["sizes"], sizes)
    (gradient,) = torch.autograd.grad(tokens.sum(), packed)
    assert torch.equal(gradient, torch.cat([torch.ones(2, 5, 4), torch.zeros(2, 3, 4)], dim=1))
    assert not added["pooled"].requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_a_lora_is_trained_with_the_regularizer(name):
    seen = view(name)
    inner = network(seen if name == "sd2" else seen.pipe)
    torch.manual_seed(1)  # the LoRA's first weights
    inner.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights="gaussian"))
    trained = [parameter for parameter in inner.parameters() if parameter.requires_grad]
    asked, scheduler = (inner, seen.scheduler) if name == "sd2" else (seen.trained, seen.trained_scheduler)
    z0, embeds = encode_images(seen, IMAGES), encode_prompts(seen, SOURCES)
    optimizer, regularizer = torch.optim.SGD(trained, lr=0.1), StepwiseVariation(difference=0.01)
    draws = dict(eps=noise(2, 4, 8, 8, seed=3), timesteps=torch.tensor([400, 700]), direction_noise=noise(2, 4, 8, 8, seed=4))
    losses = []
    for _ in range(3):
        found = regularized_loss(asked, z0, embeds, scheduler, regularizer, draws=draws)
        found.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(found.base.item())
    assert losses[2] < losses[0] and found.variation.r.min() > 0
    if name in ("sd3", "flux"):  # the target is the velocity at the levels of its own schedule
        sigma = scheduler.sigmas[draws["timesteps"]].reshape(-1, 1, 1, 1)
        inner.disable_adapters()
        x_t = (1 - sigma) * z0 + sigma * draws["eps"]
        output = seen.trained(x_t, scheduler.timesteps[draws["timesteps"]], embeds)[0]
        torch.testing.assert_close(losses[0], float((output - draws["eps"] + z0).square().mean()), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_saved_adapter_acts_in_another_view(name, tmp_path):
    pipe, fresh = smooth(pipeline(name)), view(name)
    layers = ["to_q", "to_k", "to_v", "to_out.0"]
    network(pipe).add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=layers, init_lora_weights=False))
    network(pipe).save_lora_adapter(tmp_path)

    def sampled(seen):
        return sample(seen, X, encode_prompts(seen, SOURCES), guidance_scale=1.0, num_inference_steps=2)

    before, expected = sampled(fresh), sampled(base_view(pipe, size=16))
    load_smooth_lora({"unet": network(fresh.pipe)}, tmp_path / "pytorch_lora_weights.safetensors", "mine")
    assert torch.equal(sampled(fresh), expected) and not torch.equal(before, expected)


# The table ------------------------------------------------------------------------------------------------------------------------


def outcome(name, run):
    try:
        run(view(name))
    except (TypeError, ValueError) as error:
        assert "\n" not in str(error) and len(str(error)) < 450
        return f"no: {error}"
    return "yes"


@pytest.mark.filterwarnings("ignore:num_inference_steps is")
@pytest.mark.parametrize("procedure", RUNS)
def test_the_books_table_says_what_runs_on_which_base(procedure):
    (cells,) = [[first, *rest.split(" | ")] for title, first, rest in TABLE if title.strip("`") == procedure]
    found = [outcome(name, RUNS[procedure]) for name in NAMES]
    assert [cell.split(" ")[0] for cell in cells] == [told.partition(":")[0] for told in found]
    page = " ".join((ROOT / "book" / "bases.md").read_text(encoding="utf-8").split())
    sentences = [re.sub(r"(is|holds a) \w+,", r"\1 ...,", told.removeprefix("no: "), count=1) for told in found if told != "yes"]
    assert all(sentence in page for sentence in sentences)


def test_the_books_table_has_no_other_rows():
    assert [title.strip("`") for title, *_ in TABLE] == list(RUNS)


# Refusals -------------------------------------------------------------------------------------------------------------------------


def refused(error, match, pipe, **arguments):
    with pytest.raises(error, match=match) as raised:
        base_view(pipe, **arguments)
    assert_one_sentence(raised)


def test_what_cannot_be_shown_as_a_base_is_refused_by_name():
    xl, sd3, flux = (pipeline(name) for name in NAMES[1:])
    parts = {name: part for name, part in xl.components.items() if part is not None}
    inpainting = StableDiffusionXLInpaintPipeline(**parts, add_watermarker=False)
    refused(TypeError, "pipe is StableDiffusionXLInpaintPipeline, but must be a StableDiffusionPipeline, StableDiffusionXL", inpainting)
    refused(ValueError, "size is 15 x 16, but must be multiples of 2 for StableDiffusionXLPipeline", xl, size=(15, 16))
    refused(ValueError, "size is 18 x 18, but must be multiples of 4 for FluxPipeline", flux, size=18)
    xl.scheduler = EDMDPMSolverMultistepScheduler()
    refused(ValueError, "scheduler is EDMDPMSolverMultistepScheduler.*, but must have DDIM's kind of noise schedule", xl, size=16)
    sd3.scheduler = type(sd3.scheduler).from_config(sd3.scheduler.config, use_karras_sigmas=True)
    refused(ValueError, "scheduler has use_karras_sigmas True, but must have none", sd3, size=16)
    sd3.scheduler = pipeline("sdxl").scheduler
    refused(ValueError, "scheduler is DDIMScheduler, but must be a FlowMatchEulerDiscreteScheduler", sd3, size=16)
    flux.transformer.register_to_config(in_channels=32)
    refused(ValueError, "takes 32 channels, but must take the latent's 16 alone", flux, size=16)


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_pipeline_that_is_not_shown_as_a_base_is_refused(name):
    pipe = pipeline(name)
    for use in (
        lambda: encode_prompts(pipe, ["a dog"]),
        lambda: encode_images(pipe, IMAGES),
        lambda: decode_latents(pipe, X),
        lambda: sample(pipe, X, X, guidance_scale=1.0),
        lambda: ddim_invert(pipe, X, X),
    ):
        with pytest.raises(
            (TypeError, ValueError), match=type(pipe).__name__ + ", but must be a Stable|FlowMatch.* but must have DDIM's"
        ) as raised:
            use()
        assert_one_sentence(raised)


def test_odd_latents_are_refused_before_the_transformer_drops_a_row():
    for name in ("sd3", "flux"):
        seen = view(name)
        with pytest.raises(ValueError, match="latents have sides 7 x 8, but must have multiples of 2 for") as raised:
            sample(seen, noise(1, 4, 7, 8), encode_prompts(seen, ["a dog"]), guidance_scale=1.0, num_inference_steps=2)
        assert_one_sentence(raised)
