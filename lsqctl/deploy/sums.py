"""Edges that are sums of two codes: their table over every pair, and integers that reproduce it.

Where both inputs of a residual addition are quantized, the code behind it is a function of two
codes. All their pairs are few (65,536 at 8 bits), so what is said here is said of every input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lsqctl.deploy.network import Edge, Network
from lsqctl.quant.arithmetic import EXACT_INT32, Grid

SHIFTS = (8, 12, 16, 20, 24)  # the coarsest that reproduces the table is taken


@dataclass(frozen=True, slots=True)
class SumOfCodes:
    """Integers for a residual addition: clip((m1 * c1 + m2 * c2 + bias) >> shift, first, last).

    ``>>`` rounds down; all fits in 32 bits.
    """

    multipliers: tuple[int, int]
    bias: int
    shift: int
    first_code: int
    last_code: int


@dataclass(frozen=True, slots=True)
class PairTable:
    """What holds over all pairs of codes: how many, the least margin in steps, and integers.

    ``margin`` is negative where the reference's fp32 rounds to another code than exact arithmetic.
    """

    n_pairs: int
    margin: float
    integers: SumOfCodes | None


def pair_table(network: Network, edge: Edge) -> PairTable:
    """Return what holds of an edge that has two ``summands``."""
    summands, grid = [network.grid(name) for name in edge.summands], network.grid(edge.name)
    codes = [torch.arange(one.quant_min, one.quant_max + 1).float() for one in summands]
    first, second = (one.values(c) for one, c in zip(summands, codes, strict=True))
    expected = grid.codes(edge.through(first[:, None] + second)).double()  # (C1, C2)
    ends = grid.codes(edge.through(torch.tensor([-torch.inf, torch.inf])))
    lowest, highest = (int(code) for code in ends)
    first, second = (_exact_values(one, c) for one, c in zip(summands, codes, strict=True))
    steps = (edge.through(first[:, None] + second) - _offset(grid)) / grid.step.double()
    to_below = torch.where(expected > lowest, steps - (expected - 0.5), torch.inf)
    to_above = torch.where(expected < highest, expected + 0.5 - steps, torch.inf)
    margin = float(torch.minimum(to_below, to_above).min())
    integers = _integers((*summands, grid), codes, expected, (lowest, highest))
    return PairTable(expected.numel(), margin, integers)


def _exact_values(grid: Grid, codes: Tensor) -> Tensor:
    return codes.double() * grid.step.double() + _offset(grid)


def _offset(grid: Grid) -> float:
    return 0.0 if grid.offset is None else float(grid.offset)


def _integers(
    grids: tuple[Grid, ...], codes: list[Tensor], expected: Tensor, bounds: tuple[int, int]
) -> SumOfCodes | None:
    """Return integers that give every pair its code; None where none of the shifts has any.

    ``grids`` are those of the summands and of the edge.
    """
    *summands, grid = grids
    wanted = expected.numpy().astype(np.int64)
    first, second = (one.numpy().astype(np.int64) for one in codes)
    offset = sum(map(_offset, summands)) - _offset(grid)
    for shift in SHIFTS:
        unit = float(1 << shift) / float(grid.step)
        m1, m2 = (round(float(one.step) * unit) for one in summands)
        bias = round(offset * unit) + (1 << shift - 1)
        total = m1 * first[:, None] + m2 * second + bias
        if np.abs(total).max() + abs(bias) >= EXACT_INT32:
            return None
        if ((total >> shift).clip(*bounds) == wanted).all():
            return SumOfCodes((m1, m2), bias, shift, *bounds)
    return None
