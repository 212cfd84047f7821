"""The official FID (Heusel et al. 2017): the Fréchet distance on InceptionV3's 2,048 pooled features, where its weights can be had.

The network is torch-fidelity's port of the original TensorFlow graph (extra `fid`); its weights come from torch-fidelity's release page.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from smoothlib.metrics.frechet import FrechetDistance
from smoothlib.metrics.images import check_images, check_value_range
from smoothlib.pixels import to_uint8

WEIGHTS_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


class InceptionFeatures(nn.Module):
    """The InceptionV3 that FID is defined by: images (B, 3, H, W) -> pooled features (B, 2048), float32.

    Images are rounded to 8 bits, resized to 299 x 299 and scaled to [-1, 1) as in the original graph. That resize does not average, which
    matters for images larger than 299 (Parmar et al. 2022): torchmetrics' default, `antialias=True`, gives another number.

    Args:
        value_range: lowest and highest value that an image may have.
        antialias: resize with averaging; False is the original.
        weights_file: `weights-inception-2015-12-05-6726825d.pth`; default: torch.hub's cache, downloaded where it is missing.

    Raises:
        ModuleNotFoundError: torch-fidelity is not installed.
        FileNotFoundError: the weights are missing and could not be downloaded.
        ValueError: the weights are not the published file; `forward` raises as `check_images` does.
    """

    num_features = 2048

    def __init__(
        self, *, value_range: tuple[float, float] = (-1.0, 1.0), antialias: bool = False, weights_file: Path | str | None = None
    ) -> None:
        super().__init__()
        self.value_range = check_value_range(value_range)
        try:
            import torch_fidelity  # noqa: F401  torchmetrics' own message would not name the extra
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "FID needs the package torch-fidelity: install it with `pip install 'smoothlib[fid]'` or `pip install torch-fidelity`"
            ) from None
        from torchmetrics.image.fid import NoTrainInceptionV3

        self.antialias = antialias
        file = str(_weights_file(weights_file))
        self.network = NoTrainInceptionV3("inception-v3-compat", ["2048"], file, antialias=antialias).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 2048) of `images` (B, 3, H, W) in `value_range`."""
        images = check_images(images, self.value_range).float()
        low, high = self.value_range
        return self.network(to_uint8((images - low) * (2 / (high - low)) - 1)).float()


class FrechetInceptionDistance(FrechetDistance):
    """FID: `FrechetDistance` on `InceptionFeatures`.

    The same features and moments as torchmetrics' class of this name (`feature=2048`, with the same `antialias`, on 8-bit images), with
    the trace as `frechet_distance` computes it. Fewer images give larger values, so that a number means little without its count.

    Args:
        value_range, antialias, weights_file: as in `InceptionFeatures`, which also says what is raised.
        reset_real_features, kwargs: as in `FrechetDistance`.
    """

    def __init__(
        self,
        *,
        value_range: tuple[float, float] = (-1.0, 1.0),
        antialias: bool = False,
        weights_file: Path | str | None = None,
        reset_real_features: bool = True,
        **kwargs: Any,
    ) -> None:
        features = InceptionFeatures(value_range=value_range, antialias=antialias, weights_file=weights_file)
        super().__init__(features, reset_real_features=reset_real_features, **kwargs)


def _weights_file(given: Path | str | None) -> Path:
    """The published weights, whose sha256 is checked before anything parses them: the file is a pickle."""
    file = Path(given) if given is not None else Path(torch.hub.get_dir()) / "checkpoints" / Path(WEIGHTS_URL).name
    if given is None and not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(WEIGHTS_URL, str(file), hash_prefix=WEIGHTS_SHA256, progress=False)
        except Exception as error:  # no connection, a proxy's page, a full disk: the remedy is the same
            raise FileNotFoundError(
                f"could not download InceptionV3's weights ({type(error).__name__}): get {WEIGHTS_URL} where there is internet and put it "
                f"in {file.parent}, or pass its path as weights_file"
            ) from None
    if not file.is_file():
        raise FileNotFoundError(f"weights_file {file} does not exist: get it from {WEIGHTS_URL}")
    if hashlib.sha256(file.read_bytes()).hexdigest() != WEIGHTS_SHA256:
        raise ValueError(f"{file} is not InceptionV3's published weights: its sha256 must be {WEIGHTS_SHA256}")
    return file
