"""How sharp are two autoencoders with one encoder: `python -m benchmarks.autoencoder OLD NEW [--sheet FILE]`.

OLD and NEW are models in data/models, or folders with an autoencoder. Prints reconstruction errors on the test scenes with 95 % intervals
and paired differences, and Fréchet distances (MobileNetV2) to the real test scenes. LPIPS is part of what a decoder is trained on, so that
it is no independent judge of it; MobileNetV2 is not.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from companion.base.config import OneSentenceParser
from companion.data import load as datasets
from companion.evidence.statistics import mean_interval
from companion.judges.features import scene_features
from companion.judges.networks import lpips_network
from companion.training.objectives.autoencoder import encoder_hash
from companion.weights.pipelines import load_vae
from smoothlib.metrics import (
    LearnedPerceptualImagePatchSimilarity,
    PeakSignalNoiseRatio,
    StructuralSimilarity,
    frechet_distance_from_features,
    frechet_floor,
)
from smoothlib.pixels import from_uint8, to_uint8

ENLARGED = 10  # times, in the crops of the sheet
METRICS = {
    "PSNR in dB": PeakSignalNoiseRatio,
    "SSIM": StructuralSimilarity,
    "LPIPS": lambda: LearnedPerceptualImagePatchSimilarity(lpips_network()),
}


def autoencoder(name: str) -> AutoencoderKL:
    """A model's autoencoder, or that of a folder that holds nothing else."""
    if (Path(name) / "config.json").is_file():
        return AutoencoderKL.from_pretrained(name, use_safetensors=True, local_files_only=True).eval()
    return load_vae(name).eval()


@torch.no_grad()
def reconstructions(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """D(mode of E(x)) of uint8 images (N, 3, H, W), as uint8."""
    return torch.cat([to_uint8(vae.decode(vae.encode(from_uint8(x)).latent_dist.mode()).sample) for x in images.split(50)])


def sheet(rows: list[Tensor], file: Path, columns: int = 12) -> None:
    """Real, old and new above each other, image by image, and behind them the centre of every twelfth enlarged."""
    blocks = []
    for start in range(0, len(rows[0]), columns):
        block = [torch.cat(list(row[start : start + columns]), dim=2) for row in rows]  # (3, H, columns * W)
        blocks.append(torch.cat(block, dim=1))
    overview = torch.cat(blocks, dim=1).permute(1, 2, 0).numpy()
    Image.fromarray(overview).save(file)
    crops = [row[::columns, :, 20:44, 20:44] for row in rows]
    enlarged = torch.cat([torch.cat(list(crop), dim=2) for crop in crops], dim=1).permute(1, 2, 0).numpy()
    picture = Image.fromarray(enlarged)
    picture.resize((picture.width * ENLARGED, picture.height * ENLARGED), Image.Resampling.NEAREST).save(
        file.with_stem(f"{file.stem}-enlarged")
    )


def main() -> None:
    """Command line."""
    parser = OneSentenceParser(description=__doc__.splitlines()[0])
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--split", default="test", choices=datasets.SPLITS)
    parser.add_argument("--limit", type=int, default=1000, help="at most so many images, by seed 0")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of 48 images here, and an enlarged one beside it")
    arguments = parser.parse_args()
    scenes = datasets.load_scenes(arguments.split)
    chosen = datasets.seeded_choice(len(scenes), arguments.limit, 0)
    real = scenes.pixels[chosen].contiguous()
    vaes = {"old": autoencoder(arguments.old), "new": autoencoder(arguments.new)}
    print(f"n = {len(real)} images of {arguments.split}; the same encoder: {encoder_hash(vaes['old']) == encoder_hash(vaes['new'])}")
    made = {name: reconstructions(vae, real) for name, vae in vaes.items()}
    if arguments.sheet:
        shown = np.random.default_rng(1).permutation(len(real))[:48]
        sheet([real[shown], *(images[shown] for images in made.values())], arguments.sheet)
    print("| | old | new | new - old |\n| --- | --- | --- | --- |")
    for title, kind in METRICS.items():
        metric = kind()
        values = {name: metric.per_image(from_uint8(images), from_uint8(real)).double().numpy() for name, images in made.items()}
        cells = [mean_interval(values[name], seed=0) for name in made] + [mean_interval(values["new"] - values["old"], seed=0)]
        print(f"| {title} | " + " | ".join(f"{c.mean:.4f} [{c.low:.4f}, {c.high:.4f}]" for c in cells) + " |", flush=True)
    of_made = [scene_features(images) for images in made.values()]
    others = datasets.load_scenes("train")
    of_others = others.pixels[datasets.seeded_choice(len(others), len(real), 0)]
    references = {"the originals": scene_features(real), "as many training images": scene_features(of_others)}
    for title, reference in references.items():
        old, new = (float(frechet_distance_from_features(found, reference)) for found in of_made)
        print(f"| Fréchet distance to {title} | {old:.1f} | {new:.1f} | {new - old:+.1f} |", flush=True)
    floor = frechet_floor(torch.cat(list(references.values())), len(real))
    print(f"Real images to as many other real ones: {floor.mean:.1f}")


if __name__ == "__main__":
    main()
