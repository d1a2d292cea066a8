"""One run on 1, 2 and 4 processes: are the bits the same, and how much faster is it?

    python bench/processes.py bits [--report FILE] [--kept FILE] [--only TEXT]     # hashes
    python bench/processes.py speed [--turns N] [--steps N]         # steps a second: two idle cores

``bits`` trains each case on each number of processes (one thread each) and prints the sha256 of
weights, step sizes and statistics at the end; it ends with 1 where those of a case differ.
``--report`` writes the table. With ``--kept`` each hash is kept as soon as it is known, and one
that is there, of the same code, torch and processor, is not computed again: what takes long can be
done in pieces. ``--only`` computes the cases alone whose name has this text. ResNet-20 (batch 128)
takes some steps on generated images of CIFAR's shape, or on CIFAR-10 with ``--data``.

``speed`` takes steps of the same ResNet-20 in turns: on one process with one thread and with two,
in one piece and in two, and on two processes. It prints the medians. Goal: two processes at least
1.7 times as fast as one with one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo
import torch._inductor.config

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lsqctl.bundled import code_sha256  # noqa: E402
from lsqctl.errors import Preempted  # noqa: E402
from lsqctl.quant import calibrate  # noqa: E402
from lsqctl.recipe import Recipe  # noqa: E402
from lsqctl.training import ExecutionContext, finetune  # noqa: E402
from lsqctl.training.beginning import build_on_device, open_pipeline, quantize_model  # noqa: E402
from lsqctl.training.checkpoint import resume_point  # noqa: E402
from lsqctl.training.compilation import decide_kernel  # noqa: E402
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
BITS = {
    "W3A3": {"weight_bits": 3, "act_bits": 3},
    "W4A4": {"weight_bits": 4, "act_bits": 4},
    "fp32": dict.fromkeys(LOW, 32),
}
BATCH, STEPS = 128, 8
SIZES = (1, 2, 4)
GOAL = 1.7  # times as fast on two processes as on one


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


def resnet20(pieces: int, bits: str = "W4A4") -> Recipe:
    """Return what the steps of ResNet-20 are taken by."""
    return Recipe.model_validate(
        {
            "name": "bench",
            "model": {"name": "cifar_resnet20"},
            "data": {"name": "cifar10", "batch_size": BATCH, "pad": 4, "flip": True},
            "quant": BITS[bits],
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
    kernel = decide_kernel(recipe, context, pipeline)
    model = quantize_model(
        build_on_device("cifar_resnet20", pipeline), recipe, pipeline.input_shape, kernel
    )
    if recipe.quant.to_spec().quantized:
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


def steps_sha(recipe: Recipe, data: Path | None, context: ExecutionContext) -> str:
    """Return the hash after some steps of ResNet-20."""
    session = session_of(recipe, context, data)
    take_steps(session, STEPS)
    return sha_of(session.model.state_dict())


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the table: what each number of processes does in a folder of its own."""

    name: str
    sizes: tuple[int, ...]
    hash_on: Callable[[Path, int], str]


def cases(data: Path | None) -> list[Case]:
    """Return the lines of the table."""
    images = "CIFAR-10" if data else "generated images"
    steps = f"batch {BATCH}, {STEPS} steps, {images}"
    return [
        *(trained(bits, pieces) for bits, pieces in (("W3A3", 4), ("fp32", 4), ("W3A3", 2))),
        Case("digits resnet8, W3A3, 4 pieces, stopped and resumed on 1, 4, 2", (1,), resumed),
        stepped("W4A4", 2, data, steps),
        stepped("W3A3", 4, data, steps),
        stepped("fp32", 4, data, steps),
    ]


def trained(bits: str, pieces: int) -> Case:
    """Return the case of a whole training."""
    recipe = digits(bits, pieces)

    def hash_on(folder: Path, size: int) -> str:
        return on_ranks(lambda job: finish(recipe, None, job), folder, size)

    return Case(f"digits resnet8, {bits}, {pieces} pieces", fitting(pieces), hash_on)


def resumed(folder: Path, _: int) -> str:
    """Return the hash of a training that is stopped twice, and goes on on other numbers."""
    said = ""
    for size, stop_at in ((1, 9), (4, 9), (2, None)):
        said = on_ranks(lambda job, s=stop_at: finish(digits("W3A3", 4), s, job), folder, size)
    return said


def stepped(bits: str, pieces: int, data: Path | None, about: str) -> Case:
    """Return the case of some steps of ResNet-20."""
    recipe = resnet20(pieces, bits)

    def hash_on(folder: Path, size: int) -> str:
        return on_ranks(lambda job: steps_sha(recipe, data, job), folder, size)

    return Case(f"ResNet-20, {bits}, {pieces} pieces, {about}", fitting(pieces), hash_on)


def fitting(pieces: int) -> tuple[int, ...]:
    """Return the numbers of processes that share so many pieces."""
    return tuple(size for size in SIZES if pieces % size == 0)


class Kept:
    """The hashes that are known, by case and number of processes, in a file as they come."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._made_by = path, [code_sha256(), *environment()]
        known = json.loads(path.read_text()) if path and path.exists() else {}
        self._hashes: dict[str, str] = (
            known["hashes"] if known.get("made by") == self._made_by else {}
        )

    def get(self, case: Case, size: int) -> str | None:
        """Return a hash, where it is known."""
        return self._hashes.get(f"{case.name} on {size}")

    def add(self, case: Case, size: int, found: str) -> None:
        """Keep a hash."""
        self._hashes[f"{case.name} on {size}"] = found
        if self._path:
            text = json.dumps({"made by": self._made_by, "hashes": self._hashes}, indent=1)
            self._path.write_text(text + "\n")


def environment() -> list[str]:
    """Return what the hashes belong to."""
    return [torch.__version__, torch.backends.cpu.get_cpu_capability()]


def compute_missing(wanted: list[Case], kept: Kept, root: Path) -> None:
    """Compute the hashes that are not known, and say each."""
    for number, case in enumerate(wanted):
        for size in case.sizes:
            if kept.get(case, size) is None:
                kept.add(case, size, case.hash_on(root / f"{number}-{size}", size))
                print(f"{case.name} on {size}: {kept.get(case, size)}", flush=True)


def bits_table(every: list[Case], kept: Kept) -> list[str]:
    """Return the table of hashes, a line a case; – where a number of processes does not fit."""
    lines = ["| case | 1 process | 2 processes | 4 processes |", "|---|---|---|---|"]
    for case in every:
        cells = [
            (kept.get(case, size) or "unknown") if size in case.sizes else "–" for size in SIZES
        ]
        lines.append(f"| {case.name} | {' | '.join(cells)} |")
    return lines


def different(every: list[Case], kept: Kept) -> list[str]:
    """Return the names of the cases whose hashes differ, the resumed one from that of its kind."""
    hashes = {case.name: {kept.get(case, size) for size in case.sizes} for case in every}
    whole, again = every[0].name, next(case.name for case in every if case.hash_on is resumed)
    hashes[again] |= hashes[whole]
    return [name for name, found in hashes.items() if len(found - {None}) > 1]


WAYS = {  # processes, threads of each, pieces
    "1 process, 1 thread, 1 piece": (1, 1, 1),
    "1 process, 1 thread, 2 pieces": (1, 1, 2),
    "1 process, 2 threads, 1 piece": (1, 2, 1),
    "1 process, 2 threads, 2 pieces": (1, 2, 2),
    "2 processes, 1 thread each, 2 pieces": (2, 1, 2),
}


def speed_table(root: Path, data: Path | None, turns: int, steps: int) -> list[str]:
    """Return the median seconds of a step by way, and how many times as fast as the first one."""
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(turns):
        for way, (size, threads, pieces) in WAYS.items():

            def timed(job: ExecutionContext, threads: int = threads, pieces: int = pieces) -> str:
                session = session_of(resnet20(pieces), replace(job, threads=threads), data)
                return json.dumps(take_steps(session, steps)[1:])

            folder = root / f"{turn}-{size}-{threads}-{pieces}"
            found[way] += json.loads(on_ranks(timed, folder, size))
    medians = {way: statistics.median(times) for way, times in found.items()}
    alone, alone_in_two, *_, shared = medians.values()
    lines = [f"{way:37} {1e3 * s:7.1f} ms a step  {alone / s:.2f}" for way, s in medians.items()]
    return [
        *lines,
        f"2 processes against 1 with one thread: {alone / shared:.2f} in one piece, "
        f"{alone_in_two / shared:.2f} in the same two (goal {GOAL})",
    ]


def measure_speed(data: Path | None, turns: int, steps: int) -> None:
    """Print how fast the ways are, and how busy the machine was besides."""
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        raise SystemExit("speed needs two cores, and this process has one")
    print(f"{cores} cores; load before: {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        print("\n".join(speed_table(Path(folder), data, turns, steps)))


def measure_bits(data: Path | None, kept: Kept, only: str, report: Path | None) -> None:
    """Compute what is not known yet, and print the table; ends with 1 where hashes differ."""
    every = cases(data)
    with tempfile.TemporaryDirectory() as folder:
        compute_missing([case for case in every if only in case.name], kept, Path(folder))
    text = "\n".join(bits_table(every, kept))
    print(text)
    if report:
        made_by = "torch {}, {}, one thread a process".format(*environment())
        title = "# One run on several processes: hashes"
        how = f"Printed by `python bench/processes.py bits`: {made_by}."
        report.write_text(f"{title}\n\n{how}\n\n{text}\n")
    if differ := different(every, kept):
        raise SystemExit(f"hashes differ: {'; '.join(differ)}")


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["bits", "speed"])
    parser.add_argument("--data", type=Path, help="a data folder with CIFAR-10")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--kept", type=Path, help="where the hashes that are known are kept")
    parser.add_argument("--only", default="", help="a part of the names of the cases to compute")
    given = parser.parse_args()
    if given.what == "speed":
        measure_speed(given.data, given.turns, given.steps)
    else:
        measure_bits(given.data, Kept(given.kept), given.only, given.report)


if __name__ == "__main__":
    main()
