"""How many codes of the exact form differ from the reference on CIFAR-10's test images, by case.

    LSQCTL_DATA=DIR python bench/deploy_codes.py [--cases w4a4 w2a2 …] [--images N]

DIR holds CIFAR-10 in its binary layout and the public ResNet-20 weights, as the bundled recipes
want them. Each network is calibrated and trained for a few steps: what is counted is equality, not
accuracy. Every image's codes in onnxruntime are compared with those of the integer reference; a
row of a table is printed for each case as soon as it is known.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lsqctl.deploy.certificate import certify, proofs  # noqa: E402
from lsqctl.deploy.checking import Comparison, reference_answers  # noqa: E402
from lsqctl.deploy.exact import ExactForm  # noqa: E402
from lsqctl.deploy.forms import Answers  # noqa: E402
from lsqctl.deploy.onnx_graph import export, write_onnx  # noqa: E402
from lsqctl.deploy.runtime import open_session, run_session  # noqa: E402
from lsqctl.deploy.tracing import FromPixels, Pixels, trace  # noqa: E402
from lsqctl.models.factory import build_model  # noqa: E402
from lsqctl.quant import LayerOverride, QuantSpec, calibrate, prepare  # noqa: E402
from lsqctl.settings import load_settings  # noqa: E402

PIXELS = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 3)
WEIGHTS = "cifar-resnet/resnet20-12fca82f.th"
BATCH, STEPS, LEARNING_RATE = 64, 10, 0.001

CASES: Mapping[str, Mapping[str, object]] = {
    "w4a4": {},
    "w3a3": {"weight_bits": 3, "act_bits": 3},
    "w2a2": {"weight_bits": 2, "act_bits": 2},
    "w8a8": {"weight_bits": 8, "act_bits": 8},
    "w3a4": {"weight_bits": 3},
    "mixed 2 to 8": {
        "overrides": {
            "layer1.*": LayerOverride(weight_bits=8, act_bits=6),
            "layer2.*": LayerOverride(weight_bits=5, act_bits=7),
            "layer3.*": LayerOverride(weight_bits=2, act_bits=3),
        }
    },
    "per channel": {"per_channel": True},
    "signed input": {"act_signed": "signed"},
    "offset": {"act_offset": "learned"},
    "residual 8": {"residual_bits": 8},
    "residual 4": {"residual_bits": 4},
    "depthwise": {},
}


def read_images(file: Path) -> tuple[Tensor, Tensor]:
    """Return the pixels (N, 3, 32, 32) as bytes, and the labels, of one of CIFAR-10's files."""
    records = np.fromfile(file, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    pixels = torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32).copy())
    return pixels, torch.from_numpy(records[:, 0].astype(np.int64))


def normalized(pixels: Tensor) -> Tensor:
    """Return bytes (N, 3, H, W) as the networks take them in training."""
    return FromPixels(nn.Identity(), PIXELS)(pixels)


def public_network(data_dir: Path) -> nn.Module:
    """Return the ResNet-20 with the public full-precision weights."""
    saved = torch.load(data_dir / WEIGHTS, map_location="cpu", weights_only=True)
    state = {key.removeprefix("module."): value for key, value in saved["state_dict"].items()}
    model = build_model("cifar_resnet20", num_classes=10, in_channels=3, image_size=32)
    model.load_state_dict(state)
    return model


def trained(
    case: str, data_dir: Path, images: Tensor, labels: Tensor, steps: int = STEPS
) -> nn.Module:
    """Return the network of a case, calibrated and trained for a few steps."""
    torch.manual_seed(0)
    if case == "depthwise":
        model = build_model("mobilenet_v2", num_classes=10, in_channels=3, image_size=32)
    else:
        model = public_network(data_dir)
    model = prepare(model, QuantSpec(**CASES[case]))
    inputs = normalized(images)
    calibrate(model, [inputs[:512]])
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=0.9)
    for step in range(steps):
        batch = slice(step * BATCH, (step + 1) * BATCH)
        optimizer.zero_grad()
        F.cross_entropy(model.train()(inputs[batch]), labels[batch]).backward()
        optimizer.step()
    return model.eval()


def row(case: str, data_dir: Path, n_images: int) -> str:
    """Return the row of one case."""
    folder = data_dir / "cifar-10-batches-bin"
    train, labels = read_images(folder / "data_batch_1.bin")
    network = trace(trained(case, data_dir, train[:2000], labels[:2000]), (3, 32, 32), PIXELS)
    certificates = certify(network)
    form = ExactForm(network, proofs=proofs(certificates))
    model, taps = write_onnx(export(network), form, {})
    names = list(dict.fromkeys(taps.values()))
    session = open_session(model.SerializeToString(), taps=names)
    comparison = Comparison(network)
    pixels, labels = read_images(folder / "test_batch.bin")
    for start in range(0, n_images, BATCH):
        batch = slice(start, min(start + BATCH, n_images))
        found = run_session(session, pixels[batch].numpy(), ["logits", *names])
        codes = {edge: found[name].astype(np.int16) for edge, name in taps.items()}
        reference = reference_answers(network, pixels[batch])
        comparison.compare(reference, Answers(found["logits"], codes), labels[batch])
    counts = comparison.counts
    finite = [one for one in certificates if one.edge.finite]
    proved = sum(one.proved for one in finite)
    right = sum(int(hits.sum()) for hits in counts.hits)
    return (
        f"| {case} | {counts.n_images:,} | {counts.n_codes:,} | {counts.n_codes_differing:,} "
        f"| {counts.n_logits_differing:,} | {proved} of {len(finite)} "
        f"| {right:,} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--images", type=int, default=10_000)
    options = parser.parse_args()
    print(
        "| case | images | codes | differing | logits differing | proved, finite, edges | right |"
    )
    print("|---|---:|---:|---:|---:|---|---:|")
    for case in options.cases:
        print(row(case, load_settings().data_dir, options.images), flush=True)


if __name__ == "__main__":
    main()
