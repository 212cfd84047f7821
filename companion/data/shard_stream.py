"""Shards as a stream: shuffled by a seed through a buffer, dealt out to processes and workers, resumed at any sample.

The order of an epoch is arithmetic on the shards' lengths, so that no picture waits in a buffer: shards come in a random order, and each
pair is drawn from the next `buffer` of them. What is read lies close together, as a disk or a network wants it; which process reads it is
decided afterwards.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from .listings import ListingError
from .shards import Shards

BUFFER = 10_000


def stream_order(counts: Sequence[int], seed: int, epoch: int, buffer: int = BUFFER) -> np.ndarray:
    """The numbers of all pairs of shards with `counts` pairs in the order of an epoch, (sum of counts,) int64: a permutation.

    The shards follow one another in a random order. A buffer takes the first `buffer` pairs; a random one of them is given out and
    replaced by the next pair, until all are out. `buffer` 1 shuffles the shards alone.

    Raises:
        ListingError: `buffer` is less than 1.
    """
    if buffer < 1:
        raise ListingError(f"shuffle_buffer must be at least 1, got {buffer}")
    generator = np.random.default_rng([seed, epoch])
    starts = np.cumsum([0, *counts])
    flow = np.concatenate([np.arange(starts[shard], starts[shard + 1]) for shard in generator.permutation(len(counts))])
    buffer = min(buffer, len(flow))
    held, later = flow[:buffer].tolist(), flow[buffer:].tolist()
    for position, place in enumerate(generator.integers(buffer, size=len(later)).tolist()):
        flow[position], held[place] = held[place], later[position]
    flow[len(later) :] = generator.permutation(held)
    return flow


@dataclass(frozen=True)
class Pair:
    """One pair of a stream."""

    position: int  # in the epoch, of all processes: where a resumed stream starts is the position after it
    asked: int  # the number of the pair that is due
    number: int  # the number of the pair that this is: another where the picture of the due one is damaged
    caption: str
    picture: np.ndarray | None  # (size, size, 3) uint8


class ShardStream(IterableDataset):
    """One epoch of a data set in shards, as `torch.utils.data.DataLoader(stream, batch_size=None, num_workers=...)` takes it.

    Of the positions of an epoch, process `rank` of `world` takes every `world`-th, and its workers take these in turn. Processes see
    different pairs, and together each pair once, whatever their number is.

    Args:
        size: side of the pictures in pixels; None: captions alone, no picture is opened.
        start: the position to begin at, in [0, len(shards)].

    Raises:
        ListingError: `rank`, `world`, `start` or `buffer` is out of range.
    """

    def __init__(
        self,
        shards: Shards,
        *,
        size: int | None,
        seed: int = 0,
        epoch: int = 0,
        buffer: int = BUFFER,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
    ) -> None:
        if world < 1 or not 0 <= rank < world:
            raise ListingError(f"rank is {rank} of {world} processes, but must lie in [0, {world - 1}]")
        if not 0 <= start <= len(shards):
            raise ListingError(f"start is {start}, but must lie in [0, {len(shards)}], the number of pairs")
        self.shards, self.size, self.start, self.rank, self.world = shards, size, start, rank, world
        self.order = stream_order(shards.counts, seed, epoch, buffer)

    def __iter__(self) -> Iterator[Pair]:
        worker = get_worker_info()
        here, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        first = self.start + (self.rank - self.start) % self.world  # the first position of this process that is not before `start`
        for position in range(first + here * self.world, len(self.order), workers * self.world):
            asked = int(self.order[position])
            number, picture = (asked, None) if self.size is None else self.shards.picture(asked, self.size)
            yield Pair(position, asked, number, self.shards.caption(number), picture)
