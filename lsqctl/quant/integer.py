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


def pad_unevenly(
    x: Tensor, sides: tuple[int, int, int, int], mode: str
) -> tuple[Tensor, tuple[int, int]]:
    """Return ``x``, padded where a kernel cannot, and what is left for the kernel to pad.

    ``sides`` are (left, right, top, bottom), ``mode`` as ``F.pad`` has it. A kernel pads zeros,
    alike at both sides.
    """
    left, right, top, bottom = sides
    if mode == "constant" and (left, top) == (right, bottom):
        return x, (top, left)
    return F.pad(x, sides, mode), (0, 0)


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
    return _convolve_by_kernel(operands, geometry)


def _convolve_by_kernel(operands: Operands, geometry: Geometry) -> Tensor:
    codes, weight, scale, bias, zero_point, *_ = operands
    codes, geometry = _without_stride(codes, weight, zero_point, geometry)
    stride, padding, dilation, groups = geometry
    place, op = (stride, padding, dilation, groups), torch.ops.onednn
    packed = op.qconv_prepack(weight, scale, 1.0, zero_point, *place, codes.shape)
    arguments = (codes, 1.0, zero_point, packed, scale, _zeros(scale), bias, *place, 1.0, 0)
    out: Tensor = op.qconv_pointwise(*arguments, _kernel_dtype(operands), "none", [], "")
    return out.to(operands.dtype)


def _without_stride(
    codes: Tensor, weight: Tensor, zero_point: int, geometry: Geometry
) -> tuple[Tensor, Geometry]:
    """Return what a kernel of 1 × 1 with a stride reads, laid out for one without.

    oneDNN's own way to do so gives wrong sums, in silence, on several threads: seen with AVX2 where
    input channels are a multiple of 8 and not of 16.
    """
    if set(weight.shape[2:]) != {1} or set(geometry.stride) == {1}:
        return codes, geometry
    (top, left), (down, right) = geometry.padding, geometry.stride
    if top or left:
        codes = F.pad(codes, (left, left, top, top), value=float(zero_point))
    codes = codes[:, :, ::down, ::right].contiguous(memory_format=torch.channels_last)
    return codes, geometry._replace(stride=(1, 1), padding=(0, 0))


def multiply(operands: Operands) -> Tensor:
    """Return (..., C) times the transpose of (O, C)."""
    if not _adds_exactly(operands):
        codes, weight = _exact_operands(operands)
        with exact_sums("cpu"):
            sums = F.linear(codes, weight)
        return _scaled(sums, operands, (-1,))
    return _multiply_by_kernel(operands)


def _multiply_by_kernel(operands: Operands) -> Tensor:
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


@functools.cache
def rounds_twice() -> bool:
    """Return whether kernels round the product with a scale, and then the sum with a bias: tried.

    One that fuses both rounds once, and gives another function.
    """
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (1, 32, 4, 4), dtype=torch.uint8, generator=generator)
    scale, bias = (torch.rand(32, generator=generator) for _ in range(2))
    exact = []
    for shape, groups in _PROBED:
        weight = torch.randint(-8, 8, shape, dtype=torch.int8, generator=generator)
        found, sums = (
            _kernel_product(codes, weight, groups, factors, shift)
            for factors, shift in ((scale, bias), (torch.ones(1), None))
        )
        channels = (-1,) if len(shape) == 2 else (-1, 1, 1)
        exact.append(torch.equal(found, sums * scale.view(channels) + bias.view(channels)))
    return all(exact)


_PROBED = (((32, 32, 1, 1), 1), ((32, 32, 3, 3), 1), ((32, 1, 3, 3), 32), ((32, 32), 1))
"""A weight of each kind of kernel, and its groups."""


def _probe(code: int, weight: int) -> bool:
    """Return whether kernels of each kind give the exact sum of equal products."""
    codes, one = torch.full((1, 32, 4, 4), code, dtype=torch.uint8), torch.ones(1)
    right = []
    for shape, groups in _PROBED:
        kernel = torch.full(shape, weight, dtype=torch.int8)
        out = _kernel_product(codes, kernel, groups, one, None)
        right.append(bool((out == code * weight * kernel[0].numel()).all()))
    return all(right)


def _kernel_product(
    codes: Tensor, weight: Tensor, groups: int, scale: Tensor, bias: Tensor | None
) -> Tensor:
    """Return what oneDNN's kernels make of codes (1, 32, 4, 4), whatever they do to sums."""
    limits = Limits(255, 128)
    operands = Operands(codes, weight, scale, bias, 0, limits, torch.float32)
    if weight.dim() == 2:
        return _multiply_by_kernel(operands._replace(codes=codes.reshape(16, 32)))
    codes = codes.contiguous(memory_format=torch.channels_last)
    return _convolve_by_kernel(
        operands._replace(codes=codes), Geometry((1, 1), (0, 0), (1, 1), groups)
    )


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
