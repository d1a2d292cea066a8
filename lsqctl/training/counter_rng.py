"""Random numbers as pure functions of (seed, epoch, index): no generator, so nothing to restore.

The hash is splitmix64's finalizer (Steele, Lea, Flood, OOPSLA 2014) over a key and a counter.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


class Stream(IntEnum):
    """What a random number is for; two streams never share numbers."""

    SHUFFLE = 1
    CALIBRATION = 2
    CROP_Y = 3
    CROP_X = 4
    FLIP = 5
    SCALE = 6
    RATIO = 7
    REESTIMATION = 8
    LIMIT = 9


def bits(seed: int, epoch: int, stream: int, indices: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return a uniform 64-bit integer for each index, whatever the other indices are."""
    key = np.array([seed], dtype=np.uint64)
    for part in (epoch, stream):
        key = _mix(key) ^ np.uint64(part)
    counter: NDArray[np.uint64] = indices.astype(np.uint64) * _GAMMA
    return _mix(_mix(key) + counter)


def randint(limit: int, numbers: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return random bits as integers in ``0..limit-1`` (limit below 2^32)."""
    high = numbers >> np.uint64(32)
    return ((high * np.uint64(limit)) >> np.uint64(32)).astype(np.int64)


def uniform(numbers: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return random bits as floats in [0, 1)."""
    return (numbers >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(
    seed: int, epoch: int, n: int, *, stream: int = Stream.SHUFFLE
) -> NDArray[np.int64]:
    """Return a permutation of ``0..n-1``: the order in which an epoch sees its images."""
    return np.argsort(bits(seed, epoch, stream, np.arange(n)), kind="stable").astype(np.int64)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mixing = state + _GAMMA
    mixing = (mixing ^ (mixing >> np.uint64(30))) * _MIX1
    mixing = (mixing ^ (mixing >> np.uint64(27))) * _MIX2
    mixed: NDArray[np.uint64] = mixing ^ (mixing >> np.uint64(31))
    return mixed
