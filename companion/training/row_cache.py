"""Tensors of one shape by number, kept in a file and made when first asked for: hundreds of thousands, more than memory holds."""

import math
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..base.config import ConfigurationError
from ..base.files import naming

WRITTEN = 1 << 32  # beside a row's checksum: a row of zeros is told from one that was never written


class RowCache:
    """Rows 0 to `count` - 1 of `shape`, in the folder `folder`: `rows` and their checksums, `sums`.

    A row that a kill cut short fails its checksum and is made again. Several processes may work at one cache: they write the same values.

    Raises:
        ConfigurationError: the disk has no room for the rows.
    """

    def __init__(self, folder: Path, count: int, shape: Sequence[int], dtype: type[np.generic]):
        self.shape = tuple(shape)
        sizes = {"rows": count * math.prod(self.shape) * np.dtype(dtype).itemsize, "sums": 8 * count}
        folder.mkdir(parents=True, exist_ok=True)
        held = sum((folder / name).stat().st_blocks * 512 for name in sizes if (folder / name).exists())
        if (needed := sum(sizes.values()) - held) > (free := shutil.disk_usage(folder).free):
            raise ConfigurationError(
                f"the disk of {folder} has {free / 1e9:.1f} GB left, but the cache needs {needed / 1e9:.1f}: make room, let SMOOTHLIB_RUNS "
                "name a folder on another disk, or train without objective_options.execution.cache_latents and cache_embeddings"
            )
        for name, size in sizes.items():
            with naming(folder / name), (folder / name).open("ab") as file:
                if file.tell() != size:
                    file.truncate(size)  # holes until written
        self._rows = np.memmap(folder / "rows", dtype, "r+", shape=(count, *self.shape))
        self._sums = np.memmap(folder / "sums", np.uint64, "r+", shape=(count,))

    def holds(self, number: int) -> bool:
        """Was this row written, and is it whole?"""
        return int(self._sums[number]) == self._sum(self._rows[number])

    def take(self, numbers: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
        """The rows `numbers` (B,), (B, *shape); those that are missing are what `make` gives for their places in `numbers`."""
        wanted = numbers.tolist()
        if missing := [place for place, number in enumerate(wanted) if not self.holds(number)]:
            made = make(torch.tensor(missing)).cpu().numpy()
            for place, row in zip(missing, made, strict=True):
                self._rows[wanted[place]] = row
                self._sums[wanted[place]] = self._sum(self._rows[wanted[place]])
        return torch.from_numpy(np.stack([self._rows[number] for number in wanted]))

    @staticmethod
    def _sum(row: np.ndarray) -> int:
        return zlib.crc32(np.ascontiguousarray(row).tobytes()) | WRITTEN
