"""Random numbers as pure functions of (seed, epoch, index): no generator, so nothing to restore.

The hash is splitmix64's finalizer (Steele, Lea, Flood, OOPSLA 2014) over a key and a counter.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


class Stream(IntEnum):
    """What a number is drawn for; two streams never share numbers."""

    ORDER = 1
    CALIBRATION = 2
    CROP_Y = 3
    CROP_X = 4
    FLIP = 5
    SCALE = 6
    RATIO = 7
    REESTIMATION = 8


def draw(seed: int, epoch: int, stream: int, index: NDArray[Any]) -> NDArray[np.uint64]:
    """Return a uniform 64-bit number for each index, whatever the other indices are."""
    key = np.array([seed], dtype=np.uint64)
    for part in (epoch, stream):
        key = _mix(key) ^ np.uint64(part)
    counter: NDArray[np.uint64] = index.astype(np.uint64) * _GAMMA
    return _mix(_mix(key) + counter)


def below(limit: int, numbers: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the numbers folded to ``0..limit-1`` (limit below 2^32)."""
    high = numbers >> np.uint64(32)
    return ((high * np.uint64(limit)) >> np.uint64(32)).astype(np.int64)


def fraction(numbers: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return the numbers as fractions in [0, 1)."""
    return (numbers >> np.uint64(11)).astype(np.float64) * 2.0**-53


def order(seed: int, epoch: int, count: int, *, stream: int = Stream.ORDER) -> NDArray[np.int64]:
    """Return a permutation of ``0..count-1``: the order in which an epoch sees its images."""
    return np.argsort(draw(seed, epoch, stream, np.arange(count)), kind="stable").astype(np.int64)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = state + _GAMMA
    z = (z ^ (z >> np.uint64(30))) * _MIX1
    z = (z ^ (z >> np.uint64(27))) * _MIX2
    mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed
