"""One run on 1, 2 and 4 processes: are the bits the same, and how much faster is it?

    python bench/processes.py bits [--report FILE]     # hashes: digits resnet8, ResNet-20
    python bench/processes.py speed [--steps N]        # steps a second: needs a core a process

``bits`` trains each case on each number of processes (one thread each) and prints the sha256 of
weights, step sizes and statistics at the end; ``--report`` writes the table. ResNet-20 (W4A4, batch
128, two pieces) takes 8 steps on generated images of CIFAR's shape, or on CIFAR-10 with ``--data``.
``speed`` takes steps of the same ResNet-20 alone in one piece, alone in two, and on two processes,
in turns, and prints the medians. Goal: two processes at least 1.7 times as fast as one.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo
import torch._inductor.config

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lsqctl.errors import Preempted  # noqa: E402
from lsqctl.quant import calibrate  # noqa: E402
from lsqctl.recipe import Recipe  # noqa: E402
from lsqctl.training import ExecutionContext, finetune  # noqa: E402
from lsqctl.training.beginning import build_on_device, open_pipeline, quantize_model  # noqa: E402
from lsqctl.training.checkpoint import resume_point  # noqa: E402
from lsqctl.training.data_pipeline import (  # noqa: E402
    DataPipeline,
    DatasetSplits,
    InMemoryImages,
)
from lsqctl.training.optimizer_step import train_step  # noqa: E402
from lsqctl.training.ranks import SOLO, Ranks  # noqa: E402
from lsqctl.training.runtime import setup_torch  # noqa: E402
from lsqctl.training.session import TrainingSession, build_session  # noqa: E402
from lsqctl.training.train_state import TrainState  # noqa: E402

Work = Callable[[ExecutionContext], str]
LOW = ("first_weight_bits", "first_act_bits", "last_weight_bits", "last_act_bits")
BITS = {"W3A3": {"weight_bits": 3, "act_bits": 3}, "fp32": dict.fromkeys(LOW, 32)}
BATCH, STEPS = 128, 8


def on_ranks(work: Work, folder: Path, size: int) -> str:
    """Do the work in ``size`` processes; return what the first one says."""
    folder.mkdir(exist_ok=True)
    pids = []
    for rank in range(size):
        if (pid := os.fork()) == 0:
            torch.set_num_threads(1)
            meeting = folder / f"meeting-{size}"
            world = Ranks(rank, size, meeting) if size > 1 else SOLO
            text = work(ExecutionContext(run_dir=folder, data_dir=folder, world=world))
            if rank == 0:
                (folder / "said").write_text(text)
            os._exit(0)
        pids.append(pid)
    ends = [os.waitpid(pid, 0)[1] for pid in pids]
    if any(ends):
        raise SystemExit(f"a process of {folder.name} failed")
    return (folder / "said").read_text()


def sha_of(state: dict[str, Any]) -> str:
    """Return the first digits of the sha256 of a model's tensors, by name."""
    hasher = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        hasher.update(name.encode() + tensor.numpy().tobytes())
    return hasher.hexdigest()[:16]


def digits(bits: str, pieces: int) -> Recipe:
    """Return two epochs of the smallest network."""
    return Recipe.model_validate(
        {
            "name": "bench",
            "model": {"name": "resnet8"},
            "data": {"name": "digits", "batch_size": 64, "pad": 1},
            "quant": BITS[bits],
            "train": {"epochs": 2, "lr": 0.05, "accumulate": pieces},
        }
    )


def finish(recipe: Recipe, stop_at: int | None, context: ExecutionContext) -> str:
    """Train to the end, or to a step; return the hash of the last checkpoint."""
    asked = count()
    if stop_at is not None and context.world.rank == 0:
        context = replace(context, stop=lambda: next(asked) >= stop_at)
    with contextlib.suppress(Preempted):
        list(finetune(recipe, context))
    content = resume_point(context.run_dir)[0] if context.world.rank == 0 else None
    return sha_of(dict(content.model)) if content else ""


def resnet20(pieces: int) -> Recipe:
    """Return what the steps of ResNet-20 are taken by."""
    return Recipe.model_validate(
        {
            "name": "bench",
            "model": {"name": "cifar_resnet20"},
            "data": {"name": "cifar10", "batch_size": BATCH, "pad": 4, "flip": True},
            "quant": {"weight_bits": 4, "act_bits": 4},
            "train": {"epochs": 90, "lr": 0.01, "accumulate": pieces},
        }
    )


def session_of(recipe: Recipe, context: ExecutionContext, data: Path | None) -> TrainingSession:
    """Return ResNet-20, calibrated, on CIFAR-10 or on generated images of its shape."""
    device = setup_torch(context, seed=0)
    if data is not None:
        pipeline = open_pipeline(recipe, replace(context, data_dir=data), device)
    else:
        draw = np.random.default_rng(0)
        pixels = draw.integers(0, 256, (BATCH * 40, 3, 32, 32), dtype=np.uint8)
        labels = torch.from_numpy(draw.integers(0, 10, len(pixels)))
        images = InMemoryImages(torch.from_numpy(pixels), labels, recipe.data)
        about = ("test", 10, 3, 32, (0.5,) * 3, (0.25,) * 3, "generated", "")
        pipeline = DataPipeline(DatasetSplits(images, images, *about), recipe, device, channels=3)
    model = quantize_model(build_on_device("cifar_resnet20", pipeline), recipe)
    calibrate(model, pipeline.calibration_batches(BATCH))
    state = TrainState("", environment={"compile": False, "channels_last": True})
    return build_session(model, None, recipe, context, pipeline=pipeline, train_state=state)


def take_steps(session: TrainingSession, steps: int) -> list[float]:
    """Take steps as an epoch does; return the seconds of each."""
    session.model.train()
    pipeline, times = session.pipeline, []
    batches = pipeline.train_batches(0, part=session.own_part)
    pairs = zip(pipeline.batch_indices(0), batches, strict=False)
    began = time.monotonic()
    for indices, (images, labels) in islice(pairs, steps):
        session.check_stop()
        train_step(session, images, labels, None, session.share_of(len(indices)))
        times.append(time.monotonic() - began)
        began = time.monotonic()
    return times


def steps_sha(data: Path | None, context: ExecutionContext) -> str:
    """Return the hash after some steps of ResNet-20."""
    session = session_of(resnet20(2), context, data)
    take_steps(session, STEPS)
    return sha_of(session.model.state_dict())


def bits_table(root: Path, data: Path | None) -> list[str]:
    """Return the table of hashes, a line a case."""
    lines = ["| case | 1 process | 2 processes | 4 processes |", "|---|---|---|---|"]
    for bits, pieces in (("W3A3", 4), ("fp32", 4), ("W3A3", 2)):
        found = []
        for size in (1, 2, 4)[: pieces.bit_length()]:
            recipe, folder = digits(bits, pieces), root / f"{bits}-{pieces}-{size}"
            found.append(on_ranks(lambda job, r=recipe: finish(r, None, job), folder, size))
        found += ["–"] * (3 - len(found))
        lines.append(f"| digits resnet8, {bits}, {pieces} pieces | {' | '.join(found)} |")
    said = ""
    for size, stop_at in ((1, 9), (4, 9), (2, None)):
        recipe, folder = digits("W3A3", 4), root / "resumed"
        said = on_ranks(lambda job, s=stop_at, r=recipe: finish(r, s, job), folder, size)
    lines.append(f"| the first of these, stopped and resumed on 1, 4, 2 | {said} | | |")
    found = [on_ranks(lambda job: steps_sha(data, job), root / f"r20-{s}", s) for s in (1, 2)]
    images = "CIFAR-10" if data else "generated images"
    name = f"ResNet-20, W4A4, batch {BATCH}, 2 pieces, {STEPS} steps, {images}"
    return [*lines, f"| {name} | {found[0]} | {found[1]} | – |"]


def speed_table(root: Path, data: Path | None, steps: int) -> list[str]:
    """Return the median seconds of a step, and how many times as fast as alone in one piece."""
    found: dict[str, list[float]] = {}
    for turn in range(3):
        for pieces, size in ((1, 1), (2, 1), (2, 2)):

            def timed(job: ExecutionContext, pieces: int = pieces) -> str:
                times = take_steps(session_of(resnet20(pieces), job, data), steps)
                return str(statistics.median(times[1:]))

            folder = root / f"speed-{turn}-{pieces}-{size}"
            found.setdefault(f"{size} in {pieces}", []).append(float(on_ranks(timed, folder, size)))
    medians = {name: statistics.median(times) for name, times in found.items()}
    return [
        f"{name:8} pieces: {1e3 * seconds:8.1f} ms a step, {medians['1 in 1'] / seconds:.2f} times"
        for name, seconds in medians.items()
    ]


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["bits", "speed"])
    parser.add_argument("--data", type=Path, help="a data folder with CIFAR-10")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--report", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.what == "speed":
            print("\n".join(speed_table(Path(folder), given.data, given.steps)))
            return
        lines = bits_table(Path(folder), given.data)
    text = "\n".join(lines)
    print(text)
    if given.report:
        about = f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread"
        title = "# One run on several processes: hashes"
        how = f"Printed by `python bench/processes.py bits`: {about} a process."
        given.report.write_text(f"{title}\n\n{how}\n\n{text}\n")


if __name__ == "__main__":
    main()
