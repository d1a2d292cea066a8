"""Two processes with a quantized network each, wrapped: ``python -m tests.quant.wrapped_run HOW``.

HOW is ``ddp``: each process prints the gradients of the step sizes, of its own images, as one line
of JSON; or ``fsdp``: what refuses to shard it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

from lsqctl.quant import QuantSpec, calibrate, prepare, quantizers
from lsqctl.training.ranks import Ranks


def model() -> nn.Module:
    """Return a small network, the same in each process; one offset falls out of use."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    prepared = prepare(layers, QuantSpec(act_offset="learned", act_signed="auto"))
    calibrate(prepared, torch.randn(32, 6))
    return prepared


def gradients(plain: nn.Module, rank: int) -> list[float]:
    """Return the step sizes' gradients in DDP, after images of this process's own."""
    module = nn.parallel.DistributedDataParallel(plain)
    torch.manual_seed(1 + rank)
    module(torch.randn(16, 6)).square().mean().backward()
    return [float(one.step_size.grad) for one in quantizers(plain).values()]


def refusals() -> list[str]:
    """Return what is said when FSDP2 is to shard a network, with its step sizes and without."""
    from torch.distributed.fsdp import fully_shard

    said = []
    for ignoring in (False, True):
        plain = model()  # anew: of one that it has refused, FSDP2 says that it has it already
        steps = {p for one in quantizers(plain).values() for p in one.parameters()}
        try:
            fully_shard(plain, ignored_params=steps if ignoring else None)
        except ValueError as error:
            said.append(str(error))
    return said


def work(how: str, rank: int, meeting: Path) -> None:
    """Be one of the two processes."""
    torch.set_num_threads(1)
    Ranks(rank, 2, meeting)
    found = gradients(model(), rank) if how == "ddp" else refusals()
    os.write(1, (json.dumps(found) + "\n").encode())
    os._exit(0)


def main() -> None:
    """Fork the second process, and be the first."""
    with tempfile.TemporaryDirectory() as folder:
        pids = []
        for rank in (0, 1):
            if (pid := os.fork()) == 0:
                work(sys.argv[1], rank, Path(folder) / "meeting")
            pids.append(pid)
        ends = [os.waitpid(pid, 0)[1] for pid in pids]
    sys.exit(any(ends))


if __name__ == "__main__":
    main()
