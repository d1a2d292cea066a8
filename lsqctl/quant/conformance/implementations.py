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

    ``scales_gradient`` says whether it can scale the step's gradient at all; ``absent`` says why
    it cannot be asked anything.
    """

    name: str
    version: str
    quantize: Quantize | None = None
    scales_gradient: bool = True
    step_gradient: Callable[[StepGradient], float] | None = None
    first_step: Callable[[FirstStep], float] | None = None
    absent: str = ""


def ours(version: str = "") -> Implementation:
    """Return lsqctl's quantizer."""
    return Implementation(
        "lsqctl",
        version,
        lambda x, step, grid, scale: lsq_fake_quantize(x, step, *grid.bounds, scale),
        step_gradient=_our_step_gradient,
        first_step=_our_first_step,
    )


def torchs() -> Implementation:
    """Return torch's fused kernel with a learnable scale; its zero point is 0."""

    def quantize(x: Tensor, step: Tensor, grid: Grid, scale: float) -> Tensor:
        kernel = torch._fake_quantize_learnable_per_tensor_affine
        return kernel(x, step.reshape(1), torch.zeros(1), *grid.bounds, scale)

    return Implementation("torch", torch.__version__, quantize)


def three_lines() -> Implementation:
    """Return LSQ as public code mostly writes it: three lines around ``detach`` and ``clamp``."""

    def quantize(x: Tensor, step: Tensor, grid: Grid, scale: float) -> Tensor:
        step = (step - step * scale).detach() + step * scale
        code = (x / step).clamp(*grid.bounds)
        code = (code.round() - code).detach() + code
        return code * step

    return Implementation("three lines", "", quantize)


def brevitas() -> Implementation:
    """Return Brevitas' integer quantizer, with the clamps that its own layers choose.

    For a fixed number of bits those are ``TensorClampSte`` for weights and ``TensorClamp`` for
    activations. It has no gradient scale.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            version: str = import_module("brevitas").__version__
            quant = import_module("brevitas.core.quant")
            parts = import_module("brevitas.core.function_wrapper")
    except ImportError as error:
        missing = error.name in ("brevitas", None)
        why = "not installed" if missing else f"cannot be imported: {error}"
        return Implementation("brevitas", "", absent=why)

    def quantize(x: Tensor, step: Tensor, grid: Grid, scale: float) -> Tensor:
        clamp = parts.TensorClampSte() if grid.signed else parts.TensorClamp()
        module: Any = quant.IntQuant(
            narrow_range=False,
            signed=grid.signed,
            input_view_impl=parts.Identity(),
            float_to_int_impl=parts.RoundSte(),
            tensor_clamp_impl=clamp,
        )
        out: Tensor = module(step, torch.tensor(0.0), torch.tensor(float(grid.bits)), x)
        return out

    return Implementation("brevitas", version, quantize, scales_gradient=False)


def _our_step_gradient(question: StepGradient) -> float:
    """Return the gradient of the first step of our module, which counts N by itself."""
    shape, grid = question.shape, question.grid
    spec = TensorSpec(grid.bits, signed=grid.signed, per_channel=question.per_channel)
    step_shape = (shape[0], 1) if question.per_channel else ()
    quantizer = LsqQuantizer(spec, step_shape=step_shape, batched=len(shape) == 4, channel_axis=-3)
    quantizer.calibrate(torch.full(shape, 0.5))
    quantizer(torch.full(shape, 1e6)).sum().backward()
    assert quantizer.step_size.grad is not None
    return quantizer.step_size.grad.flatten()[0].item()


def _our_first_step(question: FirstStep) -> float:
    grid = question.grid
    quantizer = LsqQuantizer(TensorSpec(grid.bits, signed=grid.signed))
    quantizer.calibrate(torch.tensor(question.values))
    return quantizer.step_size.item()
