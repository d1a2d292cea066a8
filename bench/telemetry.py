"""What looking at the quantizers costs: its share of the training steps.

    python bench/telemetry.py [--steps N] [--threads N]

Each network takes steps as training does (forward, backward, SGD, clamp) on random images, and
between them what an epoch adds is timed, interleaved: a look at the weights' codes, and one reading
of all quantizers.  Medians of processor time, which a busy machine disturbs less; ten looks and one
reading come to an epoch, or to 100 steps where it is shorter.
Goal: at most 1 % of the step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from lsqctl.models.factory import build_model
from lsqctl.quant import (
    OscillationTracker,
    QuantSpec,
    calibrate,
    clamp_step_sizes,
    collect_stats,
    param_groups,
    prepare,
)
from lsqctl.training.quantizer_stats import sample_size

LOOKS, STEPS = 10, 100  # as lsqctl/training/quantizer_stats.py spaces them


@dataclass(frozen=True)
class Case:
    model: str
    shape: tuple[int, int, int]
    classes: int
    batch: int
    steps_per_epoch: int
    runs: float = 1.0  # share of the steps taken: a large step needs fewer to be known


CASES = (
    Case("resnet8", (1, 8, 8), 10, 64, 20),  # the bundled digits recipes
    Case("cifar_resnet20", (3, 32, 32), 10, 128, 390),
    Case("resnet18", (3, 224, 224), 1000, 16, 80_073, 0.2),
)


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def measure(case: Case, steps: int) -> tuple[float, float, float]:
    """Return the median processor seconds of a step, a look and a reading."""
    torch.manual_seed(0)
    network = {"num_classes": case.classes, "in_channels": case.shape[0]}
    model = build_model(case.model, **network, image_size=case.shape[1])
    images, labels = torch.rand(case.batch, *case.shape), torch.randint(case.classes, (case.batch,))
    prepare(model, QuantSpec(weight_bits=4, act_bits=4))
    calibrate(model, images)
    optimizer = torch.optim.SGD(param_groups(model, lr=0.01, weight_decay=1e-4), momentum=0.9)
    clamp_step_sizes(optimizer, model)
    watch, few = OscillationTracker(model), images[: sample_size(case.shape)]

    def step() -> None:
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    rounds = []
    for _ in range(3 + max(5, round(steps * case.runs))):
        work = (step, watch.update, lambda: collect_stats(model, few))
        rounds.append([seconds(one) for one in work])
    step_s, look_s, read_s = (statistics.median(one) for one in zip(*rounds[3:], strict=True))
    return step_s, look_s, read_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"torch {torch.__version__}, {given.threads} threads, W4A4, eager, fp32; ms")
    print(f"{'network':16}{'batch':>6}{'step':>9}{'look':>8}{'reading':>9}{'of the steps':>14}")
    for case in CASES:
        step, look, read = measure(case, given.steps)
        share = (LOOKS * look + read) / (max(STEPS, case.steps_per_epoch) * step)
        numbers = f"{1e3 * step:9.1f}{1e3 * look:8.2f}{1e3 * read:9.1f}{100 * share:12.3f} %"
        print(f"{case.model:16}{case.batch:6}{numbers}")


if __name__ == "__main__":
    main()
