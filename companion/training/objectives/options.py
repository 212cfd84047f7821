"""The options of the denoising objective that can be checked before anything is loaded."""

from smoothlib.lora import LORA_TARGET_MODULES
from smoothlib.training_loss import check_loss_options

from ...weights.fine_tune import FRACTION_BITS

FEED_FORWARD = ("proj_in", "proj_out", "proj", "net.2")
CONVOLUTIONS = ("conv_in", "conv1", "conv2", "conv_shortcut", "conv", "conv_out", "time_emb_proj")  # the last: what they add of the time
LORA_LAYERS = {"attention": LORA_TARGET_MODULES, "all": (*LORA_TARGET_MODULES, *FEED_FORWARD, *CONVOLUTIONS)}


def check_options(
    *,
    trainable: str,
    lora_layers: str,
    rank: int,
    caption_dropout: float,
    min_snr_gamma: float,
    only: dict[str, list] | None,
    style: str | None,
    data: str | None,
    layout: str | None,
    resolution: int | None,
    regularization: float,
    regularized_share: float,
    regularize_every: int,
    regularized_guidance: float,
    fraction_bits: int,
) -> None:
    """ValueError for an option of `DenoisingObjective` that is out of range, or for two that exclude each other."""
    if trainable not in ("all", "unet", "lora"):
        raise ValueError(f"trainable must be all, unet or lora, got {trainable!r}")
    if lora_layers not in LORA_LAYERS:
        raise ValueError(f"lora_layers must be one of {', '.join(LORA_LAYERS)}, got {lora_layers!r}")
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    if not 0 <= caption_dropout <= 1:
        raise ValueError(f"caption_dropout must lie in [0, 1], got {caption_dropout}")
    if resolution is not None and (resolution < 8 or resolution % 8):
        raise ValueError(f"resolution must be a multiple of 8, got {resolution}")
    if data and (only or style):
        raise ValueError(f"only and style choose among the scenes and cannot go with data, got {data!r}")
    if layout and not data:
        raise ValueError(f"layout says what data is and needs it, got {layout!r} and no data")
    if not 1 <= fraction_bits <= FRACTION_BITS:
        raise ValueError(f"fraction_bits must lie in [1, {FRACTION_BITS}], got {fraction_bits}")
    check_loss_options(regularization, regularize_every, regularized_share, regularized_guidance, min_snr_gamma)
