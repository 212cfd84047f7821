"""A pipeline as one file in the layout of the first releases (CompVis), written from the layout's own numbering of blocks."""

import re

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
MIDDLE = {"resnets.0": "middle_block.0", "attentions.0": "middle_block.1", "resnets.1": "middle_block.2"}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def renamed(key, names):
    for old, new in names.items():
        key = re.sub(rf"(^|\.){re.escape(old)}(?=\.)", rf"\g<1>{new}", key, count=1)
    return key


def unet_key(key, layers, attended_up):
    """`layers` per down block; `attended_up`: which up blocks have attention, before which the upsampler then stands."""
    side, *rest = key.split(".", 2)
    if side == "mid_block":
        name = renamed(".".join(rest), MIDDLE)
        return renamed(name, RESNET) if rest[0] == "resnets" else name
    if side not in ("down_blocks", "up_blocks"):
        return renamed(key, ENDS)
    block, (kind, index, end) = int(rest[0]), rest[1].split(".", 2)
    if side == "down_blocks":
        number = 1 + block * (layers + 1) + (layers if kind == "downsamplers" else int(index))
        place, end = f"input_blocks.{number}", end.replace("conv.", "op.", 1) if kind == "downsamplers" else end
        slot = {"resnets": 0, "attentions": 1, "downsamplers": 0}[kind]
    else:
        number = block * (layers + 1) + (layers if kind == "upsamplers" else int(index))
        place, slot = f"output_blocks.{number}", {"resnets": 0, "attentions": 1, "upsamplers": 2 if block in attended_up else 1}[kind]
    return f"{place}.{slot}.{renamed(end, RESNET) if kind == 'resnets' else end}"


def vae_key(key, blocks):
    key = renamed(key, {"conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut"})
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", key)
    if "mid_block.attentions.0" in key:
        key = renamed(key.replace("mid_block.attentions.0", "mid.attn_1"), VAE_ATTENTION)
    key = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets", lambda match: f"up.{blocks - 1 - int(match[1])}.block", key)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda match: f"up.{blocks - 1 - int(match[1])}.upsample", key)


def single_file(pipe):
    """Key -> tensor of the whole pipeline."""
    unet, vae = pipe.unet, pipe.vae
    attended = {index for index, block in enumerate(unet.up_blocks) if getattr(block, "attentions", None)}
    layers, blocks = unet.config.layers_per_block, len(vae.config.block_out_channels)
    found = {f"model.diffusion_model.{unet_key(key, layers, attended)}": value for key, value in unet.state_dict().items()}
    for key, value in vae.state_dict().items():
        name = f"first_stage_model.{vae_key(key, blocks)}"
        found[name] = value[..., None, None] if "attn_1" in name and value.ndim == 2 else value  # convolutions of one pixel then
    for key, value in pipe.text_encoder.state_dict().items():
        found[f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}"] = value
    return {key: value.clone().contiguous() for key, value in found.items()}
