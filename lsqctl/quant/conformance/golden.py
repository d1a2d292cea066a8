"""What a quantizer that is LSQ must answer: values written down from the paper's equations.

Learned Step Size Quantization, Esser et al., ICLR 2020 (arXiv 1902.08153), section 2. Nothing here
is computed by a quantizer. ``v`` is x/s; every number of the tables is exact in binary but 1.2,
1.45, -2.3 and 3.3, whose answers do not depend on their last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

STEP_SIZE = 0.5
FAR = 1000.0  # steps; beyond every bound


@dataclass(frozen=True, slots=True)
class Grid:
    """Bits and sign; ``bounds`` are -Q_N and Q_P of section 2."""

    bits: int
    signed: bool

    @property
    def bounds(self) -> tuple[int, int]:
        """(-Q_N, Q_P)."""
        return _BOUNDS[self.bits, self.signed]


_BOUNDS = {
    (2, True): (-2, 1),
    (3, True): (-4, 3),
    (4, True): (-8, 7),
    (8, True): (-128, 127),
    (2, False): (0, 3),
    (3, False): (0, 7),
    (4, False): (0, 15),
    (8, False): (0, 255),
}
GRIDS = tuple(Grid(*key) for key in _BOUNDS)
W2, W4, W8 = Grid(2, True), Grid(4, True), Grid(8, True)
A2, A4 = Grid(2, False), Grid(4, False)


@dataclass(frozen=True, slots=True)
class Pointwise:
    """(v, expected) pairs, one value at a time; the gradient that arrives is 1.

    ``quantity`` is the ``code`` (output / s), ``grad_x`` (section 2.3) or ``grad_step`` (eq. 3).
    """

    quantity: Literal["code", "grad_x", "grad_step"]
    points: tuple[tuple[Grid, float, float], ...]
    grad_scale: float = 1.0
    bf16: bool = False


@dataclass(frozen=True, slots=True)
class SameValue:
    """Over so many step sizes, no output changes when the gradient's scale does."""

    steps: int = 1000


@dataclass(frozen=True, slots=True)
class StepGradient:
    """The step's gradient where all values of a tensor lie above Q_P: g times Q_P for each.

    ``shape`` is (out, in) of a weight or (B, C, H, W) of activations.
    """

    grid: Grid
    shape: tuple[int, ...]
    expected: float
    per_channel: bool = False


@dataclass(frozen=True, slots=True)
class FirstStep:
    """The first step size for a tensor of these values."""

    grid: Grid
    values: tuple[float, ...]
    expected: float


Case = Pointwise | SameValue | StepGradient | FirstStep


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the matrix: the case, and where the paper says it."""

    key: str
    title: str
    source: str
    case: Case


def _points(grid: Grid, *pairs: tuple[float, float]) -> tuple[tuple[Grid, float, float], ...]:
    return tuple((grid, v, expected) for v, expected in pairs)


CHECKS: tuple[Check, ...] = (
    Check(
        "values-weights",
        "codes of 2-bit weights",
        "eq. 1, 2",
        Pointwise(
            "code",
            _points(
                W2, (-9, -2), (-2.25, -2), (-1.25, -1), (-0.25, 0), (0.75, 1), (1.2, 1), (9, 1)
            ),
        ),
    ),
    Check(
        "values-activations",
        "codes of 2-bit activations",
        "eq. 1, 2",
        Pointwise("code", _points(A2, (-9, 0), (-0.25, 0), (1.25, 1), (2.75, 3), (3.3, 3), (9, 3))),
    ),
    Check(
        "bounds",
        "lowest and highest code, 2..8 bits",
        "section 2",
        Pointwise(
            "code",
            tuple(
                (grid, sign * FAR, float(bound))
                for grid in GRIDS
                for sign, bound in zip((-1, 1), grid.bounds, strict=True)
            ),
        ),
    ),
    Check(
        "half-even",
        "k + 0.5 rounds to the even code",
        "section 2, round",
        Pointwise(
            "code",
            _points(W4, (-2.5, -2), (-1.5, -2), (-0.5, 0), (0.5, 0), (1.5, 2), (2.5, 2), (3.5, 4)),
        ),
    ),
    Check(
        "grad-step-inside",
        "grad of s inside: round(v) - v",
        "eq. 3",
        Pointwise(
            "grad_step",
            _points(
                W4, (-1.25, 0.25), (-0.75, -0.25), (0.25, -0.25), (0.75, 0.25), (2.375, -0.375)
            ),
        ),
    ),
    Check(
        "grad-step-outside",
        "grad of s far outside: the bound",
        "eq. 3",
        Pointwise("grad_step", (*_points(W2, (3, 1), (-4, -2)), *_points(A4, (20, 15), (-3, 0)))),
    ),
    Check(
        "clip-first-grad-step",
        "grad of s up to s/2 outside",
        "eq. 3",
        Pointwise(
            "grad_step", (*_points(W2, (1.2, 1), (1.45, 1), (-2.3, -2)), *_points(A2, (3.3, 3)))
        ),
    ),
    Check(
        "clip-first-grad-x",
        "grad of v up to s/2 outside",
        "section 2.3",
        Pointwise("grad_x", (*_points(W2, (1.2, 0), (1.45, 0), (-2.3, 0)), *_points(A2, (3.3, 0)))),
    ),
    Check(
        "bound-grad-step",
        "grad of s exactly on a bound",
        "eq. 3",
        Pointwise("grad_step", (*_points(W2, (1, 1), (-2, -2)), *_points(A2, (0, 0), (3, 3)))),
    ),
    Check(
        "bound-grad-x",
        "grad of v exactly on a bound",
        "section 2.3",
        Pointwise("grad_x", (*_points(W2, (1, 0), (-2, 0)), *_points(A2, (0, 0), (3, 0)))),
    ),
    Check(
        "grad-x-inside",
        "grad of v inside: 1",
        "section 2.3",
        Pointwise(
            "grad_x", (*_points(W2, (-1.75, 1), (-0.25, 1), (0.75, 1)), *_points(A2, (2.75, 1)))
        ),
    ),
    Check(
        "grad-x-outside",
        "grad of v far outside: 0",
        "section 2.3",
        Pointwise("grad_x", (*_points(W2, (3, 0), (-4, 0)), *_points(A2, (-3, 0), (9, 0)))),
    ),
    Check(
        "grad-scale",
        "grad of s is multiplied by g",
        "section 2.2",
        Pointwise("grad_step", _points(W4, (0.75, 0.03125), (20, 0.875)), grad_scale=0.125),
    ),
    Check(
        "grad-scale-value",
        "g changes no value, to the bit",
        "section 2.2",
        SameValue(),
    ),
    Check(
        "bf16-codes",
        "bf16 values get fp32's codes",
        "eq. 1",
        Pointwise("code", _points(W8, (100.6, 101), (90.7, 91), (-77.4, -77)), bf16=True),
    ),
    Check(
        "n-weights",
        "N_W: a layer's weights",
        "section 2.2",
        StepGradient(W4, (4, 4), 10.583005),  # 16 * 7 g, g = 1 / sqrt(16 * 7)
    ),
    Check(
        "n-weights-per-channel",
        "N_W per channel: its own weights",
        "section 2.2",
        StepGradient(W4, (4, 4), 5.291503, per_channel=True),  # 4 * 7 / sqrt(4 * 7)
    ),
    Check(
        "n-features",
        "N_F: features of one sample",
        "section 2.2",
        StepGradient(A4, (8, 3, 4, 4), 214.662526),  # 8 * 48 * 15 / sqrt(48 * 15)
    ),
    Check(
        "first-step-weights",
        "first step, 8-bit weights",
        "section 2.1",
        FirstStep(W8, (-0.5, 0.5, 0.25, -0.75), 0.0887357),  # 2 * 0.5 / sqrt(127)
    ),
    Check(
        "first-step-activations",
        "first step, 4-bit activations",
        "section 2.1",
        FirstStep(A4, (3.0, 0.0, 6.0, 3.0), 1.5491933),  # 2 * 3 / sqrt(15)
    ),
)
