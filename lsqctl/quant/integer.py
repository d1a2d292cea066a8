"""Convolution and linear layer on integer codes: exact sums, then one scale, on a CPU.

``out = fl32(fl32(sum of code * weight code) * scale) + bias``, each step rounded to fp32 once: one
function, whatever the kernel, the batch or the number of threads.  The fast way is oneDNN's integer
kernel, which torch's build for x86 has.  Without VNNI or AMX it adds pairs of products in 16 bits
and clips them in silence; where that could happen, the same sums are taken of floats, which hold
them exactly.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.backends import nnpack  # its convolutions are Winograd's
from torch.nn import functional as F

_PAIR_LIMIT = 32767  # what 16 bits hold: the sum of two products
_SUM_LIMIT = 2**31 - 1  # of a sum
EXACT_FP32 = 1 << 24  # integers below it are fp32 numbers, and so is each sum that stays below
_ONEDNN_DTYPES = (torch.float32, torch.bfloat16)  # of what its kernels return, on every CPU


class Geometry(NamedTuple):
    """How a convolution moves over its input: (height, width) each, padded alike at both sides."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


class Limits(NamedTuple):
    """The largest code of an input, counted from 0 on, and of a weight, without its sign."""

    code: int
    weight: int


class Operands(NamedTuple):
    """What is multiplied, and what becomes of the sums.

    ``codes`` uint8, of which ``zero_point`` means 0; ``weight`` int8, its output channels first;
    ``scale`` fp32, (1,) or (O,); ``bias`` (O,) or None. The result is of ``dtype``.
    """

    codes: Tensor
    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    zero_point: int
    limits: Limits
    dtype: torch.dtype


def convolve(operands: Operands, geometry: Geometry) -> Tensor:
    """Return the convolution of (B, C, H, W), channels last, with (O, C / groups, kH, kW).

    Zeros are padded.
    """
    if not _adds_exactly(operands):
        codes, weight = _exact_operands(operands)
        with exact_sums("cpu"):
            sums = F.conv2d(codes, weight, None, *geometry)
        return _scaled(sums, operands, (-1, 1, 1))
    codes, weight, scale, bias, zero_point, *_ = operands
    stride, padding, dilation, groups = geometry
    place, op = (stride, padding, dilation, groups), torch.ops.onednn
    packed = op.qconv_prepack(weight, scale, 1.0, zero_point, *place, codes.shape)
    arguments = (codes, 1.0, zero_point, packed, scale, _zeros(scale), bias, *place, 1.0, 0)
    out: Tensor = op.qconv_pointwise(*arguments, _kernel_dtype(operands), "none", [], "")
    return out.to(operands.dtype)


def multiply(operands: Operands) -> Tensor:
    """Return (..., C) times the transpose of (O, C)."""
    if not _adds_exactly(operands):
        codes, weight = _exact_operands(operands)
        with exact_sums("cpu"):
            sums = F.linear(codes, weight)
        return _scaled(sums, operands, (-1,))
    codes, weight, scale, bias, zero_point, *_ = operands
    packed = torch.ops.onednn.qlinear_prepack(weight, codes.shape)
    arguments = (codes, 1.0, zero_point, packed, scale, _zeros(scale), bias, 1.0, 0)
    op = torch.ops.onednn.qlinear_pointwise
    out: Tensor = op(*arguments, _kernel_dtype(operands), "none", [], "")
    return out.to(operands.dtype)


@functools.cache
def is_available() -> bool:
    """Return whether torch has integer kernels for this processor."""
    try:
        _probe(255, 0)
    except (RuntimeError, AttributeError):
        return False
    return True


@functools.cache
def products_are_wide() -> bool:
    """Return whether products of 8 bits are added without clipping: tried, not looked up.

    So it also holds under ONEDNN_MAX_CPU_ISA and on processors that are not known here.
    """
    return is_available() and all(_probe(255, weight) for weight in (-128, 127))


def _probe(code: int, weight: int) -> bool:
    """Return whether kernels of each kind give the exact sum of equal products."""
    codes = torch.full((1, 32, 4, 4), code, dtype=torch.uint8)
    codes = codes.contiguous(memory_format=torch.channels_last)
    op, one, zero = torch.ops.onednn, torch.ones(1), torch.zeros(1, dtype=torch.int64)
    right = []
    for size, groups in ((1, 1), (3, 1), (3, 32)):
        kernel = torch.full((32, 32 // groups, size, size), weight, dtype=torch.int8)
        place = ([1, 1], [0, 0], [1, 1])
        packed = op.qconv_prepack(kernel, one, 1.0, 0, *place, groups, codes.shape)
        arguments = (codes, 1.0, 0, packed, one, zero, None, *place, groups, 1.0, 0)
        out = op.qconv_pointwise(*arguments, torch.float32, "none", [], "")
        right.append(bool((out == code * weight * kernel[0].numel()).all()))
    matrix = torch.full((32, 32), weight, dtype=torch.int8)
    packed = op.qlinear_prepack(matrix, [16, 32])
    operands = (codes.reshape(16, 32), 1.0, 0, packed, one, zero, None, 1.0, 0)
    out = op.qlinear_pointwise(*operands, torch.float32, "none", [], "")
    return all(right) and bool((out == code * weight * 32).all())


def _adds_exactly(operands: Operands) -> bool:
    """Return whether the integer kernel is here and adds without clipping, by limits or values.

    Weights of 8 bits seldom use all their codes: those of this moment are looked at. A sum of very
    many products may not fit into the kernel's 32 bits, whatever the processor.
    """
    limits = operands.limits
    if limits.code * limits.weight * operands.weight[0].numel() > _SUM_LIMIT:
        return False
    if products_are_wide() or 2 * limits.code * limits.weight <= _PAIR_LIMIT:
        return is_available()
    low, high = (int(end) for end in operands.weight.aminmax())
    return 2 * limits.code * max(-low, high) <= _PAIR_LIMIT and is_available()


def accumulator_bound(weight_codes: Tensor, largest: int) -> int:
    """Return the largest magnitude of a sum, or of a part of one, over codes up to ``largest``."""
    return int(weight_codes.to(torch.int64).abs().flatten(1).sum(1).max()) * largest


def exact_dtype(bound: int) -> torch.dtype:
    """Return the float type in which sums up to ``bound`` are exact in any order."""
    return torch.float32 if bound < EXACT_FP32 else torch.float64


@contextmanager
def exact_sums(device_type: str) -> Iterator[None]:
    """Let products of whole numbers be summed as they are: not rounded, not transformed."""
    with torch.autocast(device_type, enabled=False), nnpack.flags(enabled=False):
        yield


def _exact_operands(operands: Operands) -> tuple[Tensor, Tensor]:
    """Return both as floats whose sums are exact in any order: all lie below 2^24, or 2^53."""
    dtype = exact_dtype(accumulator_bound(operands.weight, operands.limits.code))
    return operands.codes.to(dtype).sub_(operands.zero_point), operands.weight.to(dtype)


def _scaled(sums: Tensor, operands: Operands, shape: tuple[int, ...]) -> Tensor:
    """Return what the integer kernels make of exact sums."""
    out = sums.float().mul_(operands.scale.view(shape))
    if operands.bias is not None:
        out.add_(operands.bias.view(shape))
    return out.to(operands.dtype)


def _kernel_dtype(operands: Operands) -> torch.dtype:
    return operands.dtype if operands.dtype in _ONEDNN_DTYPES else torch.float32


def _zeros(scale: Tensor) -> Tensor:
    return torch.zeros(scale.shape, dtype=torch.int64)
