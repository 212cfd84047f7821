"""Seeded, random pipelines of other architectures, at a few thousand parameters: diffusers' own classes and schedules."""

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tiny import IMAGE_SIZE, _seeded, sd_scheduler, tiny_pipeline, tiny_tokenizer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel, T5TokenizerFast

NAMES = ("sd2", "sdxl", "sd3", "flux")


def pipeline(name):
    """One of `NAMES`; equal weights at each call, no trained ones."""
    with _seeded(3):
        pipe = {"sd2": _sd2, "sdxl": _sdxl, "sd3": _sd3, "flux": _flux}[name]()
    for module in pipe.components.values():
        if isinstance(module, torch.nn.Module):
            module.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def network(pipe):
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


def smooth(pipe, name="proj_out", by=0.03):
    """A random network shrunk to one that is smooth in its input, as a trained one is: then an inversion can be undone."""
    inner = network(pipe)
    layer = inner.conv_out if hasattr(inner, "conv_out") else inner.proj_out
    with torch.no_grad():
        layer.weight.mul_(by)
    return pipe


def vae(**settings):
    return AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=IMAGE_SIZE,
        scaling_factor=0.7,
        **settings,
    )


def clip(kind, width=16):
    config = CLIPTextConfig(
        vocab_size=len(tiny_tokenizer()),
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        projection_dim=8,
    )
    return kind(config)


def t5():
    letters = [(letter, -1.0) for letter in "abcdefghijklmnopqrstuvwxyz▁"]
    tokenizer = T5TokenizerFast(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters], extra_ids=0, model_max_length=32)
    sizes = dict(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return tokenizer, T5EncoderModel(T5Config(**sizes))


def _sd2():
    pipe = tiny_pipeline()
    pipe.scheduler = sd_scheduler(prediction_type="v_prediction")
    return pipe


def _sdxl():
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=4,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 8,
    )
    return StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=clip(CLIPTextModel),
        text_encoder_2=clip(CLIPTextModelWithProjection),
        tokenizer=tiny_tokenizer(),
        tokenizer_2=tiny_tokenizer(),
        unet=unet,
        scheduler=sd_scheduler(),
        add_watermarker=False,
    )


def _sd3():
    sizes = dict(num_layers=1, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=16)
    transformer = SD3Transformer2DModel(
        sample_size=8, in_channels=4, out_channels=4, pooled_projection_dim=16, pos_embed_max_size=8, **sizes
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(shift_factor=0.06),
        text_encoder=clip(CLIPTextModelWithProjection),
        tokenizer=tiny_tokenizer(),
        text_encoder_2=clip(CLIPTextModelWithProjection),
        tokenizer_2=tiny_tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )


def _flux():
    tokenizer, encoder = t5()
    sizes = dict(num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2, axes_dims_rope=(2, 2, 4))
    transformer = FluxTransformer2DModel(in_channels=16, joint_attention_dim=16, pooled_projection_dim=16, guidance_embeds=True, **sizes)
    return FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae(shift_factor=0.06),
        text_encoder=clip(CLIPTextModel),
        tokenizer=tiny_tokenizer(),
        text_encoder_2=encoder,
        tokenizer_2=tokenizer,
    )
