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
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lsqctl.training.evaluation import batchnorms
from lsqctl.training.ranks import SOLO, World

if TYPE_CHECKING:
    from torch.nn.modules.batchnorm import _BatchNorm


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
    where they were, piece by piece. Norms in evaluation mode stay as they are.
    """

    def __init__(self, model: nn.Module) -> None:
        self._norms = [norm for norm in batchnorms(model).values() if norm.training]
        self._momenta = [norm.momentum for norm in self._norms]
        self._before = self.read()
        for norm in self._norms:
            norm.momentum = 1.0

    def read(self) -> Tensor:
        """Return the statistics of all norms as one vector (S)."""
        pieces = [buffer.flatten() for buffer in self._buffers()]
        return torch.cat(pieces) if pieces else torch.empty(0)

    def move(self, statistics: Tensor, computed_here: int) -> None:
        """Move the running statistics by those of each piece (P, S), and count the pieces.

        The layers have counted those that were ``computed_here``.
        """
        moved, factors = self._before, torch.empty(0)
        for piece, of_piece in enumerate(statistics):
            if piece == 0 or None in self._momenta:
                factors = self._factors(piece + 1 - computed_here)
            moved = torch.lerp(moved, of_piece, factors)
        sizes = [buffer.numel() for buffer in self._buffers()]
        for buffer, values in zip(self._buffers(), torch.split(moved, sizes), strict=True):
            buffer.copy_(values)
        for norm in self._norms:
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked += len(statistics) - computed_here

    def restore_momenta(self) -> None:
        """Give the norms their own momentum again."""
        for norm, momentum in zip(self._norms, self._momenta, strict=True):
            norm.momentum = momentum

    def _factors(self, batches_more: int) -> Tensor:
        """Return by how much each statistic moves (S); a norm without momentum takes the mean."""
        sizes = torch.tensor([2 * norm.num_features for norm in self._norms], dtype=torch.int64)
        factors = torch.tensor(
            [
                1 / (_count(norm) + batches_more) if momentum is None else momentum
                for norm, momentum in zip(self._norms, self._momenta, strict=True)
            ]
        )
        return torch.repeat_interleave(factors, sizes).to(self._before)

    def _buffers(self) -> Iterator[Tensor]:
        for norm in self._norms:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            yield from (norm.running_mean, norm.running_var)


def _count(norm: _BatchNorm) -> int:
    return 0 if norm.num_batches_tracked is None else int(norm.num_batches_tracked)


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
