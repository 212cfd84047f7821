"""Measures of an edited picture: how near it is to the true edit, what it left alone, and whether it moved as the prompts say.

Every function takes batches and gives a value per image, in float32 on the images' device. Images are (B, 3, H, W) RGB in [-1, 1]. Masks
are (B, 1, H, W) bool, True where the picture is supposed to change. Networks are handed in: `lpips` and `lpips_map` (see `spatial_lpips`),
`embed_images` and `embed_captions`. A value that is not defined is NaN, so that a mean over images must leave it out on purpose.

What a measure over a region is, the same for the inside and the outside of a mask:

1. Beyond the region both pictures are made equal, by taking the reference's pixels. The windows of SSIM and the receptive fields of LPIPS
   reach over the border; without this step an edit would count as damage to what lies around it.
2. The map of the measure is averaged over the region's pixels. MSE is the average of the squared difference over them, and PSNR follows
   from this MSE. LPIPS averages the map that the lpips package gives with `spatial=True` (each layer resized to the picture, then summed).
   SSIM averages its map over those pixels of the region whose 11 x 11 window lies inside the picture.

The evaluation published with PIE-Bench (Ju et al. 2023) multiplies both pictures by the region and then averages over the whole picture.
With a region of share s its MSE, on [0, 1], is s / 4 times the one here, and its PSNR is larger by -10 log10(s) dB. Its LPIPS uses
SqueezeNet, and its mask has the picture's outermost pixels added and is not grown.
"""

import copy
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .images import check_pair

MAX_DECIBELS = 100.0  # as in `PeakSignalNoiseRatio`
BORDER = 5  # pixels at each side without a whole SSIM window
SIGMA, C1, C2 = 1.5, 0.01**2, 0.03**2  # of SSIM, on [0, 1]
MIN_SIZE = 31  # of LPIPS
UNMOVED = 1e-5  # of an embedding's length
Distance = Callable[[Tensor, Tensor], Tensor]

_REGION = "beyond the region both pictures have the reference's pixels; averaged over the region's pixels"
CONVENTIONS = {
    "lpips": "against the true edit; AlexNet, v0.1, input in [-1, 1]",
    "psnr": "against the true edit; data range 2, at most 100 dB, per image",
    "ssim": "against the true edit; on [0, 1], Gaussian window 11 x 11, sigma 1.5, windows inside the image only",
    "lpips_inside": f"against the true edit, inside the mask: {_REGION} of LPIPS's map (spatial=True)",
    "psnr_inside": f"against the true edit, inside the mask: {_REGION}; data range 2, at most 100 dB",
    "ssim_inside": f"against the true edit, inside the mask: {_REGION} of SSIM's map, where the window lies in the image",
    "psnr_outside": f"against the source, outside the mask grown by one latent cell: {_REGION}; data range 2, at most 100 dB",
    "lpips_outside": f"against the source, outside the mask grown by one latent cell: {_REGION} of LPIPS's map (spatial=True)",
    "mse_outside": f"against the source, outside the mask grown by one latent cell: {_REGION}; on [-1, 1]",
    "ssim_outside": f"against the source, outside the mask grown by one latent cell: {_REGION} of SSIM's map, where the window lies in the "
    "image",
    "directional_alignment": "cos(E(edited) - E(source), E(target prompt) - E(source prompt)); 0 for an untouched source",
}


def spatial_lpips(network: nn.Module) -> Distance:
    """The map (B, 1, H, W) of an `lpips.LPIPS` network; it shares the network's weights and leaves the network as it is."""
    spatial = copy.copy(network)
    spatial.spatial = True
    return spatial


def ssim_map(preds: Tensor, target: Tensor) -> Tensor:
    """SSIM at every pixel whose window lies inside the picture, mean over channels: (B, H - 10, W - 10).

    Its mean over pixels is `StructuralSimilarity`'s value; the settings are the same. The window is a product of two rows of weights, so
    that two small matrix products do what a convolution with 121 weights does, in a thirtieth of the time on a CPU.
    """
    exact = torch.float32 if preds.device.type == "mps" else torch.float64  # see `StructuralSimilarity`
    x, y = ((images.to(exact) + 1) / 2 for images in (preds, target))
    rows, columns = (_windows(size, x) for size in x.shape[-2:])
    mean_x, mean_y, xx, yy, xy = (rows @ values @ columns.mT for values in (x, y, x * x, y * y, x * y))
    variances = (xx - mean_x.square()).clamp(min=0) + (yy - mean_y.square()).clamp(min=0)
    covariance = xy - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + C1) * (2 * covariance + C2) / ((mean_x.square() + mean_y.square() + C1) * (variances + C2))
    return similarity.mean(dim=1)


def _windows(size: int, like: Tensor) -> Tensor:
    """The Gaussian window's row of weights at every place where it lies inside `size` pixels, (size - 10, size)."""
    offsets = torch.arange(-BORDER, BORDER + 1, device=like.device, dtype=like.dtype)
    weights = torch.exp(-(offsets.square()) / (2 * SIGMA**2))
    padded = F.pad(weights / weights.sum(), (0, size - len(weights)))
    return torch.stack([padded.roll(shift) for shift in range(size - 2 * BORDER)])


def grown(mask: Tensor, pixels: int) -> Tensor:
    """The mask (B, 1, H, W) with every pixel that has a masked one at most `pixels` away, horizontally and vertically.

    Raises:
        ValueError: `mask` is not of that kind, or `pixels` is negative.
    """
    _check_mask(mask, None)
    if isinstance(pixels, bool) or not isinstance(pixels, int) or pixels < 0:
        raise ValueError(f"pixels is {pixels!r}, but must be a whole number of at least 0.")
    return F.max_pool2d(mask.float(), 2 * pixels + 1, stride=1, padding=pixels) > 0.5


def region_mean(values: Tensor, region: Tensor) -> Tensor:
    """Mean of `values` (B, C, H, W) over the pixels of `region` (B, 1, H, W) bool and over channels, (B,); NaN where it has none."""
    weights = region.to(values.dtype)
    return (values.mean(dim=1, keepdim=True) * weights).sum(dim=(1, 2, 3)) / weights.sum(dim=(1, 2, 3))  # 0 / 0 is NaN


@torch.no_grad()
def region_measures(preds: Tensor, target: Tensor, region: Tensor, *, lpips_map: Distance) -> dict[str, Tensor]:
    """MSE on [-1, 1], PSNR in dB, SSIM and LPIPS of `preds` against `target` over a region, each (B,); the module says how.

    Args:
        preds, target: (B, 3, H, W) in [-1, 1], at least 31 x 31.
        region: (B, 1, H, W) bool.
        lpips_map: `spatial_lpips(network)`, or another map (B, 1, H, W) of two pictures.

    Raises:
        ValueError: a picture or the region is not of this kind.
    """
    preds, target = check_pair(preds, target, (-1.0, 1.0), min_size=MIN_SIZE)
    _check_mask(region, target)
    preds = torch.where(region, preds, target)
    mse = region_mean((preds - target).square(), region)
    windows = region[..., BORDER:-BORDER, BORDER:-BORDER]
    ssim = region_mean(ssim_map(preds, target)[:, None], windows)
    lpips = region_mean(lpips_map(preds.float(), target.float()), region)
    return {name: value.float() for name, value in {"mse": mse, "psnr": _psnr(mse), "ssim": ssim, "lpips": lpips}.items()}


@torch.no_grad()
def to_truth(edited: Tensor, truth: Tensor, mask: Tensor | None, *, lpips: Distance, lpips_map: Distance) -> dict[str, Tensor]:
    """LPIPS, PSNR and SSIM of edited pictures against the true edits, whole and inside the mask, each (B,).

    Args:
        edited, truth: (B, 3, H, W) in [-1, 1], at least 31 x 31.
        mask: (B, 1, H, W) bool, where the edit is; None leaves out what is measured inside it.
        lpips: LPIPS of two pictures, (B,) or (B, 1, 1, 1).
        lpips_map: as in `region_measures`.

    Raises:
        ValueError: a picture or the mask is not of this kind.
    """
    edited, truth = check_pair(edited, truth, (-1.0, 1.0), min_size=MIN_SIZE)
    values = {
        "lpips": lpips(edited.float(), truth.float()).reshape(-1).float(),
        "psnr": _psnr((edited - truth).square().mean(dim=(1, 2, 3))).float(),
        "ssim": ssim_map(edited, truth).mean(dim=(1, 2)).float(),
    }
    if mask is None:
        return values
    inside = region_measures(edited, truth, mask, lpips_map=lpips_map)
    return values | {f"{name}_inside": inside[name] for name in ("lpips", "psnr", "ssim")}


@torch.no_grad()
def preservation(
    edited: Tensor, source: Tensor, mask: Tensor, *, cell: int, lpips_map: Distance, has_outside: Tensor | None = None
) -> dict[str, Tensor]:
    """PIE-Bench's four measures of what an edit left alone: PSNR, LPIPS, MSE and SSIM against the source outside the mask, each (B,).

    The mask is grown by one latent cell first: a latent model cannot end a change at a finer border.

    Args:
        edited, source: (B, 3, H, W) in [-1, 1], at least 31 x 31.
        mask: (B, 1, H, W) bool, where the picture is supposed to change.
        cell: pixels of a latent cell's side, the autoencoder's reduction (4 for the small model, 8 for Stable Diffusion).
        lpips_map: as in `region_measures`.
        has_outside: (B,) bool, False for edits that by their kind change the whole picture, such as another style: NaN.

    Raises:
        ValueError: a picture, the mask, `cell` or `has_outside` is not of this kind.
    """
    _check_mask(mask, source)
    if isinstance(cell, bool) or not isinstance(cell, int) or cell < 1:
        raise ValueError(f"cell is {cell!r}, but must be a whole number of pixels of at least 1.")
    if has_outside is not None and (has_outside.shape != (len(mask),) or has_outside.dtype != torch.bool):
        raise ValueError(
            f"has_outside is {has_outside.dtype} of shape {tuple(has_outside.shape)}, but must be bool of shape ({len(mask)},)."
        )
    values = region_measures(edited, source, ~grown(mask, cell), lpips_map=lpips_map)
    if has_outside is not None:
        values = {name: value.masked_fill(~has_outside.to(value.device), math.nan) for name, value in values.items()}
    return {f"{name}_outside": values[name] for name in ("psnr", "lpips", "mse", "ssim")}


@torch.no_grad()
def directional_alignment(
    edited: Tensor,
    source: Tensor,
    target_prompts: Sequence[str],
    source_prompts: Sequence[str],
    *,
    embed_images: Callable[[Tensor], Tensor],
    embed_captions: Callable[[Sequence[str]], Tensor],
) -> Tensor:
    """Directional similarity (Gal et al. 2022, StyleGAN-NADA): does the picture's embedding move as the prompts' embedding does? (B,)

    cos(E(edited) - E(source), E(target prompt) - E(source prompt)), in [-1, 1].

    Args:
        edited, source: (B, 3, H, W) in [-1, 1].
        target_prompts, source_prompts: B texts each.
        embed_images, embed_captions: give the embeddings (B, D) of pictures and of texts in one space.

    Raises:
        ValueError: the pictures are not of this kind, or a list has not one text per picture.
    """
    edited, source = check_pair(edited, source, (-1.0, 1.0))
    for name, prompts in (("target_prompts", target_prompts), ("source_prompts", source_prompts)):
        if isinstance(prompts, str) or len(prompts) != len(edited):
            given = "one text" if isinstance(prompts, str) else f"{len(prompts)} texts"
            raise ValueError(f"{name} is {given}, but must be {len(edited)} texts, one per picture.")
    images = embed_images(torch.cat([edited, source]).float().clamp(-1, 1))
    texts = embed_captions([*target_prompts, *source_prompts])
    return embedding_alignment(*images.split(len(edited)), *texts.split(len(edited)))


def embedding_alignment(edited: Tensor, source: Tensor, target_text: Tensor, source_text: Tensor) -> Tensor:
    """Cosine of `edited - source` with `target_text - source_text`, embeddings (B, D) each: (B,) float32.

    An image that has not moved has moved in no direction: 0. Where the text has not moved nothing was asked: NaN. A step counts as none
    if it is shorter than 1e-5 of what it starts from, which is what rounding leaves.
    """
    device = edited.device
    edited, source, target_text, source_text = (embedding.cpu().double() for embedding in (edited, source, target_text, source_text))
    image_step, text_step = edited - source, target_text - source_text
    cosine = F.cosine_similarity(image_step, text_step, dim=-1)
    cosine[image_step.norm(dim=-1) < UNMOVED * source.norm(dim=-1)] = 0.0
    cosine[text_step.norm(dim=-1) < UNMOVED * source_text.norm(dim=-1)] = math.nan
    return cosine.float().to(device)


def _psnr(mse: Tensor) -> Tensor:
    """Decibels of a mean squared error on [-1, 1], at most `MAX_DECIBELS`; NaN stays NaN."""
    return -10 * (mse / 4).clamp_min(10 ** (-MAX_DECIBELS / 10)).log10()


def _check_mask(mask: Tensor, images: Tensor | None) -> None:
    shape = None if images is None else (len(images), 1, *images.shape[2:])
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.ndim != 4 or mask.shape[1] != 1 or shape not in (None, mask.shape):
        given = f"{mask.dtype} of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
        raise ValueError(f"mask is {given}, but must be bool of shape {shape or '(B, 1, H, W)'}.")
    if images is not None and mask.device != images.device:
        raise ValueError(f"mask is on {mask.device} and the images on {images.device}, but must be on one device.")
