"""Which way of measuring gives Table 2's row of the autoencoder? It has no UNet in it, so that the way alone is open.

A way is how a picture became the network's input (`PREPARATIONS`), whether reconstructions were rounded to 8 bits, and for each metric its
range, window or network (`WAYS`). All are measured on the same pictures, and compared with the paper's printed row.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from PIL import Image
from skimage.metrics import structural_similarity
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from smoothlib.metrics.reconstruction import PeakSignalNoiseRatio, StructuralSimilarity
from smoothlib.pixels import from_uint8, to_uint8
from smoothlib.sampling import decode_latents, encode_images

from ...base.config import ConfigurationError
from ...data.coco import CocoSplit
from ...data.items import seeded_choice, to_tensor
from ...data.load import load_items
from ...data.pictures import read_whole, square
from ...evidence.paper import PaperTable

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

ROW = "VAE Reconstruction"  # of the paper's Table 2
Prepare = Callable[[Image.Image, int], np.ndarray]
PREPARATIONS: Mapping[str, Prepare] = {
    "centred square, Lanczos": square,
    "centred square, bilinear": lambda image, size: _centred(image, size),
    "squashed, Lanczos": lambda image, size: np.array(image.resize((size, size), Image.Resampling.LANCZOS)),
}
AS_STORED = "as stored"  # pictures of the right size already


@dataclass(frozen=True)
class Way:
    """One way to measure a metric.

    values: (reconstructions, originals), each (B, 3, H, W) in [-1, 1] -> (B,). pooled: the mean is taken before the logarithm.
    here: the way of this book's Table 2.
    """

    metric: str
    name: str
    values: Callable[[Tensor, Tensor], Tensor]
    pooled: bool = False
    here: bool = False

    def summary(self, values: Tensor) -> float:
        """One number of all pictures: the mean; for `pooled`, decibels of the mean of errors over the range's square."""
        mean = float(values.double().mean())
        return -10 * math.log10(mean) if self.pooled else mean


def ways(lpips: Mapping[str, torch.nn.Module]) -> list[Way]:
    """Every way there is, with these networks of LPIPS (name -> network)."""
    found = [
        Way("mse", "on [-1, 1]", lambda a, b: _mse(a, b), here=True),
        Way("mse", "on [0, 1]", lambda a, b: _mse(a, b) / 4),
        Way("psnr", "range 2 on [-1, 1], mean over pictures", PeakSignalNoiseRatio().per_image, here=True),
        Way("psnr", "range 2 on [-1, 1], of the mean error", lambda a, b: _mse(a, b) / 4, pooled=True),
        Way("psnr", "range 1 on [-1, 1], mean over pictures", lambda a, b: -10 * _mse(a, b).clamp_min(1e-10).log10()),
        Way("psnr", "range 1 on [-1, 1], of the mean error", _mse, pooled=True),
        Way("ssim", "Gaussian window, [0, 1], inside", StructuralSimilarity().per_image, here=True),
        Way("ssim", "Gaussian window, [0, 1], with border", lambda a, b: _ssim((a + 1) / 2, (b + 1) / 2, 1.0)),
        Way("ssim", "Gaussian window, [-1, 1], range 2", lambda a, b: _ssim(a, b, 2.0)),
        Way("ssim", "Gaussian window, [-1, 1], range 1", lambda a, b: _ssim(a, b, 1.0)),
        Way("ssim", "uniform window 7 x 7, [0, 1]", lambda a, b: _uniform(a, b, 1.0)),
        Way("ssim", "uniform window 7 x 7, [0, 1], range 2", lambda a, b: _uniform(a, b, 2.0)),
    ]
    for name, network in lpips.items():
        found.append(Way("lpips", f"{name}, input in [-1, 1]", _lpips(network, lambda x: x), here=name == "alex"))
        found.append(Way("lpips", f"{name}, input in [0, 1]", _lpips(network, lambda x: (x + 1) / 2)))
    return found


def _mse(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().mean(dim=(1, 2, 3))


def _ssim(a: Tensor, b: Tensor, data_range: float) -> Tensor:
    """torchmetrics' average over the whole map."""
    return structural_similarity_index_measure(a.double(), b.double(), data_range=data_range, reduction="none").reshape(-1)


def _uniform(a: Tensor, b: Tensor, data_range: float) -> Tensor:
    """scikit-image's default; a range of 2 is what it takes by itself for floats in [0, 1] in older versions."""
    pairs = zip(((a + 1) / 2).double().numpy(force=True), ((b + 1) / 2).double().numpy(force=True), strict=True)
    return torch.tensor([structural_similarity(x, y, data_range=data_range, channel_axis=0) for x, y in pairs])


def _lpips(network: torch.nn.Module, scale: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda a, b: network(scale(a), scale(b)).reshape(-1)


def _centred(image: Image.Image, size: int) -> np.ndarray:
    """The shorter side resized, then the middle cut out, as torchvision's Resize and CenterCrop do."""
    scale = size / min(image.size)
    resized = image.resize((max(size, round(image.width * scale)), max(size, round(image.height * scale))), Image.Resampling.BILINEAR)
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return np.array(resized.crop((left, top, left + size, top + size)))


def pictures(dataset: str, split: str, limit: int, seed: int, size: int, model: str) -> dict[str, list[Tensor]]:
    """Preparation -> the chosen pictures, each (3, H, W) in [-1, 1]: the same choice as Table 2's with this seed.

    Raises:
        ConfigurationError: the data set, or as many pictures, are not there.
    """
    try:
        if dataset == "scenes":
            return {AS_STORED: [item.image for item in load_items(dataset, split, limit, seed, model)]}
        whole = CocoSplit(Path(dataset), split)
        if limit > len(whole):
            raise ValueError(f"num_images is {limit}, but must be at most {len(whole)}, as many as {split} of {dataset} has")
        files = [whole.folder / whole.records[index]["file"] for index in seeded_choice(len(whole), limit, seed)]
        images = [Image.fromarray(read_whole(file)) for file in files]
    except (OSError, ValueError) as error:
        raise ConfigurationError(str(error)) from None
    return {name: [to_tensor(prepare(image, size)) for image in images] for name, prepare in PREPARATIONS.items()}


@torch.no_grad()
def measure(
    pipe: "StableDiffusionPipeline", prepared: Mapping[str, Sequence[Tensor]], every: Sequence[Way], batch_size: int
) -> dict[tuple[str, str], dict[Way, Tensor]]:
    """(preparation, "float" or "8 bits") -> way -> value of each picture, (N,)."""
    found = {}
    for name, images in prepared.items():
        kept: dict[str, dict[Way, list[Tensor]]] = {precision: {way: [] for way in every} for precision in ("float", "8 bits")}
        for start in range(0, len(images), batch_size):
            originals = torch.stack(list(images[start : start + batch_size]))
            floats = decode_latents(pipe, encode_images(pipe, originals)).cpu()
            for precision, reconstructions in (("float", floats), ("8 bits", from_uint8(to_uint8(floats)))):
                for way in every:
                    kept[precision][way].append(way.values(reconstructions, originals).double())
        found |= {(name, precision): {way: torch.cat(values) for way, values in ways.items()} for precision, ways in kept.items()}
    return found


def table(measured: Mapping[tuple[str, str], Mapping[Way, Tensor]], paper: PaperTable) -> pd.DataFrame:
    """Metric and way -> the paper's printed number, and that of each preparation and precision; the ways of this book are marked."""
    every = list(next(iter(measured.values())))
    decimals = {way.metric: paper.decimals(way.metric) for way in every}
    columns = {
        f"{name}, {precision}": [f"{way.summary(values[way]):.{decimals[way.metric]}f}" for way in every]
        for (name, precision), values in measured.items()
    }
    index = [(paper.metrics[way.metric].label, way.name + (" (here)" if way.here else "")) for way in every]
    printed = {"Paper": [paper.rows[ROW][way.metric] for way in every]}
    return pd.DataFrame(printed | columns, index=pd.MultiIndex.from_tuples(index, names=["Metric", "Way"]))


def closest(measured: Mapping[tuple[str, str], Mapping[Way, Tensor]], paper: PaperTable) -> pd.DataFrame:
    """Preparation, precision and metric -> the way that comes closest to the printed number, and by how much it misses it.

    A miss is relative to the printed number, of PSNR in decibels, with the standard error of the mean: a miss below twice of it is none.
    """
    rows = {}
    for (name, precision), values in measured.items():
        for metric, column in paper.metrics.items():
            printed = float(paper.rows[ROW][metric])
            best = min((way for way in values if way.metric == metric), key=lambda way: abs(way.summary(values[way]) - printed))
            unit, word = (1.0, "dB") if metric == "psnr" else (printed / 100, "%")
            miss, spread = ((best.summary(values[best]) - printed) / unit, _standard_error(best, values[best]) / unit)
            rows[f"{name}, {precision}", column.label] = {"Closest way": best.name, "Missed by": f"{miss:+.2f} ± {spread:.2f} {word}"}
    found = pd.DataFrame.from_dict(rows, orient="index")
    return found.set_axis(pd.MultiIndex.from_tuples(rows, names=["Pictures", "Metric"]))


def _standard_error(way: Way, values: Tensor) -> float:
    """Of the summary; a pooled one's by the slope of the logarithm."""
    error = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return error * 10 / math.log(10) / float(values.mean()) if way.pooled else error


def printed_consistency(rows: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """Row -> printed PSNR less that of the printed MSE, in decibels, if both are on [-1, 1] with range 2, or with range 1.

    The mean of PSNR over pictures is never below the PSNR of the mean error (Jensen), and for pictures of one kind some decibels above it.
    """
    found = {}
    for label, values in rows.items():
        mse, psnr = float(values["mse"]), float(values["psnr"])
        found[label] = {f"range {r}": f"{psnr - 10 * math.log10(r**2 / mse):+.2f}" for r in (2, 1)}
    return pd.DataFrame.from_dict(found, orient="index")


def lpips_networks(folder: str | None, names: Iterable[str] = ("vgg", "squeeze")) -> dict[str, torch.nn.Module]:
    """AlexNet's LPIPS, which ships, and those of the files `lpips_<name>.safetensors` in `folder`, the state of `lpips.LPIPS(net=name)`.

    Raises:
        ConfigurationError: the folder has none of them, or one that does not fit.
    """
    import lpips
    from safetensors.torch import load_file

    from ...judges.networks import lpips_network

    found = {"alex": lpips_network()}
    files = {} if folder is None else {name: Path(folder) / f"lpips_{name}.safetensors" for name in names}
    there = {name: file for name, file in files.items() if file.is_file()}
    if folder is not None and not there:
        wanted = " or ".join(file.name for file in files.values())
        raise ConfigurationError(f"lpips_folder is {folder!r}, but must be a folder with {wanted}")
    for name, file in there.items():
        network = lpips.LPIPS(net=name, version="0.1", pretrained=False, pnet_rand=True, verbose=False)
        try:
            weights = load_file(file)  # the package registers each head twice, a file may hold it once
            heads = {f"lins.{key[3:]}": value for key, value in weights.items() if key.startswith("lin") and not key.startswith("lins")}
            network.load_state_dict(heads | weights, strict=True)
        except Exception as error:
            message = str(error).strip().splitlines()[0]
            raise ConfigurationError(f"lpips_folder has {file.name}, but it is not LPIPS's state with {name} ({message})") from None
        found[name] = network.eval().requires_grad_(False)
    return found
