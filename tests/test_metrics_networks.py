"""The converter of the metric networks: what it accepts, and that it gives the shipped files."""

import importlib.util
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from companion.base import paths
from companion.judges import networks
from companion.judges.networks import load_network_weights, lpips_network, mobilenet_v2_features


@pytest.fixture(scope="module")
def converter() -> ModuleType:
    spec = importlib.util.spec_from_file_location("convert_metric_networks", paths.ROOT / "tools/convert_metric_networks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lpips_conversion_gives_the_shipped_weights(converter: ModuleType) -> None:
    """Through a pickle as numpy 1 wrote it, kernels (kh, kw, in, out)."""
    shipped = load_network_weights("lpips_alex.safetensors")

    def kernel(name: str) -> np.ndarray:
        return np.ascontiguousarray(shipped[name].permute(2, 3, 1, 0).numpy())

    tree = {"AlexNet_0": {}}
    for i, layer in enumerate(converter.ALEXNET_LAYERS):
        tree["AlexNet_0"][f"Conv_{i}"] = {"kernel": kernel(f"net.{layer}.weight"), "bias": shipped[f"net.{layer}.bias"].numpy()}
        tree[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": kernel(f"lin{i}.model.1.weight")}}
    content = pickle.dumps(tree, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    converted = converter.convert_lpips_alex(content)
    assert converted.keys() == shipped.keys()
    assert all(torch.equal(converted[name], shipped[name]) for name in shipped)


class Payload:
    """An object whose pickle runs a command."""

    def __reduce__(self) -> tuple:
        """What unpickling would call."""
        return os.mkdir, ("made-by-a-pickle",)


def test_pickle_with_code_is_refused(converter: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match="mkdir is not allowed"):
        converter.convert_lpips_alex(pickle.dumps({"AlexNet_0": Payload()}))
    assert list(tmp_path.iterdir()) == []


def test_other_archives_are_refused(converter: ModuleType, tmp_path: Path) -> None:
    wheel, sdist, member = tmp_path / "a.whl", tmp_path / "a.tar.gz", tmp_path / "alexnet.ckpt"
    member.write_bytes(b"something else")
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(member, converter.MOBILENET_V2.member)
    with tarfile.open(sdist, "w:gz") as archive:
        archive.add(member, converter.LPIPS_ALEX.member)
    for path, source in ((wheel, converter.MOBILENET_V2), (sdist, converter.LPIPS_ALEX)):
        with pytest.raises(ValueError, match="is not the known file"):
            converter.read_member(path, source)


def test_card_records_every_shipped_network(converter: ModuleType) -> None:
    card = json.loads((paths.METRIC_NETWORKS / "card.json").read_text())
    shipped = {path.name for path in paths.METRIC_NETWORKS.glob("*.safetensors")}
    assert card["files"].keys() == card["networks"].keys() == converter.CARDS.keys() == shipped
    for name, source in (("lpips_alex.safetensors", converter.LPIPS_ALEX), ("mobilenet_v2.safetensors", converter.MOBILENET_V2)):
        assert card["networks"][name].items() >= converter.CARDS[name].items()
        assert card["networks"][name]["source_file_sha256"] == source.sha256
        assert load_network_weights(name)


@pytest.mark.parametrize("build", [lpips_network, mobilenet_v2_features])
def test_a_shipped_network_is_read_once_and_each_module_is_its_own(build: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reader may move it to another device, or train it, whatever else measures with the same network."""
    networks._shipped.cache_clear()
    reads = []
    monkeypatch.setattr(
        networks, "read_checked", lambda folder, name, read=networks.read_checked: (reads.append(name), read(folder, name))[1]
    )
    first, second = build(), build()
    assert len(reads) == 1
    expected = {name: tensor.clone() for name, tensor in second.state_dict().items()}
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.fill_(7.0)
    assert all(torch.equal(tensor, expected[name]) for network in (second, build()) for name, tensor in network.state_dict().items())
