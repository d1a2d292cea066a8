"""What a deployed file costs beside full precision in onnxruntime: forms interleaved, with bytes.

    python bench/deploy.py [--nets cifar_resnet20 resnet18] [--batches 1 32] [--rounds N]

Networks are calibrated, not trained: their speed does not depend on what the weights are.
``exact`` is what ``lsqctl deploy`` writes; ``exact, nothing proved`` has no QLinearConv; ``fp32``
is the same network without quantizers. In each round every file answers once, in an order that
turns; a ratio is full precision's processor time of the same round over the file's, on one
thread, and the median of the rounds is printed: above 1 is faster.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lsqctl.deploy.certificate import certify, proofs  # noqa: E402
from lsqctl.deploy.exact import ExactForm  # noqa: E402
from lsqctl.deploy.onnx_graph import export, write_onnx  # noqa: E402
from lsqctl.deploy.runtime import open_session, run_session  # noqa: E402
from lsqctl.deploy.tracing import Pixels, trace  # noqa: E402
from lsqctl.models.factory import build_model  # noqa: E402
from lsqctl.quant import QuantSpec, calibrate, prepare  # noqa: E402

PIXELS = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 3)
SIZES = {"cifar_resnet20": 32}
CALIBRATION_IMAGES, WARM_UP = 8, 3


def random_pixels(count: int, size: int) -> torch.Tensor:
    """Return made-up images (N, 3, size, size), as bytes."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, 3, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def files_of(name: str, size: int) -> dict[str, bytes]:
    """Return each form of a network, as a file."""
    torch.manual_seed(0)
    model = build_model(name, num_classes=10, in_channels=3, image_size=size).eval()
    _spread_norms(model)
    plain = trace(model, (3, size, size), PIXELS)
    files = {"fp32": write_onnx(export(plain), ExactForm(plain), {})[0].SerializeToString()}
    images = random_pixels(CALIBRATION_IMAGES, size).float() / 255 - 0.5
    prepared = prepare(model, QuantSpec())
    calibrate(prepared, [images])
    network = trace(prepared.eval(), (3, size, size), PIXELS)
    exported = export(network)
    for label, proved in (("exact, nothing proved", {}), ("exact", proofs(certify(network)))):
        form = ExactForm(network, proofs=proved)
        files[label] = write_onnx(exported, form, {})[0].SerializeToString()
    return files


def _spread_norms(model: nn.Module) -> None:
    """Give batch norms gains and biases that differ, as trained ones do."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, std=0.3)


def measure(files: dict[str, bytes], images: np.ndarray, rounds: int) -> dict[str, list[float]]:
    """Return seconds of processor time by form, one of each a round."""
    sessions = {label: open_session(file, threads=1) for label, file in files.items()}
    labels = list(sessions)
    seconds: dict[str, list[float]] = {label: [] for label in labels}
    for turn in range(WARM_UP + rounds):
        first = turn % len(labels)
        for label in labels[first:] + labels[:first]:
            start = time.process_time()
            run_session(sessions[label], images)
            if turn >= WARM_UP:
                seconds[label].append(time.process_time() - start)
    return seconds


def main() -> None:
    """Print a row of a table for each network, batch and form."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=["cifar_resnet20", "resnet18"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--rounds", type=int, default=31)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    print(
        "| network | batch | file | bytes | ms | faster than fp32 |\n|---|---:|---|---:|---:|---:|"
    )
    for name in options.nets:
        size = SIZES.get(name, 224)
        files = files_of(name, size)
        for batch in options.batches:
            seconds = measure(files, random_pixels(batch, size).numpy(), options.rounds)
            for label, values in seconds.items():
                pairs = zip(seconds["fp32"], values, strict=True)
                ratio = statistics.median(fp32 / own for fp32, own in pairs)
                ms = 1000 * statistics.median(values)
                size_bytes = len(files[label])
                print(f"| {name} | {batch} | {label} | {size_bytes:,} | {ms:.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
