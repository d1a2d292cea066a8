"""LSQ for PyTorch models, usable alone: ``from lsqctl.quant import prepare``.

The specs are plain values and load at once; what needs torch loads when it is first used, so
that a recipe can be checked without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from lsqctl.quant.spec import FLOAT_BITS, LayerOverride, QuantSpec, TensorSpec

if TYPE_CHECKING:
    from lsqctl.quant.calibration import calibrate
    from lsqctl.quant.cost import LayerCost, ModelCost, model_cost
    from lsqctl.quant.functional import (
        MIN_STEP_SIZE,
        grad_scale_factor,
        lsq_codes,
        lsq_fake_quantize,
    )
    from lsqctl.quant.layers import QuantConv2d, QuantLinear
    from lsqctl.quant.offset import initial_step_and_offset, lsq_plus_fake_quantize
    from lsqctl.quant.optim import StepSizeClamp, clamp_step_sizes, param_groups
    from lsqctl.quant.quantizer import LsqQuantizer
    from lsqctl.quant.stats import OscillationTracker, QuantizerReading, collect_stats
    from lsqctl.quant.step_init import initial_step_size
    from lsqctl.quant.surgery import (
        layer_names,
        prepare,
        quantized_layers,
        quantizers,
        unquantized_layers,
    )

__all__ = [
    "FLOAT_BITS",
    "MIN_STEP_SIZE",
    "LayerCost",
    "LayerOverride",
    "LsqQuantizer",
    "ModelCost",
    "OscillationTracker",
    "QuantConv2d",
    "QuantLinear",
    "QuantSpec",
    "QuantizerReading",
    "StepSizeClamp",
    "TensorSpec",
    "calibrate",
    "clamp_step_sizes",
    "collect_stats",
    "grad_scale_factor",
    "initial_step_and_offset",
    "initial_step_size",
    "layer_names",
    "lsq_codes",
    "lsq_fake_quantize",
    "lsq_plus_fake_quantize",
    "model_cost",
    "param_groups",
    "prepare",
    "quantized_layers",
    "quantizers",
    "unquantized_layers",
]

_EXPORTS = {
    "calibration": "calibrate",
    "cost": "LayerCost ModelCost model_cost",
    "functional": "MIN_STEP_SIZE grad_scale_factor lsq_codes lsq_fake_quantize",
    "layers": "QuantConv2d QuantLinear",
    "offset": "initial_step_and_offset lsq_plus_fake_quantize",
    "optim": "StepSizeClamp clamp_step_sizes param_groups",
    "quantizer": "LsqQuantizer",
    "step_init": "initial_step_size",
    "surgery": "layer_names prepare quantized_layers quantizers unquantized_layers",
    "stats": "OscillationTracker QuantizerReading collect_stats",
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names.split()}


def __getattr__(name: str) -> object:
    """Import what needs torch when it is first asked for (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
