"""A procedure in parts, so that what is heavy travels to a worker once: its networks one by one, by their content, and the rest.

Rows of one table share networks: the autoencoder and the text encoder are the same with every adapter. Their bytes are the same when they
were loaded anew, so a worker that has them keeps them. Needs `cloudpickle`, which Dask brings: procedures may be defined in a notebook.
"""

import hashlib
import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import cloudpickle
import numpy as np
import torch
from torch import Tensor, nn

PLAIN = (Tensor, nn.Parameter)


class _Pickler(cloudpickle.Pickler):
    """Writes dense tensors as their bytes: PyTorch's own way names storages, which differ between equal tensors."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) in PLAIN and value.layout == torch.strided and not value.is_quantized and value.device.type != "meta":
            content = value.detach().cpu().contiguous()
            content = content.reshape(-1).view(torch.uint8).numpy().tobytes() if content.numel() else b""
            return _tensor, (content, value.dtype, tuple(value.shape), str(value.device), value.requires_grad, type(value) is nn.Parameter)
        return super().reducer_override(value)


class _Splitter(_Pickler):
    """Leaves networks out, and keeps them."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, protocol=pickle.HIGHEST_PROTOCOL)
        self.names: dict[int, str] = {}  # identity of a network -> hash of its content
        self.networks: dict[str, bytes] = {}

    def persistent_id(self, value: Any) -> str | None:
        if not isinstance(value, nn.Module):
            return None
        if id(value) not in self.names:
            stream = io.BytesIO()
            _Pickler(stream, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
            self.names[id(value)] = name = part_name(stream.getvalue())
            self.networks[name] = stream.getvalue()
        return self.names[id(value)]


class _Joiner(pickle.Unpickler):
    def __init__(self, content: bytes, network: Callable[[str], nn.Module]) -> None:
        super().__init__(io.BytesIO(content))
        self.network = network

    def persistent_load(self, name: str) -> nn.Module:
        return self.network(name)


def split(value: Any) -> tuple[bytes, Mapping[str, bytes]]:
    """`value` without its networks, and these by name. Raises TypeError where something in it cannot be sent to another process."""
    stream = io.BytesIO()
    splitter = _Splitter(stream)
    try:
        splitter.dump(value)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise TypeError(f"{type(value).__name__} cannot be sent to another process: {error}") from error
    return stream.getvalue(), splitter.networks


def part_name(content: bytes) -> str:
    """20 hex digits of the SHA-256 of a part's bytes."""
    return hashlib.sha256(content).hexdigest()[:20]


def join(content: bytes, network: Callable[[str], nn.Module]) -> Any:
    """What `split` took apart; `network` gives a network by its name."""
    return _Joiner(content, network).load()


def load_network(content: bytes) -> nn.Module:
    """A network from its bytes, on the device where it was."""
    return pickle.loads(content)


def _tensor(content: bytes, dtype: torch.dtype, shape: tuple[int, ...], device: str, requires_grad: bool, parameter: bool) -> Tensor:
    values = torch.from_numpy(np.frombuffer(bytearray(content), dtype=np.uint8)) if content else torch.empty(0, dtype=torch.uint8)
    values = values.view(dtype).reshape(shape).to(device)
    return nn.Parameter(values, requires_grad) if parameter else values.requires_grad_(requires_grad)
