"""What holds for every input: the codes of an edge as a staircase of one integer, and its proof.

Where one layer alone decides a code, the code is a function of that layer's accumulator: a
staircase with a threshold between each two codes. Reachable accumulators are finitely many, so
what is said here of a staircase is said of all inputs, not of those that were tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lsqctl.deploy.network import Edge, Network
from lsqctl.deploy.sums import SumOfCodes, pair_table
from lsqctl.quant.arithmetic import EXACT_INT32, Grid, IntegerLayer
from lsqctl.run import JsonObject

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

AVX2_PAIR = 32767
"""What the sum of two products may reach on processors without VNNI."""
MAX_TRIES = 12  # units of the bias, from the finest on
_BLOCK = 128  # channels at a time: a linear layer has thousands, with 255 thresholds each


@dataclass(frozen=True, slots=True)
class Staircase:
    """The codes of one edge, by channel, as a function of u: the accumulator times ``direction``.

    ``direction`` (O) is the sign of the scale, so that codes never fall as u grows; ``lowest`` and
    ``highest`` (O) bound u over all inputs; ``thresholds`` (O, T) are the first u of the codes
    ``first_code`` + 1, + 2, …; highest + 1 where no input reaches one.
    """

    edge: Edge
    layer: IntegerLayer
    grid: Grid
    direction: Integers
    lowest: Integers
    highest: Integers
    thresholds: Integers
    first_code: int

    @property
    def ties(self) -> Floats:
        """The borders (T) between codes, in steps."""
        return np.arange(self.thresholds.shape[1], dtype=np.float64) + (self.first_code + 0.5)

    @property
    def n_accumulators(self) -> int:
        """How many (channel, accumulator) pairs inputs may reach."""
        return int((self.highest - self.lowest + 1).sum())

    @property
    def inside(self) -> Flags:
        """Whether inputs lie on both sides of a threshold (O, T)."""
        above_lowest: Flags = self.thresholds > self.lowest[:, None]
        return above_lowest & (self.thresholds <= self.highest[:, None])

    def values(self, u: Integers) -> Floats:
        """Return what is rounded to a code, in steps and fp64, for u (O, …)."""
        shape = (-1, *(1,) * (u.ndim - 1))
        scale, shift = (t.double().numpy().reshape(shape) for t in (self.layer.scale, self._shift))
        step = float(self.grid.step)
        values: Floats = (u * self.direction.reshape(shape) * scale + shift) / step
        return values

    @property
    def _shift(self) -> Tensor:
        offset = self.grid.offset
        return self.layer.shift.double() - (0 if offset is None else offset.double())

    def distances(self) -> tuple[Floats, Floats]:
        """Return how far below and above each tie its nearest reachable values lie, in steps.

        Each is (O, T), infinite where there is none on that side. Below zero, the reference's code
        is not the one of exact arithmetic.
        """
        below, above = self.thresholds - 1, self.thresholds
        to_below = self.ties - self.values(below)
        to_above = self.values(above) - self.ties
        return (
            np.where(below >= self.lowest[:, None], to_below, np.inf),
            np.where(above <= self.highest[:, None], to_above, np.inf),
        )

    def margins(self) -> Floats:
        """Return the least distance to a tie by channel (O), in steps; infinite without one."""
        margins: Floats = np.minimum(*self.distances()).min(1, initial=np.inf)
        if self.edge.channels is not None:
            others = np.setdiff1d(np.arange(len(margins)), self.edge.channels)
            margins[others] = np.inf
        return margins


def staircase(edge: Edge, layer: IntegerLayer, grid: Grid) -> Staircase:
    """Return the staircase of an edge that ``layer`` gives and ``grid`` quantizes.

    Each operation of the reference is monotone, so that a threshold is found by bisection.
    """
    direction = np.where(layer.scale.numpy() < 0, -1, 1).astype(np.int64)
    lowest, highest = _reach(layer, direction)

    def codes(u: Integers) -> Integers:  # (O, T) to (O, T)
        accumulators = torch.from_numpy((u * direction[:, None]).T.astype(np.float64))
        outputs = replace(layer, window=None).outputs(accumulators)
        found: Integers = grid.codes(edge.through(outputs)).numpy().T.astype(np.int64)
        return found

    ends = torch.tensor([-torch.inf, torch.inf])
    first, last = (int(code) for code in grid.codes(edge.through(ends)))
    wanted = np.arange(first + 1, last + 1)[None]
    shape = len(direction), wanted.shape[1]
    low, high = np.broadcast_to(lowest[:, None], shape), np.broadcast_to(highest[:, None], shape)
    thresholds = _bisect(codes, wanted, low.copy(), high + 1)
    return Staircase(edge, layer, grid, direction, lowest, highest, thresholds, first)


def _reach(layer: IntegerLayer, direction: Integers) -> tuple[Integers, Integers]:
    """Return the least and the largest u (O) over all codes of the input."""
    weight = layer.weight_codes.flatten(1).numpy().astype(np.int64) * direction[:, None]
    positive, negative = weight.clip(0).sum(1), weight.clip(None, 0).sum(1)
    low, high = layer.grid.quant_min, layer.grid.quant_max
    return positive * low + negative * high, positive * high + negative * low


def _bisect(
    codes: Callable[[Integers], Integers], wanted: Integers, low: Integers, high: Integers
) -> Integers:
    """Return the first u of low..high whose code is at least ``wanted``; high where none is."""
    while (low < high).any():
        middle = (low + high) // 2
        reached = codes(np.minimum(middle, high - 1)) >= wanted
        high = np.where(reached & (low < high), middle, high)
        low = np.where(reached, low, np.minimum(middle + 1, high))
    return high


@dataclass(frozen=True, slots=True)
class Requantization:
    """Integers that stand for a layer's scale and shift: what ``QLinearConv`` computes.

    code = clip(rne(fl(fl(factor * acc + bias) * multiplier)), first_code, last_code), a channel
    each: ``factors`` multiply the weight codes and make the unit of the bias finer, which at low
    bits leaves room to put every threshold where it belongs.
    """

    factors: Integers
    biases: Integers
    multipliers: NDArray[np.float32]
    first_code: int
    last_code: int

    def codes(self, accumulators: Integers) -> Integers:
        """Return codes (O, …) of accumulators (O, …), operation by operation as a runtime does."""
        shape = (-1, *(1,) * (accumulators.ndim - 1))
        factors, biases, multipliers = (
            array.reshape(shape) for array in (self.factors, self.biases, self.multipliers)
        )
        scaled = (factors * accumulators + biases).astype(np.float32) * multipliers
        codes: Integers = np.rint(scaled.clip(self.first_code, self.last_code)).astype(np.int64)
        return codes


@dataclass(frozen=True, slots=True)
class Certificate:
    """What holds of one edge for every input.

    ``margin`` is the smallest distance of a reachable value to a tie, in steps (negative where the
    reference's fp32 rounds to another code than exact arithmetic), found in ``margin_channel``.
    The edge is proved where integers reproduce every threshold of every channel, or each of the
    ``n_accumulators`` pairs of codes where it is a sum of two (``sum_of_codes``).
    """

    edge: Edge
    n_channels: int = 0
    n_accumulators: int = 0
    n_thresholds: int = 0
    margin: float = float("inf")
    margin_channel: int = 0
    n_fitted: int = 0
    requantization: Requantization | None = None
    sum_of_codes: SumOfCodes | None = None

    @property
    def proved(self) -> bool:
        """Whether integers give the edge's codes for every input."""
        return self.requantization is not None or self.sum_of_codes is not None


def certify(network: Network) -> list[Certificate]:
    """Return the certificate of each quantized tensor of a network, in the order of the graph."""
    return [_certificate(network, edge) for edge in network.traced_edges()]


def proofs(certificates: Iterable[Certificate]) -> dict[str, tuple[Edge, Requantization]]:
    """Return, by layer, the edge that it gives and the integers that are proved for it."""
    return {
        one.edge.source: (one.edge, one.requantization)
        for one in certificates
        if one.edge.source is not None and one.requantization is not None
    }


def certificates_json(certificates: Iterable[Certificate]) -> list[JsonObject]:
    """Return certificates as plain values; ``margin`` in steps, None without a threshold."""
    return [
        {
            "codes": one.edge.name,
            "source": one.edge.source,
            "summands": list(one.edge.summands),
            "sum": asdict(one.sum_of_codes) if one.sum_of_codes else None,
            "finite": one.edge.finite,
            "reason": one.edge.reason,
            "proved": one.proved,
            "channels": one.n_channels,
            "channels_fitted": one.n_fitted,
            "accumulators": one.n_accumulators,
            "thresholds": one.n_thresholds,
            "margin": one.margin if np.isfinite(one.margin) else None,
            "margin_channel": one.margin_channel,
        }
        for one in certificates
    ]


def _certificate(network: Network, edge: Edge) -> Certificate:
    if edge.summands:
        table = pair_table(network, edge)
        return Certificate(
            edge,
            n_accumulators=table.n_pairs,
            margin=table.margin,
            sum_of_codes=table.integers,
        )
    if edge.source is None:
        return Certificate(edge)
    stairs = staircase(edge, network.layers[edge.source], network.grid(edge.name))
    margins = stairs.margins()
    certificate = Certificate(
        edge, margin=float(margins.min()), margin_channel=int(margins.argmin())
    )
    if not edge.finite:
        return certificate
    fitted, requantization = fit(stairs)
    return replace(
        certificate,
        n_channels=len(fitted),
        n_accumulators=stairs.n_accumulators,
        n_thresholds=int(stairs.inside.sum()),
        n_fitted=int(fitted.sum()),
        requantization=requantization if fitted.all() else None,
    )


def fit(stairs: Staircase) -> tuple[Flags, Requantization]:
    """Return which channels (O) have integers that give each code, and those integers.

    Of each channel the finest unit of the bias is tried first, then coarser ones.
    """
    finest = _finest_factors(stairs.layer)
    n_codes = stairs.thresholds.shape[1]
    found = Requantization(
        finest.copy(),
        np.zeros_like(finest),
        np.ones(len(finest), np.float32),
        stairs.first_code,
        stairs.first_code + n_codes,
    )
    fitted = _fit_constant(stairs, found)
    for coarser in range(MAX_TRIES):
        factors = finest - coarser
        channels = np.flatnonzero(~fitted & (factors > 0))
        if channels.size == 0:
            break
        found.factors[channels] = factors[channels]
        for block in np.split(channels, range(_BLOCK, len(channels), _BLOCK)):
            best = _best(stairs, block, factors[block])
            found.biases[block], found.multipliers[block] = best
            fitted[block] = _reproduces(stairs, found, block)
    return fitted, found


def _finest_factors(layer: IntegerLayer) -> Integers:
    """Return by what (O) weights may be multiplied: they stay int8, and no pair saturates."""
    weight = layer.weight_codes.flatten(1).numpy().astype(np.int64)
    room = np.minimum(127 // weight.max(1).clip(1), 128 // (-weight.min(1)).clip(1))
    finest: Integers = np.minimum(room, AVX2_PAIR // pair_bounds(layer).clip(1)).clip(1)
    return finest


def _fit_constant(stairs: Staircase, found: Requantization) -> Flags:
    """Fit channels that have one code whatever comes in: no weights, and the code as the bias."""
    constant: Flags = np.logical_not(stairs.inside.any(axis=1, keepdims=True))[:, 0]
    code = stairs.first_code + (stairs.thresholds <= stairs.lowest[:, None]).sum(1)
    found.factors[constant], found.biases[constant] = 0, code[constant]
    return constant


def _best(
    stairs: Staircase, channels: Integers, factors: Integers
) -> tuple[Integers, NDArray[np.float32]]:
    """Return, by channel, the bias whose interval of multipliers is the widest, and its middle."""
    layer, direction = stairs.layer, stairs.direction[channels]
    scale = layer.scale.double().abs().numpy()[channels]
    at_zero = stairs.values(np.zeros_like(stairs.lowest))[channels] * float(stairs.grid.step)
    ideal = np.rint(factors * at_zero / scale)
    reach = 2 * int(factors.max()) + 2
    biases = ideal[:, None] + np.arange(-reach, reach + 1)  # (O, B)
    low, high = _intervals(stairs, channels, factors, biases)
    with np.errstate(divide="ignore", invalid="ignore"):
        best = np.nan_to_num(high / low, nan=0.0).argmax(1)
    rows = np.arange(len(channels))
    low, high = low[rows, best], high[rows, best]
    middle = np.where(np.isfinite(high), (low + high) / 2, 2 * low)
    limit = EXACT_INT32 - 1
    bias = biases[rows, best].clip(-limit, limit).astype(np.int64)
    return bias * direction, (middle * direction).astype(np.float32)


def _intervals(
    stairs: Staircase, channels: Integers, factors: Integers, biases: Floats
) -> tuple[Floats, Floats]:
    """Return the least and the largest multiplier (O, B) that put each threshold where it is."""
    first, ties = stairs.thresholds[channels], stairs.ties
    reached = (first <= stairs.highest[channels, None])[:, None]  # (O, 1, T)
    missed = (first > stairs.lowest[channels, None])[:, None]
    above = factors[:, None, None] * first[:, None] + biases[..., None]  # (O, B, T)
    below = above - factors[:, None, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        at_above, at_below = ties / above, ties / below
    positive = ties > 0
    least = np.where(positive & reached, np.where(above > 0, at_above, np.inf), 0.0)
    least = np.maximum(
        least, np.where(~positive & missed, np.where(below < 0, at_below, np.inf), 0.0)
    )
    most = np.where(positive & missed & (below > 0), at_below, np.inf)
    most = np.minimum(most, np.where(~positive & reached & (above < 0), at_above, np.inf))
    return least.max(-1), most.min(-1)


def _reproduces(stairs: Staircase, found: Requantization, channels: Integers) -> Flags:
    """Return for which channels every reachable accumulator gets the reference's code.

    Both sides are staircases: equal on both sides of each threshold, they are equal everywhere.
    """
    low, high = stairs.lowest[channels, None], stairs.highest[channels, None]
    thresholds, direction = stairs.thresholds[channels], stairs.direction[channels, None]
    found = replace(
        found,
        factors=found.factors[channels],
        biases=found.biases[channels],
        multipliers=found.multipliers[channels],
    )
    u = np.concatenate([low, high, thresholds - 1, thresholds], 1).clip(low, high)
    expected = stairs.first_code + (u[:, :, None] >= thresholds[:, None]).sum(-1)
    accumulators = u * direction
    largest = np.abs(found.factors[:, None] * accumulators + found.biases[:, None]).max(1)
    equal: Flags = (found.codes(accumulators) == expected).all(1) & (largest < EXACT_INT32)
    return equal


def pair_bounds(layer: IntegerLayer) -> Integers:
    """Return, by channel (O), what two products of bytes may add up to, in magnitude.

    Processors with AVX2 or AVX-512 and no VNNI add two products in 16 bits: above 32,767 they
    saturate, and the accumulator is wrong there. Which two is a runtime's secret: any may be.
    """
    codes = layer.weight_codes.flatten(1).numpy().astype(np.int64)
    two = np.sort(np.pad(codes, ((0, 0), (2, 2))), axis=1)  # with zeros: of either sign
    highest_byte = layer.grid.quant_max - layer.grid.quant_min
    bounds: Integers = np.maximum(two[:, -2:].sum(1), -two[:, :2].sum(1)) * highest_byte
    return bounds


def is_pair_safe(layer: IntegerLayer, factors: Integers | None = None) -> bool:
    """Return whether no two products pass 16 bits, weights multiplied by ``factors`` (O) if any."""
    bounds = pair_bounds(layer) * (1 if factors is None else factors.flatten())
    return int(bounds.max()) <= AVX2_PAIR
