"""The main path of a deployment: trace, write the file, check it, hand over a folder.

``convert`` takes any prepared and trained model; whoever has a run calls it through
``lsqctl deploy``.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import lsqctl
from lsqctl.deploy.card import Card, config_json, readme
from lsqctl.deploy.certificate import (
    AVX2_PAIR,
    Certificate,
    certificates_json,
    certify,
    pair_bounds,
    proofs,
)
from lsqctl.deploy.checking import CheckCounts, Checker, differing_bits
from lsqctl.deploy.exact import ExactForm
from lsqctl.deploy.folder import EXPECTED, check_free, npz_bytes, write_folder
from lsqctl.deploy.network import Network
from lsqctl.deploy.onnx_graph import export, write_onnx
from lsqctl.deploy.runtime import PACKAGES, Array, require
from lsqctl.deploy.settle import moves_json, settle
from lsqctl.deploy.tracing import Pixels, trace
from lsqctl.errors import UsageError
from lsqctl.run import JsonObject

EXACT_FILE = "model.onnxruntime.onnx"
ARITHMETIC = "lsq-integer-1"  # docs/arithmetic.md
EXPECTED_IMAGES = 64

Batches = Iterable[tuple[Tensor, Tensor | None]]


@dataclass(frozen=True, slots=True)
class Conversion:
    """What came of it: the folder, counts of the check, bytes on the disk by file, and proofs."""

    directory: Path
    counts: CheckCounts
    n_integer_layers: int
    float_layers: Mapping[str, str]
    file_bytes: Mapping[str, int]
    certificates: tuple[Certificate, ...]


@dataclass(frozen=True, slots=True)
class Options:
    """How to convert.

    ``plain`` keeps to ONNX's standard operators; ``settle`` moves biases off the ties between
    codes; ``threads`` are those of the check; ``card`` is what the folder says of the model's
    origin.
    """

    plain: bool = False
    settle: bool = False
    threads: int = 1
    card: Card = field(default_factory=Card)


def convert(
    model: nn.Module,
    directory: Path | str,
    batches: Batches,
    *,
    pixels: Pixels | None = None,
    options: Options | None = None,
) -> Conversion:
    """Write a prepared, calibrated model (or a float one) as a folder of files, and check them.

    ``batches`` are (images, labels or None), as many as the check shall compare: images are bytes
    (B, C, H, W) with ``pixels``, which says how they are normalized, else fp32 as the model takes
    them. The first 64 become the folder's expected images.

    Raises UsageError where the folder exists or a package is missing, DataError for a layer that
    has no integer form; nothing is written then.

    >>> convert(model, "out", [(images, None)])  # doctest: +SKIP
    """
    directory, options = Path(directory), options or Options()
    check_free(directory)
    require(*PACKAGES)
    stream = iter(batches)
    first = next(stream, None)
    if first is None:
        raise UsageError("a deployment is checked on images, and there are none")
    network = trace(model, tuple(first[0].shape[1:]), pixels)
    network, moves = settle(network) if options.settle else (network, [])
    certificates = certify(network)
    form = ExactForm(network, options.plain, proofs(certificates))
    proto, taps = write_onnx(export(network), form, options.card.metadata())
    file = proto.SerializeToString(deterministic=True)
    expected = _Expected()
    checker = Checker(network, file, taps, threads=options.threads)
    for images, labels in _chained(first, stream):
        expected.add(images, *checker.add(images, labels))
    files = {EXACT_FILE: file, EXPECTED: expected.npz(), "config.json": b""}
    report = _report(network, checker.counts, taps, expected.n_differing, options.plain)
    report |= {"edges": certificates_json(certificates), "settled": moves_json(moves)}
    files["config.json"] = config_json(
        options.card, network.input_shape, expected.n_classes, pixels
    )
    files["README.md"] = readme(options.card, report, {k: len(v) for k, v in files.items()})
    write_folder(directory, files, report)
    sizes = {path.name: path.stat().st_size for path in sorted(directory.iterdir())}
    n_layers, floats = len(network.layers), network.float_layers
    return Conversion(directory, checker.counts, n_layers, floats, sizes, tuple(certificates))


def exact_file(network: Network, *, settled: bool = False) -> bytes:
    """Return the file that ``convert`` writes for a network, but what it says of its origin."""
    network = settle(network)[0] if settled else network
    form = ExactForm(network, proofs=proofs(certify(network)))
    data: bytes = write_onnx(export(network), form, {})[0].SerializeToString(deterministic=True)
    return data


def _chained(first: tuple[Tensor, Tensor | None], rest: Batches) -> Batches:
    yield first
    yield from rest


class _Expected:
    """The first images and their reference logits, and how many the file answers otherwise."""

    def __init__(self) -> None:
        self._images: list[Array] = []
        self._logits: list[Array] = []
        self.n_differing = 0

    def add(self, images: Tensor, reference: Array, logits: Array) -> None:
        """Keep of a batch what is still wanted."""
        wanted = slice(max(0, EXPECTED_IMAGES - sum(map(len, self._images))))
        self.n_differing += int(differing_bits(reference[wanted], logits[wanted]).any(1).sum())
        self._images.append(images[wanted].numpy())
        self._logits.append(reference[wanted])

    @property
    def n_classes(self) -> int:
        return int(self._logits[0].shape[1])

    def npz(self) -> bytes:
        images, logits = (np.concatenate(parts) for parts in (self._images, self._logits))
        return npz_bytes(images=images, logits=logits)


def _report(
    network: Network,
    counts: CheckCounts,
    taps: Mapping[str, str],
    expected_differing: int,
    plain: bool,
) -> JsonObject:
    """Return what ``check.json`` says beside the digests."""
    layers = [
        {
            "name": name,
            "codes": taps.get(name, ""),
            "weight_bits": layer.weight_bits,
            "accumulator_bound": layer.accumulator_bound,
            "avx2_safe": int(pair_bounds(layer).max()) <= AVX2_PAIR,
        }
        for name, layer in network.layers.items()
    ]
    exact = {
        "file": EXACT_FILE,
        "runtime": "onnxruntime",
        "operators": "standard" if plain else "standard and com.microsoft",
        "expected_differing": expected_differing,
        **counts_json(counts),
    }
    return {
        "schema_version": 1,
        "arithmetic": ARITHMETIC,
        "forms": {"exact": exact},
        "integer_layers": layers,
        "float_layers": dict(network.float_layers),
        "versions": _versions(),
        "machine": platform.machine(),
    }


def counts_json(counts: CheckCounts) -> JsonObject:
    """Return the counts of a check as plain values; ``right`` of the ``labelled`` images."""
    hits, reference = (int(sum(map(np.sum, h))) for h in (counts.hits, counts.reference_hits))
    return {
        "images": counts.n_images,
        "codes": counts.n_codes,
        "codes_differing": counts.n_codes_differing,
        "images_differing": counts.n_images_differing,
        "predictions_differing": counts.n_predictions_differing,
        "logits_differing": counts.n_logits_differing,
        "labelled": sum(map(len, counts.hits)),
        "right": hits,
        "reference_right": reference,
        "first_differences": [asdict(one) for one in islice(counts.first_differences, 5)],
    }


def _versions() -> dict[str, str]:
    import onnx
    import onnxruntime

    return {
        "lsqctl": lsqctl.__version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
    }
