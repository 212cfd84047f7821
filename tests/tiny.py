"""A seeded, random StableDiffusionPipeline of 250,000 parameters: the real classes at a size that runs in milliseconds.

Images are 16x16, latents (4, 8, 8), prompts at most 16 tokens of one letter each. Nothing is trained; nothing is downloaded.
"""

import contextlib

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from companion.base import paths
from companion.weights.cards import write_card

IMAGE_SIZE = 16
LATENT_SHAPE = (4, 8, 8)
MAX_TOKENS = 16


def tiny_pipeline(seed: int = 0, dtype: torch.dtype = torch.float32) -> StableDiffusionPipeline:
    """The whole pipeline with Stable Diffusion's scheduler settings; equal seeds give equal weights."""
    with _seeded(seed):
        pipe = StableDiffusionPipeline(
            vae=tiny_vae(),
            text_encoder=tiny_text_encoder(),
            tokenizer=tiny_tokenizer(),
            unet=tiny_unet(),
            scheduler=sd_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    for module in (pipe.vae, pipe.text_encoder, pipe.unet):
        module.eval().requires_grad_(False)
        if dtype != torch.float32:  # diffusers warns about every cast
            module.to(dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def smooth_tiny_pipeline(dtype: torch.dtype = torch.float32) -> StableDiffusionPipeline:
    """An untrained network knows nothing of x_t; with its output shrunk it is smooth enough in x_t to be inverted."""
    pipe = tiny_pipeline(dtype=dtype)
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(0.03)
    return pipe


def sd_scheduler(**overrides) -> DDIMScheduler:
    """Stable Diffusion 1.5's noise schedule and DDIM conventions."""
    settings = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
    conventions = dict(steps_offset=1, set_alpha_to_one=False, clip_sample=False, prediction_type="epsilon")
    return DDIMScheduler(**{**settings, **conventions, **overrides})


def tiny_tokenizer() -> CLIPTokenizer:
    """Letters, digits and a space, each alone or ending a word, plus one merge so that BPE is exercised."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,'-"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters), "re", "red</w>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=[("r", "e"), ("re", "d</w>")], model_max_length=MAX_TOKENS)


def tiny_text_encoder() -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tiny_tokenizer()),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return CLIPTextModel(config)


def tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=LATENT_SHAPE[0],
        norm_num_groups=4,
        sample_size=IMAGE_SIZE,
        scaling_factor=0.7,
    )


def tiny_unet() -> UNet2DConditionModel:
    """Cross attention at 8x8 and a plain lowest level at 4x4 with attention in the middle, as in Stable Diffusion."""
    return UNet2DConditionModel(
        sample_size=LATENT_SHAPE[1],
        in_channels=LATENT_SHAPE[0],
        out_channels=LATENT_SHAPE[0],
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Seeded Gaussian noise."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@contextlib.contextmanager
def counted_calls(pipe):
    """Collects the batch sizes of the UNet calls made inside."""
    sizes = []
    hook = pipe.unet.register_forward_pre_hook(lambda module, arguments: sizes.append(len(arguments[0])))
    try:
        yield sizes
    finally:
        hook.remove()


def ship_tiny_pipeline(models, monkeypatch):
    """Make `models` the folder `data/models`, with the tiny pipeline in it as "mini", with its card; returns the pipeline's folder."""
    monkeypatch.setattr(paths, "MODELS", models)
    monkeypatch.setattr(paths, "ADAPTERS", models / "adapters")
    tiny_pipeline().save_pretrained(models / "mini")
    write_card(models / "mini", guidance_scale=3.0)
    return models / "mini"


def generate(pipe):
    """Two steps of the pipeline itself, as latents: equal where two pipelines compute the same."""
    settings = dict(num_inference_steps=2, guidance_scale=3.0, output_type="latent")
    return pipe(["a red car"], latents=noise(1, *LATENT_SHAPE), **settings).images


def assert_one_sentence(raised):
    """Of `pytest.raises(...) as raised`: the message is one line, and not a long one."""
    message = str(raised.value)
    assert "\n" not in message and len(message) < 450, message


@contextlib.contextmanager
def _seeded(seed: int):
    """Module initialisers draw from the global generator: seed it here and leave it as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def gradients(loss, parameters):
    """Of all parameters, end to end."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, retain_graph=True)])
