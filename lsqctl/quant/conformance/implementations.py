"""The quantizers that are asked: ours, torch's, Brevitas' and the form of public LSQ code.

Each answers through one call, the plain mathematics of a quantizer; ours is also asked as a module.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from lsqctl.quant.conformance.golden import FirstStep, Grid, StepGradient
from lsqctl.quant.functional import lsq_fake_quantize
from lsqctl.quant.quantizer import LsqQuantizer
from lsqctl.quant.spec import TensorSpec

Quantize = Callable[[Tensor, Tensor, Grid, float], Tensor]
"""(x, step size of shape (), grid, gradient scale) to x on the grid, differentiable in both."""


@dataclass(frozen=True, slots=True)
class Implementation:
    """A column of the matrix. What it leaves to its caller is None and not asked.

    ``scales_gradient`` says whether it can scale the step's gradient; ``skip_reason`` says why
    it cannot be asked anything.
    """

    name: str
    version: str
    quantize: Quantize | None = None
    scales_gradient: bool = True
    step_gradient: Callable[[StepGradient], float] | None = None
    first_step: Callable[[FirstStep], float] | None = None
    skip_reason: str = ""


def lsqctl_quantizer(version: str = "") -> Implementation:
    """Return lsqctl's quantizer."""
    return Implementation(
        "lsqctl",
        version,
        lambda x, step, grid, scale: lsq_fake_quantize(x, step, *grid.bounds, scale),
        step_gradient=_lsqctl_step_gradient,
        first_step=_lsqctl_first_step,
    )


def torch_fake_quantize() -> Implementation:
    """Return torch's fused kernel with a learnable scale; its zero point is 0."""

    def quantize(x: Tensor, step: Tensor, grid: Grid, scale: float) -> Tensor:
        kernel = torch._fake_quantize_learnable_per_tensor_affine
        return kernel(x, step.reshape(1), torch.zeros(1), *grid.bounds, scale)

    return Implementation("torch", torch.__version__, quantize)


def detach_form() -> Implementation:
    """Return LSQ as public code mostly writes it: three lines around ``detach`` and ``clamp``."""

    def quantize(x: Tensor, step: Tensor, grid: Grid, scale: float) -> Tensor:
        step = (step - step * scale).detach() + step * scale
        code = (x / step).clamp(*grid.bounds)
        code = (code.round() - code).detach() + code
        return code * step

    return Implementation("detach form", "", quantize)


def brevitas_int_quant() -> Implementation:
    """Return Brevitas' integer quantizer, with the clamps that its own layers choose.

    For a fixed number of bits those are ``TensorClampSte`` for weights and ``TensorClamp`` for
    activations. It has no gradient scale.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            version: str = import_module("brevitas").__version__
            quant = import_module("brevitas.core.quant")
            wrappers = import_module("brevitas.core.function_wrapper")
    except ImportError as error:
        not_installed = error.name in ("brevitas", None)
        skip_reason = "not installed" if not_installed else f"cannot be imported: {error}"
        return Implementation("brevitas", "", skip_reason=skip_reason)

    def quantize(x: Tensor, step: Tensor, grid: Grid, scale: float) -> Tensor:
        clamp = wrappers.TensorClampSte() if grid.signed else wrappers.TensorClamp()
        module: Any = quant.IntQuant(
            narrow_range=False,
            signed=grid.signed,
            input_view_impl=wrappers.Identity(),
            float_to_int_impl=wrappers.RoundSte(),
            tensor_clamp_impl=clamp,
        )
        out: Tensor = module(step, torch.tensor(0.0), torch.tensor(float(grid.bits)), x)
        return out

    return Implementation("brevitas", version, quantize, scales_gradient=False)


def _lsqctl_step_gradient(case: StepGradient) -> float:
    """Return the gradient of the first step of lsqctl's module, which counts N by itself."""
    shape, grid = case.shape, case.grid
    spec = TensorSpec(grid.bits, signed=grid.signed, per_channel=case.per_channel)
    step_shape = (shape[0], 1) if case.per_channel else ()
    quantizer = LsqQuantizer(spec, step_shape=step_shape, batched=len(shape) == 4, channel_axis=-3)
    quantizer.calibrate(torch.full(shape, 0.5))
    quantizer(torch.full(shape, 1e6)).sum().backward()
    assert quantizer.step_size.grad is not None
    return quantizer.step_size.grad.flatten()[0].item()


def _lsqctl_first_step(case: FirstStep) -> float:
    grid = case.grid
    quantizer = LsqQuantizer(TensorSpec(grid.bits, signed=grid.signed))
    quantizer.calibrate(torch.tensor(case.values))
    return quantizer.step_size.item()
