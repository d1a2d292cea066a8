"""Hold what a file, or the trained network, answers against the integer reference: each code."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lsqctl.deploy.forms import Answers, Codes
from lsqctl.deploy.network import Network
from lsqctl.deploy.runtime import Array, open_session, run_session
from lsqctl.deploy.tracing import FromPixels, Pixels
from lsqctl.errors import DataError
from lsqctl.quant import quantized_layers, quantizers
from lsqctl.quant.arithmetic import Window

MAX_FIRST_DIFFERENCES = 5
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class FirstDifference:
    """A code that differs while all before it in the image are equal: where a difference begins."""

    image: int
    edge: str
    index: tuple[int, ...]
    expected: int
    found: int


@dataclass(slots=True)
class CheckCounts:
    """What a comparison with the reference has counted so far.

    Differences of an image begin at ``n_beginnings`` codes: they differ in the first edge that has
    any. The values that were rounded there lay at most ``furthest_from_tie`` steps from the tie
    between both codes, where values are known; what differs behind them follows.
    """

    n_images: int = 0
    n_codes: int = 0
    n_codes_differing: int = 0
    n_images_differing: int = 0
    n_predictions_differing: int = 0
    n_logits_differing: int = 0
    n_beginnings: int = 0
    furthest_from_tie: float | None = None
    first_differences: list[FirstDifference] = field(default_factory=list)
    hits: list[Flags] = field(default_factory=list)
    reference_hits: list[Flags] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether every code and every bit of every logit is the reference's."""
        return not self.n_codes_differing and not self.n_logits_differing


def reference_answers(network: Network, images: Tensor) -> Answers:
    """Return what the integer reference says of a batch, every code of it."""
    codes: dict[str, Codes] = {}
    logits = network(images, lambda edge, values: _keep(codes, edge, values))
    return Answers(logits.numpy(), codes)


def check_alike(reference: Answers, found: Answers, name: str) -> None:
    """Raise DataError where a file's logits or codes are not of the reference's shape and type.

    A runtime may compute a layer otherwise than ONNX says; what it gives is then no answer.
    """
    pairs = [
        (f"codes of {edge}", codes, found.codes.get(edge, codes))
        for edge, codes in reference.codes.items()
    ]
    for what, wanted, given in [*pairs, ("logits", reference.logits, found.logits)]:
        if (given.shape, given.dtype) != (wanted.shape, wanted.dtype):
            given_text, wanted_text = (f"{one.dtype} {one.shape}" for one in (given, wanted))
            raise DataError(f"{name} gives {what} as {given_text}, expected {wanted_text}")


class Comparison:
    """Compares answers with the reference's, batch by batch; ``counts`` is what it has found."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.counts = CheckCounts()

    def compare(self, reference: Answers, found: Answers, labels: Tensor | None = None) -> None:
        """Compare one batch; codes that the file does not show are not counted."""
        differing = np.zeros(len(reference.logits), bool)
        for edge, codes in reference.codes.items():
            if edge in found.codes:
                lowest = self.network.grid(edge.partition("#")[0]).quant_min
                self._compare_codes(edge, codes, found.codes[edge] + lowest, differing)
        self._compare_logits(reference.logits, found.logits, labels)
        self.counts.n_images_differing += int(differing.sum())
        self.counts.n_images += len(reference.logits)

    def _compare_codes(self, edge: str, expected: Codes, found: Codes, differing: Flags) -> None:
        counts = self.counts
        unequal = expected != found
        counts.n_codes += expected.size
        if not unequal.any():
            return
        counts.n_codes_differing += int(unequal.sum())
        images = unequal.reshape(len(unequal), -1).any(1)
        begins = unequal & (images & ~differing).reshape(-1, *(1,) * (unequal.ndim - 1))
        counts.n_beginnings += int(begins.sum())
        self._note_ties(edge, expected, found, begins)
        for image in np.flatnonzero(images & ~differing):
            if len(counts.first_differences) < MAX_FIRST_DIFFERENCES:
                index = (int(image), *map(int, np.argwhere(unequal[image])[0]))
                counts.first_differences.append(
                    FirstDifference(
                        counts.n_images + int(image),
                        edge,
                        index[1:],
                        int(expected[index]),
                        int(found[index]),
                    )
                )
        differing |= images

    def _note_ties(self, edge: str, expected: Codes, found: Codes, begins: Flags) -> None:
        """Note how far from ties the values lay that became codes where differences begin."""

    def _compare_logits(self, expected: Array, found: Array, labels: Tensor | None) -> None:
        counts = self.counts
        predictions = expected.argmax(1), found.argmax(1)
        counts.n_predictions_differing += int((predictions[0] != predictions[1]).sum())
        counts.n_logits_differing += int(differing_bits(expected, found).sum())
        if labels is not None:
            counts.reference_hits.append(predictions[0] == labels.numpy())
            counts.hits.append(predictions[1] == labels.numpy())


class FakeQuantized:
    """A network as it was trained, in fp32: its quantized values are codes, its sums round."""

    def __init__(self, model: nn.Module, network: Network, pixels: Pixels | None) -> None:
        self._model = copy.deepcopy(model).eval().float().cpu()
        self._whole = FromPixels(self._model, pixels) if pixels is not None else self._model
        self._network = network
        self.values: dict[str, Tensor] = {}
        layers, own = quantized_layers(self._model), quantizers(self._model)
        for edge in dict.fromkeys(network.edges):
            quantizer = layers[edge].input_quantizer if edge in network.layers else own[edge]
            assert quantizer is not None
            quantizer.register_forward_pre_hook(partial(self._hear, edge))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Answers:
        """Return logits and codes of a batch; ``values`` holds what became the codes, by edge."""
        self.values.clear()
        logits = self._whole(images)
        codes: dict[str, Codes] = {}
        for edge, values in self.values.items():
            grid = self._network.grid(edge.partition("#")[0])
            codes[edge] = (grid.codes(values) - grid.quant_min).to(torch.int16).numpy()
        return Answers(logits.numpy(), codes)

    def _hear(self, edge: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].detach()
        layer = self._network.layers.get(edge)
        if layer is not None and layer.window is not None and layer.grid.offset is not None:
            values = _inner(values, layer.window)
        self.values[_numbered(self.values, edge)] = values


def _inner(values: Tensor, window: Window) -> Tensor:
    """Return values without the zeros that a layer with an offset pads before it quantizes."""
    if window.pad_mode != "constant":
        return values
    for dimension, (before, after) in enumerate(window.padding, start=2):
        values = values.narrow(dimension, before, values.shape[dimension] - before - after)
    return values


class FloatComparison(Comparison):
    """Compares the fake-quantized network with the reference, and tells how near ties it began."""

    def __init__(self, model: FakeQuantized, network: Network) -> None:
        super().__init__(network)
        self._model = model

    def add(self, images: Tensor, reference: Answers, labels: Tensor | None) -> None:
        """Compare one batch."""
        self.compare(reference, self._model(images), labels)

    def _note_ties(self, edge: str, expected: Codes, found: Codes, begins: Flags) -> None:
        grid = self.network.grid(edge.partition("#")[0])
        values = self._model.values[edge].double()
        if grid.offset is not None:
            values = values - grid.offset.double()
        steps = (values / grid.step.double()).numpy()[begins]
        ties = (expected[begins] + found[begins]) / 2
        furthest = float(np.abs(steps - ties).max(initial=0.0))
        self.counts.furthest_from_tie = max(self.counts.furthest_from_tie or 0.0, furthest)


class DeployedModel(nn.Module):
    """A file as a module: images as it takes them to logits, for whoever evaluates modules."""

    def __init__(self, file: bytes, *, threads: int = 1) -> None:
        super().__init__()
        self._session = open_session(file, threads=threads)

    def forward(self, images: Tensor) -> Tensor:
        """Return the file's logits (B, classes)."""
        return torch.from_numpy(run_session(self._session, images.numpy())["logits"])


def differing_bits(expected: Array, found: Array) -> Flags:
    """Return where two fp32 arrays are not the same to the last bit."""
    one, other = (np.ascontiguousarray(array).view(np.uint32) for array in (expected, found))
    differing: Flags = one != other
    return differing


def _keep(kept: dict[str, Codes], edge: str, codes: Tensor) -> None:
    kept[_numbered(kept, edge)] = codes.to(torch.int16).numpy()


def _numbered(kept: Collection[str], edge: str) -> str:
    """Return an edge's name, with a number where its layer is called again."""
    calls = sum(name.partition("#")[0] == edge for name in kept)
    return f"{edge}#{calls + 1}" if calls else edge
