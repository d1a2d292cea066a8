"""Move a network's biases off the ties between codes, where runtimes round either way.

A value that lies within rounding of a tie becomes one code here and its neighbour there, and all
that follows differs. Where one accumulator decides a code, such values are known without any
image; a bias that puts one there is moved, by less than any training could tell.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from lsqctl.deploy.certificate import Floats, Staircase, staircase
from lsqctl.deploy.network import Edge, Network
from lsqctl.quant.arithmetic import IntegerLayer
from lsqctl.run import JsonObject

NEAR_TIE = 1e-5
"""In steps. What fp32 may be off by: 2 to 3 roundings of a value of up to 15 steps are 3e-6."""
LARGEST_MOVE = 2e-5
"""In steps."""


@dataclass(frozen=True, slots=True)
class Move:
    """A bias that was moved: ``by`` and the margins before and after in steps of ``edge``."""

    layer: str
    channel: int
    edge: str
    by: float
    margin_before: float
    margin_after: float


def settle(network: Network) -> tuple[Network, list[Move]]:
    """Return the network with no bias on a tie that could be moved off it, and what was moved.

    Each value stays on its side of the tie that it is nearest to. Biases that values in other
    places depend on, too, are moved as well.
    """
    edges: dict[str, list[Edge]] = defaultdict(list)
    for edge in network.traced_edges():
        if edge.source is not None:
            edges[edge.source].append(edge)
    layers: dict[str, IntegerLayer] = dict(network.layers)
    moves: list[Move] = []
    for source, decided in edges.items():
        layers[source], moved = _settle_layer(network, layers[source], decided)
        moves += moved
    return replace(network, layers=layers), moves


def _settle_layer(
    network: Network, layer: IntegerLayer, edges: list[Edge]
) -> tuple[IntegerLayer, list[Move]]:
    """Move each channel whose margin is too small, where that makes it larger."""
    stairs = [staircase(edge, layer, network.grid(edge.name)) for edge in edges]
    margins = np.stack([one.margins() for one in stairs])  # (E, O)
    before, worst = margins.min(0), margins.argmin(0)
    channels = np.flatnonzero(before < NEAR_TIE)
    if not channels.size:
        return layer, []
    centers = np.stack([_to_center(one) for one in stairs])
    steps = np.array([float(one.grid.step) for one in stairs])
    by = np.zeros(len(before))
    by[channels] = centers[worst[channels], channels]
    shift = layer.shift.double() + torch.from_numpy(by * steps[worst])
    moved = replace(layer, shift=shift.float())
    after = _margins(network, moved, edges).min(0)
    better = after > before
    shift = torch.where(torch.from_numpy(better), moved.shift, layer.shift)
    moves = [
        Move(
            layer.name,
            int(channel),
            edges[worst[channel]].name,
            float(by[channel]),
            float(before[channel]),
            float(after[channel]),
        )
        for channel in channels
        if better[channel]
    ]
    return replace(layer, shift=shift), moves


def _margins(network: Network, layer: IntegerLayer, edges: list[Edge]) -> Floats:
    return np.stack([staircase(edge, layer, network.grid(edge.name)).margins() for edge in edges])


def _to_center(stairs: Staircase) -> Floats:
    """Return by how much (O) values move until the nearest on both sides of ties are as near."""
    below, above = (side.min(1, initial=np.inf) for side in stairs.distances())
    largest = np.full_like(below, LARGEST_MOVE)
    with np.errstate(invalid="ignore"):
        center = np.nan_to_num((below - above) / 2)
    by: Floats = center.clip(-largest, largest)
    return by


def moves_json(moves: list[Move]) -> list[JsonObject]:
    """Return what was moved as plain values."""
    return [asdict(move) for move in moves]
