"""A quantized layer's product in integers, with the paper's gradients: for eager and compiled code.

Forward: the codes of both operands, and their exact product (``lsqctl.quant.integer``).  Backward:
the gradients with respect to the dequantized operands, as of the float layer, then equation 3.
Codes of 8 bits are kept for it, where the float layer keeps values of 32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lsqctl.quant import cpu_kernel
from lsqctl.quant.functional import lsq_codes, lsq_gradients
from lsqctl.quant.integer import Geometry, Limits, Operands, convolve, multiply
from lsqctl.quant.torch_faults import is_unsafe_channels_last

Bounds = tuple[int, int]


class Product(NamedTuple):
    """What is to be multiplied how: bounds of codes, gradient scales of both steps, the result.

    Without a ``geometry`` it is a linear layer's.
    """

    input_bounds: Bounds
    input_grad_scale: float
    weight_bounds: Bounds
    weight_grad_scale: float
    geometry: Geometry | None
    dtype: torch.dtype


def integer_product(
    x: Tensor, weight: Tensor, steps: tuple[Tensor, Tensor], bias: Tensor | None, product: Product
) -> Tensor:
    """Return the layer's output for ``x`` and ``weight``, which are quantized by ``steps``.

    Shapes: ``x`` (B, C, H, W) or (..., C); ``weight`` as the layer has it; the step of ``x`` is
    (), that of the weight () or one an output channel.
    """
    out: Tensor = _IntegerProduct.apply(x, steps[0], weight, steps[1], bias, *product)
    return out


class _Context(Protocol):
    """What the forward pass leaves for the backward pass."""

    product: Product
    on_cpu_kernel: tuple[bool, bool]
    needs_input_grad: Sequence[bool]

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]: ...

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _IntegerProduct(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 (autograd passes nothing by name)
        ctx: _Context,
        x: Tensor,
        input_step: Tensor,
        weight: Tensor,
        weight_step: Tensor,
        bias: Tensor | None,
        *product: Any,
    ) -> Tensor:
        ctx.product = how = Product(*product)
        if how.geometry is not None and not torch.compiler.is_compiling():
            x = x.contiguous(memory_format=torch.channels_last)
        x, codes, mark, input_on_kernel = operand_codes(x, input_step, how.input_bounds, first=0)
        weight, weight_codes, weight_mark, weight_on_kernel = operand_codes(
            weight, weight_step, how.weight_bounds, first=how.weight_bounds[0]
        )
        ctx.on_cpu_kernel = input_on_kernel, weight_on_kernel
        ctx.save_for_backward(x, input_step, codes, weight, weight_step, weight_codes)
        scale = (input_step * weight_step).reshape(-1) + (mark + weight_mark)
        return _multiply(codes, weight_codes, scale, bias, how)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, input_step, codes, weight, weight_step, weight_codes = ctx.saved_tensors
        how, needs = ctx.product, ctx.needs_input_grad
        value = _values(codes, input_step, how.input_bounds[0])
        weight_value = _values(weight_codes, weight_step, 0)
        wanted = (needs[0] or needs[1], needs[2] or needs[3], needs[4])
        operands = (value.to(grad.dtype), weight_value.to(grad.dtype))
        grad_value, grad_weight_value, grad_bias = _operand_gradients(
            grad, operands, wanted, how.geometry
        )
        grads = _quantizer_gradients(
            grad_value,
            (x, input_step, value),
            (how.input_bounds, how.input_grad_scale),
            (needs[0], needs[1]),
            on_cpu_kernel=ctx.on_cpu_kernel[0],
        )
        weight_grads = _quantizer_gradients(
            grad_weight_value,
            (weight, weight_step, weight_value),
            (how.weight_bounds, how.weight_grad_scale),
            (needs[2], needs[3]),
            on_cpu_kernel=ctx.on_cpu_kernel[1],
        )
        return (*grads, *weight_grads, grad_bias, *(None for _ in how))


def operand_codes(
    x: Tensor, step: Tensor, bounds: Bounds, *, first: int
) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Return dense ``x``, its codes, a mark, and whether the CPU kernel made them.

    Codes are counted from ``first``: uint8 where that is 0, else int8. The mark () is 0, or NaN
    where a value is: added to the scale it reaches the loss, as NaN does in floats.
    """
    shift = bounds[0] - first
    kind = torch.uint8 if first == 0 else torch.int8
    if cpu_kernel.is_supported(x, step):
        x = cpu_kernel.dense(x)
        codes, mark = cpu_kernel.codes(x, step, bounds, shift)
        return x, codes.view(kind), mark, True
    mark = torch.where(x.isnan().any(), torch.nan, 0.0)
    return x, (lsq_codes(x, step, *bounds) - shift).to(kind), mark, False


def _values(codes: Tensor, step: Tensor, zero_code: int) -> Tensor:
    """Return the dequantized operand in fp32, of which codes are counted from ``zero_code``."""
    values = codes.float()
    return (values.add_(zero_code) if zero_code else values).mul_(step)


def _quantizer_gradients(
    grad: Tensor | None,
    saved: tuple[Tensor, Tensor, Tensor],
    how: tuple[Bounds, float],
    needed: tuple[bool, bool],
    *,
    on_cpu_kernel: bool,
) -> tuple[Tensor | None, Tensor | None]:
    if grad is None:
        return None, None
    grad = grad.to(saved[0].dtype)
    return lsq_gradients(grad, saved, how, needed, on_cpu_kernel=on_cpu_kernel)


def _multiply(
    codes: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, how: Product
) -> Tensor:
    (low, high), (weight_low, _) = how.input_bounds, how.weight_bounds
    limits = (high - low, -weight_low)
    bias = None if bias is None else bias.float()
    if torch.compiler.is_compiling():
        arguments = (codes, weight, scale, bias, -low, list(limits), how.dtype)
        if how.geometry is None:
            product: Tensor = _multiply_op(*arguments)
            return product
        stride, padding, dilation, groups = how.geometry
        out: Tensor = _convolve_op(*arguments, list(stride), list(padding), list(dilation), groups)
        return out
    operands = Operands(codes, weight, scale, bias, -low, Limits(*limits), how.dtype)
    return multiply(operands) if how.geometry is None else convolve(operands, how.geometry)


def _operand_gradients(
    grad: Tensor,
    operands: tuple[Tensor, Tensor],
    wanted: tuple[bool, bool, bool],
    geometry: Geometry | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of both dequantized operands and of the bias, None where not wanted."""
    value, weight = operands
    if geometry is not None:
        stride, padding, dilation, groups = geometry
        bias_sizes = [len(weight)] if wanted[2] else None
        place = (stride, padding, dilation, False, (0, 0), groups)
        if is_unsafe_channels_last(weight, stride):
            value = value.contiguous()
        found: tuple[Tensor | None, Tensor | None, Tensor | None] = (
            torch.ops.aten.convolution_backward(
                grad, value, weight, bias_sizes, *place, list(wanted)
            )
        )
        return found
    rows = grad.reshape(-1, grad.shape[-1])
    return (
        grad.matmul(weight) if wanted[0] else None,
        rows.t().mm(value.reshape(-1, value.shape[-1])) if wanted[1] else None,
        rows.sum(0) if wanted[2] else None,
    )


@torch.library.custom_op("lsqctl::integer_convolution", mutates_args=())
def _convolve_op(  # noqa: PLR0917 (the op's schema is read off it)
    codes: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    zero_point: int,
    limits: list[int],
    dtype: torch.dtype,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    codes = codes.contiguous(memory_format=torch.channels_last)  # bytes: the least to lay out anew
    operands = Operands(codes, weight, scale, bias, zero_point, Limits(*limits), dtype)
    out = convolve(operands, Geometry(tuple(stride), tuple(padding), tuple(dilation), groups))
    return out.contiguous(memory_format=torch.channels_last)


@_convolve_op.register_fake
def _(  # noqa: PLR0917 (as the op)
    codes: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    zero_point: int,
    limits: list[int],
    dtype: torch.dtype,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    sizes = [
        (size + 2 * pad - spread * (kernel - 1) - 1) // step + 1
        for size, kernel, step, pad, spread in zip(
            codes.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True
        )
    ]
    out = codes.new_empty((len(codes), len(weight), *sizes), dtype=dtype)
    return out.to(memory_format=torch.channels_last)


@torch.library.custom_op("lsqctl::integer_linear", mutates_args=())
def _multiply_op(  # noqa: PLR0917 (the op's schema is read off it)
    codes: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    zero_point: int,
    limits: list[int],
    dtype: torch.dtype,
) -> Tensor:
    return multiply(Operands(codes, weight, scale, bias, zero_point, Limits(*limits), dtype))


@_multiply_op.register_fake
def _(  # noqa: PLR0917 (as the op)
    codes: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    zero_point: int,
    limits: list[int],
    dtype: torch.dtype,
) -> Tensor:
    return codes.new_empty((*codes.shape[:-1], len(weight)), dtype=dtype)
