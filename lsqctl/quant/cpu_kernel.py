"""The quantizer block by block, so that a block stays in a core's cache: one step size, on a CPU.

Eager arithmetic is bound by memory: four passes forward and four backward over a whole activation
cost more than its convolution saves.  Here each pass finds its block where the last one left it.
The values are those of ``functional``'s plain form, bit for bit; of the gradients the step's alone
may differ, by the order of its sum.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

BLOCK_SIZE = 1 << 17
"""Elements a thread: 512 KiB in fp32, of which three or four share a core's cache (measured)."""

# its first operand where low < second < high, else 0
_hardtanh_backward = torch.ops.aten.hardtanh_backward

MIN_KERNEL_STEP = 1e-30
"""Below it, and for NaN, the bounds of the open interval are not computed."""

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


Saved = tuple[Tensor, Tensor, Tensor | None]  # x, the step size; the value in fp32, if at hand


def is_supported(x: Tensor, step_size: Tensor) -> bool:
    """Return whether this kernel may be used; ``functional`` keeps it out of a ``jit.trace``."""
    if torch.compiler.is_compiling():
        return False
    plain_tensor = type(x) in (Tensor, nn.Parameter) and x.numel() > 0
    dtypes_supported = (
        x.dtype in _DTYPES and step_size.dtype is torch.float32 and step_size.numel() == 1
    )
    on_cpu = x.device.type == step_size.device.type == "cpu"
    return plain_tensor and dtypes_supported and on_cpu


def dense(x: Tensor) -> Tensor:
    """Return ``x``, or a copy of it, in whatever order but without gaps."""
    return x if torch.ops.aten.is_non_overlapping_and_dense(x) else x.contiguous()


def fake_quantize(x: Tensor, step_size: Tensor, bounds: tuple[int, int]) -> Tensor:
    """Return a dense ``x`` on the grid, in its own memory order and dtype (eq. 1, 2)."""
    out = torch.empty_like(x)
    step = step_size.reshape(())
    for block, result in zip(_split_blocks(x), _split_blocks(out), strict=True):
        if out.dtype is torch.float32:
            _float_codes(block, step, bounds, result).mul_(step)
        else:
            result.copy_(_float_codes(block.float(), step, bounds).mul_(step))
    return out


def codes(
    x: Tensor, step_size: Tensor, bounds: tuple[int, int], shift: int
) -> tuple[Tensor, Tensor]:
    """Return the codes of a dense ``x`` minus ``shift``, in its memory order (eq. 1), and a mark.

    int8 where the highest fits, else uint8: torch converts to the former twice as fast (measured).
    The mark () is 0, or NaN where a value is, which no code can tell.
    """
    fits = bounds[1] - shift <= torch.iinfo(torch.int8).max
    out = torch.empty_like(x, dtype=torch.int8 if fits else torch.uint8)
    step = step_size.reshape(())
    sums = []
    for block, result in zip(_split_blocks(x), _split_blocks(out), strict=True):
        found = _float_codes(block.float(), step, bounds)
        sums.append(found.sum())
        result.copy_(found.sub_(shift) if shift else found)
    return out, torch.stack(sums).sum().mul_(0)


def gradients(
    grad: Tensor, saved: Saved, bounds: tuple[int, int], needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of ``x`` and of the step, before its scale (eq. 3).

    Each is None unless ``needed``. The step's is ``sum(grad * (value - inside))`` over the step,
    where ``inside`` is ``x`` strictly between the bounds and 0 elsewhere.
    """
    x, step_size, value = saved
    step = step_size.reshape(())
    low, high = open_interval(float(step), bounds)
    grad = grad if grad.stride() == x.stride() else torch.empty_like(x).copy_(grad)
    grad_x = torch.empty_like(x) if needed[0] else None
    partial_sums = []
    blocks = [_split_blocks(x if tensor is None else tensor) for tensor in (grad, x, value, grad_x)]
    for grad_block, x_block, value_block, result in zip(*blocks, strict=True):
        upstream, block = grad_block.float(), x_block.float()
        if grad_x is not None:
            _mask_gradient(upstream, block, (low, high), result)
        if needed[1]:
            on_grid = _float_codes(block, step, bounds).mul_(step) if value is None else value_block
            inside = _hardtanh_backward(block, block, low, high)
            partial_sums.append(torch.dot(inside.sub_(on_grid), upstream))
    grad_step = (
        torch.stack(partial_sums).sum().div_(-step).reshape(step_size.shape) if needed[1] else None
    )
    return grad_x, grad_step


def open_interval(step: float, bounds: tuple[int, int]) -> tuple[float, float]:
    """Return (low, high) with ``low < x < high`` just where ``low code < x / step < high code``.

    For every fp32 ``x``, the quotient being rounded to fp32 as it is for the code. A lower bound
    of 0 is 0: a positive ``x`` lies inside even where its quotient underflows.
    """
    quant_min, quant_max = bounds
    return -_boundary(-quant_min, step) if quant_min else 0.0, _boundary(quant_max, step)


def _boundary(bound: int, step: float) -> float:
    """Return the smallest fp32 number whose quotient by ``step``, rounded to fp32, is ``bound``.

    Quotients from half a unit below ``bound`` on round to it (to its even mantissa, on the half).
    That half-way point has at most 26 bits and ``step`` 24, so their product is exact in fp64.
    """
    fraction, exponent = math.frexp(bound)
    half_way = (bound - math.ldexp(1.0, exponent - (26 if fraction == 0.5 else 25))) * step
    fraction, exponent = math.frexp(half_way)
    return math.ldexp(math.ceil(math.ldexp(fraction, 24)), exponent - 24)


def _mask_gradient(grad: Tensor, x: Tensor, interval: tuple[float, float], out: Tensor) -> None:
    if out.dtype is torch.float32:
        _hardtanh_backward.grad_input(grad, x, *interval, grad_input=out)
    else:
        out.copy_(_hardtanh_backward(grad, x, *interval))


def _float_codes(
    x: Tensor, step: Tensor, bounds: tuple[int, int], out: Tensor | None = None
) -> Tensor:
    return torch.div(x, step, out=out).clamp_(*bounds).round_()


def _split_blocks(x: Tensor) -> tuple[Tensor, ...]:
    """Return the elements in memory order, cut into blocks."""
    flat = x.as_strided((x.numel(),), (1,), x.storage_offset())
    return torch.split(flat, BLOCK_SIZE * torch.get_num_threads())
