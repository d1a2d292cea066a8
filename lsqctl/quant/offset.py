"""LSQ+: a grid that a learned offset moves, for activations that are negative, but not much.

LSQ+: Improving low-bit quantization through learnable offsets and better initialization, Bhalgat
et al. 2020 (arXiv 2004.09576), section 3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lsqctl.quant.functional import (
    MIN_STEP_SIZE,
    lsq_codes,
    lsq_fake_quantize,
    scale_gradient,
)
from lsqctl.quant.spec import StepInit
from lsqctl.quant.step_init import as_rows, percentile_rank, subsample

_SEARCH_SAMPLE = 1 << 16  # values that the search for the least error is made with
_COARSE, _FINE = 20, 7  # cuts of each end of the range, and how often they are refined


def lsq_plus_fake_quantize(
    x: Tensor,
    step_size: Tensor,
    offset: Tensor,
    bounds: tuple[int, int],
    grad_scale: float = 1.0,
) -> Tensor:
    """Return ``x`` on the grid ``step_size * {bounds} + offset``, as floats.

    That is round(clip((x - offset) / step_size, quant_min, quant_max)) * step_size + offset, of
    the shape and dtype of ``x``; ``step_size`` and ``offset`` are ``()``. Gradients: those of LSQ
    at x - offset for ``x`` and ``step_size``; for ``offset`` 0 inside the grid's range and 1
    outside, summed and multiplied by ``grad_scale`` as the step's is.

    >>> x, s, offset = torch.tensor([-1.0, 0.4, 9.0]), torch.tensor(1.0), torch.tensor(-0.5)
    >>> lsq_plus_fake_quantize(x, s, offset, (0, 3)).tolist()
    [-0.5, 0.5, 2.5]

    Raises:
        ValueError: as ``lsq_fake_quantize``.
    """
    upcast = _upcast(x, step_size)
    scaled_offset = scale_gradient(offset.to(upcast.dtype), grad_scale)
    quantized = lsq_fake_quantize(upcast - scaled_offset, step_size, *bounds, grad_scale)
    return (quantized + scaled_offset).to(x.dtype)


def lsq_plus_codes(x: Tensor, step_size: Tensor, offset: Tensor, bounds: tuple[int, int]) -> Tensor:
    """Return the integer codes of ``x``, int32: ``codes * step_size + offset`` is on the grid."""
    with torch.no_grad():
        return lsq_codes(_upcast(x, step_size) - offset, step_size, *bounds)


def initial_step_and_offset(
    x: Tensor, quant_min: int, quant_max: int, *, init: StepInit, percentile: float = 99.9
) -> tuple[Tensor, Tensor]:
    """Return a first (step size, offset), each ``()``, for activations ``x``.

    The grid spans a range of values, from its code ``quant_min`` to ``quant_max`` (section 3.3):

    * ``paper``: from the least to the largest value. LSQ's own rule knows no offset.
    * ``percentile``: what is left when so much is cut off at each end.
    * ``mse`` and ``lsq_plus``: the range of the least squared error, found by cutting both ends.

    Raises:
        ValueError: ``x`` is empty, or holds NaN or infinity.
    """
    values = as_rows(x, ())[0]
    low, high = (float(end) for end in values.aminmax())
    if init == "percentile":
        rank = percentile_rank(percentile, values.numel())
        low = float(values.kthvalue(values.numel() + 1 - rank).values)
        high = float(values.kthvalue(rank).values)
    elif init in ("mse", "lsq_plus") and high > low:
        low, high = _least_mse_range(values, low, high, (quant_min, quant_max))
    levels = quant_max - quant_min
    step = max((high - low) / levels, MIN_STEP_SIZE) if high > low else 1 / levels
    return values.new_tensor(step), values.new_tensor(low - quant_min * step)


def _least_mse_range(
    values: Tensor, low: float, high: float, bounds: tuple[int, int]
) -> tuple[float, float]:
    """Return the ends of the range with the least squared error: a coarse grid, then a fine one."""
    values = subsample(values[None], _SEARCH_SAMPLE)[0]
    span, width = high - low, 1 / _COARSE
    best, min_error = (0.0, 0.0), math.inf
    coarse = [i * width for i in range(_COARSE)]
    for pass_number in range(2):
        low_cuts, high_cuts = (
            (coarse, coarse) if not pass_number else (_refine(end, width) for end in best)
        )
        for cut in ((b, a) for b in low_cuts for a in high_cuts if b + a < 1):
            start, end = low + cut[0] * span, high - cut[1] * span
            if (error := _mse(values, start, end, bounds)) < min_error:
                best, min_error = cut, error
    return low + best[0] * span, high - best[1] * span


def _refine(cut: float, width: float) -> list[float]:
    cuts = (cut + width * (2 * i / (_FINE - 1) - 1) for i in range(_FINE))
    return [max(0.0, refined) for refined in cuts]


def _mse(values: Tensor, low: float, high: float, bounds: tuple[int, int]) -> float:
    step = max((high - low) / (bounds[1] - bounds[0]), MIN_STEP_SIZE)
    offset = low - bounds[0] * step
    codes = ((values - offset) / step).clamp_(*bounds).round_()
    return float(codes.mul_(step).add_(offset).sub_(values).square_().mean())


def _upcast(x: Tensor, step_size: Tensor) -> Tensor:
    """Return ``x`` in fp32 at least: in bf16, x - offset would be rounded before it is divided."""
    return x.to(torch.promote_types(torch.promote_types(x.dtype, step_size.dtype), torch.float32))
