"""What a quantized training step costs beside full precision: lsqctl and its peers, interleaved.

    python bench/train_step.py [--nets resnet20 resnet18] [--modes eager compiled evaluation]
                               [--layouts plain channels-last] [--precisions fp32 bf16]
                               [--rounds N] [--threads N] [--clock wall|cpu]

Every variant has the same network, the same sites, bits (W4A4, first and last layers W8A8) and
first step sizes; only the module at each site differs.  ``lsqctl`` multiplies integers, ``lsqctl
float`` values; evaluated, ``lsqctl`` computes what its deployed file does, in fp32.  Eager runs
train on images of 32 pixels or more with channels last, and evaluate them plain.  In each round
every variant takes one whole training step, in an order that turns; a ratio is taken to full
precision of the same round, mode and precision, and the median of the rounds is printed, so that a
busy moment hits both sides.
``--clock cpu`` counts processor time instead, which neighbours disturb less; it needs one thread
(waiting threads of OpenMP count as busy).  Memory is the most that one step holds above what was
held before it.  Brevitas takes part where it is installed.
Goals, in full precision's time: 1.00 eager, 0.85 compiled and 0.65 evaluated in fp32, 0.95 compiled
in bf16, and ahead of every peer (docs/speed.md says what is met).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import importlib.util
import itertools
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lsqctl.models.factory import build_model  # noqa: E402
from lsqctl.quant import (  # noqa: E402
    LsqQuantizer,
    QuantSpec,
    calibrate,
    clamp_step_sizes,
    grad_scale_factor,
    prepare,
    quantizers,
)
from lsqctl.quant.integer_network import integer_network  # noqa: E402
from lsqctl.recipe import Recipe  # noqa: E402
from lsqctl.training.compilation import compile_forward, share_compile_cache  # noqa: E402
from lsqctl.training.data_pipeline import (  # noqa: E402
    DataPipeline,
    DatasetSplits,
    InMemoryImages,
)
from lsqctl.training.evaluation import evaluation_autocast  # noqa: E402
from lsqctl.training.precision import autocast  # noqa: E402
from lsqctl.training.runtime import use_deterministic_kernels  # noqa: E402


@dataclass(frozen=True)
class Net:
    """A network as the registry names it, its batch (B, C, H, W) and its classes."""

    name: str
    batch: tuple[int, int, int, int]
    classes: int


NETS = {
    "resnet20": Net("cifar_resnet20", (128, 3, 32, 32), 10),
    "resnet18": Net("resnet18", (16, 3, 224, 224), 1000),
    "resnet50": Net("resnet50", (256, 3, 224, 224), 1000),  # for a GPU
    "digits": Net("resnet8", (64, 1, 8, 8), 10),  # for a quick look
}


class PlainLsq(nn.Module):
    """The three lines of most public implementations; autograd keeps what it needs."""

    def __init__(self, ours: LsqQuantizer, count: int) -> None:
        super().__init__()
        self.step_size = nn.Parameter(ours.step_size.detach().clone())
        self.bounds = ours.bounds
        self.scale = grad_scale_factor(count, self.bounds[1])

    def forward(self, x: Tensor) -> Tensor:
        step = (self.step_size - self.step_size * self.scale).detach() + self.step_size * self.scale
        ratio = (x / step).clamp(*self.bounds)
        return ((ratio.round() - ratio).detach() + ratio) * step


class TorchKernel(PlainLsq):
    """torch's own learnable fake-quantize (it clips what it has rounded, unlike the paper)."""

    def __init__(self, ours: LsqQuantizer, count: int) -> None:
        super().__init__(ours, count)
        self.step_size = nn.Parameter(ours.step_size.detach().reshape(1).clone())
        self.register_buffer("zero", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()  # it takes nothing else
        return torch._fake_quantize_learnable_per_tensor_affine(
            x, self.step_size, self.zero, *self.bounds, self.scale
        )


def brevitas_module(ours: LsqQuantizer, count: int) -> nn.Module:
    """Return Brevitas's quantizer with a learned scale that starts where ours does."""
    from brevitas.inject.enum import ScalingImplType
    from brevitas.nn import QuantIdentity
    from brevitas.quant import Int8ActPerTensorFloat, Uint8ActPerTensorFloat

    low, high = ours.bounds
    return QuantIdentity(
        act_quant=Int8ActPerTensorFloat if low else Uint8ActPerTensorFloat,
        bit_width=ours.spec.bits,
        scaling_impl_type=ScalingImplType.PARAMETER,
        scaling_init=float(ours.step_size) * high,
    )


LAYOUTS = {"plain": torch.contiguous_format, "channels-last": torch.channels_last}
MODES = ("eager", "compiled", "evaluation")  # the last one eager, as lsqctl evaluates
PEERS: dict[str, Callable[[LsqQuantizer, int], nn.Module] | None] = {
    "full precision": None,
    "lsqctl": None,
    "lsqctl float": None,
    "plain LSQ": PlainLsq,
    "torch's kernel": TorchKernel,
    "Brevitas": brevitas_module,
}


def swapped(
    model: nn.Module, images: Tensor, make: Callable[[LsqQuantizer, int], nn.Module]
) -> None:
    """Put another module at the place of each of our quantizers."""
    counts: dict[str, int] = {}
    handles = [
        one.register_forward_hook(
            lambda _, inputs, __, name=name, one=one: counts.update(
                {name: one.grad_scale_numel(inputs[0])}
            )
        )
        for name, one in quantizers(model).items()
    ]
    with torch.no_grad():
        model.eval()(images[:2])
    model.train()
    for handle in handles:
        handle.remove()
    for name, ours in list(quantizers(model).items()):
        owner, _, place = name.rpartition(".")
        module = make(ours, counts[name]).to(images.device)
        module.active_offset = None  # quantized layers ask for it
        setattr(model.get_submodule(owner), place, module)


class Variant:
    """One network that takes training steps: one peer, mode and precision."""

    def __init__(self, peer: str, net: Net, mode: str, precision: str, images: Tensor) -> None:
        self.peer, self.mode, self.precision, self.images = peer, mode, precision, images
        torch.manual_seed(0)
        _, channels, size, _ = net.batch
        self.model = build_model(
            net.name, num_classes=net.classes, in_channels=channels, image_size=size
        ).to(images.device)
        self.labels = torch.randint(0, net.classes, (len(images),), device=images.device)
        if peer != "full precision":
            prepare(self.model, QuantSpec(kernel="integer" if peer == "lsqctl" else "float"))
            calibrate(self.model, [images])
        if (make := PEERS[peer]) is not None:
            swapped(self.model, images, make)
        self.model.train(mode != "evaluation")
        rates = {"lr": 1e-4, "momentum": 0.9, "weight_decay": 1e-4}
        self.optimizer = torch.optim.SGD(self.model.parameters(), **rates)
        if peer.startswith("lsqctl"):
            clamp_step_sizes(self.optimizer, self.model)
        compiled = mode == "compiled"
        self.network = (
            compile_forward(self.model, batch_size=len(images)) if compiled else self.model
        )
        self.in_integers = mode == "evaluation" and peer == "lsqctl" and images.device.type == "cpu"
        if self.in_integers:
            self.network = integer_network(self.model, images[:1])

    def step(self) -> None:
        """Take one training step, or evaluate one batch."""
        if self.mode == "evaluation":
            arithmetic = "integer" if self.in_integers else "trained"
            context = evaluation_autocast(arithmetic, self.precision, self.images.device)
            with context, torch.no_grad():
                self.network(self.images)
            return
        with autocast(self.precision, self.images.device):
            logits = self.network(self.images)
        loss = F.cross_entropy(logits.float(), self.labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def seconds(self, clock: Callable[[], float]) -> float:
        """Return how long one step takes."""
        gc.collect()
        _settle(self.images.device)
        began = clock()
        self.step()
        _settle(self.images.device)
        return clock() - began

    def peak_bytes(self) -> int | None:
        """Return the most that a step holds above what was held before; None: cannot be told."""
        gc.collect()
        if self.images.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.step()
            return torch.cuda.max_memory_allocated() - before
        try:
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
        except (OSError, AttributeError):
            return None
        before = _status("VmRSS")
        self.step()
        return _status("VmHWM") - before


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def made(
    given: argparse.Namespace, net: Net, mode: str, precision: str, layout: str
) -> list[Variant]:
    """Return the variants of one table, warmed up; one that fails is said and left out."""
    images = torch.randn(*net.batch, device=given.device).to(memory_format=LAYOUTS[layout])
    found = []
    for peer in given.peers:
        if peer == "Brevitas" and importlib.util.find_spec("brevitas") is None:
            print(f"{peer:16} skipped: it is not installed")
            continue
        try:
            variant = Variant(peer, net, mode, precision, images)
            variant.step()
            variant.step()
        except Exception as error:
            print(f"{peer:16} does not run: {str(error).splitlines()[0][:70]}")
            continue
        found.append(variant)
    return found


def rounds(variants: list[Variant], count: int, clock: Callable[[], float]) -> list[list[float]]:
    """Return the seconds of each round by variant; every round begins with another one."""
    found = []
    for number in range(count):
        turn = number % len(variants)
        order = [*range(turn, len(variants)), *range(turn)]
        taken = {index: variants[index].seconds(clock) for index in order}
        found.append([taken[index] for index in range(len(variants))])
    return found


def table(variants: list[Variant], taken: list[list[float]]) -> list[str]:
    """Return a line a variant: milliseconds, ratio to full precision, memory."""
    lines = []
    for index, one in enumerate(variants):
        median = 1e3 * statistics.median(row[index] for row in taken)
        ratio = statistics.median(row[index] / row[0] for row in taken)
        peak = one.peak_bytes()
        memory = "     ?" if peak is None else f"{peak / 2**20:6.0f}"
        lines.append(f"{one.peer:16} {median:8.1f} ms {ratio:6.2f} x {memory} MiB")
    return lines


def data_path(net: Net, clock: Callable[[], float], batches: int) -> float:
    """Return the median seconds that the data path takes for one batch, augmented, on the CPU."""
    size, channels, side, _ = net.batch
    sections = {
        "model": {"name": net.name},
        "data": {"name": "cifar10", "batch_size": size, "pad": 4, "flip": True},
    }
    recipe = Recipe.model_validate({"name": "bench", "seed": 0, "train": {"epochs": 1}, **sections})
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (size * batches, channels, side, side), dtype=np.uint8)
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    images = InMemoryImages(torch.from_numpy(pixels), labels, recipe.data)
    means = (0.5,) * channels
    kept = ("none", net.classes, channels, side, means, means, "", "")
    feed = DataPipeline(
        DatasetSplits(images, images, *kept), recipe, torch.device("cpu"), channels=channels
    )
    times, stream = [], feed.train_batches(0)
    while True:
        began = clock()
        if next(stream, None) is None:
            return statistics.median(times[1:] or times)
        times.append(clock() - began)


def arguments(words: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", nargs="+", choices=NETS, default=["resnet20", "resnet18"])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=[])
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"], default=[])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(words)
    given.peers = [*dict.fromkeys(["full precision", *given.peers])]
    if given.clock == "cpu" and given.threads != 1:
        parser.error("--clock cpu needs --threads 1")
    return given


def main(words: list[str] | None = None) -> None:
    """Measure and print a table for each network, precision and mode."""
    given = arguments(words)
    torch.set_num_threads(given.threads)
    use_deterministic_kernels(warn_only=given.device != "cpu")
    share_compile_cache(given.threads)
    warnings.simplefilter("ignore")
    clock = time.perf_counter if given.clock == "wall" else time.process_time
    print(
        f"torch {torch.__version__}, {given.device}, {given.threads} thread(s), "
        f"{given.rounds} rounds, {given.clock} clock, load {os.getloadavg()[0]:.1f} before"
    )
    for name in given.nets:
        net = NETS[name]
        path = 1e3 * data_path(net, clock, batches=8)
        print(f"\n{name}, batch {net.batch}: the data path takes {path:.2f} ms a batch")
        for precision in given.precisions or ["fp32", "bf16"]:
            for mode, layout in itertools.product(given.modes or MODES, given.layouts):
                if mode == "compiled" and layout != given.layouts[0]:
                    continue  # the compiler orders for itself
                print(f"\n{name} {precision} {mode} {layout}")
                variants = made(given, net, mode, precision, layout)
                for line in table(variants, rounds(variants, given.rounds, clock)):
                    print(line, flush=True)
                del variants
                with contextlib.suppress(AttributeError):
                    torch._dynamo.reset()


if __name__ == "__main__":
    main()
