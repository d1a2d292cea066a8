"""Convolution and linear layers whose input and weight are fake-quantized by LSQ."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lsqctl.quant.quantizer import LsqQuantizer
from lsqctl.quant.spec import TensorSpec


class QuantConv2d(nn.Conv2d):
    """An ``nn.Conv2d`` with quantized input and weight; a quantizer is None where bits are 32.

    The input is quantized first and padded then, so what is padded lies on the grid too (code 0
    always exists). The keys ``weight`` and ``bias`` are those of the float layer.
    """

    input_quantizer: LsqQuantizer | None
    weight_quantizer: LsqQuantizer | None

    def __init__(
        self, *args: Any, weight_spec: TensorSpec, input_spec: TensorSpec, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        _add_quantizers(self, weight_spec, input_spec)

    @classmethod
    def from_float(cls, conv: nn.Conv2d, weight_spec: TensorSpec, input_spec: TensorSpec) -> Self:
        """Return the quantized twin of ``conv``; its Parameters are the very same objects."""
        twin = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            groups=conv.groups,
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,
            device="meta",  # no memory, and no draw from the random generators
            weight_spec=weight_spec,
            input_spec=input_spec,
        )
        _take_over(twin, conv)
        _add_quantizers(twin, weight_spec, input_spec)
        return twin.train(conv.training)

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of the quantized input with the quantized weight."""
        x, weight = _quantized(self, input)
        out: Tensor = self._conv_forward(x, weight, self.bias)
        return out


class QuantLinear(nn.Linear):
    """An ``nn.Linear`` with quantized input and weight; a quantizer is None where bits are 32."""

    input_quantizer: LsqQuantizer | None
    weight_quantizer: LsqQuantizer | None

    def __init__(
        self, *args: Any, weight_spec: TensorSpec, input_spec: TensorSpec, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        _add_quantizers(self, weight_spec, input_spec)

    @classmethod
    def from_float(cls, linear: nn.Linear, weight_spec: TensorSpec, input_spec: TensorSpec) -> Self:
        """Return the quantized twin of ``linear``; its Parameters are the very same objects."""
        twin = cls(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            device="meta",
            weight_spec=weight_spec,
            input_spec=input_spec,
        )
        _take_over(twin, linear)
        _add_quantizers(twin, weight_spec, input_spec)
        return twin.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input`` times the weight's transpose, both quantized, plus the bias."""
        x, weight = _quantized(self, input)
        return F.linear(x, weight, self.bias)


QuantLayer = QuantConv2d | QuantLinear


def _take_over(twin: QuantLayer, source: nn.Conv2d | nn.Linear) -> None:
    twin.weight, twin.bias = source.weight, source.bias


def _add_quantizers(layer: QuantLayer, weight_spec: TensorSpec, input_spec: TensorSpec) -> None:
    weight = layer.weight
    # An optimizer step on a bf16 step size would be lost to rounding.
    dtype = torch.promote_types(weight.dtype, torch.float32)
    channel_axis = -3 if isinstance(layer, nn.Conv2d) else -1
    per_channel = (weight.shape[0], *(1,) * (weight.dim() - 1))
    layer.input_quantizer = layer.weight_quantizer = None
    if input_spec.quantized:
        layer.input_quantizer = LsqQuantizer(
            input_spec, batched=True, channel_axis=channel_axis, device=weight.device, dtype=dtype
        )
    if weight_spec.quantized:
        step_shape = per_channel if weight_spec.per_channel else ()
        layer.weight_quantizer = LsqQuantizer(
            weight_spec, step_shape=step_shape, device=weight.device, dtype=dtype
        )


def _quantized(layer: QuantLayer, x: Tensor) -> tuple[Tensor, Tensor]:
    weight: Tensor = layer.weight
    if layer.input_quantizer is not None:
        x = layer.input_quantizer(x)
    if layer.weight_quantizer is not None:
        weight = layer.weight_quantizer(weight)
    return x, weight
