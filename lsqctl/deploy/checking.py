"""Hold what a deployed file answers against the integer reference: each code, each bit."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lsqctl.deploy.forms import Answers, Codes
from lsqctl.deploy.network import Network
from lsqctl.deploy.runtime import Array, open_session, run_session

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
    """What a comparison with the reference has counted so far."""

    n_images: int = 0
    n_codes: int = 0
    n_codes_differing: int = 0
    n_images_differing: int = 0
    n_predictions_differing: int = 0
    n_logits_differing: int = 0
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

    def _compare_logits(self, expected: Array, found: Array, labels: Tensor | None) -> None:
        counts = self.counts
        predictions = expected.argmax(1), found.argmax(1)
        counts.n_predictions_differing += int((predictions[0] != predictions[1]).sum())
        counts.n_logits_differing += int(differing_bits(expected, found).sum())
        if labels is not None:
            counts.reference_hits.append(predictions[0] == labels.numpy())
            counts.hits.append(predictions[1] == labels.numpy())


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
    calls = sum(name.partition("#")[0] == edge for name in kept)
    kept[f"{edge}#{calls + 1}" if calls else edge] = codes.to(torch.int16).numpy()
