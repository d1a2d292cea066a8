"""Who computes which pieces of a batch, and what of a batch must not depend on that.

``train.accumulate`` says into how many pieces a batch is cut; how many ranks share the pieces
changes nothing that is computed. Batch norm and random numbers are therefore a piece's own:
running statistics move piece by piece, in order, and each piece has a random stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from lsqctl.training.evaluation import batchnorms
from lsqctl.training.ranks import SOLO, World


def microbatch_sizes(images: int, count: int) -> list[int]:
    """Return the sizes of a batch's pieces, the larger first: they differ by one at most.

    Fewer where one would be a single image, for batch norm needs two.
    """
    count = max(1, min(count, images // 2))
    size, larger = divmod(images, count)
    return [size + 1] * larger + [size] * (count - larger)


@dataclass(frozen=True, slots=True)
class Share:
    """The pieces of one batch that a rank computes: ``own`` of those with these ``sizes``."""

    sizes: tuple[int, ...]
    own: range

    @property
    def n_images(self) -> int:
        """How many images the whole batch has."""
        return sum(self.sizes)

    @property
    def is_whole(self) -> bool:
        """Whether this rank computes all of the batch, and needs nobody's sum."""
        return len(self.own) == len(self.sizes)

    @property
    def own_sizes(self) -> list[int]:
        """The sizes of its own pieces."""
        return [self.sizes[piece] for piece in self.own]

    @property
    def images(self) -> slice:
        """Where its images lie in the batch."""
        ends = [0, *accumulate(self.sizes)]
        return slice(ends[self.own.start], ends[self.own.stop])


def deal(images: int, count: int, world: World = SOLO) -> Share:
    """Return this rank's share of a batch of so many images, which is cut into ``count`` pieces.

    Neighbouring pieces, as many at each rank; a batch whose pieces cannot be dealt so (an epoch's
    last one) is computed whole by every rank.
    """
    sizes = tuple(microbatch_sizes(images, count))
    each, rest = divmod(len(sizes), world.size)
    if rest:
        return Share(sizes, range(len(sizes)))
    return Share(sizes, range(world.rank * each, (world.rank + 1) * each))


class PieceStatistics:
    """The running statistics of batch norm while the pieces of one batch are computed.

    Meanwhile they hold those of the last piece alone (momentum 1); ``move`` then moves them from
    where they were, piece by piece. Norms in evaluation mode stay as they are, and a piece whose
    forward pass leaves a norm out, as with layers that are dropped at random, does not move it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._norms = [norm for norm in batchnorms(model).values() if norm.training]
        self._momenta = [norm.momentum for norm in self._norms]
        self._before = self._last = _joined(self._buffers())
        self._first_counts = self._counts = _joined(self._counters())
        sizes = torch.tensor([2 * norm.num_features for norm in self._norms], dtype=torch.int64)
        self._owner = torch.repeat_interleave(sizes).to(self._before.device)  # of each statistic
        for norm in self._norms:
            norm.momentum = 1.0

    def read(self) -> Tensor:
        """Return the statistics of all norms, then how often each computed in this piece (S + N).

        A piece ends where this is asked. A norm with a forward pass of its own may count no
        batches: it has computed where its statistics are others than before.
        """
        if not self._norms:
            return self._before
        counts, statistics = _joined(self._counters()), _joined(self._buffers())
        is_other = (statistics != self._last).to(counts)
        has_moved = torch.zeros_like(counts).index_add_(0, self._owner, is_other).clamp_(max=1)
        computed = torch.maximum(counts - self._counts, has_moved)
        self._counts, self._last = counts, statistics
        return torch.cat([statistics, computed.to(statistics)])

    def move(self, read: Tensor) -> None:
        """Move the running statistics by what was read of each piece (P, S + N), and count them."""
        if not self._norms:
            return
        statistics, computed = read.tensor_split([len(self._before)], dim=1)
        owner = self._owner.to(read.device)
        moved, counts = self._before, self._first_counts.to(read)
        for of_piece, times in zip(statistics, computed, strict=True):
            counts = counts + times
            nearer = torch.lerp(moved, of_piece, self._factors(counts)[owner])
            moved = torch.where(times[owner] > 0, nearer, moved)
        for buffers, values in ((self._buffers, moved), (self._counters, counts)):
            parts = torch.split(values, [buffer.numel() for buffer in buffers()])
            for buffer, part in zip(buffers(), parts, strict=True):
                buffer.copy_(part.view_as(buffer))

    def restore_momenta(self) -> None:
        """Give the norms their own momentum again."""
        for norm, momentum in zip(self._norms, self._momenta, strict=True):
            norm.momentum = momentum

    def _factors(self, counts: Tensor) -> Tensor:
        """Return by how much a piece moves each norm (N); one without momentum takes the mean."""
        takes_mean = [momentum is None for momentum in self._momenta]
        momenta = torch.tensor([momentum or 0.0 for momentum in self._momenta])
        mask = torch.tensor(takes_mean, dtype=torch.bool, device=counts.device)
        return torch.where(mask, 1 / counts, momenta.to(counts))

    def _buffers(self) -> Iterator[Tensor]:
        for norm in self._norms:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            yield from (norm.running_mean, norm.running_var)

    def _counters(self) -> Iterator[Tensor]:
        for norm in self._norms:
            assert norm.num_batches_tracked is not None
            yield norm.num_batches_tracked


def _joined(buffers: Iterator[Tensor]) -> Tensor:
    pieces = [buffer.flatten() for buffer in buffers]
    return torch.cat(pieces) if pieces else torch.empty(0)


@contextmanager
def piece_statistics(model: nn.Module) -> Iterator[PieceStatistics]:
    """Give the statistics of the pieces of one batch."""
    statistics = PieceStatistics(model)
    try:
        yield statistics
    finally:
        statistics.restore_momenta()


@contextmanager
def piece_streams(device: torch.device) -> Iterator[int]:
    """Give a number to seed each piece's random stream with, and put the run's own back after."""
    base = int(torch.randint(2**62, ()))
    with torch.random.fork_rng([torch.cuda.current_device()] if device.type == "cuda" else []):
        yield base
