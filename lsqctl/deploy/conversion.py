"""The main path of a deployment: trace, write the file, check it, hand over a folder.

``convert`` takes any prepared and trained model; whoever has a run calls it through
``lsqctl deploy``.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import lsqctl
from lsqctl.deploy.card import Card, config_json, readme
from lsqctl.deploy.certificate import certificates_json, is_pair_safe
from lsqctl.deploy.checking import (
    CheckCounts,
    Comparison,
    FakeQuantized,
    FloatComparison,
    check_alike,
    reference_answers,
)
from lsqctl.deploy.folder import (
    CHECK,
    EXPECTED,
    SCHEMA_VERSION,
    check_free,
    npz_bytes,
    unlike_images,
    write_folder,
)
from lsqctl.deploy.forms import FORMS, Answers, Form, Runner, Unavailable, WrittenForm
from lsqctl.deploy.network import Network
from lsqctl.deploy.runtime import Array, missing_packages
from lsqctl.deploy.settle import moves_json, settle
from lsqctl.deploy.source import FormSource
from lsqctl.deploy.tracing import Pixels, trace
from lsqctl.errors import DataError, UsageError
from lsqctl.run import JsonObject

ARITHMETIC = "lsq-integer-1"  # docs/arithmetic.md
EXPECTED_IMAGES = 64
EVERY_FORM = "all"
SECOND_RUNTIMES = ("openvino",)  # of a form that another runtime has run already
_VERSIONED = "torch onnx onnxruntime numpy openvino qonnx safetensors".split()

Batches = Iterable[tuple[Tensor, Tensor | None]]
Listeners = Mapping[str, Callable[[Tensor, Tensor], None]]


@dataclass(frozen=True, slots=True)
class Conversion:
    """What came of it: the folder, counts, and bytes on the disk by file; the report has the rest.

    ``counts`` are of the first form, ``left_out`` has the reason for each that was not possible.
    """

    directory: Path
    counts: CheckCounts
    file_bytes: Mapping[str, int]
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Options:
    """How to convert.

    ``forms`` are those to write, ``all`` as many as are possible. ``plain`` keeps to ONNX's
    standard operators; ``settle`` moves biases off the ties between codes; ``hub`` puts files
    where Hugging Face's readers look. ``threads`` are those of the check; ``card`` is what the
    folder says of the model's origin. ``listeners`` hear, by form, the logits that its file gave of
    each labelled batch that was compared, and the labels.
    """

    forms: tuple[str, ...] = ("exact",)
    plain: bool = False
    settle: bool = False
    hub: bool = False
    threads: int = 1
    card: Card = field(default_factory=Card)
    listeners: Listeners = field(default_factory=dict)


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
    check_forms(options.forms)
    shape, stream = _shape_of(batches)
    network = trace(model, shape, pixels)
    network, moves = settle(network) if options.settle else (network, [])
    source = FormSource(network, options.card.metadata(), plain=options.plain)
    written, left_out = _write(source, options.forms)
    opened = _opened(written, left_out, options)
    names = {form: FORMS[form].file_in(hub=options.hub) for form in written}
    checks = [_Check(network, names, one, options) for one in opened]
    trained = FloatComparison(FakeQuantized(model, network, pixels), network)
    expected = _compare(network, [*checks, trained], stream)
    report = _report(source, written, checks) | {"left_out": left_out}
    report |= {"settled": moves_json(moves), "fake_quantized": fake_quantized_json(trained.counts)}
    files = {names[form]: one.data for form, one in written.items()} | {EXPECTED: expected.npz()}
    shape = network.input_shape
    files["config.json"] = config_json(options.card, shape, expected.n_classes, pixels)
    files["README.md"] = readme(options.card, report, {k: len(v) for k, v in files.items()})
    write_folder(directory, files, report)
    sizes = {name: (directory / name).stat().st_size for name in sorted({*files, CHECK})}
    return Conversion(directory, checks[0].counts, sizes, left_out)


def _shape_of(batches: Batches) -> tuple[tuple[int, ...], Batches]:
    """Return an image's shape, and all the batches; raises UsageError where there are none."""
    stream = iter(batches)
    first = next(stream, None)
    if first is None:
        raise UsageError("a deployment is checked on images, and there are none")
    return tuple(first[0].shape[1:]), chain([first], stream)


def _compare(
    network: Network, checks: Sequence[_Check | FloatComparison], batches: Batches
) -> _Expected:
    """Let each check compare the images with their reference, and return the first of both."""
    expected = _Expected()
    for images, labels in batches:
        reference = reference_answers(network, images)
        expected.add(images, reference)
        for check in checks:
            check.add(images, reference, labels)
    return expected


def exact_file(network: Network, *, settled: bool = False) -> bytes:
    """Return the file that ``convert`` writes for a network, but what it says of its origin."""
    network = settle(network)[0] if settled else network
    exact: Form = FORMS.load("exact")()
    return exact.write(FormSource(network, {}, plain=False)).data


def check_forms(names: Iterable[str]) -> None:
    """Raise NotFound for a form that nobody knows, UsageError where its packages are missing."""
    for name in names:
        if name != EVERY_FORM and (missing := _missing(name)):
            raise UsageError(f"the form {name}: {missing}")


def _missing(name: str) -> str:
    info = FORMS.find(name)
    return missing_packages(*info.packages.split(), extra=info.extra)


def _write(
    source: FormSource, names: tuple[str, ...]
) -> tuple[dict[str, WrittenForm], dict[str, str]]:
    """Return the files by form, and why others are left out, which ``all`` allows."""
    written, left_out = {}, {}
    for name in FORMS if EVERY_FORM in names else dict.fromkeys(names):
        if EVERY_FORM in names and (missing := _missing(name)):
            left_out[name] = missing
            continue
        form: Form = FORMS.load(name)()
        try:
            written[name] = form.write(source)
        except DataError as error:
            if EVERY_FORM not in names:
                raise
            left_out[name] = str(error)
    return written, left_out


def _opened(
    written: dict[str, WrittenForm], left_out: dict[str, str], options: Options
) -> list[tuple[str, Runner | Unavailable]]:
    """Return each form in each of its runtimes; we wrote its code, so it may run.

    One that its own runtime refuses is no longer written but left out, which ``all`` allows.
    """
    opened: list[tuple[str, Runner | Unavailable]] = []
    for name, one in list(written.items()):
        form: Form = FORMS.load(name)()
        try:
            runners = form.runners(
                one, name=FORMS[name].file, threads=options.threads, trusted=True
            )
            opened += [(name, runner) for runner in runners]
        except DataError as error:
            if EVERY_FORM not in options.forms:
                raise
            left_out[name] = str(error)
            del written[name]
    if not written:
        raise UsageError(f"no form can be written: {'; '.join(left_out.values())}")
    return opened


class _Check:
    """One form in one runtime: its comparison with the reference, or why there is none.

    ``key`` names it in the report: the form, and the runtime where it is a second one.
    """

    def __init__(
        self,
        network: Network,
        names: Mapping[str, str],
        opened: tuple[str, Runner | Unavailable],
        options: Options,
    ) -> None:
        self.form, self.runner = opened
        self._has_float = bool(network.float_operations)
        self._listener = options.listeners.get(self.key)
        self._file = names[self.form]
        self._comparison = Comparison(network)
        self.n_expected_differing = 0

    @property
    def key(self) -> str:
        is_second = self.runner.runtime in SECOND_RUNTIMES
        return f"{self.form}, {self.runner.runtime}" if is_second else self.form

    @property
    def promises_bits(self) -> bool:
        """Whether it must give the reference's logits to the last bit."""
        runner = self.runner
        is_bound = not isinstance(runner, Unavailable) and runner.promises_bits
        return is_bound and not self._has_float

    @property
    def counts(self) -> CheckCounts:
        return self._comparison.counts

    def add(self, images: Tensor, reference: Answers, labels: Tensor | None) -> None:
        """Compare as many of a batch as the runtime is asked for.

        A second runtime that fails is said to in the report; it is another's word on the same file.
        Raises DataError where a form's own runtime fails.
        """
        runner, n_before = self.runner, self.counts.n_images
        if isinstance(runner, Unavailable):
            return
        limit = len(images) if runner.max_images is None else max(0, runner.max_images - n_before)
        if limit == 0:
            return
        part = Answers(reference.logits[:limit], {k: v[:limit] for k, v in reference.codes.items()})
        try:
            found = runner.answer(images[:limit].numpy())
            check_alike(part, found, f"{self._file} in {runner.runtime}")
        except DataError as error:
            if runner.runtime not in SECOND_RUNTIMES:
                raise
            self.runner = Unavailable(runner.runtime, str(error), refused=True)
            return
        self._comparison.compare(part, found, None if labels is None else labels[:limit])
        if self._listener is not None and labels is not None:
            self._listener(torch.from_numpy(found.logits), labels[:limit])
        wanted = slice(max(0, EXPECTED_IMAGES - n_before))
        expected, answered = part.logits[wanted], found.logits[wanted]
        if len(expected) == 0:
            return
        unlike = unlike_images(expected, answered, bits=self.promises_bits)
        self.n_expected_differing += int(unlike.sum())

    def as_json(self, written: WrittenForm) -> JsonObject:
        """Return what the report says of it."""
        entry = {
            "form": self.form,
            "file": self._file,
            "bytes": len(written.data),
            "runtime": self.runner.runtime,
            "promises_bits": self.promises_bits,
            **written.details,
        }
        if isinstance(self.runner, Unavailable):
            why = {"not_run": self.runner.reason, "refused": self.runner.refused}
            return {**entry, **why, "expected_differing": 0}
        counts = counts_json(self.counts)
        return {**entry, "expected_differing": self.n_expected_differing, **counts}


class _Expected:
    """The first images and their reference logits."""

    def __init__(self) -> None:
        self._images: list[Array] = []
        self._logits: list[Array] = []

    def add(self, images: Tensor, reference: Answers) -> None:
        """Keep of a batch what is still wanted."""
        wanted = slice(max(0, EXPECTED_IMAGES - sum(map(len, self._images))))
        self._images.append(images[wanted].numpy())
        self._logits.append(reference.logits[wanted])

    @property
    def n_classes(self) -> int:
        return int(self._logits[0].shape[1])

    def npz(self) -> bytes:
        images, logits = (np.concatenate(parts) for parts in (self._images, self._logits))
        return npz_bytes(images=images, logits=logits)


def _report(
    source: FormSource, written: Mapping[str, WrittenForm], checks: Iterable[_Check]
) -> JsonObject:
    """Return what ``check.json`` says beside the digests."""
    network = source.network
    taps = written["exact"].taps if "exact" in written else {}
    layers = [
        {
            "name": name,
            "codes": taps.get(name, ""),
            "weight_bits": layer.weight_bits,
            "accumulator_bound": layer.accumulator_bound,
            "avx2_safe": is_safe,
            "openvino_may_clip": layer.window is not None and not is_safe,
        }
        for name, layer in network.layers.items()
        for is_safe in (is_pair_safe(layer),)
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "arithmetic": ARITHMETIC,
        "forms": {check.key: check.as_json(written[check.form]) for check in checks},
        "edges": certificates_json(source.certificates),
        "integer_layers": layers,
        "float_layers": dict(network.float_layers),
        "float_operations": network.float_operations,
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


def fake_quantized_json(counts: CheckCounts) -> JsonObject:
    """Return what the trained network in fp32 does otherwise than the reference, and where from."""
    beginnings = {"beginnings": counts.n_beginnings, "furthest_from_tie": counts.furthest_from_tie}
    return {**counts_json(counts), **beginnings}


def _versions() -> dict[str, str]:
    """Return the versions of what writes and runs the files, as far as it is installed."""
    versions = {"lsqctl": lsqctl.__version__}
    for package in _VERSIONED:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions
