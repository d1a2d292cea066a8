"""The LSQ quantizer as pure functions: equations 1 to 3 of the paper, and their gradients.

Learned Step Size Quantization, Esser et al., ICLR 2020 (arXiv 1902.08153), section 2.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lsqctl.quant import cpu_kernel

MIN_STEP_SIZE = 1e-8
"""The smallest step size: calibration starts at or above it, ``clamp_step_sizes`` clamps to it."""


def lsq_fake_quantize(
    x: Tensor, step_size: Tensor, quant_min: int, quant_max: int, grad_scale: float = 1.0
) -> Tensor:
    """Return ``x`` on the grid ``step_size * {quant_min..quant_max}``, as floats (eq. 1, 2).

    ``v = x / step_size`` is clipped, then rounded half-to-even. Shapes: ``x`` is ``(*)``,
    ``step_size`` is ``()`` or broadcasts to it, as ``(C, 1, 1, 1)``. The arithmetic is fp32 (fp64
    where an operand is), also under autocast; the result has the shape and dtype of ``x``.

    Gradients (eq. 3): for ``x``, 1 where ``quant_min < v < quant_max``, else 0; for ``step_size``,
    ``round(v) - v`` there, ``quant_min`` where ``v <= quant_min`` and ``quant_max`` where
    ``v >= quant_max``, summed to its shape and multiplied by ``grad_scale``, which never touches
    the value.

    >>> s = torch.tensor(1.0, requires_grad=True)
    >>> lsq_fake_quantize(torch.tensor([-5.0, 0.5, 1.5, 1.75]), s, -2, 1).tolist()
    [-2.0, 0.0, 1.0, 1.0]

    Raises:
        ValueError: the shapes, dtypes or bounds do not fit.
    """
    _check_arguments(x, step_size, quant_min, quant_max)
    if torch._C._get_tracing_state() is not None:
        return _traceable(x, step_size, (quant_min, quant_max), grad_scale)
    out: Tensor = _LsqFakeQuantize.apply(x, step_size, (quant_min, quant_max), grad_scale)
    return out


def lsq_codes(x: Tensor, step_size: Tensor, quant_min: int, quant_max: int) -> Tensor:
    """Return the integer codes of ``x`` (eq. 1), int32 in ``quant_min..quant_max``; no gradient.

    ``lsq_codes(...) * step_size`` is what ``lsq_fake_quantize`` returns.
    """
    _check_arguments(x, step_size, quant_min, quant_max)
    with torch.no_grad():
        ratio, _ = _ratio(x, step_size)
        return ratio.clamp_(quant_min, quant_max).round_().to(torch.int32)


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """Return ``x`` to the last bit; its gradient arrives multiplied by ``scale``."""
    scaled = x * scale
    return x.detach() + (scaled - scaled.detach())


def _traceable(x: Tensor, step_size: Tensor, bounds: tuple[int, int], grad_scale: float) -> Tensor:
    """Return the same values by plain operations, which ``torch.jit.trace`` can record.

    ``code`` is exact: the difference of a number and its neighbouring integer has no rounding. The
    gradients differ from eq. 3 on a bound itself, where ``clamp`` passes them.
    """
    dtype = torch.promote_types(torch.promote_types(x.dtype, step_size.dtype), torch.float32)
    step = scale_gradient(step_size.to(dtype), grad_scale)
    clipped = (x.to(dtype) / step).clamp(*bounds)
    code = clipped + (clipped.round() - clipped).detach()
    return (code * step).to(x.dtype)


def grad_scale_factor(numel: int, quant_max: int) -> float:
    """Return g = 1/sqrt(N * Q_P), the scale of a step's gradient (section 2.2)."""
    return 1.0 / math.sqrt(max(numel, 1) * quant_max)


class _Context(Protocol):
    """What the forward pass leaves for the backward pass."""

    bounds: tuple[int, int]
    grad_scale: float
    on_cpu_kernel: bool
    needs_input_grad: tuple[bool, bool, bool, bool]

    @property
    def saved_tensors(self) -> cpu_kernel.Saved: ...

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...


class _LsqFakeQuantize(torch.autograd.Function):
    """Keeps its inputs for the backward pass, and its value where the layer keeps that anyway."""

    @staticmethod
    def forward(
        ctx: _Context, x: Tensor, step_size: Tensor, bounds: tuple[int, int], grad_scale: float
    ) -> Tensor:
        ctx.bounds = bounds
        ctx.grad_scale = grad_scale
        ctx.on_cpu_kernel = cpu_kernel.is_supported(x, step_size)
        if ctx.on_cpu_kernel:
            x = cpu_kernel.dense(x)
            out = cpu_kernel.fake_quantize(x, step_size, bounds)
            ctx.save_for_backward(x, step_size, out if out.dtype is torch.float32 else None)
            return out
        ctx.save_for_backward(x, step_size, None)
        ratio, step = _ratio(x, step_size)
        return ratio.clamp_(*bounds).round_().mul_(step).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        needed = ctx.needs_input_grad[:2]
        how = (ctx.bounds, ctx.grad_scale)
        grads = lsq_gradients(grad, ctx.saved_tensors, how, needed, on_cpu_kernel=ctx.on_cpu_kernel)
        return *grads, None, None


def lsq_gradients(
    grad: Tensor,
    saved: cpu_kernel.Saved,
    how: tuple[tuple[int, int], float],
    needed: tuple[bool, bool],
    *,
    on_cpu_kernel: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of ``x`` and of the step (eq. 3), each None unless ``needed``.

    ``saved`` holds ``x``, the step size and, where it is at hand in fp32, the value on the grid;
    ``how`` holds the bounds and the gradient scale. ``on_cpu_kernel`` says that ``cpu_kernel``
    supports ``x``.
    """
    bounds, grad_scale = how
    on_cpu_kernel = on_cpu_kernel and bool(saved[1] > cpu_kernel.MIN_KERNEL_STEP)
    form = cpu_kernel.gradients if on_cpu_kernel else _gradients
    grad_x, grad_step = form(grad, saved, bounds, needed)
    if grad_step is not None:
        grad_step = grad_step.mul_(grad_scale)
    return grad_x, grad_step


def _gradients(
    grad: Tensor, saved: cpu_kernel.Saved, bounds: tuple[int, int], needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of ``x`` and of the step, before its scale; None unless ``needed``."""
    x, step_size, _ = saved
    ratio, _ = _ratio(x, step_size)
    inside = (ratio > bounds[0]).logical_and_(ratio < bounds[1])
    grad_x = torch.where(inside, grad, 0.0) if needed[0] else None
    grad_step = None
    if needed[1]:
        code = ratio.clamp(*bounds).round_()
        # Outside, the code is the bound itself, which is what eq. 3 asks for.
        terms = torch.where(inside, code - ratio, code).mul_(grad)
        grad_step = terms.sum_to_size(step_size.shape).to(step_size.dtype)
    return grad_x, grad_step


def _ratio(x: Tensor, step_size: Tensor) -> tuple[Tensor, Tensor]:
    """Return v = x / s as a new tensor, and s, both at least in fp32.

    In bf16, v would fall on the wrong side of a half often enough to flip 2.4 % of 8-bit codes.
    """
    dtype = torch.promote_types(torch.promote_types(x.dtype, step_size.dtype), torch.float32)
    step = step_size.to(dtype)
    return x.to(dtype) / step, step


def _check_arguments(x: Tensor, step_size: Tensor, quant_min: int, quant_max: int) -> None:
    if not (x.is_floating_point() and step_size.is_floating_point()):
        raise ValueError(
            f"x and step_size must be floating point, got {x.dtype} and {step_size.dtype}: "
            "convert them with .float()"
        )
    if x.layout is not torch.strided:
        raise ValueError(f"a tensor of layout {x.layout} cannot be quantized: use .to_dense()")
    if not quant_min <= 0 < quant_max:
        raise ValueError(
            f"the codes {quant_min}..{quant_max} must hold 0 and end above it: take them from "
            "TensorSpec.bounds"
        )
    if step_size.dim() and not _broadcasts(step_size.shape, x.shape):
        raise ValueError(
            f"step_size of shape {tuple(step_size.shape)} does not broadcast to x of shape "
            f"{tuple(x.shape)}: use () for one step, or e.g. (C, 1, 1, 1) for one a channel"
        )


def _broadcasts(small: torch.Size, large: torch.Size) -> bool:
    if len(small) > len(large):
        return False
    tail = large[len(large) - len(small) :]
    return all(n in (1, m) for n, m in zip(small, tail, strict=True))
