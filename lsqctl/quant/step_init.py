"""The first value of a step size, from sample values: the paper's rule and three others."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from lsqctl.quant.functional import MIN_STEP_SIZE
from lsqctl.quant.spec import StepInit

_SEARCH_SAMPLE = 1 << 20  # values that the mse search is made with; the error's minimum is flat
_COARSE = 81  # candidates over four decades, 12 % apart
_FINE = 13  # candidates between the neighbours of the best so far


def initial_step_size(
    x: Tensor,
    quant_min: int,
    quant_max: int,
    *,
    init: StepInit = "paper",
    step_shape: tuple[int, ...] = (),
    percentile: float = 99.9,
    activation: bool = False,
) -> Tensor:
    """Return a first step size of shape ``step_shape`` for the values ``x``.

    ``step_shape`` is ``()`` or broadcasts to ``x``, as ``(C, 1, 1, 1)``: one step for each slice.
    The rules, with Q_P = ``quant_max``:

    * ``paper``: 2 <|x|> / sqrt(Q_P) (Esser et al. 2020, section 2.1).
    * ``mse``: the step with the least squared error of ``x`` against its quantized self.
    * ``lsq_plus``: max(|mu - 3 sigma|, |mu + 3 sigma|) / 2^(b-1) for weights; for activations that
      paper minimises the squared error, hence ``mse``, here without its offset (Bhalgat et al.
      2020, section 3.3). An unsigned tensor counts as an activation.
    * ``percentile``: the given percentile of |x| gets the code Q_P.

    Values that are all zero say nothing; their step is 1 / Q_P. No step is below MIN_STEP_SIZE.

    Raises:
        ValueError: ``x`` is empty, or holds NaN or infinity, or ``step_shape`` does not fit.
    """
    rows = as_rows(x, step_shape)
    if init == "lsq_plus" and (activation or quant_min == 0):
        init = "mse"
    if init == "paper":
        step = 2 * rows.abs().mean(1) / math.sqrt(quant_max)
    elif init == "mse":
        step = _least_mse_step(rows, quant_min, quant_max)
    elif init == "lsq_plus":
        sigma, mu = torch.std_mean(rows, 1, correction=0)
        step = (mu.abs() + 3 * sigma) / (quant_max + 1)
    elif init == "percentile":
        rank = percentile_rank(percentile, rows.shape[1])
        step = rows.abs().kthvalue(rank, dim=1).values / quant_max
    else:
        raise ValueError(f"init must be paper, mse, lsq_plus or percentile, got {init!r}")
    largest = rows.abs().amax(1)
    step = torch.where(step > 0, step, largest / quant_max)  # e.g. a percentile that is zero
    step = torch.where(largest > 0, step, 1 / quant_max)
    return step.clamp_min(MIN_STEP_SIZE).reshape(step_shape)


def percentile_rank(percentile: float, count: int) -> int:
    """Return the place, from 1, of the least value that ``percentile`` percent do not exceed.

    The percentile is taken for the decimal number it was written as: 99.9 of 1,000 is the 999th.
    """
    return max(math.ceil(Fraction(str(percentile)) * count / 100), 1)


def check_sample(x: Tensor) -> None:
    """Raise ValueError unless a step size can be taken from ``x``: real, finite, at hand."""
    if x.layout is not torch.strided:
        raise ValueError(f"a tensor of layout {x.layout} cannot be quantized: use .to_dense()")
    if x.is_complex() or x.dtype is torch.bool:
        raise ValueError(f"values of {x.dtype} cannot be quantized: they must be real numbers")
    if x.is_meta:
        raise ValueError("a tensor on the meta device has no values to take a step size from")
    if x.numel() == 0:
        raise ValueError(f"x of shape {tuple(x.shape)} holds no values to take a step size from")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("the values hold NaN or infinity")


def as_rows(x: Tensor, step_shape: tuple[int, ...]) -> Tensor:
    """Return ``x`` as (steps, values of that step), at least fp32, checked."""
    check_sample(x)
    x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    leading = x.dim() - len(step_shape)
    step_axes = [leading + axis for axis, size in enumerate(step_shape) if size != 1]
    if leading < 0 or any(x.shape[axis] != step_shape[axis - leading] for axis in step_axes):
        raise ValueError(f"step_shape {step_shape} does not broadcast to x of {tuple(x.shape)}")
    value_axes = [axis for axis in range(x.dim()) if axis not in step_axes]
    return x.permute(*step_axes, *value_axes).reshape(math.prod(step_shape), -1)


def _least_mse_step(rows: Tensor, quant_min: int, quant_max: int) -> Tensor:
    """Return, for each row, the step of least squared error: a wide grid, then two finer ones.

    The error has many local minima at few bits, so nothing is assumed of its shape.
    """
    largest = rows.abs().amax(1)
    rows = subsample(rows, _SEARCH_SAMPLE)
    best = largest / quant_max
    decades = torch.logspace(-4, 0.05, _COARSE, dtype=rows.dtype).tolist()
    ratio = 10 ** (4.05 / (_COARSE - 1))
    for candidates in (decades, _refine(ratio), _refine(ratio ** (2 / (_FINE - 1)))):
        centre, min_error = best, torch.full_like(best, math.inf)
        for factor in candidates:
            step = (centre * factor).clamp_min(MIN_STEP_SIZE)
            error = _mse(rows, step[:, None], quant_min, quant_max)
            best = torch.where(error < min_error, step, best)
            min_error = torch.minimum(error, min_error)
    return best


def _refine(ratio: float) -> list[float]:
    return [ratio ** (2 * i / (_FINE - 1) - 1) for i in range(_FINE)]


def _mse(rows: Tensor, step: Tensor, quant_min: int, quant_max: int) -> Tensor:
    codes = (rows / step).clamp_(quant_min, quant_max).round_()
    return codes.mul_(step).sub_(rows).square_().mean(1)


def subsample(rows: Tensor, sample: int) -> Tensor:
    """Return evenly spread columns where there are more than ``sample`` values.

    The stride shares no factor with a row's length, so that it does not keep to one pixel.
    """
    stride = math.ceil(rows.numel() / sample)
    while math.gcd(stride, rows.shape[1]) > 1:
        stride += 1
    return rows if stride == 1 else rows[:, ::stride].contiguous()
