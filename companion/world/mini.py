"""The embedded model's architecture: Stable Diffusion's classes at a size that trains on two cores.

Tokenizer, text encoder, autoencoder (f = 4, 64x64 -> 4x16x16), UNet with cross-attention at 16x16 and 8x8 and a plain lowest level, and
Stable Diffusion's own noise schedule.
"""

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .vocabulary import CLASSES, COLOURS, EXTRAS, GROUNDS, SETTINGS, STYLES

IMAGE_SIZE, LATENT_SIZE, MAX_TOKENS, TEXT_WIDTH = 64, 16, 24, 192
START, END = "<|startoftext|>", "<|endoftext|>"


def world_words() -> list[str]:
    """Every word that a caption can contain, sorted."""
    phrases = [*CLASSES, *EXTRAS, *COLOURS, *SETTINGS.values(), *GROUNDS.values(), *STYLES.values(), "a an and"]
    return sorted({word for phrase in phrases for word in phrase.split()})


def build_tokenizer() -> CLIPTokenizer:
    """A byte-pair tokenizer in which each of the world's words is one token; other words fall back to letters and known endings.

    The merges build every word from its end (a t</w> -> at</w>, c at</w> -> cat</w>). Each merge involves the only piece that ends the
    word, so at any moment one merge applies at most and no word's merges can break another's: the ordinary CLIP algorithm finds the whole
    word.
    """
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
    vocab = [START, END, *letters, *(f"{letter}</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in world_words():
        ending = f"{word[-1]}</w>"
        for letter in reversed(word[:-1]):
            if (letter, ending) not in merges:
                merges.append((letter, ending))
            ending = letter + ending
            vocab.append(ending)
    vocab = list(dict.fromkeys(vocab))
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(vocab)}, merges=merges, model_max_length=MAX_TOKENS)


def build_text_encoder(vocab_size: int) -> CLIPTextModel:
    """A causal CLIP text transformer of width 192, 4 layers."""
    config = CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return CLIPTextModel(config)


def build_vae() -> AutoencoderKL:
    """The autoencoder: three resolutions (64, 32, 16), 4 latent channels."""
    widths = (32, 64, 96)
    return AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=16,
        sample_size=IMAGE_SIZE,
    )


def build_unet() -> UNet2DConditionModel:
    """The denoiser: widths 48, 96, 192 at 16x16, 8x8, 4x4; cross-attention at the first two and in the middle, not at the lowest."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=4,
        out_channels=4,
        block_out_channels=(48, 96, 192),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # the number of heads, as in SD-1.5's configuration
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's schedule: scaled-linear betas from .00085 to .012, 1,000 steps, epsilon prediction."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )
