"""The processes of one attempt, its ranks, and the one thing that they do together: add tensors.

Ranks add in pairs: 0 and 1, 2 and 3, then 0 and 2, 1 and 3. So a sum has the same bits at every
rank (a + b is b + a) and is the upper part of the binary tree that one process alone would add in
(``lsqctl.training.reduction``). All else is made of sums, with zeros where a rank has nothing.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch import distributed as dist

from lsqctl.errors import Preempted, RankFailed
from lsqctl.settings import update_environment

MEETING_SECONDS = 60.0  # until all ranks must have begun
# A sum may wait for a checkpoint or a teacher's logits. That a rank is dead or stopped is noticed
# otherwise (lsqctl.worker.ranks); this is for two that wait for each other.
_SUM_LIMIT = timedelta(hours=6)
STOPPED = "asked to stop; the state is saved and the run goes on from it"


class World(Protocol):
    """The ranks of an attempt, as one of them sees them: ``rank`` counts from 0 to ``size`` - 1."""

    rank: int
    size: int

    def sum(self, values: Tensor) -> None:
        """Replace ``values`` by the sum over all ranks; raises RankFailed when one is gone."""


class Solo:
    """One process that trains alone."""

    rank = 0
    size = 1

    def sum(self, values: Tensor) -> None:
        """Leave the values as they are."""


SOLO = Solo()


class Ranks:
    """Several processes on one machine, which meet by a file and talk over the loopback.

    ``size`` is a power of two. Raises RankFailed when not all have come within a minute.
    """

    def __init__(self, rank: int, size: int, meeting: Path, device: str = "cpu") -> None:
        self.rank, self.size = rank, size
        update_environment({"GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0"})
        try:
            store = dist.FileStore(str(meeting), size)  # type: ignore[attr-defined]
            store.set_timeout(timedelta(seconds=MEETING_SECONDS))
            dist.init_process_group(
                "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl",
                store=store,
                rank=rank,
                world_size=size,
                timeout=_SUM_LIMIT,
            )
            self._pairs = [self._own_pair(1 << level) for level in range(size.bit_length() - 1)]
        except RuntimeError as error:
            text = f"the {size} ranks did not meet: {_first_line(error)}"
            raise RankFailed(text, is_lost=True) from error

    def sum(self, values: Tensor) -> None:
        """Replace ``values`` by the sum over all ranks; raises RankFailed when one is gone."""
        try:
            for pair in self._pairs:
                dist.all_reduce(values, group=pair)
        except RuntimeError as error:
            text = f"a rank does not answer: {_first_line(error)}"
            raise RankFailed(text, is_lost=True) from error

    def _own_pair(self, distance: int) -> dist.ProcessGroup | None:
        """Return the pair of ranks so far apart that this one is in; of two, all."""
        if self.size == 2:
            return None
        lower = [rank for rank in range(self.size) if not rank & distance]
        pairs = ([rank, rank + distance] for rank in lower)
        groups = [dist.new_group(pair, timeout=_SUM_LIMIT) for pair in pairs]  # all ranks make all
        own = groups[lower.index(self.rank & ~distance)]
        assert isinstance(own, dist.ProcessGroup)
        return own


def any_rank(world: World, *flags: bool) -> tuple[bool, ...]:
    """Return, the same at every rank, which flags are raised at one of them."""
    if world.size == 1:
        return flags
    votes = torch.tensor(flags, dtype=torch.int32)
    world.sum(votes)
    return tuple(bool(count) for count in votes.tolist())


def from_first(world: World, text: str) -> str:
    """Return rank 0's text at every rank; the others give any."""
    if world.size == 1:
        return text
    data = text.encode() if world.rank == 0 else b""
    length = torch.tensor(len(data))
    world.sum(length)
    values = torch.zeros(int(length), dtype=torch.int32)
    values[: len(data)] = torch.tensor(list(data), dtype=torch.int32)
    world.sum(values)
    return bytes(values.tolist()).decode()


def ranks_that_differ(world: World, digest: bytes) -> list[int]:
    """Return the ranks whose digest is not that of rank 0, by its first seven bytes."""
    if world.size == 1:
        return []
    digests = torch.zeros(world.size, dtype=torch.int64)
    digests[world.rank] = int.from_bytes(digest[:7], "big")
    world.sum(digests)
    values = digests.tolist()
    return [rank for rank, value in enumerate(values) if value != values[0]]


def check_replicas(world: World, state: object, *, step: int) -> None:
    """Raise RankFailed, at every rank, unless the tensors of a nested state are alike at all."""
    if world.size == 1:
        return
    hasher = hashlib.sha256()
    for tensor in _tensors_in(state):
        hasher.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    if differ := ranks_that_differ(world, hasher.digest()):
        raise RankFailed(
            f"rank {differ[0]} of {world.size} computes other bits than rank 0, seen at step "
            f"{step}: a fault of memory, or a network with buffers that one rank moves alone; "
            "the last checkpoint is from before"
        )


def _tensors_in(value: object) -> Iterator[Tensor]:
    """Yield the tensors of a nested state, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors_in(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors_in(part)


def first_then_others(world: World, work: Callable[[], None]) -> None:
    """Let rank 0 do something, which may be Preempted, before the others do the same."""
    stopped: Preempted | None = None
    if world.rank == 0:
        try:
            work()
        except Preempted as error:
            stopped = error
    if any_rank(world, stopped is not None)[0]:
        raise stopped or Preempted(STOPPED)
    if world.rank > 0:
        work()


def _first_line(error: RuntimeError) -> str:
    return (str(error).splitlines() or [""])[0]
