"""What lsqctl does on a GPU, measured within ten minutes and written to docs/gpu.md.

    python bench/gpu.py [--write FILE] [--seconds N] [--device cuda:0] [--parts NAME …]

`make gpu` calls it. Without a GPU it says so and ends with 0: nothing is measured, nothing written.
Each part is a process of its own with a time limit, so that one which fails or hangs costs the
others nothing; the page then has what it said. It needs no network, and of a bare machine torch,
NumPy, pydantic, psutil, and pytest with hypothesis for the tests. CIFAR-10 and
cifar-resnet/resnet20-12fca82f.th are taken from the data folder (LSQCTL_DATA); without them noise
of the same shape is trained on, and the part says that only its seconds mean anything.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("torch", "numpy", "pydantic", "psutil")
WEIGHTS = "cifar-resnet/resnet20-12fca82f.th"
PAGE = """\
# On a GPU

```
make gpu
```

runs, within ten minutes, the tests with the marker `gpu`, a run that is cut and resumed, a run
compiled and eager, the step table of ResNet-50 in bf16, and a W3A3 run on CIFAR-10 of as many
epochs as fit, and writes this page. Without a GPU it says so, ends with 0 and writes nothing.
`bench/gpu.py` says what it needs.

"""
NOT_MEASURED = "No GPU has been measured so far: this page has no figures.\n"


@dataclass(frozen=True)
class Given:
    """Where a part runs, and how many seconds it may take."""

    device: str
    seconds: float
    data_dir: Path


@dataclass(frozen=True)
class Part:
    """A heading of the page, the most seconds it takes, and what yields its lines."""

    title: str
    seconds: float
    lines: Callable[[Given], Iterator[str]]


def tests(given: Given) -> Iterator[str]:
    """Run the tests with the marker."""
    missing = [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]
    if missing:
        yield f"not run: {' and '.join(missing)} not installed"
        return
    words = "-q -o addopts= -p no:cacheprovider -W default -m gpu tests/training/test_gpu.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words.split()],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    yield from done.stdout.splitlines()[-30:]


def recipe_of(changes: dict[str, dict[str, Any]]) -> Any:
    """Return a W3A3 recipe on CIFAR-10, changed by section."""
    from lsqctl.recipe import Recipe

    sections: dict[str, dict[str, Any]] = {
        "model": {"name": NETWORK},
        "data": {
            "name": "cifar10",
            "batch_size": 128,
            "pad": 4,
            "flip": True,
            "normalize": "imagenet",
        },
        "quant": {"weight_bits": 3, "act_bits": 3} | dict.fromkeys(FIRST_AND_LAST, 8),
        "train": {"epochs": 2, "lr": 0.02, "precision": "bf16"},
    }
    for section, keys in changes.items():
        sections[section] |= keys
    return Recipe.model_validate({"name": "gpu", **sections})


def context_of(given: Given, folder: Path, **changes: Any) -> Any:
    """Return where a run of its own executes."""
    from lsqctl.training import ExecutionContext

    values = {"run_dir": folder, "data_dir": given.data_dir, "device": given.device, "threads": 1}
    return ExecutionContext(**values | changes)


def train(recipe: Any, context: Any) -> dict[str, list[float]]:
    """Return the metrics of an attempt, stopped or ended: by split and name, an epoch a value."""
    from lsqctl.errors import Preempted
    from lsqctl.events import Metric
    from lsqctl.training import finetune

    found: dict[str, list[float]] = {}
    try:
        for event in finetune(recipe, context):
            if isinstance(event, Metric):
                found.setdefault(f"{event.split} {event.name}", []).append(event.value)
    except Preempted:
        pass
    return found


LIMITS = {"limit_train": 2560, "limit_eval": 1000}  # twenty steps an epoch
FIRST_AND_LAST = [f"{end}_{kind}_bits" for end in ("first", "last") for kind in ("weight", "act")]
NETWORK, COMPILE = "cifar_resnet20", "on"  # tests on a CPU take a smaller one, and compile nothing


def small(**train_keys: Any) -> Any:
    """Return a recipe of a part of the images."""
    return recipe_of({"data": LIMITS, "train": train_keys})


def resume(given: Given) -> Iterator[str]:
    """Compare a run that was cut with one in one go."""
    recipe = small()
    asked = iter(range(10**9))
    with tempfile.TemporaryDirectory() as name, data_folder(given) as place:
        whole = train(recipe, context_of(place, Path(name) / "whole", compile="off"))
        cut = context_of(place, Path(name) / "cut", compile="off")
        first = train(recipe, replace(cut, stop=lambda: next(asked) == 12))
        second = train(recipe, cut)
    names = [key for key in whole if not key.endswith(" seconds")]
    joined = {key: first.get(key, []) + second.get(key, []) for key in names}
    differing = [key for key in names if joined[key] != whole[key]]
    yield f"cut in its first epoch and resumed: {len(names)} metrics of 2 epochs"
    yield f"differ from the run in one go: {', '.join(differing) or 'none, to the last bit'}"
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG", "not set")
    yield f"CUBLAS_WORKSPACE_CONFIG: {workspace}"


def compiled(given: Given) -> Iterator[str]:
    """Compare a compiled run with an eager one, in fp32 and bf16."""
    for precision in ("fp32", "bf16"):
        for title, mode in (("eager   ", "off"), ("compiled", COMPILE)):
            started = time.monotonic()
            with tempfile.TemporaryDirectory() as name, data_folder(given) as place:
                context = context_of(place, Path(name), compile=mode)
                found = train(small(precision=precision), context)
            losses = " ".join(f"{loss:.6f}" for loss in found["train epoch_loss"])
            seconds = " ".join(f"{second:.2f}" for second in found["train seconds"])
            yield (
                f"{precision} {title}  loss by epoch {losses}"
                f"  seconds by epoch {seconds}  in all {time.monotonic() - started:.1f} s"
            )


def steps(given: Given) -> Iterator[str]:
    """Print the step table of ResNet-50 in bf16: eager beside every peer, compiled by itself."""
    yield from step_table(given, "eager", [])
    if COMPILE == "on":  # a minute each
        yield from step_table(given, "compiled", ["--peers", "full precision", "lsqctl"])


def step_table(given: Given, mode: str, peers: list[str]) -> Iterator[str]:
    """Yield what bench/train_step.py prints of one mode."""
    net = "resnet50" if given.device != "cpu" else "digits"
    words = (
        f"--nets {net} --precisions bf16 --modes {mode} --layouts channels-last "
        f"--rounds 10 --threads 1 --device {given.device}"
    )
    with subprocess.Popen(
        [sys.executable, "-u", "bench/train_step.py", *words.split(), *peers],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield from (line.rstrip() for line in process.stdout)


def cifar10(given: Given) -> Iterator[str]:
    """Train W3A3 ResNet-20 for as many epochs as fit, after one that tells how long they take."""
    from lsqctl.datasets.presence import is_dataset_present

    started = time.monotonic()
    real = is_dataset_present("cifar10", given.data_dir)
    weights = given.data_dir / WEIGHTS
    with tempfile.TemporaryDirectory() as name, data_folder(given) as place:
        if not real:
            yield "no CIFAR-10 in the data folder: noise is trained on, only seconds count"
        inputs = {"model.weights": weights} if real and weights.is_file() else {}
        model = {"model": {"weights": WEIGHTS}} if inputs else {}
        yield f"start: {WEIGHTS if inputs else 'random weights'}"
        lr = 0.02 if inputs else 0.1
        model |= {"data": LIMITS} if given.device == "cpu" else {}  # where only a test runs it
        tried = recipe_of(model | {"train": {"epochs": 2, "lr": lr}})
        trial = train(
            tried, context_of(place, Path(name) / "trial", inputs=inputs, compile=COMPILE)
        )
        left = given.seconds - (time.monotonic() - started)
        epochs = min(300, max(1, int(0.7 * left / trial["train seconds"][-1])))
        recipe = recipe_of(model | {"train": {"epochs": epochs, "lr": lr}})
        context = context_of(
            place,
            Path(name) / "run",
            inputs=inputs,
            compile=COMPILE,
            stop=lambda: time.monotonic() - started > given.seconds - 5,
        )
        found = train(recipe, context)
    if "test top1" not in found:
        yield f"no epoch ended within {given.seconds:.0f} s"
        return
    top1, seconds = found["test top1"], found["train seconds"]
    yield f"{len(seconds)} of {epochs} epochs at learning rate {lr}, bf16, compiled, one seed"
    yield f"Top-1 after the last epoch {top1[-1]:.2f}, best {max(top1):.2f}"
    yield f"seconds an epoch: first {seconds[0]:.2f}, last {seconds[-1]:.2f}"


def write_noise(data_dir: Path) -> None:
    """Write files of CIFAR-10's layout, filled with noise."""
    import numpy as np

    folder = data_dir / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
        records = draw.integers(0, 256, (10_000, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        records.tofile(folder / name)


PARTS = {
    "tests": Part("Tests with the marker gpu", 110, tests),
    "resume": Part("Resume", 60, resume),
    "compile": Part("Compiled and eager", 110, compiled),
    "steps": Part("A step of ResNet-50 in bf16", 190, steps),
    "cifar10": Part("W3A3 ResNet-20 on CIFAR-10", 600, cifar10),
}
_TO_END_SECONDS = 15.0  # kept for writing, and for processes that end


def run_part(name: str, given: Given, seconds: float) -> str:
    """Return what a part printed in a process of its own, and how it ended."""
    words = ["--part", name, "--seconds", str(seconds), "--device", given.device]
    process = subprocess.Popen(
        [sys.executable, __file__, *words, "--data-dir", str(given.data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTHONUNBUFFERED": "1"},
    )
    started = time.monotonic()
    try:
        told, ended = process.communicate(timeout=seconds)[0], ""
        if process.returncode:
            ended = f"ended with {process.returncode}\n"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        told, ended = process.communicate()[0], f"stopped: it took more than {seconds:.0f} s\n"
    lines = told.strip().splitlines()[-60:]
    return "\n".join(lines) + f"\n{ended}({time.monotonic() - started:.0f} s)"


def page(given: Given, sections: dict[str, str]) -> str:
    """Return the whole page."""
    import torch

    gpu = torch.cuda.get_device_name(given.device) if given.device != "cpu" else "no GPU"
    machine = f"{gpu}, torch {torch.__version__}, Python {platform.python_version()}"
    head = f"{PAGE}Measured at commit {commit()} on {machine}.\n"
    blocks = [f"\n## {PARTS[name].title}\n\n```\n{told}\n```\n" for name, told in sections.items()]
    return head + "".join(blocks)


def commit() -> str:
    """Return the checkout's commit, with + where files differ from it."""
    words = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


@contextmanager
def data_folder(given: Given) -> Iterator[Given]:
    """Yield the parts' place with CIFAR-10, or with noise in its layout where there is none."""
    from lsqctl.datasets.presence import is_dataset_present

    if is_dataset_present("cifar10", given.data_dir):
        yield given
        return
    with tempfile.TemporaryDirectory() as name:
        write_noise(Path(name))
        yield replace(given, data_dir=Path(name))


def run_parts(names: list[str], given: Given) -> dict[str, str]:
    """Return what each part printed, by name; the last one has all the time that is left."""
    deadline = time.monotonic() + given.seconds - _TO_END_SECONDS
    sections = {}
    for name in names:
        seconds = max(1.0, min(PARTS[name].seconds, deadline - time.monotonic()))
        print(f"{PARTS[name].title}: up to {seconds:.0f} s", flush=True)
        sections[name] = run_part(name, given, seconds)
        print(sections[name], flush=True)
    return sections


def arguments(words: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--part", choices=PARTS, help="one part, in this process")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    """Run the parts and write the page, where there is a GPU."""
    given = arguments(words)
    if given.seconds <= 0:
        sys.exit(f"--seconds {given.seconds:g}: a positive number of seconds")
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        sys.exit(
            f"{', '.join(missing)} not installed for {sys.executable}: "
            "`make .venv/.ready-dev` installs into .venv what `make gpu` needs"
        )
    import torch

    if given.device != "cpu" and not torch.cuda.is_available():
        print(f"no GPU: torch {torch.__version__} sees none; nothing was measured or written")
        return
    from lsqctl.settings import load_settings

    place = Given(given.device, given.seconds, given.data_dir or load_settings().data_dir)
    if given.part:
        for line in PARTS[given.part].lines(place):
            print(line, flush=True)
        return
    sections = run_parts(given.parts, place)
    if given.write and given.device != "cpu":
        given.write.write_text(page(place, sections), encoding="utf-8")
        print(f"wrote {given.write}")


if __name__ == "__main__":
    main()
