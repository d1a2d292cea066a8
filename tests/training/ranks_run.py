"""Train cases on several ranks, and print what each came to.

Standard input has JSON: a folder, and the cases: name, changes of the small recipe, attempts, each
(ranks, after how many questions rank 0 stops it or null), and changes of the context. The ranks are
forked before torch computes anything; an attempt goes on where the one before it stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch._inductor.config

from lsqctl.errors import Preempted
from lsqctl.training import ExecutionContext, finetune
from lsqctl.training.checkpoint import resume_point
from lsqctl.training.ranks import SOLO, Ranks

from .attempts import StopAfter, rows, tensors
from .conftest import small
from .small_world import declared


def train(
    changes: dict[str, Any], job: ExecutionContext, rank: int, size: int, stop: int | None
) -> None:
    """Train as one of the ranks; the first one leaves the rows of the attempt."""
    folder = job.run_dir
    world = Ranks(rank, size, folder / "meeting") if size > 1 else SOLO
    job = replace(job, world=world)
    if stop is not None and rank == 0:
        job = replace(job, stop=StopAfter(stop))
    found = []
    with contextlib.suppress(Preempted):
        for event in finetune(small(**changes), job):
            found.append(event)
    if rank == 0:
        with (folder / "rows").open("a") as file:
            file.writelines(f"{row}\n" for row in rows(found))


def context_of(folder: Path, changes: dict[str, Any]) -> ExecutionContext:
    """Return the context of a case; paths come as texts."""
    inputs = {key: Path(path) for key, path in changes.pop("inputs", {}).items()}
    data_dir = Path(changes.pop("data_dir", folder / "data"))
    return ExecutionContext(run_dir=folder, data_dir=data_dir, inputs=inputs, **changes)


def on_ranks(changes: dict[str, Any], job: ExecutionContext, size: int, stop: int | None) -> None:
    """Train in ``size`` processes at once; raise when one of them fails."""
    (job.run_dir / "meeting").unlink(missing_ok=True)  # it has the addresses of those before
    pids = []
    for rank in range(size):
        if (pid := os.fork()) == 0:
            code = 1
            try:
                train(changes, job, rank, size, stop)
                code = 0
            except BaseException:
                traceback.print_exc()
            os._exit(code)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * size


def digest(folder: Path) -> list[str]:
    """Return the sha256 of all that the last checkpoint holds, and that of the rows."""
    content = resume_point(folder)[0]
    assert content is not None
    parts = {name: dict(getattr(content, name)) for name in ("model", "training", "state")}
    hasher = hashlib.sha256()
    for key, value in sorted(tensors(parts).items()):
        if not key.endswith("seconds"):
            data = value.numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value)
            hasher.update(key.encode() + (data if isinstance(data, bytes) else data.encode()))
    text = (folder / "rows").read_bytes()
    return [hasher.hexdigest(), hashlib.sha256(text).hexdigest()]


def main() -> None:
    """Do the cases one by one."""
    root, cases = json.load(sys.stdin)
    done = {}
    with declared():
        for name, changes, attempts, of_context in cases:
            (folder := Path(root) / name).mkdir()
            job = context_of(folder, of_context)
            for size, stop in attempts:
                on_ranks(changes, job, size, stop)
            done[name] = folder
        torch.set_num_threads(1)
        print(json.dumps({name: digest(folder) for name, folder in done.items()}))


if __name__ == "__main__":
    main()
