"""What a teacher adds to a training step: asked in every step, or its logits kept.

    python bench/distill.py [--rounds N] [--precision fp32|bf16]

ResNet-20 at W4A4 on generated images of CIFAR's shape, batch 128, one thread. In each round every
variant takes a whole training step, data path and optimizer included, and processor time is
counted; a ratio is taken to the step without a teacher of the same round, and medians are printed.
``cached`` reads the logits of its images out of a store, as an epoch does whose view is known;
what that view's file costs to open and check is printed by itself, for 50,000 images.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lsqctl.quant import calibrate  # noqa: E402
from lsqctl.recipe import Recipe  # noqa: E402
from lsqctl.training.beginning import build_on_device  # noqa: E402
from lsqctl.training.data_pipeline import (  # noqa: E402
    DataPipeline,
    DatasetSplits,
    InMemoryImages,
)
from lsqctl.training.finetuning import quantize_model  # noqa: E402
from lsqctl.training.optimizer_step import freeze_teacher, train_step  # noqa: E402
from lsqctl.training.runtime import ExecutionContext, setup_torch  # noqa: E402
from lsqctl.training.session import TrainingSession, build_session  # noqa: E402
from lsqctl.training.teacher_logits import TeacherLogits  # noqa: E402
from lsqctl.training.teacher_view import cached_logits, load_teacher_view  # noqa: E402
from lsqctl.training.train_state import TrainState  # noqa: E402

BATCH, BATCHES = 128, 4
FIRST_AND_LAST = ("first_weight_bits", "first_act_bits", "last_weight_bits", "last_act_bits")
TEACHERS = {"none": None, "cached": "cifar_resnet20", "same net": "cifar_resnet20"}
TEACHERS["ResNet-56"] = "cifar_resnet56"


def recipe_of(variant: str, precision: str) -> Recipe:
    """Return the recipe of a variant: the same but for its teacher."""
    network, distill = TEACHERS[variant], None
    if network is not None:
        distill = {"teacher": "-", "teacher_model": network, "cache": variant == "cached"}
    return Recipe.model_validate(
        {
            "name": "bench",
            "model": {"name": "cifar_resnet20"},
            "data": {"name": "cifar10", "batch_size": BATCH, "pad": 4, "flip": True, "views": 1},
            "quant": {"weight_bits": 4, "act_bits": 4, "kernel": "integer"}
            | dict.fromkeys(FIRST_AND_LAST, 8),
            "train": {"epochs": 1000, "precision": precision},
            "distill": distill,
        }
    )


def build(variant: str, precision: str, folder: Path) -> TrainingSession:
    """Return a session on generated images, its teacher with random weights."""
    recipe, context = recipe_of(variant, precision), ExecutionContext(folder, folder)
    device = setup_torch(context, 0)
    pixels = torch.randint(256, (BATCHES * BATCH, 3, 32, 32), dtype=torch.uint8)
    images = InMemoryImages(pixels, torch.arange(len(pixels)) % 10, recipe.data)
    mean = (0.5, 0.5, 0.5)
    splits = DatasetSplits(images, images, "test", 10, 3, 32, mean, mean, "-", "-")
    pipeline = DataPipeline(splits, recipe, device, channels=3)
    model = quantize_model(
        build_on_device("cifar_resnet20", pipeline), recipe, pipeline.input_shape
    )
    calibrate(model, pipeline.calibration_batches(BATCH))
    network = TEACHERS[variant]
    teacher = freeze_teacher(build_on_device(network, pipeline)) if network else None
    train_state = TrainState("bench", input_digests={"distill.teacher": "-"})
    train_state.environment = {"channels_last": True}
    session = build_session(
        model, teacher, recipe, context, pipeline=pipeline, train_state=train_state
    )
    load_teacher_view(session)
    session.model.train()
    return session


def stepper(session: TrainingSession) -> Callable[[], None]:
    """Return what takes a step on the next batch."""

    def step() -> None:
        epoch, start = divmod(session.train_state.step, BATCHES)
        indices = session.pipeline.batch_indices(epoch, start=start)[0]
        images, labels = next(session.pipeline.train_batches(epoch, start=start))
        train_step(session, images, labels, cached_logits(session, indices))

    return step


def view_seconds(folder: Path) -> float:
    """Return the processor time in which a view of 50,000 images and 10 classes is opened."""
    store = TeacherLogits(folder, {"teacher": "generated"}, (50_000, 10))

    def compute(chunks: object) -> object:
        return (np.zeros((len(chunk), 10), np.float32) for chunk in chunks)  # type: ignore[attr-defined]

    store.load(0, compute, lambda: None)  # type: ignore[arg-type]
    started = time.process_time()
    store.load(0, compute, lambda: None)  # type: ignore[arg-type]
    return time.process_time() - started


def main(words: list[str] | None = None) -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps = {
            variant: stepper(build(variant, arguments.precision, folder)) for variant in TEACHERS
        }
        seconds: dict[str, list[float]] = {variant: [] for variant in steps}
        for round_number in range(arguments.rounds + 1):
            for variant in sorted(steps, key=lambda v: hash((round_number, len(v)))):
                started = time.process_time()
                steps[variant]()
                if round_number:  # the first warms up
                    seconds[variant].append(time.process_time() - started)
        for variant, taken in seconds.items():
            ratio = statistics.median(a / b for a, b in zip(taken, seconds["none"], strict=True))
            print(f"{variant:10} {1000 * statistics.median(taken):8.1f} ms   ratio {ratio:.3f}")
        print(f"opening a view of 50,000 images: {1000 * view_seconds(folder):.1f} ms")


if __name__ == "__main__":
    main()
