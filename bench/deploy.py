"""What a deployed file costs beside what one would run instead, interleaved, with bytes and hits.

    python bench/deploy.py [--nets cifar_resnet20 resnet18] [--batches 1 32] [--threads N]
                           [--clock cpu|wall] [--contenders exact …] [--rounds N]
    LSQCTL_DATA=DIR python bench/deploy.py --nets cifar_resnet20 --cifar10-steps 70

``exact`` and ``portable`` are what ``lsqctl deploy`` writes, ``exact, nothing proved`` has no
QLinearConv, ``exact, plain`` standard operators alone. ``onnxruntime fp32``, which the ratios are
to, is the same network without quantizers; ``onnxruntime QDQ`` is that file after onnxruntime's own
static quantization, 8 bits; OpenVINO, torch (eager, compiled) and PT2E (torchao's quantizer for x86
and the compiler, 8 bits) take part where they are installed. OpenVINO computes in fp32 and int8,
never in bf16.

Networks are calibrated, not trained, for their speed does not depend on what the weights are; with
``--cifar10-steps`` the public ResNet-20 is trained at W4A4 for so many steps, and each contender's
hits on the 10,000 test images of CIFAR-10 are printed. In each round every contender answers once,
in an order that turns; a ratio is the time of ``onnxruntime fp32`` in the same round over the
contender's, and the median of the rounds is printed: above 1 is faster. Processor time is
disturbed less by neighbours; it needs one thread. With several threads there is a pause before each
answer, for threads wait for more work awake, on the cores of the next contender.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.deploy_codes import PIXELS, normalized, public_network, read_images, trained  # noqa: E402
from lsqctl.deploy.certificate import proofs  # noqa: E402
from lsqctl.deploy.exact import ExactForm  # noqa: E402
from lsqctl.deploy.forms.portable import Portable, openvino_answers  # noqa: E402
from lsqctl.deploy.onnx_graph import export, write_onnx  # noqa: E402
from lsqctl.deploy.runtime import Array, open_session, run_session  # noqa: E402
from lsqctl.deploy.source import FormSource  # noqa: E402
from lsqctl.deploy.tracing import FromPixels, trace  # noqa: E402
from lsqctl.models.factory import build_model  # noqa: E402
from lsqctl.quant import QuantSpec, calibrate, prepare  # noqa: E402
from lsqctl.settings import load_settings  # noqa: E402

PUBLIC = "cifar_resnet20"
SIZES = {PUBLIC: 32}
CALIBRATION_IMAGES, WARM_UP, COUNTED_BATCH = 8, 3, 100
PAUSE = 0.05  # seconds, until the threads of the contender before no longer wait for work awake
FP32 = "onnxruntime fp32"

Logits = Callable[[Array], Array]


@dataclass(frozen=True, slots=True)
class Contender:
    """A network in a runtime: bytes of its file, None where it has none, and its logits."""

    file_bytes: int | None
    logits: Logits


@dataclass(frozen=True)
class Subject:
    """The network of a comparison: in full precision, and prepared for LSQ, both in evaluation."""

    full_precision: nn.Module
    prepared: nn.Module
    size: int
    threads: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image."""
        return 3, self.size, self.size

    @cached_property
    def source(self) -> FormSource:
        """What the forms of the prepared network are written from; made once."""
        return FormSource(trace(self.prepared, self.shape, PIXELS), {}, plain=False)

    @cached_property
    def fp32_file(self) -> bytes:
        """The network without quantizers in ONNX, which takes bytes, too."""
        network = trace(self.full_precision, self.shape, PIXELS)
        return write_onnx(export(network), ExactForm(network), {})[0].SerializeToString()

    def exact_file(self, *, proved: bool = True, plain: bool = False) -> bytes:
        """The form *exact*, its finite edges as they are proved, or as if nothing were."""
        found = proofs(self.source.certificates) if proved else {}
        form = ExactForm(self.source.network, plain, found)
        return write_onnx(self.source.exported, form, {})[0].SerializeToString()

    @cached_property
    def portable_file(self) -> bytes:
        """The form *portable*."""
        return Portable().write(self.source).data

    @cached_property
    def qdq_file(self) -> bytes:
        """The fp32 file after onnxruntime's own static quantization, a scale a channel."""
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):
            def __init__(self, images: Array) -> None:
                self.batches = iter([{"images": images}])

            def get_next(self) -> dict[str, Array] | None:  # type: ignore[override]
                return next(self.batches, None)

        with tempfile.TemporaryDirectory() as folder:
            source, ready, out = (Path(folder, name) for name in ("in.onnx", "ready.onnx", "out"))
            source.write_bytes(self.fp32_file)
            quant_pre_process(source, ready)
            reader = Reader(self.calibration_images().numpy())
            quantize_static(ready, out, reader, quant_format=QuantFormat.QDQ, per_channel=True)
            return out.read_bytes()

    def calibration_images(self) -> Tensor:
        """Images, as bytes, for whoever has to see some."""
        return random_pixels(CALIBRATION_IMAGES, self.size)


def in_onnxruntime(file: bytes, threads: int) -> Contender:
    """A file in onnxruntime."""
    session = open_session(file, threads=threads)
    return Contender(len(file), lambda images: run_session(session, images)["logits"])


def in_openvino(file: bytes, threads: int) -> Contender:
    """A file in OpenVINO."""
    answer = openvino_answers(file, {}, threads=threads, name="the file")
    return Contender(len(file), lambda images: answer(images).logits)


def in_torch(module: Callable[[Tensor], Tensor]) -> Contender:
    """A network in torch, without gradients."""

    def logits(images: Array) -> Array:
        with torch.no_grad():
            return module(torch.from_numpy(images)).numpy()

    return Contender(None, logits)


def compiled(network: nn.Module) -> Contender:
    """A network in torch, compiled apart for each batch size."""
    return in_torch(torch.compile(FromPixels(network, PIXELS), dynamic=False))


def pt2e(subject: Subject) -> Contender:
    """The network quantized to 8 bits by PyTorch's own path for x86, then compiled."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    example = normalized(subject.calibration_images())
    batch = {0: torch.export.Dim("batch", min=1, max=1024)}
    with torch.no_grad():
        exported = torch.export.export(subject.full_precision, (example,), dynamic_shapes=(batch,))
        observed = prepare_pt2e(exported.module(), quantizer)
        observed(example)
        return compiled(convert_pt2e(observed))


CONTENDERS: Mapping[str, Callable[[Subject], Contender]] = {
    FP32: lambda s: in_onnxruntime(s.fp32_file, s.threads),
    "exact": lambda s: in_onnxruntime(s.exact_file(), s.threads),
    "exact, nothing proved": lambda s: in_onnxruntime(s.exact_file(proved=False), s.threads),
    "exact, plain": lambda s: in_onnxruntime(s.exact_file(plain=True), s.threads),
    "portable": lambda s: in_onnxruntime(s.portable_file, s.threads),
    "onnxruntime QDQ": lambda s: in_onnxruntime(s.qdq_file, s.threads),
    "OpenVINO fp32": lambda s: in_openvino(s.fp32_file, s.threads),
    "OpenVINO portable": lambda s: in_openvino(s.portable_file, s.threads),
    "torch eager": lambda s: in_torch(FromPixels(s.full_precision, PIXELS)),
    "torch compiled": lambda s: compiled(s.full_precision),
    "PT2E compiled": pt2e,
}
NEEDS = {"OpenVINO": "openvino", "PT2E": "torchao"}


def possible() -> Iterator[str]:
    """Yield the contenders whose packages are installed."""
    for name in CONTENDERS:
        package = NEEDS.get(name.split()[0])
        if package is None or find_spec(package):
            yield name


def random_pixels(count: int, size: int) -> Tensor:
    """Return made-up images (N, 3, size, size), as bytes."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, 3, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def calibrated(name: str, threads: int) -> Subject:
    """Return a network with random weights and its quantizers calibrated."""
    size = SIZES.get(name, 224)
    torch.manual_seed(0)
    model = build_model(name, num_classes=10, in_channels=3, image_size=size).eval()
    _spread_norms(model)
    prepared = prepare(copy.deepcopy(model), QuantSpec())
    calibrate(prepared, [random_pixels(CALIBRATION_IMAGES, size).float() / 255 - 0.5])
    return Subject(model, prepared.eval(), size, threads)


def _spread_norms(model: nn.Module) -> None:
    """Give batch norms gains and biases that differ, as trained ones do."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, std=0.3)


def trained_on_cifar10(steps: int, threads: int) -> Subject:
    """Return the public ResNet-20 and the same at W4A4, trained for a number of steps."""
    data_dir = load_settings().data_dir
    images, labels = read_images(data_dir / "cifar-10-batches-bin" / "data_batch_1.bin")
    prepared = trained("w4a4", data_dir, images, labels, steps)
    return Subject(public_network(data_dir).eval(), prepared, 32, threads)


def n_correct(contender: Contender) -> int:
    """Return a contender's hits on CIFAR-10's test images."""
    images, labels = read_images(
        load_settings().data_dir / "cifar-10-batches-bin" / "test_batch.bin"
    )
    batches = zip(images.split(COUNTED_BATCH), labels.split(COUNTED_BATCH), strict=True)
    return sum(
        int((contender.logits(batch.numpy()).argmax(1) == expected.numpy()).sum())
        for batch, expected in batches
    )


def measure(
    contenders: Mapping[str, Contender],
    images: Array,
    rounds: int,
    clock: Callable[[], float],
    pause: float,
) -> dict[str, list[float]]:
    """Return seconds by contender, one of each a round, a pause before each."""
    labels = list(contenders)
    seconds: dict[str, list[float]] = {label: [] for label in labels}
    for turn in range(WARM_UP + rounds):
        first = turn % len(labels)
        for label in labels[first:] + labels[:first]:
            time.sleep(pause)
            start = clock()
            contenders[label].logits(images)
            if turn >= WARM_UP:
                seconds[label].append(clock() - start)
    return seconds


def opened(subject: Subject, names: list[str]) -> dict[str, Contender]:
    """Return the contenders; whoever cannot take this network is named with the reason."""
    found = {}
    for name in names:
        try:
            contender = CONTENDERS[name](subject)
            contender.logits(random_pixels(1, subject.size).numpy())
        except Exception as error:  # a peer's own, of whatever kind
            if name.startswith(("exact", "portable", FP32)):
                raise
            reason = " ".join(str(error).split())[:200]
            print(f"{name} does not take it: {type(error).__name__}: {reason}", file=sys.stderr)
        else:
            found[name] = contender
    return found


def main(words: Sequence[str] | None = None) -> None:
    """Print a row of a table for each network, batch and contender."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", nargs="+", default=[PUBLIC, "resnet18"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(possible()))
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("cpu", "wall"))
    parser.add_argument("--cifar10-steps", type=int)
    options = parser.parse_args(words)
    kind = options.clock or ("cpu" if options.threads == 1 else "wall")
    if kind == "cpu" and options.threads != 1:
        parser.error("--clock cpu needs --threads 1: waiting threads count as busy")
    if options.cifar10_steps and options.nets != [PUBLIC]:
        parser.error(f"--cifar10-steps needs --nets {PUBLIC}: no other network is public")
    clock = {"cpu": time.process_time, "wall": time.perf_counter}[kind]
    pause = PAUSE if options.threads > 1 else 0
    warnings.filterwarnings("ignore")
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    torch.set_num_threads(options.threads)
    names = list(dict.fromkeys([FP32, *options.contenders]))
    print(f"torch {torch.__version__}, {options.threads} thread(s), {kind} clock")
    print("| network | batch | contender | bytes | ms | faster than fp32 | right |")
    print("|---|---:|---|---:|---:|---:|---:|")
    for net in options.nets:
        steps = options.cifar10_steps
        subject = (
            trained_on_cifar10(steps, options.threads)
            if steps
            else calibrated(net, options.threads)
        )
        contenders = opened(subject, names)
        counted = {name: f"{n_correct(one):,}" if steps else "" for name, one in contenders.items()}
        for batch in options.batches:
            images = random_pixels(batch, subject.size).numpy()
            seconds = measure(contenders, images, options.rounds, clock, pause)
            for name, values in seconds.items():
                pairs = zip(seconds[FP32], values, strict=True)
                ratio = statistics.median(fp32 / own for fp32, own in pairs)
                ms, file_bytes = 1000 * statistics.median(values), contenders[name].file_bytes
                size = f"{file_bytes:,}" if file_bytes else ""
                row = f"{size} | {ms:.2f} | {ratio:.2f} | {counted[name]}"
                print(f"| {net} | {batch} | {name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
